//! The lines of `--json` of `linger lab`, `client` and `server`.

use std::collections::BTreeMap;

use linger_lab::{
    Actor, BacklogReport, Blame, Campaign, CellPlan, CellReport, ExecReport, Fate, First, IpVersion,
    OneReport, Step, Tally, Verdict, WireReport,
};
use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;
use super::common::{Counted, MiddleboxCounted, counted};

/// What became of connections.
#[derive(Serialize, JsonSchema)]
struct Counts {
    /// Connections that were made.
    trials: u64,
    /// Connections whose response arrived whole, with a clean end.
    kept: u64,
    /// Connections whose response arrived whole, but which were reset, or a write of the client failed.
    at_risk: u64,
    /// Connections whose response was lost.
    lost: u64,
    /// Lost responses whose connection had a clean end: only the length tells that bytes are missing.
    silent: u64,
    /// Lost responses of which the server wrote nothing: no close has lost them.
    unanswered: u64,
    /// The lower end of the share that is lost, with 95 % confidence (Wilson).
    wilson_low: f64,
    /// The upper end.
    wilson_high: f64,
    /// How many ended in which way.
    fates: BTreeMap<&'static str, u64>,
}

impl From<&Tally> for Counts {
    fn from(tally: &Tally) -> Self {
        let (wilson_low, wilson_high) = tally.interval();
        Self {
            trials: tally.trials,
            kept: tally.with(Verdict::Kept),
            at_risk: tally.at_risk,
            lost: tally.lost,
            silent: tally.silent,
            unanswered: tally.unanswered,
            wilson_low,
            wilson_high,
            fates: Fate::ALL.iter().map(|fate| (fate.name(), tally.of(*fate))).collect(),
        }
    }
}

/// What the emulated link did; all null for loopback, which has none.
#[derive(Serialize, JsonSchema)]
struct Carried {
    /// Frames that left the link.
    link_carried: Option<u64>,
    /// Frames lost by chance or by a fault, or too large for the link.
    link_lost: Option<u64>,
    /// Frames dropped because the queue before the rate limit was full.
    link_queue_full: Option<u64>,
    /// Frames lost by this machine, not by the link.
    link_accidents: Option<u64>,
    /// What the middlebox of the link did, if it has one.
    middlebox: Option<MiddleboxCounted>,
    /// How late frames left, in microseconds, the latest of 100.
    link_late_p99_us: Option<u64>,
}

impl From<Option<&WireReport>> for Carried {
    fn from(wire: Option<&WireReport>) -> Self {
        Self {
            link_carried: wire.map(|wire| wire.carried),
            link_lost: wire.map(|wire| wire.lost),
            link_queue_full: wire.map(|wire| wire.queue_full),
            link_accidents: wire.map(|wire| wire.accidents),
            middlebox: wire.and_then(|wire| wire.middlebox).map(Into::into),
            link_late_p99_us: wire.map(|wire| wire.lateness.quantile(0.99)),
        }
    }
}

/// One ending against one peer over one link.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Cell {
    /// Base name of its files (`--pcap`, `--decisions`), which no other cell of the run has.
    name: String,
    /// What the server did after its last write.
    ending: String,
    /// What the client did.
    peer: &'static str,
    /// What the client's program and system were like.
    client: String,
    /// The network.
    link: String,
    /// The version of IP.
    ip: u8,
    /// Size of the response.
    response_bytes: u64,
    /// Size of the part of the request that the server reads.
    request_bytes: u64,
    /// Bytes beyond the request, of peers that send so many.
    extra_bytes: u64,
    /// Bytes beyond the request, of the peer `upload`.
    upload_bytes: u64,
    /// How long the server thought before it read a request.
    busy_seconds: f64,
    #[serde(flatten)]
    counts: Counts,
    /// What caused the losses: `nobody`, `close`, `accept_queue`, `middlebox` or `unclear`.
    blame: &'static str,
    /// Connections whose server met an error before it had written everything.
    server_errors: u64,
    /// Lingering closes, by how they ended.
    closes: BTreeMap<String, u64>,
    /// The kernel's counters of the server's side, by its own names.
    counters: Counted,
    #[serde(flatten)]
    carried: Carried,
    /// The seed of the link's random decisions.
    seed: u64,
    /// How long it took.
    seconds: f64,
}

impl LineBody for Cell {
    const KIND: &'static str = "cell";
}

impl Cell {
    /// The line of a cell whose files have this base name.
    pub(crate) fn named(name: &str, report: &CellReport) -> Self {
        let plan = &report.plan;
        Self {
            name: name.to_owned(),
            ending: plan.ending.to_string(),
            peer: plan.peer.name(),
            client: plan.client.to_string(),
            link: plan.link.name.clone(),
            ip: if plan.ip == IpVersion::V4 { 4 } else { 6 },
            response_bytes: plan.response,
            request_bytes: plan.request,
            extra_bytes: plan.extra,
            upload_bytes: plan.upload,
            busy_seconds: plan.busy.as_secs_f64(),
            counts: (&report.tally).into(),
            blame: Blame::of(report).name(),
            server_errors: report.server_errors,
            closes: report.endings.iter().map(|(ended, count)| (ended.to_string(), *count)).collect(),
            counters: counted(&report.counters),
            carried: report.wire.as_ref().into(),
            seed: plan.seed,
            seconds: report.elapsed.as_secs_f64(),
        }
    }
}

/// An accept queue under a burst.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Backlog {
    /// The accept queue's limit.
    backlog: u32,
    /// Clients at once.
    clients: u16,
    /// Whether the kernel answers an overflow with a reset.
    abort_on_overflow: bool,
    /// The network.
    link: String,
    #[serde(flatten)]
    counts: Counts,
    /// What caused the losses: `nobody`, `close`, `accept_queue` or `unclear`.
    blame: &'static str,
    /// The kernel's counters of the server's side, by its own names.
    counters: Counted,
    /// How long it took.
    seconds: f64,
}

impl LineBody for Backlog {
    const KIND: &'static str = "backlog";
}

impl From<&BacklogReport> for Backlog {
    fn from(report: &BacklogReport) -> Self {
        let plan = &report.plan;
        Self {
            backlog: plan.backlog,
            clients: plan.clients,
            abort_on_overflow: plan.abort_on_overflow,
            link: plan.link.name.clone(),
            counts: (&report.tally).into(),
            blame: Blame::find(&report.tally, &report.counters).name(),
            counters: counted(&report.counters),
            seconds: report.elapsed.as_secs_f64(),
        }
    }
}

/// The result of a run of the lab.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Lab {
    /// The seed of the links' random decisions.
    pub(crate) seed: u64,
    /// `as_expected`, `unexpected` or `interrupted`.
    pub(crate) outcome: &'static str,
    /// Experiments that were begun.
    pub(crate) cells: usize,
    /// Experiments that were planned.
    pub(crate) planned: usize,
    /// The command that repeats the run.
    pub(crate) again: String,
    /// Whether the lab had a network of its own.
    pub(crate) namespaces: bool,
}

impl LineBody for Lab {
    const KIND: &'static str = "lab";
}

/// What `lab exec` saw beside its two commands.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Exec {
    /// The seed of the link's random decisions.
    seed: u64,
    /// The client's exit status; null where a signal ended it.
    client_status: Option<i32>,
    /// The kernel's counters of the server's side.
    server_counters: Counted,
    /// The kernel's counters of the client's side.
    client_counters: Counted,
    #[serde(flatten)]
    carried: Carried,
}

impl LineBody for Exec {
    const KIND: &'static str = "exec";
}

impl Exec {
    pub(crate) fn new(report: &ExecReport, seed: u64) -> Self {
        Self {
            seed,
            client_status: report.client.and_then(|status| status.code()),
            server_counters: counted(&report.server_counters),
            client_counters: counted(&report.client_counters),
            carried: report.wire.as_ref().into(),
        }
    }
}

/// One connection of the lab, step by step.
#[derive(Serialize, JsonSchema)]
pub(crate) struct One {
    /// What the server did after its last write.
    ending: String,
    /// What the client did.
    peer: &'static str,
    /// The network.
    link: String,
    /// `kept`, `at_risk` or `lost`.
    verdict: &'static str,
    /// How it ended.
    fate: &'static str,
    /// Response bytes that were read.
    received_bytes: u64,
    /// Response bytes that should have come, as far as known.
    expected_bytes: Option<u64>,
    /// Whether the server wrote any of its response.
    answered: bool,
    /// The error of one of the server's calls, if one failed.
    server_error: Option<String>,
    /// What happened, in order.
    steps: Vec<Stepped>,
    /// The seed of the link's random decisions.
    seed: u64,
}

impl LineBody for One {
    const KIND: &'static str = "one";
}

/// One step.
#[derive(Serialize, JsonSchema)]
struct Stepped {
    /// Time since the first step.
    seconds: f64,
    /// `client`, `server` or `link`.
    actor: &'static str,
    /// What it did.
    action: String,
}

impl From<&Step> for Stepped {
    fn from(step: &Step) -> Self {
        let actor = match step.actor {
            Actor::Client => "client",
            Actor::Server => "server",
            Actor::Link => "link",
        };
        Self { seconds: step.at.as_secs_f64(), actor, action: step.action.to_string() }
    }
}

impl One {
    pub(crate) fn new(plan: &CellPlan, report: &OneReport) -> Self {
        let attempt = &report.attempt;
        Self {
            ending: plan.ending.to_string(),
            peer: plan.peer.name(),
            link: plan.link.name.clone(),
            verdict: attempt.verdict().name(),
            fate: attempt.fate.name(),
            received_bytes: attempt.received,
            expected_bytes: attempt.expected,
            answered: report.is_answered,
            server_error: report.server_error.as_ref().map(ToString::to_string),
            steps: report.steps.iter().map(Stepped::from).collect(),
            seed: plan.seed,
        }
    }
}

/// What became of a client's connections.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ClientSummary {
    #[serde(flatten)]
    counts: Counts,
    /// The first loss.
    first_loss: Option<FirstSeen>,
    /// The first response that arrived whole and was at risk.
    first_at_risk: Option<FirstSeen>,
    /// The first error of a connection, with how the connection ended.
    error: Option<String>,
    /// Connections that were cut when the run was interrupted, and are not counted.
    cut: u64,
    /// How long it took.
    seconds: f64,
}

/// The first connection with a certain verdict.
#[derive(Serialize, JsonSchema)]
struct FirstSeen {
    /// How many connections had been made.
    trial: u64,
    /// How long that had taken.
    seconds: f64,
    /// How it ended.
    fate: &'static str,
}

impl LineBody for ClientSummary {
    const KIND: &'static str = "client";
}

impl From<&Campaign> for ClientSummary {
    fn from(seen: &Campaign) -> Self {
        let seen_first = |first: First| FirstSeen {
            trial: first.trial,
            seconds: first.at.as_secs_f64(),
            fate: first.fate.name(),
        };
        Self {
            counts: (&seen.tally).into(),
            first_loss: seen.first_loss.map(seen_first),
            first_at_risk: seen.first_at_risk.map(seen_first),
            error: seen.error.clone(),
            cut: seen.cut,
            seconds: seen.elapsed.as_secs_f64(),
        }
    }
}

/// What a server did.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Hosting {
    /// Connections.
    accepted: u64,
    /// Bytes of responses that were written.
    written_bytes: u64,
    /// Errors by their text, and how often each occurred.
    errors: BTreeMap<String, u64>,
    /// Lingering closes, by how they ended.
    closes: BTreeMap<String, u64>,
    /// Growth of the kernel's counters meanwhile, for the whole network namespace.
    counters: Counted,
}

impl LineBody for Hosting {
    const KIND: &'static str = "server";
}

impl From<&linger_lab::Hosting> for Hosting {
    fn from(served: &linger_lab::Hosting) -> Self {
        let owned = |counts: &BTreeMap<String, u64>| counts.clone();
        Self {
            accepted: served.accepted,
            written_bytes: served.written,
            errors: owned(&served.errors),
            closes: owned(&served.endings),
            counters: counted(&served.counters),
        }
    }
}
