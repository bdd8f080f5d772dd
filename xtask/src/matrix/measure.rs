//! One server, probed again and again beside all others, and each answer compared with packets and counters.

use std::thread;
use std::time::Duration;

use linger_netns::Counters;
use linger_probe::{Check, CheckAnswer, CheckFinding, ProbeConfig, ProbeReport, probe};

use super::agree::{ProbeClaim, SeenApart, disagreement, is_compared};
use super::apart::Apart;
use super::server::{MatrixServer, RunningRow};
use super::wire::{WireWatch, now};

/// Questions about time and limits, which take long and have no chance in them: they are asked in the first run.
const ONCE: [Check; 5] =
    [Check::KeepAlive, Check::IdleOpen, Check::Drip, Check::EndlessUpload, Check::Backlog];

/// A server that stalls takes its time in each question.
const WITHIN: Duration = Duration::from_secs(1_800);

/// What all runs of one server came to.
#[derive(Debug)]
pub(super) struct MeasuredServer {
    pub(super) version: String,
    /// The first run, with all questions.
    pub(super) report: ProbeReport,
    /// The answers of every run.
    pub(super) findings: Vec<CheckFinding>,
    pub(super) runs: u32,
    /// Answers that were compared with packets and counters.
    pub(super) compared: u32,
    /// Those that cannot be true, each in a sentence.
    pub(super) disagreements: Vec<String>,
}

impl MeasuredServer {
    /// The worst answer to a question, with how many of the runs that asked it gave it; `None` if it was not asked.
    pub(super) fn rate(&self, check: Check) -> Option<(CheckAnswer, u32, u32)> {
        let answers: Vec<CheckAnswer> = self
            .findings
            .iter()
            .filter(|finding| finding.check == check)
            .map(|finding| finding.answer)
            .collect();
        let worst = *answers.iter().max()?;
        let same = answers.iter().filter(|answer| **answer == worst).count();
        Some((worst, same as u32, answers.len() as u32))
    }

    /// The first finding with the worst answer to a question.
    pub(super) fn worst(&self, check: Check) -> Option<&CheckFinding> {
        let (worst, ..) = self.rate(check)?;
        self.findings.iter().find(|finding| finding.check == check && finding.answer == worst)
    }

    /// The worst of the answers that decide about the server.
    pub(super) fn overall(&self) -> CheckAnswer {
        let answers = Check::ALL.into_iter().filter_map(|check| self.worst(check));
        let decide = answers.filter(|finding| !finding.is_aside()).map(|finding| finding.answer);
        decide.max().unwrap_or(CheckAnswer::CannotTell)
    }
}

/// Starts the server and probes it so many times.
///
/// # Errors
/// Returns why it could not be measured.
pub(super) fn measure(server: &MatrixServer, runs: u32) -> Result<MeasuredServer, String> {
    let apart = Apart::new().map_err(|error| format!("no namespaces: {error:#}"))?;
    let in_its_own = apart.server.run(|| {
        let running = server.start()?;
        let mut measured: Option<MeasuredServer> = None;
        for run in 0..runs.max(1) {
            let one =
                once(&apart, &running, run == 0).map_err(|error| format!("run {}: {error:#}", run + 1))?;
            match &mut measured {
                None => measured = Some(one),
                Some(all) => all.add(one, run + 1),
            }
        }
        let measured = measured.ok_or_else(|| "it was not asked".to_owned())?;
        Ok(MeasuredServer { version: server.version(), ..measured })
    });
    in_its_own.map_err(|error| format!("no namespace: {error}"))?
}

impl MeasuredServer {
    fn add(&mut self, other: Self, run: u32) {
        self.runs += other.runs;
        self.compared += other.compared;
        self.findings.extend(other.findings);
        self.disagreements.extend(other.disagreements.into_iter().map(|one| format!("run {run}: {one}")));
    }
}

/// When an answer was there, and what the kernel had counted by then.
struct Moment {
    at: f64,
    counters: Counters,
}

/// One run, asked from the client's namespace.
fn once(apart: &Apart, running: &RunningRow, is_first: bool) -> anyhow::Result<MeasuredServer> {
    apart.client.run(|| -> anyhow::Result<MeasuredServer> {
        let watch = WireWatch::start()?;
        let mut config = ProbeConfig::default();
        config.pid = Some(running.pid);
        // Packets and counters say more than what the kernel tells each of many watchers of all servers.
        (config.hostile, config.watch, config.within) = (is_first, false, WITHIN);
        config.except = vec![Check::WebSocket, Check::Reload];
        if !is_first {
            config.repeat = 1;
            config.except.extend(ONCE);
        }
        let moment = || {
            // What the last connection's end makes the server do belongs to the question before.
            thread::sleep(Duration::from_millis(50));
            Ok::<_, anyhow::Error>(Moment { at: now(), counters: apart.counters()? })
        };
        let mut moments = vec![moment()?];
        let mut report = probe(&running.url.parse()?, &config, |_| moments.extend(moment()))?;
        if let Some(websocket) = &running.websocket {
            config.except.clear();
            config.only = vec![Check::WebSocket];
            report
                .findings
                .extend(probe(&websocket.parse()?, &config, |_| moments.extend(moment()))?.findings);
        }
        let connections = watch.finish()?;
        anyhow::ensure!(moments.len() == report.findings.len() + 1, "the counters could not be read");
        let mut measured = MeasuredServer {
            version: String::new(),
            findings: report.findings.clone(),
            report,
            runs: 1,
            compared: 0,
            disagreements: Vec::new(),
        };
        for (finding, pair) in measured.findings.iter().zip(moments.windows(2)) {
            let [before, after] = pair else { continue };
            if !is_compared(finding) {
                continue;
            }
            measured.compared += 1;
            let so_far = connections.iter().filter(|one| one.began < after.at);
            let passed =
                so_far.clone().filter(|one| one.server_reset.is_some_and(|at| at >= before.at)).count();
            let own: Vec<_> = so_far.filter(|one| before.at <= one.began).cloned().collect();
            let grown = after.counters.since(&before.counters);
            let seen = SeenApart { connections: &own, passed, grown: &grown, is_gateway: running.is_gateway };
            if let Some(why) = disagreement(ProbeClaim::from(finding), &seen) {
                measured
                    .disagreements
                    .push(format!("{}: {why} ({}) {own:?} {grown:?}", finding.check, finding.sentence));
            }
        }
        Ok(measured)
    })?
}
