//! Lines of `linger run`, on standard error.

use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;
use crate::tools::gap_remedy;

/// What a supervised program closed, and what became of it.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Report {
    /// Closes of accepted connections (of outgoing ones, too, where asked for).
    closes: u64,
    /// Given to the supervisor: half-closed, and drained within the policy's bounds.
    lingered: u64,
    /// The peer had closed and nothing was unread: a plain close loses nothing.
    finished: u64,
    /// The peer had closed; the bytes that it had sent were discarded first.
    drained: u64,
    /// Closed plainly, since another process of the program still has the connection.
    shared: u64,
    /// Reset, as the program asked (`SO_LINGER 0`).
    aborted: u64,
    /// Over already: reset by the peer, or timed out.
    gone: u64,
    /// Closed plainly, since the supervisor did not take them.
    refused: u64,
    /// Had unread bytes when closed: without the supervisor, a reset and the loss of what was unsent.
    would_have_reset: u64,
    /// Bytes not acknowledged when the supervisor took the connections, and acknowledged when they ended.
    bytes_acknowledged: u64,
    /// Bytes unacknowledged at the end: of those that are `unknown` the kernel may deliver them yet.
    bytes_unacknowledged: u64,
    /// Of those that lingered, the ones whose connection was over before everything was acknowledged.
    lost: u64,
    /// Of those that lingered, the ones closed plainly at a bound with unacknowledged bytes, which may arrive yet.
    unknown: u64,
    /// Bytes of the peers that were read and thrown away.
    bytes_discarded: u64,
    /// Connections that linger now.
    lingering: u64,
    /// Ended by the peer's close, everything acknowledged.
    peer_closed: u64,
    /// Ended with everything acknowledged and a silent peer.
    acknowledged: u64,
    /// Ended by the peer's reset.
    peer_reset: u64,
    /// Peers that neither closed nor stayed silent until a bound ended it: out of time, or past `max_discard`.
    misbehaved: u64,
    /// Closed early, to make room for others.
    evicted: u64,
    /// Ended otherwise: the system refused.
    failed: u64,
    /// How often the supervisor looked at all descriptors of the program, to learn which other processes have a
    /// connection (with seccomp). The program's call waits meanwhile; the wait grows with the number of descriptors.
    looks: u64,
    /// Sockets on which the program listens; in the last report, those on which it listened last.
    listeners: u64,
    /// Those of them that are covered in each process that has them.
    listeners_covered: u64,
}

impl LineBody for Report {
    const KIND: &'static str = "run";
}

impl From<&linger_run::RunReport> for Report {
    fn from(report: &linger_run::RunReport) -> Self {
        Self {
            closes: report.closes,
            lingered: report.lingered,
            finished: report.finished,
            drained: report.drained,
            shared: report.shared,
            aborted: report.aborted,
            gone: report.gone,
            refused: report.refused,
            would_have_reset: report.would_have_reset,
            bytes_acknowledged: report.bytes_acknowledged,
            bytes_unacknowledged: report.bytes_unacknowledged,
            lost: report.lost,
            unknown: report.unknown,
            bytes_discarded: report.bytes_discarded,
            lingering: report.lingering,
            peer_closed: report.peer_closed,
            acknowledged: report.acknowledged,
            peer_reset: report.peer_reset,
            misbehaved: report.misbehaved,
            evicted: report.evicted,
            failed: report.failed,
            looks: report.looks,
            listeners: report.listeners,
            listeners_covered: report.listeners_covered,
        }
    }
}

/// A process whose closes are plain, since its descriptors cannot be taken.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Refused {
    /// The process.
    pid: u32,
    /// The name that the process gave itself.
    name: String,
    /// What is refused, and what to do.
    text: String,
}

impl LineBody for Refused {
    const KIND: &'static str = "refused";
}

impl From<&linger_run::Refusal> for Refused {
    fn from(refusal: &linger_run::Refusal) -> Self {
        let name = refusal.name.json().into_owned();
        Self { pid: refusal.process, name, text: refusal.to_string() }
    }
}

/// Which of the program's listeners are covered.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Coverage {
    /// Sockets on which the program listens.
    listeners: u64,
    /// Those of them that are covered in each process that has them.
    listeners_covered: u64,
    /// Each listening socket with each process that has it.
    processes: Vec<CoveredProcess>,
}

/// A process that has a listening socket.
#[derive(Serialize, JsonSchema)]
struct CoveredProcess {
    /// Address and port, or the path of a unix socket.
    address: String,
    /// The process.
    pid: u32,
    /// The name that the process gave itself.
    name: String,
    /// How its closes are seen: "preload" or "seccomp"; null if they are not.
    via: Option<&'static str>,
    /// Why they are not.
    reason: Option<&'static str>,
    /// What to do about it.
    remedy: Option<&'static str>,
}

impl LineBody for Coverage {
    const KIND: &'static str = "coverage";
}

impl From<&linger_run::Coverage> for Coverage {
    fn from(coverage: &linger_run::Coverage) -> Self {
        let (listeners, listeners_covered) = coverage.counts();
        let process = |one: &linger_run::CoveredListener| CoveredProcess {
            address: one.address.json().into_owned(),
            pid: one.process,
            name: one.name.json().into_owned(),
            via: one.covered.ok().map(linger_run::Via::name),
            reason: one.covered.err().map(linger_run::Gap::reason),
            remedy: one.covered.err().map(|gap| gap_remedy(gap.remedy())),
        };
        Self { listeners, listeners_covered, processes: coverage.listeners.iter().map(process).collect() }
    }
}
