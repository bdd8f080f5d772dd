//! Experiments with several hosts: running one, what its packets say, and what was expected of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use linger_lab::{
    Capture, Expectation, NetworkPlan, NetworkReport, NetworkSetting, Share, Stop, run_network,
};
use linger_untrusted::Untrusted;
use linger_why::{AnalyzerLimits, Finding, compare, examine};

use super::look::{DIM, style};
use super::{LabArguments, capture_path, write_decisions};
use crate::captured::NamelessCapture;
use crate::output::{Content, NewFile};

/// Failed connections by what `why` says of them, and how sure it is.
pub(super) type Causes = BTreeMap<String, u64>;

/// What became of an experiment, and of what was expected.
pub(crate) struct NetworkOutcome {
    pub(crate) plan: NetworkPlan,
    pub(crate) report: NetworkReport,
    /// What the packets of all links say; none were recorded if nobody asked.
    pub(crate) findings: Option<Vec<Finding>>,
    /// It was stopped before all clients were done.
    pub(crate) is_cut: bool,
}

/// An expectation, and whether it is met.
pub(crate) struct NetworkCheck {
    pub(crate) is_met: bool,
    /// What was expected, and what came.
    pub(crate) told: String,
}

/// Runs an experiment, and writes what was asked for of its links.
pub(super) fn run(
    plan: &NetworkPlan,
    name: &str,
    arguments: &LabArguments,
    stop: &Stop,
) -> io::Result<NetworkOutcome> {
    let is_recorded = plan.expect.why.is_some() || arguments.pcap.is_some();
    let files = if is_recorded { record(plan)? } else { Vec::new() };
    let captures = files.iter().map(|(_, capture)| capture.clone()).collect();
    let setting = NetworkSetting { captures, keep_log: arguments.decisions.is_some() };
    let report = run_network(plan, &setting, stop)?;
    let is_cut = report.tally.trials < plan.client.requests;
    for (_, capture) in &files {
        capture.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
    }
    let links = || plan.links.iter().map(|joined| format!("{name}-{}", joined.link.name));
    if let Some(directory) = &arguments.pcap {
        for ((nameless, _), name) in files.iter().zip(links()) {
            let path = capture_path(directory, &name);
            let mut file = NewFile::create(&path, Content::Capture, []).map_err(io::Error::other)?;
            io::copy(&mut File::open(nameless.path())?, &mut file)
                .map_err(|error| super::at(&path, error))?;
            file.finish().map_err(io::Error::other)?;
        }
    }
    if let Some(directory) = &arguments.decisions {
        for (wire, name) in report.wires.iter().zip(links()) {
            write_decisions(directory, &name, wire)?;
        }
    }
    let findings = is_recorded.then(|| findings(&files)).transpose()?;
    Ok(NetworkOutcome { plan: plan.clone(), report, findings, is_cut })
}

type Recorded = (NamelessCapture, Arc<Mutex<Capture>>);

/// A capture for each link, whose interfaces have the hosts' names.
fn record(plan: &NetworkPlan) -> io::Result<Vec<Recorded>> {
    let begin = |ends: [usize; 2]| {
        let nameless = NamelessCapture::create()?;
        let ends = ends.map(|end| plan.hosts[end].name.as_str());
        let capture = nameless.begin_between(ends)?;
        Ok((nameless, Arc::new(Mutex::new(capture))))
    };
    plan.links.iter().map(|joined| begin(joined.ends)).collect()
}

/// The connections that failed, by the captures of all links.
fn findings(files: &[Recorded]) -> io::Result<Vec<Finding>> {
    let paths: Vec<_> = files.iter().map(|(file, _)| file.path()).collect();
    let mut findings = Vec::new();
    for path in &paths {
        examine(path, AnalyzerLimits::default(), |finding| findings.push(finding))
            .map_err(io::Error::other)?;
    }
    compare(&paths, findings).map_err(io::Error::other)
}

impl NetworkOutcome {
    /// The failed connections by what `why` says of them.
    pub(crate) fn causes(&self) -> Option<Causes> {
        let mut causes = Causes::new();
        for finding in self.findings.as_ref()? {
            let class = if finding.class.is_reset() { String::new() } else { format!(", {}", finding.class) };
            *causes.entry(format!("{} ({}){class}", finding.cause, finding.confidence)).or_default() += 1;
        }
        Some(causes)
    }

    /// What was expected. Of an experiment that expects nothing: that nothing is lost, nor at risk.
    pub(crate) fn checks(&self, at_risk_ok: bool) -> Vec<NetworkCheck> {
        let (plan, report) = (&self.plan, &self.report);
        let expect = &plan.expect;
        let mut checks = Vec::new();
        let expects_nothing = expect.verdicts.is_none() && expect.counters.is_empty() && expect.why.is_none();
        let usual = expects_nothing.then_some(Expectation::NotKept(Share::None));
        if let Some(verdicts) = expect.verdicts.or(usual) {
            let tally = &report.tally;
            let is_met = match verdicts {
                Expectation::NotKept(Share::None) if at_risk_ok => tally.lost == 0,
                _ => verdicts.is_met(tally),
            };
            let told =
                format!("{verdicts}: {} lost, {} at risk of {}", tally.lost, tally.at_risk, tally.trials);
            checks.push(NetworkCheck { is_met, told });
        }
        for (host, counters) in &expect.counters {
            let counted = report.hosts.iter().find(|counted| counted.name == *host);
            for (counter, amount) in counters {
                let count = counted.map_or(0, |counted| counted.counters.of(counter));
                let told = format!("{counter} of {host} {amount}: {count}");
                checks.push(NetworkCheck { is_met: amount.is_met(count), told });
            }
        }
        if let (Some(why), Some(findings)) = (&expect.why, &self.findings) {
            let failed = || findings.iter().filter(|finding| !finding.harmless);
            let is_named = |finding: &&Finding| why.causes.iter().any(|cause| *cause == finding.cause.name());
            let (named, all) = (failed().filter(is_named).count(), failed().count());
            let told =
                format!("linger why: only {}: {named} of {all} failed connections", why.causes.join(", "));
            checks.push(NetworkCheck { is_met: named > 0 && named == all, told });
            if why.agrees {
                let resets = findings.iter().filter(|finding| finding.class.is_reset()).count() as u64;
                let aborts = report.aborts();
                let told = format!("linger why as the kernels: {resets} reset connections, {aborts} aborts");
                checks.push(NetworkCheck { is_met: resets == aborts, told });
            }
        }
        checks
    }

    /// The result in a few lines.
    pub(super) fn lines(&self) -> Vec<String> {
        let (plan, report) = (&self.plan, &self.report);
        let tally = &report.tally;
        let mut lines = vec![format!(
            "{} requests of `{}`: {} lost, {} at risk, {} kept; {} of {} bytes",
            tally.trials,
            plan.hosts[plan.client.host].name,
            tally.lost,
            tally.at_risk,
            tally.trials - tally.not_kept(),
            report.received,
            report.expected
        )];
        for (said, count) in &report.said {
            lines.push(format!("{count} said: {}", Untrusted::from(said.as_str()).terminal()));
        }
        for host in &report.hosts {
            let of = |name| host.counters.of(name);
            lines.push(format!(
                "kernel of `{}`: aborts: close {}, data {}, linger {}; resets {}; listen overflows {}",
                host.name,
                of("TCPAbortOnClose"),
                of("TCPAbortOnData"),
                of("TCPAbortOnLinger"),
                of("OutRsts"),
                of("ListenOverflows")
            ));
        }
        for (joined, wire) in plan.links.iter().zip(&report.wires) {
            lines.push(format!(
                "link {}: carried {} frames, lost {}, dropped {} (queue full)",
                joined.link.name, wire.carried, wire.lost, wire.queue_full
            ));
            if let Some(counts) = wire.middlebox {
                lines.push(format!("  its middlebox {counts}"));
            }
            if wire.accidents > 0 {
                lines.push(format!(
                    "{} frames were lost by this machine, not by the link: it is too busy.",
                    wire.accidents
                ));
            }
        }
        if let Some(causes) = self.causes() {
            let told = causes.iter().map(|(cause, count)| format!("{count} {cause}")).collect::<Vec<_>>();
            let told = if told.is_empty() { "no failed connection".to_owned() } else { told.join("; ") };
            lines.push(format!("linger why: {told}"));
        }
        lines
    }

    /// The result for people.
    pub(super) fn render(&self, text: &mut String) {
        let style = style(&self.report.tally);
        for (number, line) in self.lines().iter().enumerate() {
            let _ = match number {
                0 => writeln!(text, "  {style}{line}{style:#}"),
                _ => writeln!(text, "  {DIM}{line}{DIM:#}"),
            };
        }
    }
}
