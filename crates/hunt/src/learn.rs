//! Learns from plain requests what the responses of a server are, before any is judged.

use std::time::{Duration, Instant};

use linger_lab::Stop;
use linger_probe::Lengths;

use crate::arena::Arena;
use crate::client::{ClientWaits, NO_STATUS, play};
use crate::judge::{Answered, PlainAnswer, Played, StreamEnd};
use crate::schedule::{HuntStep, Schedule};

/// What is known of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    pub(crate) get: PlainAnswer,
    /// The plain response to a POST; `None` if none came whole.
    pub(crate) post: Option<PlainAnswer>,
    /// Bytes of the response's body.
    pub(crate) bytes: u64,
    /// What marks its end.
    pub(crate) framed: bool,
    /// Whether a client that half-closes gets its response all the same.
    pub(crate) half_closes: bool,
    pub(crate) waits: ClientWaits,
}

/// How often a plain request is made: a response without framing may vary.
const READINGS: usize = 3;
/// The body of a plain POST.
const BODY: u64 = 100;

/// Makes plain requests, in a thread that is in the arena's network. Returns `None` if the server gives no whole response.
pub(crate) fn plain(arena: &Arena, expect: Option<u64>, stop: &Stop) -> Option<Plain> {
    let waits = ClientWaits::after(Duration::from_millis(500));
    let ask = |steps: &[HuntStep]| play(&arena.site, &Schedule::of(steps), &waits, stop);
    let get = HuntStep::Request { body: 0, sent: 0 };
    let post = HuntStep::Request { body: BODY, sent: BODY };
    let begun = Instant::now();
    let first = ask(&[get]);
    let elapsed = begun.elapsed();
    let whole = |played: &Played| whole(played, arena.site.payload.is_some());
    let answer = whole(&first)?;
    let rest: Vec<Played> = (1..READINGS).map(|_| ask(&[get])).collect();
    let answers: Vec<Answered> = std::iter::once(answer).chain(rest.iter().filter_map(whole)).collect();
    let learnt = |answers: &[Answered]| {
        let first = answers.first()?;
        let alike = answers.iter().filter(|answer| answer.status == first.status && !answer.framed);
        let lengths = alike.fold(None, |known: Option<Lengths>, answer| {
            Some(known.map_or(Lengths::of(answer.got), |known| known.and(answer.got)))
        });
        Some(PlainAnswer { status: first.status?, lengths: expect.map(Lengths::exactly).or(lengths) })
    };
    let posted: Vec<Answered> = (0..READINGS).filter_map(|_| whole(&ask(&[post]))).collect();
    let half_closed = [get, HuntStep::HalfClose];
    let half_closes =
        (0..READINGS).all(|_| whole(&ask(&half_closed)).is_some_and(|half| half.got == answer.got));
    Some(Plain {
        get: learnt(&answers)?,
        // Responses to bodies of other lengths may have other lengths.
        post: learnt(&posted).map(|post| PlainAnswer { lengths: expect.map(Lengths::exactly), ..post }),
        bytes: answer.got,
        framed: answer.framed,
        half_closes,
        waits: ClientWaits::after(elapsed),
    })
}

/// The response of a plain request, if it came whole.
fn whole(played: &Played, is_raw: bool) -> Option<Answered> {
    let answer = played.answers.first().copied()?;
    let ends = answer.complete || (!answer.framed && played.end == StreamEnd::Fin && !played.was_reset);
    (ends && answer.status.is_some_and(|status| is_raw || status != NO_STATUS)).then_some(answer)
}

impl Plain {
    /// The plain response to each request of a schedule.
    pub(crate) fn for_each(&self, schedule: &Schedule) -> Vec<Option<PlainAnswer>> {
        let of = |step: &HuntStep| match step {
            HuntStep::Request { body: 0, .. } => Some(Some(self.get)),
            HuntStep::Request { .. } => Some(self.post),
            _ => None,
        };
        schedule.steps.iter().filter_map(of).collect()
    }
}
