//! The line of `--json` of an experiment with several hosts.

use std::collections::BTreeMap;
use std::process::ExitStatus;

use linger_lab::{HostReport, JoinedHosts, NetworkPlan, WireReport};
use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;
use super::common::{Counted, MiddleboxCounted, counted};
use crate::lab::NetworkOutcome;

/// An experiment with several hosts.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Network {
    /// Base name of its captures, to which each link's name is added.
    name: String,
    /// What it shows.
    title: String,
    /// Requests that were made.
    trials: u64,
    /// Responses that arrived whole, and none of whose connections was aborted.
    kept: u64,
    /// Responses that arrived whole, while a connection was aborted or the client said that something failed.
    at_risk: u64,
    /// Responses of which bytes are missing.
    lost: u64,
    /// Bytes that the clients got.
    received_bytes: u64,
    /// Bytes that they were to get.
    expected_bytes: u64,
    /// What the clients last said on standard error, with digits as `N`, and how many said so.
    said: BTreeMap<String, u64>,
    /// The kernel's counters, by host.
    counters: BTreeMap<String, Counted>,
    /// What each link did.
    links: Vec<CarriedBetween>,
    /// Failed connections by what `linger why` says of the packets, and how sure it is; null where none were recorded.
    why: Option<BTreeMap<String, u64>>,
    /// What was expected, and what came.
    checks: Vec<Checked>,
    /// The seed of the links' random decisions.
    seed: u64,
    /// How long it took.
    seconds: f64,
}

/// What a link did.
#[derive(Serialize, JsonSchema)]
struct CarriedBetween {
    /// The link.
    name: String,
    /// The hosts at its ends: that of the client side, then that of the server side.
    between: [String; 2],
    /// Frames that left the link.
    carried: u64,
    /// Frames lost by chance or by a fault, or too large for the link.
    lost: u64,
    /// Frames dropped because the queue before the rate limit was full.
    queue_full: u64,
    /// Frames that this machine lost: if there are any, the result is not valid.
    accidents: u64,
    /// What its middlebox did, if it has one.
    middlebox: Option<MiddleboxCounted>,
}

/// An expectation.
#[derive(Serialize, JsonSchema)]
struct Checked {
    /// What was expected, and what came.
    expected: String,
    /// Whether it is so.
    met: bool,
}

impl LineBody for Network {
    const KIND: &'static str = "network";
}

impl Network {
    pub(crate) fn named(name: &str, outcome: &NetworkOutcome) -> Self {
        let (plan, report) = (&outcome.plan, &outcome.report);
        let checks = outcome.checks(false).into_iter();
        Self {
            name: name.to_owned(),
            title: plan.title.clone(),
            trials: report.tally.trials,
            kept: report.tally.trials - report.tally.not_kept(),
            at_risk: report.tally.at_risk,
            lost: report.tally.lost,
            received_bytes: report.received,
            expected_bytes: report.expected,
            said: report.said.clone(),
            counters: counters(&report.hosts),
            links: links(plan, &report.wires),
            why: outcome.causes(),
            checks: checks.map(|check| Checked { expected: check.told, met: check.is_met }).collect(),
            seed: plan.seed,
            seconds: report.elapsed.as_secs_f64(),
        }
    }
}

/// What `lab exec --scenario` saw beside its command.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ExecHosts {
    /// The seed of the links' random decisions.
    seed: u64,
    /// The command's exit status, of several the first that is not 0; null where a signal ended it.
    client_status: Option<i32>,
    /// The kernel's counters, by host.
    counters: BTreeMap<String, Counted>,
    /// What each link did.
    links: Vec<CarriedBetween>,
}

impl LineBody for ExecHosts {
    const KIND: &'static str = "exec_hosts";
}

impl ExecHosts {
    pub(crate) fn new(
        plan: &NetworkPlan,
        client: Option<ExitStatus>,
        hosts: &[HostReport],
        wires: &[WireReport],
    ) -> Self {
        Self {
            seed: plan.seed,
            client_status: client.and_then(|status| status.code()),
            counters: counters(hosts),
            links: links(plan, wires),
        }
    }
}

fn counters(hosts: &[HostReport]) -> BTreeMap<String, Counted> {
    hosts.iter().map(|host| (host.name.clone(), counted(&host.counters))).collect()
}

fn links(plan: &NetworkPlan, wires: &[WireReport]) -> Vec<CarriedBetween> {
    let carried = |(joined, wire): (&JoinedHosts, &WireReport)| CarriedBetween {
        name: joined.link.name.clone(),
        between: [1, 0].map(|end| plan.hosts[joined.ends[end]].name.clone()),
        carried: wire.carried,
        lost: wire.lost,
        queue_full: wire.queue_full,
        accidents: wire.accidents,
        middlebox: wire.middlebox.map(Into::into),
    };
    plan.links.iter().zip(wires).map(carried).collect()
}
