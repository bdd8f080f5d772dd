//! How a server bounds peers that do not behave: held connections, drips, endless uploads, bursts.

use std::time::{Duration, Instant};

use crate::check::Check;
use crate::dialect::RequestShape;
use crate::finding::{CheckAnswer, CheckFinding};
use crate::often::too_late;
use crate::prober::Prober;
use crate::seen::{ConnectionEnd, TrialResult};
use crate::trial::{Trial, Until};

/// How long each connection is held before it is tested, in seconds after the last of the connections has received the
/// server's FIN. Each test needs a connection of its own, because the byte that the test sends ends the client's
/// silence.
const LOOKS: [f64; 7] = [0.05, 0.6, 1.5, 2.5, 6.0, 12.0, 31.0];

/// Opens a connection, reads a complete answer and the server's FIN, and leaves the client's side open.
fn held(prober: &Prober) -> Option<Trial<'_>> {
    let mut trial = Trial::open(prober, false).ok()?;
    trial.queue(&prober.dialect.request(RequestShape::GET));
    trial.read(Until::Closed, prober.holding());
    trial.has_ended().then_some(trial)
}

pub(crate) fn idle_open(prober: &Prober) -> CheckFinding {
    let check = Check::IdleOpen;
    let hold = prober.config.hold;
    let mut looks: Vec<Duration> =
        LOOKS.into_iter().map(Duration::from_secs_f64).filter(|look| *look < hold).collect();
    looks.push(hold);
    let mut connections = Vec::new();
    // The connection that is held longest is opened first. Each may occupy one of a few workers. When no worker is
    // left, the loop stops, and only tests after shorter times are missing. The longest test is the one that shows
    // whether the server ever gives a connection up.
    for look in looks.into_iter().rev() {
        match held(prober) {
            Some(trial) => connections.push((look, trial)),
            None if connections.is_empty() => return never_half_closes(prober),
            None => break,
        }
    }
    connections.reverse();
    let started = Instant::now();
    // A plain request. It is not answered if held connections occupy all workers.
    let served = serves(prober);
    let meanwhile =
        if served { "others were served meanwhile" } else { "**nobody else was served meanwhile**" };
    let byte = b"\n";
    let mut last = Duration::ZERO;
    let mut seen: Option<TrialResult> = None;
    for (look, mut trial) in connections {
        prober.deadline.sleep(look.saturating_sub(started.elapsed()));
        let gone = trial.provokes_reset(byte, prober.moment());
        let this = trial.finish();
        if gone {
            let sentence = format!(
                "a connection that the client keeps open is let go between {:.2} and {:.2} s after the answer; {meanwhile}",
                last.as_secs_f64(),
                look.as_secs_f64()
            );
            let answer = if served { CheckAnswer::Keeps } else { CheckAnswer::Stalls };
            return CheckFinding::of(check, answer, &this, sentence);
        }
        last = look;
        seen = Some(this);
    }
    let sentence = format!(
        "a connection that the client keeps open was still held {:.1} s after the answer; {meanwhile}",
        last.as_secs_f64()
    );
    match seen {
        Some(seen) => CheckFinding::of(check, CheckAnswer::Unbounded, &seen, sentence),
        None => CheckFinding::undecided(check, "no connection could be held"),
    }
}

/// For a server that answers and does not close, although the request asks for it.
fn never_half_closes(prober: &Prober) -> CheckFinding {
    let check = Check::IdleOpen;
    let Ok(mut trial) = Trial::open(prober, false) else {
        return CheckFinding::undecided(check, "no connection");
    };
    trial.queue(&prober.dialect.request(RequestShape::GET));
    trial.read(Until::Closed, prober.config.hold);
    let ended = trial.has_ended();
    let seen = trial.finish();
    if ended {
        let sentence = format!("the server closes only {:.1} s after its answer", seen.elapsed.as_secs_f64());
        CheckFinding::of(check, CheckAnswer::Keeps, &seen, sentence)
    } else {
        let sentence =
            format!("the server did not close within {:.1} s, though asked to", seen.elapsed.as_secs_f64());
        CheckFinding::of(check, CheckAnswer::Unbounded, &seen, sentence)
    }
}

/// Whether a plain request is answered now.
fn serves(prober: &Prober) -> bool {
    let Ok(mut trial) = Trial::open(prober, false) else { return false };
    trial.queue(&prober.dialect.request(RequestShape::GET));
    trial.read(Until::Complete, prober.holding());
    trial.got() > 0 || trial.is_complete()
}

pub(crate) fn drip(prober: &Prober) -> CheckFinding {
    let check = Check::Drip;
    let Some(mut trial) = held(prober) else {
        return CheckFinding::undecided(
            check,
            "the server does not close after its answer, so nothing is being drained",
        );
    };
    // Shorter than the shortest known idle bound (2 s, httpd and libfcgi).
    let (pause, started) = (Duration::from_secs(1), Instant::now());
    let mut sent = 0;
    let hold = prober.config.hold + Duration::from_secs(5);
    while started.elapsed() < hold && !prober.is_late() {
        if trial.provokes_reset(b"x", prober.moment()) {
            let after = started.elapsed().as_secs_f64();
            let seen = trial.finish();
            let text = if sent == 0 {
                "at the first byte: nothing is drained at all"
            } else {
                "by a limit of its own"
            };
            let sentence = format!("the server ended a dripping connection after {after:.1} s, {text}");
            return CheckFinding::of(check, CheckAnswer::Keeps, &seen, sentence);
        }
        sent += 1;
        prober.deadline.sleep(pause);
    }
    let seen = trial.finish();
    let sentence = format!(
        "a byte every second held the connection for {:.0} s, and no limit was met",
        hold.as_secs_f64()
    );
    CheckFinding::of(check, CheckAnswer::Unbounded, &seen, sentence)
}

pub(crate) fn endless_upload(prober: &Prober) -> CheckFinding {
    let check = Check::EndlessUpload;
    let announced = usize::try_from(prober.config.endless).unwrap_or(usize::MAX).saturating_mul(2);
    let Ok(mut trial) = Trial::open(prober, false) else {
        return CheckFinding::undecided(check, "no connection");
    };
    trial.queue(&prober.dialect.request(RequestShape::with_body("POST", announced, 0)));
    let (started, piece) = (Instant::now(), prober.dialect.body(64 << 10));
    let (mut sent, mut answered) = (0u64, false);
    let until = prober.config.hold + Duration::from_secs(5);
    while sent < prober.config.endless && started.elapsed() < until && !prober.is_late() {
        trial.queue(&piece);
        trial.send(prober.holding());
        if trial.write_failed() {
            break;
        }
        sent += 64 << 10;
        // Spread the bytes over the whole time: a drain may be bounded by time alone.
        let due = until.mul_f64(sent as f64 / prober.config.endless as f64);
        prober.deadline.sleep(due.saturating_sub(started.elapsed()));
        answered |= trial.answer_begins(Duration::ZERO);
    }
    let (failed, seconds) = (trial.write_failed(), started.elapsed().as_secs_f64());
    trial.read(Until::Complete, Duration::from_millis(100));
    let seen = trial.finish();
    let megabytes = sent as f64 / f64::from(1 << 20);
    if failed {
        let text = if seen.complete { "its answer arrived" } else { "its answer was cut" };
        let sentence =
            format!("the server ended the upload after {megabytes:.1} MiB and {seconds:.1} s; {text}");
        // A server can end an endless upload only by a reset. The loss of the answer is reported, not judged.
        return CheckFinding::of(check, CheckAnswer::Keeps, &seen, sentence);
    }
    if !answered && seen.got == 0 {
        let sentence = format!(
            "the server took {megabytes:.0} MiB in {seconds:.1} s before answering: it was not draining, but reading"
        );
        return CheckFinding::of(check, CheckAnswer::CannotTell, &seen, sentence);
    }
    let sentence = format!(
        "the server went on reading after its answer: {megabytes:.0} MiB in {seconds:.1} s, and no limit was met"
    );
    CheckFinding::of(check, CheckAnswer::Unbounded, &seen, sentence)
}

pub(crate) fn backlog(prober: &Prober) -> CheckFinding {
    let check = Check::Backlog;
    let before = prober.counters.read();
    let started = Instant::now();
    let mut trials = Vec::new();
    let mut refused = 0;
    for _ in 0..prober.config.burst {
        if prober.is_late() {
            return too_late(check);
        }
        match Trial::open(prober, false) {
            Ok(mut trial) => {
                trial.queue(&prober.dialect.request(RequestShape::GET));
                trial.send(Duration::ZERO);
                trials.push(trial);
            }
            Err(_) => refused += 1,
        }
    }
    let (mut served, mut reset, mut ignored) = (0, 0, 0);
    let mut last = None;
    for mut trial in trials {
        trial.read(Until::Complete, prober.holding());
        let untouched = trial.got() == 0 && !trial.is_complete();
        let seen = trial.finish();
        match (untouched, seen.ended) {
            (true, ended) if ended.is_reset() => reset += 1,
            (true, ConnectionEnd::Silent) => ignored += 1,
            _ => served += 1,
        }
        last = Some(seen);
    }
    let Some(mut seen) = last else {
        return CheckFinding::undecided(check, "no connection of the burst was taken");
    };
    seen.elapsed = started.elapsed();
    seen.counters = crate::counters::grown(&before, &prober.counters.read());
    let all = prober.config.burst;
    let sentence = format!(
        "of {all} connections at once {served} were answered, {reset} reset and {ignored} ignored before any byte, {refused} not taken"
    );
    let answer = if reset + ignored + refused == 0 { CheckAnswer::Keeps } else { CheckAnswer::Loses };
    CheckFinding::of(check, answer, &seen, sentence)
}
