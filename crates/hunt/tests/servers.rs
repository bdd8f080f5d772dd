//! Hunts of real servers: planted faults must be found and made short, and a cured server must survive.

use std::time::{Duration, Instant};

use linger_hunt::{
    FoundLoss, HuntError, HuntPlan, HuntReport, HuntStep, Quarry, Schedule, SearchEnd, Story, hunt, replay,
};
use linger_lab::{IpVersion, Link, Named as _, Stop, Verdict};
use linger_testing::sandboxed;
use linger_testing::servers::{available, program, sample_program};

/// A server of planted.py, by the name of its rule.
fn planted(rule: &str) -> Vec<String> {
    ["python3", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/planted.py"), rule].map(str::to_owned).into()
}

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

const GET: HuntStep = HuntStep::Request { body: 0, sent: 0 };

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
        let report = hunted(planted("drains-64-kib"), 1, |plan| {
            plan.longest_pause = Duration::from_millis(5);
            if let Quarry::Command { links, .. } = &mut plan.quarry {
                *links = vec![Link::named("wifi").unwrap()];
            }
        })
        .unwrap();
        let found = found(report);
        // The shortest story stands at its boundary, where how busy the machine is decides about one trial or another: how many are
        // lost is told, and no bound of it is a property of the search.
        assert!(found.repeats.lost > 0, "{found:?}");
        assert!(found.story.schedule.steps.len() <= 3, "{:?}", found.story);
        let sent: u64 = found
            .story
            .schedule
            .steps
            .iter()
            .map(|step| match *step {
                HuntStep::Request { sent, .. } => sent,
                HuntStep::Send { bytes } => bytes,
                _ => 0,
            })
            .sum();
        assert!(sent > 65_536, "as much as it drains loses nothing: {:?}", found.story);
        assert!(found.lost.got < 200_000 && found.lost.expected == Some(200_000), "{:?}", found.lost);
        let counters = found.counters.expect("the network is private");
        // As many closes with unread bytes as losses: the planted fault, and nothing else.
        assert!(counters.of("TCPAbortOnClose") >= found.repeats.lost, "{counters:?}");
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
            hunted(planted("third-is-late"), 3, |plan| plan.longest_pause = Duration::from_secs(3)).unwrap(),
        );
        let steps = &found.story.schedule.steps;
        assert_eq!(found.story.schedule.requests(), 3, "{steps:?}");
        assert_eq!(steps.len(), 4, "three requests and the pause before the last: {steps:?}");
        let HuntStep::Pause { milliseconds } = steps[2] else { panic!("{steps:?}") };
        // The server's clock begins when it has answered, so that the pause is longer at its boundary, and never shorter.
        assert!(milliseconds >= 300, "{steps:?}");
        assert!(
            found.bounds.iter().any(|bound| bound.step == 3 && bound.keeps_at.is_some()),
            "{:?}",
            found.bounds
        );
        assert!(!found.lost.reset && found.lost.got == 1_000 && found.lost.response == 3, "{:?}", found.lost);
        for kept in [vec![GET, GET, GET], vec![GET, HuntStep::Pause { milliseconds: 900 }, GET]] {
            let plan = HuntPlan::new(command(planted("third-is-late"), "/large"), 3);
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
        for rule in ["errors", "waits"] {
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
        let begun = Instant::now();
        let report =
            hunted(planted("dies"), 1, |plan| plan.longest_pause = Duration::from_millis(50)).unwrap();
        let SearchEnd::ServerEnded { status, said } = &report.ended else { panic!("{report:?}") };
        assert!(status.contains('9') && said.contains("that was enough"), "{status}: {said}");
        assert!(report.searched.schedules > 0, "{:?}", report.searched);
        assert!(begun.elapsed() < Duration::from_secs(100), "it did not wait for its time to be over");
    });
}
