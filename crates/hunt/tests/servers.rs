//! Hunts of real servers: planted faults must be found and made short, and a cured server must survive.

use std::time::{Duration, Instant};

use linger_hunt::{
    ClientStep, FoundLoss, HuntError, HuntPlan, HuntReport, Quarry, Schedule, SearchEnd, Story, hunt, replay,
};
use linger_lab::{IpVersion, Link, Named as _, Stop, Verdict};
use linger_testing::sandboxed;
use linger_testing::servers::{available, program, sample_program};

/// A server in 40 lines. Each connection has a thread; `rule` is what it does with the requests, as Python.
fn planted(rule: &str) -> Vec<String> {
    let source = format!(
        r"
import select, socket, threading, time
def head(s, buffered):
    while b'\r\n\r\n' not in buffered:
        more = s.recv(65536)
        if not more: return None, buffered
        buffered += more
    one, rest = buffered.split(b'\r\n\r\n', 1)
    return one.lower(), rest
def body(s, one, rest):
    left = int(one.split(b'content-length:')[1].split()[0]) if b'content-length:' in one else 0
    while len(rest) < left:
        more = s.recv(65536)
        if not more: break
        rest += more
    return rest[left:]
def answer(s, close=True):
    s.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n' + (b'Connection: close\r\n' if close else b'') + b'\r\n' + b'r' * 200000)
def drain(s, most):
    s.shutdown(socket.SHUT_WR)
    s.settimeout(60)
    while most > 0:
        got = len(s.recv(min(most, 65536)))
        if got == 0: break
        most -= got
def serve(s):
    try:
{rule}
    except OSError: pass
    finally: s.close()
listener = socket.create_server(('', 8000), backlog=1000)
while True:
    s, _ = listener.accept()
    threading.Thread(target=serve, args=(s,), daemon=True).start()
",
        rule = rule.lines().map(|line| format!("        {line}\n")).collect::<String>()
    );
    vec!["python3".into(), "-c".into(), source]
}

/// Answers each request at its head, and drains 64 KiB of what still comes before it closes.
const DRAINS_64_KIB: &str = "one, rest = head(s, b'')
if one is None: return
answer(s)
drain(s, 65536)";

/// Takes everything and loses nothing, except where three requests came on one connection and the last came late.
const THIRD_IS_LATE: &str = "buffered, count, last = b'', 0, time.monotonic()
while True:
    one, buffered = head(s, buffered)
    if one is None: break
    count, waited = count + 1, time.monotonic() - last
    buffered = body(s, one, buffered)
    if count == 3 and waited > 0.3:
        s.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 200000\\r\\n\\r\\n' + b'r' * 1000)
        return
    answer(s, b'connection: close' in one)
    last = time.monotonic()
    if b'connection: close' in one: return drain(s, 1 << 40)";

fn command(words: Vec<String>, path: &str) -> Quarry {
    Quarry::Command {
        words: words.into_iter().map(Into::into).collect(),
        links: vec![Link::named("loopback").unwrap()],
        ip: IpVersion::V4,
        port: None,
        path: path.to_owned(),
        ready: Duration::from_secs(30),
    }
}

fn hunted(
    words: Vec<String>,
    seed: u64,
    change: impl FnOnce(&mut HuntPlan),
) -> Result<HuntReport, HuntError> {
    let mut plan = HuntPlan::new(command(words, "/large"), seed);
    plan.connections = 64;
    change(&mut plan);
    hunt(&plan, &Stop::new().unwrap(), &mut |_| {})
}

fn found(report: HuntReport) -> FoundLoss {
    let searched = format!("{:?}, {:?}", report.searched, report.ended);
    let found = report.found.unwrap_or_else(|| panic!("nothing was found: {searched}"));
    assert_eq!(report.ended, SearchEnd::Found);
    found
}

const GET: ClientStep = ClientStep::Request { body: 0, sent: 0 };

/// The story needs each of its steps, and both ends agree: the client misses bytes, and the server's kernel counted resets.
///
/// Over a link with a delay, where the server closes before the response can have crossed it. On loopback, how busy the
/// machine is decides whether the client has read all by then, and which steps it takes to be late.
#[test]
fn a_server_that_drains_64_kib_is_found_and_the_story_has_what_it_takes() {
    sandboxed(|| {
        if available(program("python3", "python3")).is_none() {
            return;
        }
        // Only long uploads are looked for: with pauses there are other losses, of a server that has gone before.
        let report = hunted(planted(DRAINS_64_KIB), 1, |plan| {
            plan.longest_pause = Duration::from_millis(5);
            if let Quarry::Command { links, .. } = &mut plan.quarry {
                *links = vec![Link::named("wifi").unwrap()];
            }
        })
        .unwrap();
        let found = found(report);
        // The shortest story stands at its boundary, where how busy the machine is decides about one trial or another.
        assert!(found.repeats.lost * 2 > found.repeats.judged, "{found:?}");
        assert!(found.story.schedule.steps.len() <= 3, "{:?}", found.story);
        let sent: u64 = found
            .story
            .schedule
            .steps
            .iter()
            .map(|step| match *step {
                ClientStep::Request { sent, .. } => sent,
                ClientStep::Send { bytes } => bytes,
                _ => 0,
            })
            .sum();
        assert!(sent > 65_536, "as much as it drains loses nothing: {:?}", found.story);
        assert!(found.lost.got < 200_000 && found.lost.expected == Some(200_000), "{:?}", found.lost);
        let counters = found.counters.expect("the network is private");
        assert!(counters.of("OutRsts") >= found.repeats.lost, "{counters:?}");
    });
}

/// The counter-example one step away: without the third request, or with the third in time, the same server keeps all.
#[test]
fn three_requests_with_a_late_last_are_found_and_two_are_kept() {
    sandboxed(|| {
        if available(program("python3", "python3")).is_none() {
            return;
        }
        let found = found(
            hunted(planted(THIRD_IS_LATE), 3, |plan| plan.longest_pause = Duration::from_secs(3)).unwrap(),
        );
        let steps = &found.story.schedule.steps;
        assert_eq!(found.story.schedule.requests(), 3, "{steps:?}");
        assert_eq!(steps.len(), 4, "three requests and the pause before the last: {steps:?}");
        let ClientStep::Pause { milliseconds } = steps[2] else { panic!("{steps:?}") };
        // The server's clock begins when it has answered, so that the pause is longer at its boundary, and never shorter.
        assert!(milliseconds >= 300, "{steps:?}");
        assert!(
            found.bounds.iter().any(|bound| bound.step == 3 && bound.keeps_at.is_some()),
            "{:?}",
            found.bounds
        );
        assert!(!found.lost.reset && found.lost.got == 1_000 && found.lost.response == 3, "{:?}", found.lost);
        for kept in [vec![GET, GET, GET], vec![GET, ClientStep::Pause { milliseconds: 900 }, GET]] {
            let plan = HuntPlan::new(command(planted(THIRD_IS_LATE), "/large"), 3);
            let story = Story::new(Some("loopback".into()), Schedule::of(kept));
            let (repeats, lost, _) = replay(&plan, &story, 5, &Stop::new().unwrap()).unwrap();
            assert_eq!((repeats.judged, repeats.lost), (5, 0), "{story:?}: {lost:?}");
        }
    });
}

/// Servers that lose nothing, and answer in ways that a careless judge takes for losses: errors without a length, answers of another
/// length each time, silence until a body is whole.
#[test]
fn odd_answers_are_no_losses() {
    sandboxed(|| {
        if available(program("python3", "python3")).is_none() {
            return;
        }
        let errors = "one, rest = head(s, b'')
if one is None: return
if one.startswith(b'post'): s.sendall(b'HTTP/1.0 400 Bad\\r\\n\\r\\n' + b'e' * len(rest))
else: s.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n' + b'r' * (150000 + len(rest) * 7 + int(time.monotonic() * 1e6) % 90000))
drain(s, 1 << 40)";
        let waits = "one, rest = head(s, b'')
if one is None: return
body(s, one, rest)
answer(s)
drain(s, 1 << 40)";
        for rule in [errors, waits] {
            let report = hunted(planted(rule), 5, |plan| {
                (plan.time, plan.longest_pause) = (Duration::from_secs(8), Duration::from_secs(1));
            });
            let report = report.unwrap();
            assert!(report.found.is_none() && report.unrepeated.is_empty(), "{report:?}");
            assert_eq!(report.ended, SearchEnd::Time);
            let kept = report.searched.verdicts.get(&Verdict::Kept).copied().unwrap_or(0);
            assert!(kept > 20, "it says nothing of most: {:?}", report.searched);
        }
    });
}

#[test]
fn axum_loses_and_axum_with_linger_does_not() {
    sandboxed(|| {
        let Some(bare) = available(sample_program("axum-bare")) else { return };
        let words = |program: std::path::PathBuf| vec![program.display().to_string(), "8000".to_owned()];
        let found = found(hunted(words(bare), 1, |_| {}).unwrap());
        assert!(found.story.schedule.steps.len() <= 3, "{:?}", found.story);
        let Some(cured) = available(sample_program("axum-linger")) else { return };
        let report = hunted(words(cured), 1, |plan| {
            (plan.time, plan.longest_pause) = (Duration::from_secs(10), Duration::from_secs(2));
        });
        let report = report.unwrap();
        assert!(report.found.is_none() && report.unrepeated.is_empty(), "{report:?}");
        assert!(report.searched.schedules > 50, "{:?}", report.searched);
    });
}

#[test]
fn a_server_that_does_not_serve_is_named_with_what_it_said() {
    sandboxed(|| {
        let shell = |script: &str| vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let quick = |plan: &mut HuntPlan| {
            let Quarry::Command { ready, .. } = &mut plan.quarry else { return };
            *ready = Duration::from_secs(1);
        };
        for (words, told) in [
            (shell("echo no room >&2; exit 7"), ["exit status: 7", "no room"]),
            (shell("exec sleep 60"), ["listens nowhere", "1 s"]),
            (vec!["/no/such/server".to_owned()], ["cannot start", "/no/such/server"]),
        ] {
            let error = hunted(words, 1, quick).unwrap_err().to_string();
            assert!(told.iter().all(|told| error.contains(told)), "{error}");
        }
    });
}

/// A hunt ends with the server, and with what was searched until then.
#[test]
fn a_server_that_dies_ends_the_hunt() {
    sandboxed(|| {
        if available(program("python3", "python3")).is_none() {
            return;
        }
        let dies = "one, rest = head(s, b'')\nif one is None: return\nserve.count = getattr(serve, 'count', 0) + 1\n\
             if serve.count > 40: import os; print('that was enough', flush=True); os._exit(9)\nanswer(s)\ndrain(s, 1 << 40)";
        let begun = Instant::now();
        let report = hunted(planted(dies), 1, |plan| plan.longest_pause = Duration::from_millis(50)).unwrap();
        let SearchEnd::ServerEnded { status, said } = &report.ended else { panic!("{report:?}") };
        assert!(status.contains('9') && said.contains("that was enough"), "{status}: {said}");
        assert!(report.searched.schedules > 0, "{:?}", report.searched);
        assert!(begun.elapsed() < Duration::from_secs(100), "it did not wait for its time to be over");
    });
}
