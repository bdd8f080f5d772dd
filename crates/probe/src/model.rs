//! What a valid response of the target looks like, learnt from plain requests before anything is judged.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::dialect::RequestShape;
use crate::error::ProbeError;
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};
use crate::trial::{Trial, Until};

/// How often a response without framing is read to learn how its length varies.
const READINGS: u32 = 3;
/// A response that is shorter than every other one by more than this many times their spread is cut.
const SPREADS: u64 = 10;

/// The lengths of complete bodies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) shortest: u64,
    pub(crate) longest: u64,
}

/// How much of a response without framing has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    Whole,
    Cut,
    /// A little less than ever before, of a response whose length varies.
    Unsure,
}

impl Lengths {
    pub(crate) fn of(length: u64) -> Self {
        Self { shortest: length, longest: length }
    }

    fn and(self, length: u64) -> Self {
        Self { shortest: self.shortest.min(length), longest: self.longest.max(length) }
    }

    pub(crate) fn amount(self, got: u64) -> Amount {
        let margin = SPREADS.saturating_mul(self.longest - self.shortest);
        if got >= self.shortest {
            Amount::Whole
        } else if got.saturating_add(margin) < self.shortest {
            Amount::Cut
        } else {
            Amount::Unsure
        }
    }
}

/// A request, as far as its response depends on it.
type Key = (&'static str, Option<usize>);

/// The plain response.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// The status line's number; `None` where the protocol has none.
    pub(crate) status: Option<u16>,
    /// The lengths of responses whose end only the connection's end shows, by request.
    unframed: Mutex<HashMap<Key, Option<Lengths>>>,
}

impl Model {
    pub(crate) fn new(plain: &TrialResult, lengths: Option<Lengths>) -> Self {
        let model = Self { status: plain.status, unframed: Mutex::default() };
        model.unframed().insert(key(RequestShape::GET), lengths);
        model
    }

    fn unframed(&self) -> MutexGuard<'_, HashMap<Key, Option<Lengths>>> {
        self.unframed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a response that arrived completely says nothing of how responses end: the server was overloaded or limits its
    /// clients, or the application failed. The plain response was another one.
    pub(crate) fn is_unlike(&self, status: Option<u16>) -> bool {
        // What refuses the request itself (405, 413, 501, ...) is an early response like any other.
        status != self.status && matches!(status, Some(408 | 429 | 500 | 503 | 506..=599))
    }
}

fn key(shape: RequestShape) -> Key {
    (shape.method, shape.announced)
}

/// Makes plain requests with a large window, and reads the responses without delay: one, or three if nothing but the end of
/// the connection shows where a response ends. Returns the longest of them, and their lengths if they have no framing.
pub(crate) fn plain(prober: &Prober, target: &str) -> Result<(TrialResult, Option<Lengths>), ProbeError> {
    let no_answer = |reason: String| ProbeError::NoAnswer { target: target.to_owned(), reason };
    let mut best: Option<TrialResult> = None;
    let mut lengths: Option<Lengths> = None;
    for _ in 0..READINGS {
        let connect = |source| ProbeError::Connect { target: target.to_owned(), source };
        let mut trial = Trial::open(prober, false).map_err(connect)?;
        trial.queue(&prober.dialect.request(RequestShape::GET));
        trial.send(prober.config.patience);
        trial.read(Until::Complete, prober.config.patience);
        if let Some(opening) = trial.not_understood() {
            return Err(ProbeError::NotThisProtocol { target: target.to_owned(), opening });
        }
        let seen = trial.finish();
        if seen.is_endless || seen.expected.is_some_and(|expected| expected > prober.config.most) {
            return Err(ProbeError::TooLong {
                target: target.to_owned(),
                bytes: seen.expected.unwrap_or(seen.got).max(seen.got),
                seconds: seen.elapsed.as_secs_f64(),
                most: prober.config.most,
            });
        }
        if seen.ended == ConnectionEnd::Silent {
            let (bytes, seconds) = (seen.got, prober.config.patience.as_secs_f64());
            return Err(ProbeError::Silent { target: target.to_owned(), bytes, seconds });
        }
        // If nothing came, not even a status, there is no response; a response of length 0 has a status.
        let is_answer = seen.got > 0 || seen.status.is_some();
        if seen.unframed && seen.ended == ConnectionEnd::Closed && is_answer {
            lengths = Some(lengths.map_or(Lengths::of(seen.got), |lengths| lengths.and(seen.got)));
        }
        let framed = seen.complete;
        if best.as_ref().is_none_or(|best| seen.got > best.got) {
            best = Some(seen);
        }
        if framed {
            break;
        }
    }
    let Some(seen) = best else { return Err(no_answer("nothing came".into())) };
    if !(seen.complete || seen.got > 0 || lengths.is_some()) {
        return Err(no_answer(format!("the connection ended ({}) without a response", seen.ended)));
    }
    Ok((seen, lengths))
}

/// The lengths of the responses to such a request, where they have no framing. They are read at the first call, without
/// delay and with a large window, and known from then on.
pub(crate) fn lengths(prober: &Prober, ask: RequestShape) -> Option<Lengths> {
    if let Some(known) = prober.model.unframed().get(&key(ask)) {
        return *known;
    }
    let learnt = read(prober, ask, None);
    prober.model.unframed().insert(key(ask), learnt);
    learnt
}

/// Reads the responses to such a request again, since one was shorter than all before: perhaps its length varies.
pub(crate) fn learn_again(prober: &Prober, ask: RequestShape) -> Option<Lengths> {
    let known = lengths(prober, ask);
    let learnt = read(prober, ask, known);
    prober.model.unframed().insert(key(ask), learnt);
    learnt
}

fn read(prober: &Prober, ask: RequestShape, known: Option<Lengths>) -> Option<Lengths> {
    let (mut lengths, mut longest) = (known, None);
    for _ in 0..READINGS {
        let Ok(mut trial) = Trial::open(prober, false) else { continue };
        trial.queue(&prober.dialect.request(ask));
        trial.read(Until::Closed, prober.config.patience);
        let seen = trial.finish();
        if seen.got == 0 || prober.model.is_unlike(seen.status) {
            continue;
        }
        longest = longest.max(Some(seen.got));
        if seen.ended == ConnectionEnd::Closed {
            lengths = Some(lengths.map_or(Lengths::of(seen.got), |lengths| lengths.and(seen.got)));
        }
    }
    // If none came to an orderly end, the longest is the best that is known. How far they differ is then the work of resets.
    lengths.or(longest.map(Lengths::of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_length_is_cut_by_one_byte_and_a_varying_one_by_far() {
        let fixed = Lengths::of(300_000);
        assert_eq!((fixed.amount(300_000), fixed.amount(299_999)), (Amount::Whole, Amount::Cut));
        let page = Lengths::of(100_000).and(99_000).and(101_000);
        assert_eq!(page.amount(99_000), Amount::Whole);
        assert_eq!(page.amount(98_999), Amount::Unsure);
        assert_eq!(page.amount(79_000), Amount::Unsure);
        assert_eq!(page.amount(78_999), Amount::Cut);
    }

    #[test]
    fn a_refusal_of_the_request_is_a_response_and_a_failure_is_none() {
        let model = Model { status: Some(200), ..Model::default() };
        for status in [200, 201, 301, 400, 401, 405, 411, 413, 501] {
            assert!(!model.is_unlike(Some(status)), "{status}");
        }
        for status in [408, 429, 500, 503, 599] {
            assert!(model.is_unlike(Some(status)), "{status}");
        }
        let failing = Model { status: Some(503), ..Model::default() };
        assert!(!failing.is_unlike(Some(503)), "the plain response is the same");
        assert!(!failing.is_unlike(None));
    }
}
