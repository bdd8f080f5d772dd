//! What a valid response of the target looks like, and when a different one tells nothing.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::Unlike;
use crate::seen::{ConnectionEnd, TrialResult};

/// A response counts as cut if it is shorter than every other one by more than this many times their spread.
const SPREADS: u64 = 10;
/// And if more than this part of the shortest is missing: a page may have had one length three times by chance.
const PART: u64 = 100;
/// A smaller response fits into the two sockets' buffers even with a small window, so that nothing is left to lose, in bytes.
pub(crate) const LARGE: u64 = 64 << 10;

/// The lengths of complete bodies, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lengths {
    /// The shortest of them.
    pub shortest: u64,
    /// The longest of them.
    pub longest: u64,
    /// Whether there is but this length: the user says so.
    exact: bool,
}

/// How much of a response without framing has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Amount {
    /// As much as in complete bodies.
    Whole,
    /// Less than the lengths vary.
    Cut,
    /// A little less than ever before, of a response whose length varies.
    Unsure,
}

impl Lengths {
    /// One complete body.
    pub fn of(length: u64) -> Self {
        Self { shortest: length, longest: length, exact: false }
    }

    /// Every complete body has this length.
    pub fn exactly(length: u64) -> Self {
        Self { exact: true, ..Self::of(length) }
    }

    /// These, and another one.
    #[must_use]
    pub fn and(self, length: u64) -> Self {
        Self { shortest: self.shortest.min(length), longest: self.longest.max(length), ..self }
    }

    /// Compares the bytes that arrived with the complete bodies.
    pub fn amount(self, got: u64) -> Amount {
        let learnt = SPREADS.saturating_mul(self.longest - self.shortest).max(self.shortest / PART);
        let margin = if self.exact { 0 } else { learnt };
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
type Key = (&'static str, Option<usize>, bool, bool);

/// The plain response.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// The status line's number; `None` where the protocol has none.
    pub(crate) status: Option<u16>,
    /// The length of its body, in bytes.
    pub(crate) got: u64,
    /// Whether the plain response, which was read without delay, ended in order and before its own end.
    pub(crate) is_short: bool,
    /// The lengths of responses that end with the connection, by request.
    unframed: Mutex<HashMap<Key, Option<Lengths>>>,
}

impl Model {
    pub(crate) fn new(plain: &TrialResult, lengths: Option<Lengths>) -> Self {
        let is_short = !plain.complete && !plain.unframed && plain.ended == ConnectionEnd::Closed;
        let model = Self { status: plain.status, got: plain.got, is_short, unframed: Mutex::default() };
        model.learn(RequestShape::GET, lengths);
        model
    }

    /// The lengths of the responses to such a request, if they were learnt. `Some(None)`: the responses have framing,
    /// or none came.
    pub(crate) fn known(&self, ask: RequestShape) -> Option<Option<Lengths>> {
        self.unframed().get(&key(ask)).copied()
    }

    pub(crate) fn learn(&self, ask: RequestShape, lengths: Option<Lengths>) {
        self.unframed().insert(key(ask), lengths);
    }

    fn unframed(&self) -> MutexGuard<'_, HashMap<Key, Option<Lengths>>> {
        self.unframed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the complete response to `ask` tells nothing about how the plain response ends; `None` if it does.
    ///
    /// The plain request asked again has a response with the same status; one with a body, or with bytes behind it, may be
    /// refused. Where status and method are the plain ones, a much shorter response is another page.
    pub(crate) fn unlike(&self, check: Check, ask: RequestShape, seen: &TrialResult) -> Option<Unlike> {
        let may_be_refused =
            ask.has_body() || matches!(check, Check::TrailingBytes | Check::Pipelined | Check::WebSocket);
        if self.is_unlike(seen.status) || (!may_be_refused && seen.status != self.status) {
            return Some(Unlike::Status);
        }
        let least = if self.got < LARGE { self.got / 2 } else { LARGE };
        (ask.method == "GET" && seen.status == self.status && seen.got < least).then_some(Unlike::Length)
    }

    /// Whether a response that arrived completely tells nothing about how responses end, whatever was asked: its status differs
    /// from the plain response's and says that the server was overloaded or limits its clients, or that the application failed.
    pub(crate) fn is_unlike(&self, status: Option<u16>) -> bool {
        // A status that refuses the request itself (405, 413, 501, ...) is an early response like any other.
        status != self.status && matches!(status, Some(408 | 429 | 500 | 503 | 506..=599))
    }
}

fn key(shape: RequestShape) -> Key {
    (shape.method, shape.announced, shape.is_chunked, shape.expects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_length_is_cut_by_one_byte_and_a_learnt_one_by_far() {
        let known = Lengths::exactly(300_000);
        assert_eq!((known.amount(300_000), known.amount(299_999)), (Amount::Whole, Amount::Cut));
        let learnt = Lengths::of(300_000);
        assert_eq!((learnt.amount(300_000), learnt.amount(299_999)), (Amount::Whole, Amount::Unsure));
        assert_eq!((learnt.amount(297_000), learnt.amount(296_999)), (Amount::Unsure, Amount::Cut));
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
