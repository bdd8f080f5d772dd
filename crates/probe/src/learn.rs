//! Learns from plain requests what a valid response is, before anything is judged.

use crate::budget::{CONTROLS, QUIET};
use crate::dialect::RequestShape;
use crate::error::ProbeError;
use crate::http2;
use crate::model::Lengths;
use crate::no_response::NoResponse;
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};
use crate::trial::{Trial, Until};

/// How often a response without framing is read to learn how its length varies.
const READINGS: u32 = 3;

/// Makes plain requests with a large window, and reads the responses without delay: one, or three if nothing but the end of
/// the connection shows where a response ends. Returns the longest of them, and their lengths if they have no framing.
pub(crate) fn plain(prober: &Prober, target: &str) -> Result<(TrialResult, Option<Lengths>), ProbeError> {
    let no_answer = |reason: String| ProbeError::NoAnswer { target: target.to_owned(), reason };
    let in_time = |found| if prober.deadline.has_cut() { Err(out_of_time(prober, target)) } else { found };
    if prober.config.http2 {
        let seen = in_time(http2::plain(prober, target))?;
        if seen.got == 0 && seen.status.is_none() && seen.ended != ConnectionEnd::Silent {
            let code = seen.code.map_or(String::new(), |code| format!(", {code}"));
            return Err(no_answer(format!("the connection ended ({}{code}) without a response", seen.ended)));
        }
        return usable(prober, target, &seen).map(|()| (seen, None));
    }
    let mut best: Option<TrialResult> = None;
    let mut lengths: Option<Lengths> = None;
    let request = prober.dialect.request(RequestShape::GET);
    for _ in 0..READINGS {
        if !prober.may_send(request.len()) {
            if best.is_some() {
                break;
            }
            return Err(ProbeError::LongPayload { bytes: request.len(), most: QUIET });
        }
        let connect = |source| ProbeError::Connect { target: target.to_owned(), source };
        let mut trial = Trial::open(prober, false).map_err(|source| {
            if prober.deadline.has_cut() { out_of_time(prober, target) } else { connect(source) }
        })?;
        trial.queue(&request);
        trial.send(prober.config.patience);
        trial.read(Until::Complete, prober.config.patience);
        if prober.deadline.has_cut() {
            return Err(out_of_time(prober, target));
        }
        match trial.not_understood() {
            Some(NoResponse::OtherProtocol(opening)) => {
                return Err(ProbeError::NotThisProtocol { target: target.to_owned(), http2: false, opening });
            }
            Some(why) => return Err(ProbeError::NoResponse { target: target.to_owned(), why }),
            None => {}
        }
        let seen = trial.finish();
        // A reading that the budget cut tells no length, and the first reading is enough.
        if seen.is_endless && best.is_some() && prober.room() == 0 {
            break;
        }
        usable(prober, target, &seen)?;
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

fn out_of_time(prober: &Prober, target: &str) -> ProbeError {
    ProbeError::OutOfTime { target: target.to_owned(), seconds: prober.config.within.as_secs_f64() }
}

/// Whether a plain response is short enough to be asked for again and again, and came to its end.
fn usable(prober: &Prober, target: &str, seen: &TrialResult) -> Result<(), ProbeError> {
    if seen.is_endless || seen.expected.is_some_and(|expected| expected > prober.config.most) {
        return Err(ProbeError::TooLong {
            target: target.to_owned(),
            // What it announces is told only where that alone is too long.
            bytes: seen.expected.filter(|expected| *expected > prober.config.most).unwrap_or(seen.got),
            seconds: seen.elapsed.as_secs_f64(),
            most: prober.config.most,
        });
    }
    if seen.ended == ConnectionEnd::Silent {
        let (bytes, seconds) = (seen.got, prober.config.patience.as_secs_f64());
        return Err(ProbeError::Silent { target: target.to_owned(), bytes, seconds });
    }
    Ok(())
}

/// The lengths of the responses to such a request, where they have no framing. They are read at the first call, without
/// delay and with a large window, and known from then on.
pub(crate) fn lengths(prober: &Prober, ask: RequestShape) -> Option<Lengths> {
    // A quiet probe asks with GET alone, and spares the server the reading of the same page for each kind of body.
    let ask = if prober.active { ask } else { RequestShape::GET };
    if let Some(known) = prober.model.known(ask) {
        return known;
    }
    let learnt = read(prober, ask, None);
    prober.model.learn(ask, learnt);
    learnt
}

/// Reads the responses to such a request again, since one was shorter than all before: perhaps its length varies.
pub(crate) fn learn_again(prober: &Prober, ask: RequestShape) -> Option<Lengths> {
    let ask = if prober.active { ask } else { RequestShape::GET };
    let known = lengths(prober, ask);
    let learnt = read(prober, ask, known);
    prober.model.learn(ask, learnt);
    learnt
}

fn read(prober: &Prober, ask: RequestShape, known: Option<Lengths>) -> Option<Lengths> {
    let (mut lengths, mut longest) = (known, None);
    let request = prober.dialect.request(ask);
    for _ in 0..READINGS {
        if !prober.may_send(request.len()) || prober.room() == 0 {
            break;
        }
        let Ok(mut trial) = Trial::open(prober, false) else { continue };
        trial.queue(&request);
        trial.read(Until::Closed, prober.config.patience);
        let seen = trial.finish();
        if seen.got == 0 || seen.is_endless || prober.model.is_unlike(seen.status) {
            continue;
        }
        longest = longest.max(Some(seen.got));
        if seen.ended == ConnectionEnd::Closed {
            lengths = Some(lengths.map_or(Lengths::of(seen.got), |lengths| lengths.and(seen.got)));
        }
    }
    // If none came to an orderly end, the longest is the best that is known: resets have cut the others.
    lengths.or(longest.map(Lengths::of))
}

/// Whether the server still answers plain requests. Where that cannot be asked, or nothing is known yet, it is taken to do so.
pub(crate) fn answers_plainly(prober: &Prober) -> bool {
    for _ in 0..CONTROLS {
        if !prober.active && !prober.spent.leaves(0, prober.expected.unwrap_or(0)) {
            return true;
        }
        let seen = if prober.config.http2 {
            http2::plain(prober, "").ok()
        } else {
            Trial::open(prober, false).ok().map(|mut trial| {
                trial.queue(&prober.dialect.request(RequestShape::GET));
                trial.read(Until::Complete, prober.config.patience);
                trial.finish()
            })
        };
        // One that is silent may be busy with what was asked before.
        if seen
            .is_none_or(|seen| seen.got == 0 && seen.status.is_none() && seen.ended != ConnectionEnd::Silent)
        {
            return false;
        }
    }
    true
}
