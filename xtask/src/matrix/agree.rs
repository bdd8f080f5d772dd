//! Whether an answer of the probe's agrees with the packets on the link and the counters of the server's kernel.

use linger_netns::Counters;
use linger_probe::{Check, CheckAnswer, CheckFinding, ConnectionEnd};

use super::wire::WireConnection;

/// The counters of resets that end a connection with something unread, unsent or late.
const ABORTS: [&str; 5] =
    ["TCPAbortOnClose", "TCPAbortOnData", "TCPAbortOnLinger", "TCPAbortOnTimeout", "TCPAbortOnMemory"];

/// How long a client waits behind a FIN for the reset of the same close, at least; in seconds.
const MOMENT: f64 = 0.05;

/// What an answer of the probe's says about the connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeClaim {
    check: Check,
    answer: CheckAnswer,
    ended: Option<ConnectionEnd>,
    expected: Option<u64>,
    /// How many trials gave this answer.
    times: u32,
}

impl From<&CheckFinding> for ProbeClaim {
    fn from(finding: &CheckFinding) -> Self {
        let CheckFinding { check, answer, ended, expected, with_this_answer, .. } = *finding;
        Self { check, answer, ended, expected, times: with_this_answer }
    }
}

/// What was seen, apart from the probe, while a check was asked.
#[derive(Debug)]
pub(super) struct SeenApart<'e> {
    /// The connections that began meanwhile.
    pub(super) connections: &'e [WireConnection],
    /// The server's resets that passed since the check began, those of earlier connections included.
    pub(super) passed: usize,
    /// How much the kernel's counters grew at the server.
    pub(super) grown: &'e Counters,
    /// Whether connections within the server's namespace count as well: of a gateway to its application. httpd connects to itself, too,
    /// which shows in the counters.
    pub(super) is_gateway: bool,
}

/// Whether the answer is about how connections ended, so that it can be compared.
pub(super) fn is_compared(finding: &CheckFinding) -> bool {
    finding.answer != CheckAnswer::CannotTell
        && !matches!(
            finding.check,
            // These are about time, and about requests that the client sends behind the end on purpose.
            Check::IdleOpen
                | Check::Drip
                | Check::EndlessUpload
                | Check::Backlog
                | Check::KeepAlive
                | Check::Reload
        )
}

/// Why the answer cannot be true; `None` if nothing speaks against it.
pub(super) fn disagreement(claim: ProbeClaim, seen: &SeenApart<'_>) -> Option<String> {
    let by_reset =
        claim.ended.is_some_and(|end| matches!(end, ConnectionEnd::Reset | ConnectionEnd::ClosedThenReset));
    let resets = seen.connections.iter().filter(|one| has_met_reset(one, claim.check)).count();
    let of_a_close = seen.connections.iter().filter(|one| is_of_one_close(one, claim.check)).count();
    let aborts: u64 = ABORTS.iter().map(|name| seen.grown.of(name)).sum();
    let is_among_themselves = seen.is_gateway || seen.grown.of("ActiveOpens") > 0;
    match claim.answer {
        CheckAnswer::Keeps if of_a_close > 0 => Some(format!(
            "keeps, but the server reset {of_a_close} connections that its client had not ended"
        )),
        CheckAnswer::Keeps if aborts > seen.passed as u64 && !is_among_themselves => {
            Some(format!("keeps, but the kernel counts {aborts} aborts, and {} resets passed", seen.passed))
        }
        CheckAnswer::Loses | CheckAnswer::AtRisk if by_reset && resets == 0 => Some(format!(
            "{}, but no reset of the server's passed before its client's end",
            claim.answer.name()
        )),
        CheckAnswer::Loses | CheckAnswer::AtRisk if by_reset && resets < claim.times as usize => {
            Some(format!("{} in {} trials, but only {resets} resets passed", claim.answer, claim.times))
        }
        CheckAnswer::Loses | CheckAnswer::AtRisk if by_reset && seen.grown.of("OutRsts") < resets as u64 => {
            let counted = seen.grown.of("OutRsts");
            Some(format!("{resets} resets passed, but the kernel counts {counted}"))
        }
        CheckAnswer::Loses | CheckAnswer::AtRisk if by_reset && aborts == 0 => {
            Some(format!("{}, but the kernel counts no abort", claim.answer.name()))
        }
        CheckAnswer::LosesSilently
            if claim.ended == Some(ConnectionEnd::Closed) && !has_finished_short(claim, seen) =>
        {
            Some("loses silently, but no connection was finished with fewer bytes".into())
        }
        _ => None,
    }
}

/// Whether the server reset a connection that the client still used. A client that has half-closed still does.
fn has_met_reset(one: &WireConnection, check: Check) -> bool {
    let left = if check == Check::HalfClose { one.client_reset } else { one.client_ended };
    one.server_reset.is_some_and(|at| left.is_none_or(|left| at < left))
}

/// The same, with nothing but a moment between a FIN and the reset. A client reads the FIN and leaves, which does not pass while what
/// it has sent before waits in its kernel: a reset half a second later, as Go's servers send it, meets nobody.
fn is_of_one_close(one: &WireConnection, check: Check) -> bool {
    let is_late = |at: f64| one.server_finished.is_some_and(|(finished, _)| at > finished + MOMENT);
    has_met_reset(one, check) && !one.server_reset.is_some_and(is_late)
}

/// Whether the server finished a connection in order on which it had sent less than the response.
fn has_finished_short(claim: ProbeClaim, seen: &SeenApart<'_>) -> bool {
    let is_short = |sent: u64| claim.expected.is_none_or(|expected| sent < expected);
    seen.connections.iter().any(|one| one.server_finished.is_some_and(|(_, sent)| is_short(sent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: ProbeClaim = ProbeClaim {
        check: Check::UnreadBody,
        answer: CheckAnswer::Keeps,
        ended: Some(ConnectionEnd::Closed),
        expected: Some(300_000),
        times: 1,
    };

    fn wire() -> WireConnection {
        WireConnection {
            began: 1.0,
            client_ended: Some(3.0),
            server_finished: Some((2.0, 300_150)),
            ..WireConnection::default()
        }
    }

    fn differs(claim: ProbeClaim, connection: WireConnection, counted: &[(&'static str, u64)]) -> bool {
        let grown = counted.iter().copied().collect();
        let passed = usize::from(connection.server_reset.is_some());
        disagreement(
            claim,
            &SeenApart { connections: &[connection], passed, grown: &grown, is_gateway: false },
        )
        .is_some()
    }

    #[test]
    fn one_field_away_from_a_response_that_was_kept() {
        let abort = [("OutRsts", 1), ("TCPAbortOnClose", 1)];
        assert!(!differs(CLAIM, wire(), &[]));
        // A reset before the client's end, and one behind it.
        assert!(differs(CLAIM, WireConnection { server_reset: Some(2.01), ..wire() }, &abort));
        assert!(differs(
            CLAIM,
            WireConnection { server_reset: Some(2.5), server_finished: None, ..wire() },
            &abort
        ));
        // Long behind its FIN: the client has read that, and left.
        let late = WireConnection { server_reset: Some(2.5), client_ended: None, ..wire() };
        assert!(!differs(CLAIM, late, &abort));
        assert!(!differs(CLAIM, WireConnection { server_reset: Some(3.5), ..wire() }, &abort));
        // A client that has half-closed still reads.
        let half = ProbeClaim { check: Check::HalfClose, ..CLAIM };
        let reset = WireConnection { client_ended: Some(1.5), server_reset: Some(2.01), ..wire() };
        assert!(differs(half, reset.clone(), &abort) && !differs(CLAIM, reset, &abort));
        // The kernel counts what did not pass, and it was no connection of the server's to itself.
        assert!(differs(CLAIM, wire(), &abort));
        assert!(!differs(CLAIM, wire(), &[("OutRsts", 1), ("TCPAbortOnClose", 1), ("ActiveOpens", 1)]));
    }

    #[test]
    fn one_field_away_from_a_response_that_was_lost() {
        let abort = [("OutRsts", 1), ("TCPAbortOnClose", 1)];
        let lost = ProbeClaim { answer: CheckAnswer::Loses, ended: Some(ConnectionEnd::Reset), ..CLAIM };
        let reset = WireConnection { server_reset: Some(2.5), server_finished: None, ..wire() };
        assert!(!differs(lost, reset.clone(), &abort));
        assert!(differs(lost, wire(), &abort));
        assert!(differs(lost, WireConnection { server_reset: Some(3.5), ..reset.clone() }, &abort));
        assert!(differs(lost, reset.clone(), &[("OutRsts", 1)]));
        assert!(differs(lost, reset.clone(), &[]));
        assert!(differs(ProbeClaim { times: 2, ..lost }, reset.clone(), &abort));
        // A gateway's 502 is a loss without a reset.
        assert!(!differs(ProbeClaim { ended: Some(ConnectionEnd::Closed), ..lost }, wire(), &[]));
    }

    #[test]
    fn a_silent_loss_is_an_end_with_fewer_bytes() {
        let silent = ProbeClaim { answer: CheckAnswer::LosesSilently, ..CLAIM };
        assert!(differs(silent, wire(), &[]));
        assert!(!differs(silent, WireConnection { server_finished: Some((2.0, 1_000)), ..wire() }, &[]));
        assert!(differs(silent, WireConnection { server_finished: None, ..wire() }, &[]));
    }
}
