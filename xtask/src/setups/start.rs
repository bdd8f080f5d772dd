//! One run of a set-up: started in one of three ways, asked, stopped.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::client::{self, UploadCounts};
use super::place::{PORT, START, SetupFolder, begin, end_all, is_ready, last_lines, left, listens, wait};
use super::table::{Asking, Setup};

/// Uploads of one series.
const UPLOADS: u32 = 3;

/// How long a stop may take.
const STOP: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartWay {
    Bare,
    /// `linger run` with the way of its own choice.
    Run,
    Seccomp,
}

impl StartWay {
    pub(super) const ALL: [Self; 3] = [Self::Bare, Self::Run, Self::Seccomp];

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Bare => &[],
            Self::Run => &["run", "--"],
            Self::Seccomp => &["run", "--via", "seccomp", "--"],
        }
    }
}

/// What one run has shown.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) uploads: UploadCounts,
    /// The result of the honest requests: a text that is the same for the same answers, or what was wrong.
    pub(super) honest: Result<String, String>,
    pub(super) status: String,
    pub(super) stop: Duration,
    /// What the program itself printed on stderr, each kind of line once, without numbers.
    pub(super) stderr: BTreeSet<String>,
    /// What `linger run` printed.
    pub(super) said: Vec<String>,
}

impl Observed {
    /// "1 of 1 by preload", from the last coverage line.
    pub(super) fn coverage(&self) -> String {
        let lines = self.said.iter().rev().filter_map(|line| line.strip_prefix("linger: "));
        let found = lines
            .filter_map(|line| line.split_once(" covered").filter(|(count, _)| count.contains(" listener")));
        found.map(|(count, what)| coverage(count, what)).next().unwrap_or_default()
    }
}

/// From "1 of 2 listeners" and ": 127.0.0.1:8000 by preload".
fn coverage(count: &str, what: &str) -> String {
    let ways = what.split(", ").filter_map(|one| one.rsplit_once(" by ")).map(|(_, way)| way);
    let ways: BTreeSet<&str> = ways.collect();
    let count = count.split(" listener").next().unwrap_or_default();
    let ways: Vec<&str> = ways.into_iter().collect();
    if ways.is_empty() { count.to_owned() } else { format!("{count} by {}", ways.join(", ")) }
}

/// Runs a set-up once, in the calling thread's network namespace.
pub(super) fn run(setup: &Setup, way: StartWay, linger: &Path) -> anyhow::Result<Observed> {
    let supervisor = std::iter::once(linger.to_string_lossy().into_owned()).filter(|_| way != StartWay::Bare);
    let supervisor: Vec<String> =
        supervisor.chain(way.words().iter().map(|word| (*word).to_owned())).collect();
    let (place, mut child) = begin(setup, &supervisor)?;
    let asked = ask(setup, &place, &mut child);
    let stopped = asked.and_then(|asked| Ok((asked, stop(setup, &mut child)?)));
    end_all();
    let _ = child.wait();
    let stderr = String::from_utf8_lossy(&fs::read(place.file("stderr"))?).into_owned();
    let ((uploads, honest), (status, stop)) = stopped.with_context(|| last_lines(&stderr))?;
    let (said, own): (Vec<&str>, Vec<&str>) = stderr.lines().partition(|line| line.starts_with("linger: "));
    let folder = place.folder.path().to_string_lossy().into_owned();
    Ok(Observed {
        uploads,
        honest,
        status: status.to_string(),
        stop,
        stderr: own.iter().map(|line| without_numbers(&line.replace(&folder, "FOLDER"))).collect(),
        said: said.into_iter().map(str::to_owned).collect(),
    })
}

/// A line of a log without what differs between two runs: numbers, and words made of numbers, such as addresses and times.
fn without_numbers(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let has_digit = word.contains(|letter: char| letter.is_ascii_digit());
        // A long word with digits is taken for a fingerprint.
        if has_digit && word.len() > 30 {
            String::new()
        } else if has_digit {
            word.chars()
                .filter(|letter| letter.is_ascii_alphabetic() && !letter.is_ascii_hexdigit())
                .collect()
        } else {
            word.to_owned()
        }
    });
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    words
        .filter(|word: &String| !days.contains(&word.trim_matches(['[', ','])) && !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

fn ask(
    setup: &Setup,
    place: &SetupFolder,
    child: &mut Child,
) -> anyhow::Result<(UploadCounts, Result<String, String>)> {
    listens(setup, child)?;
    let shell = |text: &str| place.shell(text, setup.nobody);
    let is_session = matches!(setup.ask, Asking::Session { .. });
    let series =
        || if is_session { Ok(UploadCounts::default()) } else { client::uploads(&setup.ask, PORT, UPLOADS) };
    let mut honest = client::honest(&setup.ask, PORT, &shell);
    let mut uploads = series()?;
    if let Some(signal) = &setup.reload {
        send(child, signal)?;
        // There is no sign outside the server of when its reload is done.
        thread::sleep(Duration::from_secs(2));
        ensure!(wait(START, || is_ready(setup)), "does not listen after the reload");
        let again = series()?;
        uploads.lost += again.lost;
        uploads.at_risk += again.at_risk;
        uploads.kept += again.kept;
    }
    if honest.is_ok() {
        honest = client::honest(&setup.ask, PORT, &shell);
    }
    Ok((uploads, honest))
}

fn send(child: &Child, signal: &str) -> anyhow::Result<()> {
    let signal = match signal {
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "HUP" => Signal::HUP,
        "USR2" => Signal::USR2,
        other => bail!("{other} is no signal of the table"),
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
    Ok(kill_process(pid, signal)?)
}

/// Stops the program. Then waits until the supervisor has ended, too, which prints its report last.
fn stop(setup: &Setup, child: &mut Child) -> anyhow::Result<(ExitStatus, Duration)> {
    // Lets the program finish what the last client's close makes it do. No event tells when that is done, and a signal in the
    // middle of it has varying outcomes, without `linger` too.
    thread::sleep(Duration::from_millis(300));
    send(child, &setup.stop)?;
    let started = Instant::now();
    let mut status = None;
    wait(STOP, || {
        status = child.try_wait().ok().flatten();
        status.is_some()
    });
    let took = started.elapsed();
    let status = status.context("does not stop")?;
    wait(Duration::from_secs(8), || left() == 0);
    Ok((status, took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_two_runs_are_alike_and_others_are_not() {
        let one = without_numbers("[2026-11-26 15:01:02 +0000] [4711] [INFO] Booting worker");
        assert_eq!(one, without_numbers("[2026-11-26 15:09:59 +0000] [99] [INFO] Booting worker"));
        assert_ne!(one, without_numbers("[2026-11-26 15:09:59 +0000] [99] [INFO] Worker exiting"));
    }

    #[test]
    fn coverage_is_a_count_and_the_ways() {
        assert_eq!(
            coverage("1 of 2 listeners", ": 127.0.0.1:8000 by preload, /run/x by preload"),
            "1 of 2 by preload"
        );
        assert_eq!(coverage("0 of 1 listener", ""), "0 of 1");
    }
}
