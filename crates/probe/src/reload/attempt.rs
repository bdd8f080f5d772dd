//! What became of one request of the load.

use std::io;
use std::time::Instant;

use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::{CheckAnswer, CheckFinding};
use crate::judge::{by_status, judge};
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};

/// Whether a client makes a connection for each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientKind {
    New,
    Kept,
    /// Its response begins before the server is told, and is read later.
    UnderWay,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptFate {
    Kept,
    AtRisk,
    /// On a kept connection that the server had ended a moment before: the client could not know.
    Crossed,
    /// A part of the response came, or a gateway's word that there is none.
    Cut,
    /// It was connected and sent, and not a byte came.
    Unanswered,
    /// No connection was made, or the server has said that it did not work on the request.
    Refused,
    Other,
}

#[derive(Debug)]
pub(super) struct LoadAttempt {
    pub(super) kind: ClientKind,
    /// When all of it was sent; of one that was not connected, when that was tried.
    pub(super) sent: Instant,
    pub(super) ended: Instant,
    pub(super) fate: AttemptFate,
    /// As of a check; `None` where there was no connection.
    pub(super) finding: Option<CheckFinding>,
}

impl LoadAttempt {
    pub(super) fn was_reset(&self) -> bool {
        self.finding.as_ref().and_then(|finding| finding.ended).is_some_and(ConnectionEnd::is_reset)
    }
}

/// `is_again`: whether the connection had a request before.
pub(super) fn told(
    prober: &Prober,
    kind: ClientKind,
    sent: Instant,
    is_again: bool,
    seen: TrialResult,
) -> LoadAttempt {
    let ended = Instant::now();
    let finding = by_status(&prober.model, judge(prober, Check::Reload, RequestShape::GET, seen));
    let fate = fate(&finding, is_again, prober.tls_host.is_some());
    LoadAttempt { kind, sent, ended, fate, finding: Some(finding) }
}

/// A request that the server has given back on a new connection: a client may make it again, and finds no other server.
pub(super) fn returned(kind: ClientKind, sent: Instant) -> LoadAttempt {
    LoadAttempt { kind, sent, ended: Instant::now(), fate: AttemptFate::Refused, finding: None }
}

pub(super) fn unconnected(kind: ClientKind, error: &io::Error) -> LoadAttempt {
    let now = Instant::now();
    let fate = match error.kind() {
        // A unix socket that is gone, or is nobody's.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => AttemptFate::Refused,
        _ => AttemptFate::Unanswered,
    };
    LoadAttempt { kind, sent: now, ended: now, fate, finding: None }
}

fn fate(finding: &CheckFinding, is_again: bool, is_tls: bool) -> AttemptFate {
    let is_empty = finding.got == 0 && finding.status.is_none();
    let has_finished = matches!(finding.ended, Some(ConnectionEnd::Closed | ConnectionEnd::ClosedThenReset));
    match finding.answer {
        CheckAnswer::Keeps => AttemptFate::Kept,
        CheckAnswer::AtRisk => AttemptFate::AtRisk,
        // Before the FIN of a kept connection the server had closed it; with TLS close_notify may have come before the request.
        CheckAnswer::Loses | CheckAnswer::LosesSilently
            if is_empty && is_again && (has_finished || is_tls) =>
        {
            AttemptFate::Crossed
        }
        CheckAnswer::Loses | CheckAnswer::LosesSilently | CheckAnswer::Stalls if is_empty => {
            AttemptFate::Unanswered
        }
        CheckAnswer::Loses | CheckAnswer::LosesSilently | CheckAnswer::Stalls => AttemptFate::Cut,
        _ => AttemptFate::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_field_away_from_a_request_that_was_lost() {
        let of = |answer, ended, got| {
            let mut finding = CheckFinding::undecided(Check::Reload, "");
            (finding.answer, finding.ended, finding.got) = (answer, Some(ended), got);
            finding
        };
        let reset = of(CheckAnswer::Loses, ConnectionEnd::Reset, 0);
        assert_eq!(fate(&reset, true, false), AttemptFate::Unanswered);
        // With a FIN before, or where TLS hides the order, the server may have closed before the request came.
        let closed = of(CheckAnswer::LosesSilently, ConnectionEnd::Closed, 0);
        let both = of(CheckAnswer::Loses, ConnectionEnd::ClosedThenReset, 0);
        assert_eq!(fate(&closed, true, false), AttemptFate::Crossed);
        assert_eq!(fate(&both, true, false), AttemptFate::Crossed);
        assert_eq!(fate(&reset, true, true), AttemptFate::Crossed);
        // Not on a new connection, nor with a byte of the response.
        assert_eq!(fate(&closed, false, false), AttemptFate::Unanswered);
        assert_eq!(fate(&reset, false, true), AttemptFate::Unanswered);
        let cut = of(CheckAnswer::LosesSilently, ConnectionEnd::Closed, 1);
        assert_eq!(fate(&cut, true, false), AttemptFate::Cut);
        let head = CheckFinding { status: Some(200), ..closed };
        assert_eq!(fate(&head, true, false), AttemptFate::Cut);
        assert_eq!(
            fate(&of(CheckAnswer::Stalls, ConnectionEnd::Silent, 0), true, false),
            AttemptFate::Unanswered
        );
    }
}
