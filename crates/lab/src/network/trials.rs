//! The clients of an experiment, one process a request, and what became of their responses at both sides.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use linger_netns::Counters;
use linger_verdict::{Observation, Verdict};

use super::plan::{NetworkPlan, Requests, aborts};
use super::program::{Tail, follow};
use super::stage::{LiveNetwork, NetworkSetting};
use crate::link::wire::WireReport;
use crate::lock;
use crate::program::{Program, shell};
use crate::real::{nameless, path};
use crate::runner::run_all;
use crate::stats::Tally;
use crate::stop::Stop;

/// Most different things that clients said which are told one by one.
const MOST_SAID: usize = 8;

/// What became of an experiment.
#[derive(Debug)]
pub struct NetworkReport {
    /// The verdicts on the responses.
    pub tally: Tally,
    /// Bytes of response that the clients got, and were to get.
    pub received: u64,
    /// See `received`.
    pub expected: u64,
    /// What the clients last said on standard error, with how many of them; digits are shown as `N`.
    pub said: BTreeMap<String, u64>,
    /// The hosts, in the plan's order.
    pub hosts: Vec<HostReport>,
    /// What the links carried, in the plan's order.
    pub wires: Vec<WireReport>,
    /// How long it took, with building it.
    pub elapsed: Duration,
}

/// What a host's kernel counted.
#[derive(Debug)]
pub struct HostReport {
    /// The host.
    pub name: String,
    /// Its counters.
    pub counters: Counters,
}

impl HostReport {
    /// Connections that its kernel aborted because bytes were not read, or came after the close.
    pub fn aborts(&self) -> u64 {
        aborts(&self.counters)
    }
}

impl NetworkReport {
    /// Connections that the kernels of all hosts aborted.
    pub fn aborts(&self) -> u64 {
        self.hosts.iter().map(HostReport::aborts).sum()
    }
}

/// Builds the network, starts its programs, lets the clients loose, and ends it all.
///
/// A response is *lost* if the client got another number of bytes than it was to get. It is *at risk* if it came whole and the
/// client says that something failed (its status is not 0), or if the kernel of a host behind the client aborted a connection: of
/// `a` aborts with `l` responses lost at least `a - l` belong to responses that came whole.
///
/// # Errors
/// Returns the errors of [`LiveNetwork::build`] and [`LiveNetwork::start`], and says of a program that ended meanwhile how.
pub fn run_network(plan: &NetworkPlan, setting: &NetworkSetting, stop: &Stop) -> io::Result<NetworkReport> {
    let started = Instant::now();
    let mut stage = LiveNetwork::build(plan, setting)?;
    stage.start(stop)?;
    let upload = plan.client.upload.map(upload).transpose()?;
    let numbers: Vec<u64> = (1..=plan.client.requests).collect();
    let failed: Mutex<Option<io::Error>> = Mutex::new(None);
    let served = run_all(
        &numbers,
        plan.client.concurrency,
        stop,
        |number| {
            if lock(&failed).is_some() {
                return None;
            }
            let served = ask(&stage, *number, upload.as_ref(), stop);
            match served.and_then(|served| stage.check(stop).map(|()| served)) {
                Ok(served) => served,
                Err(error) => {
                    lock(&failed).get_or_insert(error);
                    None
                }
            }
        },
        |_, _| {},
    );
    if let Some(error) = lock(&failed).take() {
        return Err(error);
    }
    let (counters, wires) = stage.end()?;
    let hosts = plan.hosts.iter().zip(counters);
    let hosts = hosts.map(|(host, counters)| HostReport { name: host.name.clone(), counters }).collect();
    let served: Vec<OneAnswer> = served.into_iter().flatten().flatten().collect();
    let mut report = judge(plan, &served, hosts);
    report.wires = wires;
    report.elapsed = started.elapsed();
    Ok(report)
}

fn upload(bytes: u64) -> io::Result<File> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut content = Vec::new();
    content.try_reserve_exact(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
    content.resize(bytes, b'u');
    nameless(&content)
}

/// What one client got.
#[derive(Debug)]
struct OneAnswer {
    bytes: u64,
    /// Its status was 0.
    is_content: bool,
    said: String,
}

/// Runs one client; `None` if it was stopped.
fn ask(
    stage: &LiveNetwork<'_>,
    number: u64,
    upload: Option<&File>,
    stop: &Stop,
) -> io::Result<Option<OneAnswer>> {
    let plan = &stage.plan.client;
    let host = &stage.plan.hosts[plan.host];
    let failed = |error: io::Error| {
        let told = format!("{}: host `{}`: a client cannot be started: {error}", host.place, host.name);
        io::Error::new(error.kind(), told)
    };
    let (out_reader, out) = io::pipe()?;
    let (error_reader, error) = io::pipe()?;
    let mut command = shell(&plan.run);
    command
        .env("LINGER_SCENARIO", &stage.plan.folder)
        .env("LINGER_REQUEST", number.to_string())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(error);
    if let Some(upload) = upload {
        command.env("LINGER_UPLOAD", path(upload));
    }
    let interior = stage.interior(host)?;
    let program =
        Program::start_in(&stage.hosts[plan.host], command, &stage.names, interior).map_err(failed)?;
    let tail = Arc::new(Mutex::new(Tail::default()));
    let bytes = follow(out_reader, Arc::default())?;
    let errors = follow(error_reader, tail.clone())?;
    let status = program.wait(stop, Some(plan.timeout))?;
    // With the program its pipes end.
    drop(program);
    let bytes = bytes.join().unwrap_or_default();
    let _ = errors.join();
    let said = match status {
        None if stop.requested() => return Ok(None),
        None => format!("it had no response after {}", humantime::Duration::from(plan.timeout)),
        Some(_) => lock(&tail).lines().lines().last().unwrap_or_default().trim().to_owned(),
    };
    Ok(Some(OneAnswer { bytes, is_content: status.is_some_and(|status| status.success()), said }))
}

/// The verdicts, from what the clients got and what the kernels counted.
fn judge(plan: &NetworkPlan, served: &[OneAnswer], hosts: Vec<HostReport>) -> NetworkReport {
    let Requests { response, host: client, .. } = plan.client;
    let mut tally = Tally::default();
    let mut said: BTreeMap<String, u64> = BTreeMap::new();
    for one in served {
        let seen =
            Observation { complete: one.bytes == response, reset: false, write_failed: !one.is_content };
        tally.trials += 1;
        tally.lost += u64::from(seen.verdict() == Verdict::Lost);
        tally.at_risk += u64::from(seen.verdict() == Verdict::AtRisk);
        tally.silent += u64::from(seen.verdict() == Verdict::Lost && one.is_content);
        if !one.said.is_empty() {
            let alike = without_digits(&one.said);
            let other = if said.len() < MOST_SAID || said.contains_key(&alike) {
                alike
            } else {
                "something else".to_owned()
            };
            *said.entry(other).or_default() += 1;
        }
    }
    let behind = hosts.iter().enumerate().filter(|(place, _)| *place != client);
    let aborted = behind.map(|(_, host)| host.aborts()).max().unwrap_or_default();
    let whole = tally.trials - tally.lost;
    tally.at_risk = tally.at_risk.max(aborted.saturating_sub(tally.lost).min(whole));
    NetworkReport {
        received: served.iter().map(|one| one.bytes.min(response)).sum(),
        expected: tally.trials * response,
        tally,
        said,
        hosts,
        wires: Vec::new(),
        elapsed: Duration::ZERO,
    }
}

/// Each number becomes `N`, so that what differs by bytes, ports and times alone counts as the same.
fn without_digits(text: &str) -> String {
    let mut shown = String::new();
    for letter in text.chars() {
        match letter {
            '0'..='9' if shown.ends_with('N') => {}
            '0'..='9' => shown.push('N'),
            _ => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"
title = "t"
[[host]]
name = "application"
[[host]]
name = "client"
[[link]]
between = ["client", "application"]
[client]
run = "true"
response = 100
"#;

    fn judged(bytes: &[(u64, bool)], at_application: u64, at_client: u64) -> (u64, u64, u64) {
        let plan = NetworkPlan::parse("t.toml", PLAN).unwrap();
        let served: Vec<OneAnswer> = bytes
            .iter()
            .map(|(bytes, is_content)| OneAnswer {
                bytes: *bytes,
                is_content: *is_content,
                said: String::new(),
            })
            .collect();
        let host = |name: &str, aborts| HostReport {
            name: name.to_owned(),
            counters: [("TCPAbortOnClose", aborts)].into_iter().collect(),
        };
        let report =
            judge(&plan, &served, vec![host("application", at_application), host("client", at_client)]);
        (report.tally.lost, report.tally.at_risk, report.tally.silent)
    }

    #[test]
    fn bytes_decide_at_the_client_and_aborts_behind_it() {
        let whole = [(100, true), (100, true), (100, true)];
        assert_eq!(judged(&whole, 0, 0), (0, 0, 0));
        assert_eq!(judged(&whole, 2, 0), (0, 2, 0), "whole, and aborted all the same");
        assert_eq!(judged(&whole, 9, 0), (0, 3, 0), "no more are at risk than came whole");
        assert_eq!(judged(&whole, 0, 9), (0, 0, 0), "what the client aborts loses it nothing");
        assert_eq!(judged(&[(99, false), (100, true)], 1, 0), (1, 0, 0), "the abort explains the loss");
        assert_eq!(judged(&[(99, false), (100, true)], 2, 0), (1, 1, 0));
        assert_eq!(judged(&[(100, false), (100, true)], 0, 0), (0, 1, 0), "the client says that it failed");
        assert_eq!(judged(&[(101, true), (0, true)], 0, 0), (2, 0, 2), "another answer is none");
    }

    #[test]
    fn what_differs_by_a_number_is_said_alike() {
        assert_eq!(without_digits("curl: (18) 66123 bytes"), "curl: (N) N bytes");
    }
}
