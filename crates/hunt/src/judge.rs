//! What became of the responses of one schedule: the oracle.
//!
//! Only bytes that a response has announced, or that every plain response has, can be missing. A server that waits for a body, one that
//! answers with an error of unknown length, and one that has closed before it read a request, have lost nothing.

use std::net::SocketAddr;

use linger_probe::{Amount, Lengths};
use linger_verdict::{Observation, Verdict};

/// A response, as far as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answered {
    /// The status; `None` if not even the head came whole.
    pub(crate) status: Option<u16>,
    /// Bytes of the body.
    pub(crate) got: u64,
    /// The length of the body, if the response says it.
    pub(crate) expected: Option<u64>,
    /// Whether the response tells where it ends, other than by the end of the connection.
    pub(crate) framed: bool,
    /// Whether its end came.
    pub(crate) complete: bool,
}

/// How the client's side of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The client had all that it had asked for, and left.
    Enough,
    /// A FIN.
    Fin,
    /// A reset.
    Reset,
    /// Nothing more came, and the client gave up.
    Silence,
    /// The schedule says that the client closes.
    Closed,
    /// The hunt stopped it.
    Halted,
    /// There was no connection.
    NotConnected,
}

/// What the client saw of one schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Played {
    /// The responses that began, in their order.
    pub(crate) answers: Vec<Answered>,
    /// How many requests were sent whole.
    pub(crate) whole_requests: usize,
    /// Whether the first request was sent whole at once, before any pause.
    pub(crate) prompt: bool,
    /// Whether the last request that was sent may be answered with an error for its incomplete body only.
    pub(crate) end: StreamEnd,
    /// Whether the connection was reset at the latest a moment after the last byte that was needed had been read.
    pub(crate) was_reset: bool,
    /// Whether a write failed before that.
    pub(crate) write_failed: bool,
    /// The client's address; `None` if there was no connection.
    pub(crate) client: Option<SocketAddr>,
}

/// Why a trial says nothing about losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Unjudged {
    /// The connection could not be made.
    NotConnected,
    /// The server waits for the rest of a request, or does not answer, or stopped in the middle without an end. Or the client that is hunted did
    /// not end in time.
    Silent,
    /// The server closed without a word: it may have done so before it read the request.
    Unanswered,
    /// A response without a length, of which nobody knows how long it should be.
    UnknownLength,
    /// The client closed, as the schedule says.
    ClientClosed,
    /// The client's kernel has not got all of the response, and the client says that something failed.
    NotDelivered,
    /// The hunt ended before the trial did.
    Halted,
}

impl Unjudged {
    /// A stable identifier, for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::Silent => "silent",
            Self::Unanswered => "unanswered",
            Self::UnknownLength => "unknown_length",
            Self::ClientClosed => "client_closed",
            Self::NotDelivered => "not_delivered",
            Self::Halted => "halted",
        }
    }
}

/// The plain responses to one kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlainAnswer {
    /// Their status.
    pub(crate) status: u16,
    /// Their lengths, if nothing but the end of the connection shows where they end.
    pub(crate) lengths: Option<Lengths>,
}

/// The verdict on a trial. `plain` are the plain responses to such requests, one for each request of the schedule.
pub(crate) fn judge(played: &Played, plain: &[Option<PlainAnswer>]) -> Result<Verdict, Unjudged> {
    match played.end {
        StreamEnd::Halted => return Err(Unjudged::Halted),
        StreamEnd::NotConnected => return Err(Unjudged::NotConnected),
        StreamEnd::Closed => return Err(Unjudged::ClientClosed),
        _ => {}
    }
    let ended_by_server = matches!(played.end, StreamEnd::Fin | StreamEnd::Reset);
    let mut complete = true;
    for (index, answer) in played.answers.iter().enumerate() {
        let whole = match answer {
            Answered { complete: true, .. } => true,
            _ if !ended_by_server => return Err(Unjudged::Silent),
            Answered { framed: true, .. } | Answered { status: None, .. } => false,
            _ => unframed(answer, plain.get(index).copied().flatten())?,
        };
        complete &= whole;
    }
    if played.answers.is_empty() {
        // A request that was there before the server could have grown tired of waiting, and then a reset in place of a response.
        let lost = played.prompt && played.end == StreamEnd::Reset && played.whole_requests > 0;
        complete = false;
        match played.end {
            _ if lost => {}
            StreamEnd::Fin | StreamEnd::Reset => return Err(Unjudged::Unanswered),
            _ => return Err(Unjudged::Silent),
        }
    } else if played.end == StreamEnd::Silence {
        return Err(Unjudged::Silent);
    }
    Ok(Observation { complete, reset: played.was_reset, write_failed: played.write_failed }.verdict())
}

/// Whether a response that ends with the connection is whole.
fn unframed(answer: &Answered, plain: Option<PlainAnswer>) -> Result<bool, Unjudged> {
    let alike = plain.filter(|plain| Some(plain.status) == answer.status);
    match alike.and_then(|plain| plain.lengths).map(|lengths| lengths.amount(answer.got)) {
        Some(Amount::Whole) => Ok(true),
        Some(Amount::Cut) => Ok(false),
        _ => Err(Unjudged::UnknownLength),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: Answered =
        Answered { status: Some(200), got: 300_000, expected: Some(300_000), framed: true, complete: true };
    const CUT: Answered = Answered { got: 100_000, complete: false, ..ANSWER };

    fn played(answers: &[Answered], end: StreamEnd) -> Played {
        let (was_reset, write_failed) = (end == StreamEnd::Reset, false);
        let answers = answers.to_vec();
        Played { answers, whole_requests: 1, prompt: true, end, was_reset, write_failed, client: None }
    }

    fn verdict(answers: &[Answered], end: StreamEnd) -> Result<Verdict, Unjudged> {
        judge(&played(answers, end), &[])
    }

    #[test]
    fn announced_bytes_that_do_not_come_are_lost_however_the_server_ends() {
        assert_eq!(verdict(&[ANSWER], StreamEnd::Enough), Ok(Verdict::Kept));
        assert_eq!(verdict(&[ANSWER], StreamEnd::Reset), Ok(Verdict::AtRisk));
        assert_eq!(verdict(&[CUT], StreamEnd::Reset), Ok(Verdict::Lost));
        assert_eq!(verdict(&[CUT], StreamEnd::Fin), Ok(Verdict::Lost), "a silent loss");
        assert_eq!(verdict(&[ANSWER, CUT], StreamEnd::Fin), Ok(Verdict::Lost), "the second of two");
        let refusal = Answered { status: Some(413), ..CUT };
        assert_eq!(verdict(&[refusal], StreamEnd::Reset), Ok(Verdict::Lost), "an error has a length, too");
        let torn = Answered { status: None, framed: false, got: 0, expected: None, complete: false };
        assert_eq!(verdict(&[torn], StreamEnd::Reset), Ok(Verdict::Lost), "half of a head");
    }

    #[test]
    fn a_failed_write_is_a_risk() {
        let failed = Played { write_failed: true, ..played(&[ANSWER], StreamEnd::Enough) };
        assert_eq!(judge(&failed, &[]), Ok(Verdict::AtRisk));
    }

    #[test]
    fn a_server_that_waits_has_lost_nothing() {
        assert_eq!(verdict(&[], StreamEnd::Silence), Err(Unjudged::Silent));
        assert_eq!(verdict(&[CUT], StreamEnd::Silence), Err(Unjudged::Silent), "nor one that is slow");
        assert_eq!(verdict(&[ANSWER], StreamEnd::Silence), Err(Unjudged::Silent), "one of two is answered");
        assert_eq!(verdict(&[CUT], StreamEnd::Closed), Err(Unjudged::ClientClosed));
        assert_eq!(verdict(&[CUT], StreamEnd::Halted), Err(Unjudged::Halted));
        assert_eq!(verdict(&[], StreamEnd::NotConnected), Err(Unjudged::NotConnected));
    }

    #[test]
    fn an_error_without_a_length_says_nothing_and_a_plain_response_says_how_long_it_is() {
        let unframed = |status, got| Answered {
            status: Some(status),
            got,
            expected: None,
            framed: false,
            complete: false,
        };
        let plain = [Some(PlainAnswer { status: 200, lengths: Some(Lengths::of(300_000)) })];
        let of = |answer, end| judge(&played(&[answer], end), &plain);
        assert_eq!(of(unframed(200, 300_000), StreamEnd::Fin), Ok(Verdict::Kept));
        assert_eq!(of(unframed(200, 300_000), StreamEnd::Reset), Ok(Verdict::AtRisk));
        assert_eq!(of(unframed(200, 100_000), StreamEnd::Reset), Ok(Verdict::Lost));
        assert_eq!(of(unframed(200, 100_000), StreamEnd::Fin), Ok(Verdict::Lost));
        assert_eq!(of(unframed(400, 100), StreamEnd::Reset), Err(Unjudged::UnknownLength));
        assert_eq!(
            of(unframed(200, 299_000), StreamEnd::Reset),
            Err(Unjudged::UnknownLength),
            "a page may vary"
        );
        assert_eq!(judge(&played(&[unframed(200, 5)], StreamEnd::Reset), &[]), Err(Unjudged::UnknownLength));
        let varies = [Some(PlainAnswer { status: 200, lengths: Some(Lengths::of(300_000).and(100_000)) })];
        let judged = judge(&played(&[unframed(200, 90_000)], StreamEnd::Fin), &varies);
        assert_eq!(judged, Err(Unjudged::UnknownLength), "it differs from run to run");
    }

    #[test]
    fn no_answer_at_all_is_lost_only_if_the_request_was_there_at_once_and_a_reset_came() {
        let none = played(&[], StreamEnd::Reset);
        assert_eq!(judge(&none, &[]), Ok(Verdict::Lost));
        assert_eq!(judge(&Played { prompt: false, ..none.clone() }, &[]), Err(Unjudged::Unanswered));
        assert_eq!(judge(&Played { whole_requests: 0, ..none }, &[]), Err(Unjudged::Unanswered));
        assert_eq!(verdict(&[], StreamEnd::Fin), Err(Unjudged::Unanswered));
    }
}
