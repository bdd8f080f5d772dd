//! The acts, and what was counted in each.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use linger_lab::{BacklogPlan, Link, Named as _, NetworkReport, NetworkSetting, Stop, burst, run_network};
use linger_why::{AnalyzerLimits, compare, examine};

use super::cast::{BYTES, Cast, Gateway};
use crate::captured::NamelessCapture;

/// Clients that come at once to the short queue.
pub(super) const CROWD: u32 = 64;
/// Connections that the short queue takes.
pub(super) const QUEUE: u32 = 2;

/// What every act needs.
pub(super) struct Theatre<'a> {
    pub(super) link: Link,
    pub(super) seed: u64,
    pub(super) cast: Cast,
    pub(super) stop: &'a Stop,
}

/// What became of uploads that the application did not read.
pub(super) struct Uploads {
    /// Requests, and bytes of response bodies that they were to get and got.
    pub(super) requests: u64,
    pub(super) expected: u64,
    pub(super) got: u64,
    /// Those that the client itself called failed; `None` where it does not say.
    pub(super) failed: Option<u64>,
    /// Lines of the gateway's log that speak of a reset.
    pub(super) logged: u64,
    /// The kernel's counters at the application: closed with unread data, data after the close.
    pub(super) unread: u64,
    pub(super) late: u64,
    /// What the packets tell: connections by cause.
    pub(super) causes: Causes,
    /// What `linger watch` told meanwhile, by cause; or why it could not.
    pub(super) watched: Result<BTreeMap<String, u64>, String>,
}

impl Uploads {
    pub(super) fn is_short(&self) -> bool {
        self.got < self.expected
    }

    /// Connections that the application's kernel reset.
    pub(super) fn aborts(&self) -> u64 {
        self.unread + self.late
    }
}

/// The first act, and the third.
pub(super) fn serve(stage: &Theatre<'_>, gateway: Gateway, is_cured: bool) -> io::Result<Uploads> {
    let watch = if is_cured { Err("not asked".to_owned()) } else { Watching::begin(stage) };
    let clients = stage.cast.clients(gateway);
    let (report, causes) = run(stage, &stage.link, (gateway, is_cured, None), clients)?;
    let watched = watch.and_then(Watching::end);
    let text = fs::read_to_string(stage.cast.file("client.txt"))?;
    let requests = if stage.cast.is_real() { 100 } else { 20 };
    let expected = requests * BYTES as u64;
    let (got, failed) = if stage.cast.is_real() {
        let number = |label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let missing = || io::Error::other(format!("ab got nothing; it said: {}", text.trim()));
        (number("HTML transferred:").ok_or_else(missing)?, number("Failed requests:"))
    } else {
        (text.lines().filter_map(|line| line.trim().parse::<u64>().ok()).sum(), None)
    };
    let log = fs::read_to_string(stage.cast.file("error.log")).unwrap_or_default();
    let counted = |name| application(&report).of(name);
    Ok(Uploads {
        requests,
        expected,
        got,
        failed,
        logged: log.lines().filter(|line| line.contains("reset by peer")).count() as u64,
        unread: counted("TCPAbortOnClose"),
        late: counted("TCPAbortOnData"),
        causes,
        watched,
    })
}

/// A full accept queue, and what the clients say of it.
pub(super) struct Backlogged {
    /// Clients by what they said.
    pub(super) said: BTreeMap<String, u64>,
    /// Connections for which the queue had no room.
    pub(super) overflows: u64,
    /// `None` where no packets were recorded.
    pub(super) causes: Option<Causes>,
}

/// The fourth act.
pub(super) fn overflow(stage: &Theatre<'_>) -> io::Result<Backlogged> {
    let link = Link::named("lan").map_err(io::Error::other)?;
    if !stage.cast.is_real() {
        let report = burst(&BacklogPlan::new(link, QUEUE, true))?;
        let of = |count: u64, said: &str| (count > 0).then(|| (said.to_owned(), count));
        let said = [
            of(report.tally.trials - report.tally.not_kept(), "whole"),
            of(report.tally.not_kept(), "reset, or no answer"),
        ];
        let overflows = report.counters.of("ListenOverflows");
        return Ok(Backlogged { said: said.into_iter().flatten().collect(), overflows, causes: None });
    }
    let clients = format!(
        "cd '{}' || exit 1; for i in $(seq {CROWD}); do curl -sS -m 8 -o /dev/null -w '%{{http_code}} whole\\n' \
         \"http://application:9002/x?sleep=1\" > queue.$i 2>&1 & done; wait; cat queue.* > queue.txt",
        stage.cast.folder().display()
    );
    let (report, causes) = run(stage, &link, (Gateway::Absent, false, Some(QUEUE)), clients)?;
    let mut said = BTreeMap::new();
    for line in fs::read_to_string(stage.cast.file("queue.txt"))?.lines() {
        // Behind curl's name and number stands what happened; it says by a second line that there was no status.
        let line = line.rsplit(") ").next().unwrap_or(line);
        if line != "000 whole" {
            *said.entry(line.to_owned()).or_default() += 1;
        }
    }
    Ok(Backlogged { said, overflows: application(&report).of("ListenOverflows"), causes: Some(causes) })
}

/// Failed connections by what `why` says of them.
pub(super) type Causes = BTreeMap<String, u64>;

/// The kernel's counters of the application's host, which is the first.
fn application(report: &NetworkReport) -> linger_netns::Counters {
    report.hosts.first().map(|host| host.counters.clone()).unwrap_or_default()
}

/// Runs all hosts, and reads what crossed the application's link.
fn run(
    stage: &Theatre<'_>,
    link: &Link,
    part: (Gateway, bool, Option<u32>),
    clients: String,
) -> io::Result<(NetworkReport, Causes)> {
    let file = NamelessCapture::create()?;
    let capture = Arc::new(Mutex::new(file.begin()?));
    let plan = stage.cast.network(link, stage.seed, part, clients)?;
    let setting = NetworkSetting { captures: vec![capture.clone()], keep_log: false };
    let report = run_network(&plan, &setting, stage.stop)?;
    capture.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
    let mut findings = Vec::new();
    examine(file.path(), AnalyzerLimits::default(), |finding| findings.push(finding))
        .map_err(io::Error::other)?;
    let mut causes = Causes::new();
    for finding in compare(&[file.path()], findings).map_err(io::Error::other)? {
        let class = if finding.class.is_reset() { String::new() } else { format!(", {}", finding.class) };
        *causes.entry(format!("{} ({}){class}", finding.cause, finding.confidence)).or_default() += 1;
    }
    Ok((report, causes))
}

/// `linger watch`, beside an act.
struct Watching(Child);

impl Watching {
    /// Starts it, and waits until it watches.
    fn begin(stage: &Theatre<'_>) -> Result<Self, String> {
        use std::io::BufRead;
        let mut command = Command::new(stage.cast.own());
        command.args(["watch", "--json", "--verbose", "--port", "9002"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let Some(said) = child.stderr.take() else { return Err("it has no standard error".to_owned()) };
        let mut lines = io::BufReader::new(said).lines().map_while(Result::ok);
        let mut last = String::new();
        for line in lines.by_ref() {
            if line.contains("is confined") {
                // The rest is read, so that it never waits for a reader.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Self(child));
            }
            last = line;
        }
        let _ = child.wait();
        Err(last.trim_start_matches("linger: ").to_owned())
    }

    /// Ends it. Returns how many resets it told, by cause.
    fn end(self) -> Result<BTreeMap<String, u64>, String> {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::INT,
        );
        let output = self.0.wait_with_output().map_err(|error| error.to_string())?;
        let mut causes = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            if line["type"] == "reset" && line["direction"] == "sent" {
                *causes.entry(line["cause"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        Ok(causes)
    }
}
