//! Lines of `linger lab`, `client` and `server`.

use std::collections::BTreeMap;

use linger_lab::{BacklogReport, Blame, Campaign, CellReport, ExecReport, Fate, IpVersion, Tally};
use schemars::JsonSchema;
use serde::Serialize;

use super::Body;
use super::common::{Counted, counted};

/// What became of connections.
#[derive(Serialize, JsonSchema)]
struct Counts {
    /// Connections that were made.
    trials: u64,
    /// Of them, those whose response was lost.
    lost: u64,
    /// Of those, the ones with a clean end: only the length tells.
    silent: u64,
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
            lost: tally.lost,
            silent: tally.silent,
            wilson_low,
            wilson_high,
            fates: Fate::ALL.iter().map(|fate| (fate.name(), tally.of(*fate))).collect(),
        }
    }
}

/// One ending against one peer over one link.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Cell {
    /// What the server did after its last write.
    ending: String,
    /// What the client did.
    peer: &'static str,
    /// The network.
    link: String,
    /// The version of IP.
    ip: u8,
    /// Size of the response.
    response_bytes: u64,
    /// Size of the part of the request that the server reads.
    request_bytes: u64,
    #[serde(flatten)]
    counts: Counts,
    /// Whom the losses are due to.
    blame: &'static str,
    /// Connections whose server met an error before it had written everything.
    server_errors: u64,
    /// Lingering closes, by how they ended.
    closes: BTreeMap<String, u64>,
    /// The kernel's counters of the server's side, by its own names.
    counters: Counted,
    /// Frames lost by chance or by a fault; null without a link.
    link_lost: Option<u64>,
    /// Frames dropped because the queue before the rate limit was full.
    link_queue_full: Option<u64>,
    /// Frames lost by this machine, not by the link.
    link_accidents: Option<u64>,
    /// How late frames left, in microseconds, the latest of 100.
    link_late_p99_us: Option<u64>,
    /// What the link's chance was fed with.
    seed: u64,
    /// How long it took.
    seconds: f64,
}

impl Body for Cell {
    const KIND: &'static str = "cell";
}

impl From<&CellReport> for Cell {
    fn from(report: &CellReport) -> Self {
        let plan = &report.plan;
        let wire = report.wire.as_ref();
        Self {
            ending: plan.ending.to_string(),
            peer: plan.peer.name(),
            link: plan.link.name.clone(),
            ip: if plan.ip == IpVersion::V4 { 4 } else { 6 },
            response_bytes: plan.response,
            request_bytes: plan.request,
            counts: (&report.tally).into(),
            blame: Blame::find(&report.tally, &report.counters).name(),
            server_errors: report.server_errors,
            closes: report.endings.iter().map(|(ended, count)| (ended.to_string(), *count)).collect(),
            counters: counted(&report.counters),
            link_lost: wire.map(|wire| wire.lost),
            link_queue_full: wire.map(|wire| wire.queue_full),
            link_accidents: wire.map(|wire| wire.accidents),
            link_late_p99_us: wire.map(|wire| wire.lateness.quantile(0.99)),
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
    /// Whom the losses are due to.
    blame: &'static str,
    /// The kernel's counters of the server's side, by its own names.
    counters: Counted,
    /// How long it took.
    seconds: f64,
}

impl Body for Backlog {
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

/// What a lab came to.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Lab {
    /// What the links' chance was fed with.
    pub(crate) seed: u64,
    /// `as-expected`, `unexpected` or `interrupted`.
    pub(crate) verdict: &'static str,
    /// Experiments that were begun.
    pub(crate) cells: usize,
    /// Experiments that were planned.
    pub(crate) planned: usize,
    /// The command that repeats the run.
    pub(crate) again: String,
    /// Whether the lab had a network of its own.
    pub(crate) namespaces: bool,
}

impl Body for Lab {
    const KIND: &'static str = "summary";
}

/// What `lab exec` saw beside its two commands.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Exec {
    /// What the link's chance was fed with.
    seed: u64,
    /// The client's exit status; null where a signal ended it.
    client_status: Option<i32>,
    /// The kernel's counters of the server's side.
    server_counters: Counted,
    /// The kernel's counters of the client's side.
    client_counters: Counted,
    /// Frames that left the link; null without a link.
    link_carried: Option<u64>,
    /// Frames lost by chance or by a fault.
    link_lost: Option<u64>,
    /// Frames dropped because the queue before the rate limit was full.
    link_queue_full: Option<u64>,
    /// Frames lost by this machine, not by the link.
    link_accidents: Option<u64>,
}

impl Body for Exec {
    const KIND: &'static str = "exec-summary";
}

impl Exec {
    pub(crate) fn new(report: &ExecReport, seed: u64) -> Self {
        let wire = report.wire.as_ref();
        Self {
            seed,
            client_status: report.client.and_then(|status| status.code()),
            server_counters: counted(&report.server_counters),
            client_counters: counted(&report.client_counters),
            link_carried: wire.map(|wire| wire.carried),
            link_lost: wire.map(|wire| wire.lost),
            link_queue_full: wire.map(|wire| wire.queue_full),
            link_accidents: wire.map(|wire| wire.accidents),
        }
    }
}

/// What became of a client's connections.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Client {
    #[serde(flatten)]
    counts: Counts,
    /// The first loss.
    first_loss: Option<FirstLoss>,
    /// What the system said of a connection that could not be made.
    error: Option<String>,
    /// Connections that were cut when the run was interrupted, and are not counted.
    cut: u64,
    /// How long it took.
    seconds: f64,
}

/// When the first response was lost.
#[derive(Serialize, JsonSchema)]
struct FirstLoss {
    /// How many connections had been made.
    trial: u64,
    /// How long that had taken.
    seconds: f64,
    /// How it ended.
    fate: &'static str,
}

impl Body for Client {
    const KIND: &'static str = "summary";
}

impl From<&Campaign> for Client {
    fn from(seen: &Campaign) -> Self {
        let first_loss = seen.first_loss.map(|(trial, time, fate)| FirstLoss {
            trial,
            seconds: time.as_secs_f64(),
            fate: fate.name(),
        });
        Self {
            counts: (&seen.tally).into(),
            first_loss,
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
    /// What the system said, and how often.
    errors: BTreeMap<String, u64>,
    /// Lingering closes, by how they ended.
    closes: BTreeMap<String, u64>,
    /// What the kernel counted meanwhile, for everybody on this host.
    counters: Counted,
}

impl Body for Hosting {
    const KIND: &'static str = "summary";
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
