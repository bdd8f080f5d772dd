//! Hunts of clients: planted faults must be found and made short, clients without them must survive, and real ones do what is known of them.

use std::time::Duration;

use linger_hunt::{
    ClientLossKind, FoundLoss, HuntError, HuntPlan, HuntReport, HuntStep, HuntedClient, OutputCheck, Quarry,
    Schedule, SearchEnd, Story, hunt, replay,
};
use linger_lab::{IpVersion, Link, Named as _, Stop, Verdict};
use linger_testing::sandboxed;
use linger_testing::servers::{available, program};

/// A client of planted_client.py, by the name of its rule.
fn planted(rule: &str) -> String {
    format!("python3 {}/tests/planted_client.py {rule}", env!("CARGO_MANIFEST_DIR"))
}

fn plan(command: String, change: impl FnOnce(&mut HuntedClient)) -> HuntPlan {
    let mut hunted = HuntedClient::new(command);
    // A busy machine may take long to start an interpreter.
    hunted.ready = Duration::from_secs(60);
    change(&mut hunted);
    let links = vec![Link::named("lan").unwrap()];
    let quarry = Quarry::Client { hunted, links, ip: IpVersion::V4, port: 80 };
    let mut plan = HuntPlan::new(quarry, 1);
    (plan.connections, plan.longest_pause) = (8, Duration::from_secs(1));
    plan
}

fn hunted(plan: &HuntPlan) -> Result<HuntReport, HuntError> {
    hunt(plan, &Stop::new().unwrap(), &mut |_| {})
}

fn found(report: HuntReport) -> FoundLoss {
    let searched = format!("{:?}, {:?}", report.searched, report.ended);
    let found = report.found.unwrap_or_else(|| panic!("nothing was found: {searched}"));
    assert_eq!(report.ended, SearchEnd::Found);
    found
}

fn kind(found: &FoundLoss) -> ClientLossKind {
    found.lost.by_client.as_ref().expect("a client is hunted").kind
}

/// Plays a story five times. Returns how often it was lost, and how many trials say something.
fn played(plan: &HuntPlan, steps: &[HuntStep]) -> (u64, u64) {
    replayed(plan, Schedule::of_server(steps))
}

fn replayed(plan: &HuntPlan, schedule: Schedule) -> (u64, u64) {
    let story = Story::new(Some("lan".into()), schedule);
    let (repeats, _, _) = replay(plan, &story, 5, &Stop::new().unwrap()).unwrap();
    (repeats.lost, repeats.judged)
}

const EARLY: HuntStep = HuntStep::Respond { body: 1_000, sent: 1_000 };
const LATE: [HuntStep; 2] = [HuntStep::ReadRequest, EARLY];
const CUT: HuntStep = HuntStep::Respond { body: 1_000, sent: 999 };

/// The client stops at a write error, and the response lay in its kernel. One step away nothing is lost: a server that ends well, and one that
/// has read everything.
#[test]
fn a_client_that_stops_at_a_write_error_is_found() {
    sandboxed(|| {
        if available(program("python3", "python3")).is_none() {
            return;
        }
        let plan = plan(planted("stops"), |_| {});
        let found = found(hunted(&plan).unwrap());
        assert_eq!(kind(&found), ClientLossKind::Response, "{found:?}");
        assert!(found.story.schedule.steps.len() <= 3, "{:?}", found.story);
        assert!(!found.repeats.is_race(), "{:?}", found.repeats);
        let last = found.story.schedule.steps.last();
        assert!(matches!(last, Some(HuntStep::Close | HuntStep::Abort)), "{:?}", found.story);
        // It is the server's kernel that has reset, and the client's that has not.
        let counters = found.counters.expect("the network is private");
        let client = found.client_counters.expect("so is the client's side");
        let aborts = |name| counters.of(name) + client.of(name);
        assert!(counters.of("OutRsts") >= found.repeats.lost, "{counters:?}");
        assert!(aborts("TCPAbortOnClose") + aborts("TCPAbortOnData") + aborts("TCPAbortOnLinger") > 0);
        assert_eq!(played(&plan, &[EARLY]), (0, 5));
        assert_eq!(played(&plan, &[LATE[0], LATE[1], HuntStep::Close]), (0, 5));
        let lost = played(&plan, &[EARLY, HuntStep::Close]);
        assert_eq!(lost.0, 5);
        // What is not delivered cannot be lost: the same with a byte less.
        assert_eq!(played(&plan, &[CUT, HuntStep::Close]), (0, 0));
    });
}

/// The same schedules, a client that reads while it sends and behind an error, and looks how much it has: nothing is found.
#[test]
fn a_client_that_reads_behind_an_error_survives() {
    sandboxed(|| {
        if available(program("python3", "python3")).is_none() {
            return;
        }
        let mut plan = plan(planted("patient"), |_| {});
        plan.time = Duration::from_secs(15);
        let report = hunted(&plan).unwrap();
        assert!(report.found.is_none() && report.unrepeated.is_empty(), "{report:?}");
        assert_eq!(report.ended, SearchEnd::Time);
        let kept = report.searched.verdicts.get(&Verdict::Kept).copied().unwrap_or(0);
        assert!(kept > 10, "it says nothing of most: {:?}", report.searched);
        let client = report.client.expect("a client is hunted");
        assert_eq!((client.requests, client.upload, client.output), (1, 1_000_000, OutputCheck::Bodies));
        for steps in [&[EARLY, HuntStep::Close][..], &[EARLY, HuntStep::Abort], &LATE] {
            assert_eq!(played(&plan, steps), (0, 5), "{steps:?}");
        }
    });
}

#[test]
fn a_client_that_takes_half_of_a_response_for_all_of_it_is_found() {
    sandboxed(|| {
        if available(program("python3", "python3")).is_none() {
            return;
        }
        let plan = plan(planted("trusts"), |hunted| hunted.upload = 1_000);
        let found = found(hunted(&plan).unwrap());
        assert_eq!(kind(&found), ClientLossKind::Cut, "{found:?}");
        assert!(found.story.schedule.steps.len() <= 3, "{:?}", found.story);
        assert!(found.lost.got < found.lost.expected.unwrap(), "{:?}", found.lost);
        assert_eq!(played(&plan, &[LATE[0], CUT, HuntStep::Close]), (5, 5));
        assert_eq!(played(&plan, &[LATE[0], CUT]), (0, 5), "the rest comes: nothing is cut");
    });
}

/// A client as closer: it leaves with its answer, and the server would have liked to have the rest of the upload. To a refusal that is right.
#[test]
fn a_client_that_leaves_with_half_of_its_upload_is_found() {
    sandboxed(|| {
        if available(program("python3", "python3")).is_none() {
            return;
        }
        let plan = plan(planted("leaves"), |_| {});
        let found = found(hunted(&plan).unwrap());
        assert_eq!(kind(&found), ClientLossKind::Upload, "{found:?}");
        let lost = found.lost.by_client.as_ref().unwrap();
        assert!(lost.received < 1_000_000 && lost.announced == Some(1_000_000), "{lost:?}");
        assert!(found.story.schedule.steps.len() <= 3, "{:?}", found.story);
        assert!(found.story.schedule.keep_alive, "a server that is closing wants no more: {:?}", found.story);
        let early = [EARLY, HuntStep::Pause { milliseconds: 300 }];
        let mut refused = plan.clone();
        if let Quarry::Client { hunted, .. } = &mut refused.quarry {
            hunted.status = 413;
        }
        let mut keeping = Schedule::of_server(early);
        keeping.keep_alive = true;
        assert_eq!(replayed(&plan, keeping.clone()).0, 5);
        assert_eq!((replayed(&refused, keeping), played(&plan, &early)), ((0, 5), (0, 5)));
    });
}

/// A client that fails when it is served well cannot be hunted, and what it said is told.
#[test]
fn a_client_that_is_none_is_named_with_what_it_said() {
    sandboxed(|| {
        for (command, told) in [
            ("echo no server >&2; exit 7", &["no connection", "no server"][..]),
            ("/no/such/client", &["no connection", "not found"]),
        ] {
            let error = hunted(&plan(command.to_owned(), |_| {})).unwrap_err().to_string();
            assert!(told.iter().all(|told| error.contains(told)), "{error}");
        }
        if available(program("curl", "curl")).is_none() {
            return;
        }
        let refused = plan("curl -sSf http://server/".to_owned(), |hunted| hunted.status = 503);
        let error = hunted(&refused).unwrap_err().to_string();
        assert!(error.contains("ends with 22") && error.contains("503"), "{error}");
        let other = "curl -sS http://server:81/".to_owned();
        let error = hunted(&plan(other, |_| {})).unwrap_err().to_string();
        assert!(error.contains("port 80") && error.contains("curl"), "{error}");
        let raw = "printf hello >/dev/tcp/server/80";
        let error = hunted(&plan(format!("bash -c '{raw}'"), |hunted| hunted.ready = Duration::from_secs(2)));
        assert!(error.unwrap_err().to_string().contains("--payload"));
    });
}

/// Real clients against the schedule that tells most of them apart: an early answer of a server that closes with half of the upload unread. What they
/// do then is known (docs/clients.md): urllib stops at the write error, curl reads behind it.
#[test]
fn real_clients_lose_what_they_are_known_to_lose() {
    sandboxed(|| {
        let early = [EARLY, HuntStep::Close];
        let urllib = "import os,sys,urllib.request as u; d=open(os.environ[\"LINGER_UPLOAD\"],\"rb\").read(); \
                      sys.stdout.buffer.write(u.urlopen(u.Request(\"http://server/\",data=d)).read())";
        for (name, command, lost) in [
            ("python3", format!("python3 -c '{urllib}'"), 5),
            ("curl", "curl -sSf -H Expect: --data-binary @$LINGER_UPLOAD http://server/".to_owned(), 0),
            ("wget", "wget -q -O - --tries=1 --post-file=$LINGER_UPLOAD http://server/".to_owned(), 5),
        ] {
            if available(program(name, name)).is_none() {
                continue;
            }
            let plan = plan(command.clone(), |_| {});
            assert_eq!(played(&plan, &early), (lost, 5), "{command}");
            assert_eq!(played(&plan, &LATE), (0, 5), "{command}: read, answered and ended well");
        }
    });
}

/// Whoever uploads without waiting for an answer cannot know what became of it: a story of one step.
#[test]
fn an_uploader_that_asks_nobody_loses_its_upload() {
    sandboxed(|| {
        let mut plan = plan("bash -c 'cat $LINGER_UPLOAD >/dev/tcp/server/80'".to_owned(), |hunted| {
            // As much as the kernel takes at once.
            hunted.upload = 20_000;
        });
        plan.payload = Some(b"had it\n".to_vec());
        let found = found(hunted(&plan).unwrap());
        assert_eq!(kind(&found), ClientLossKind::Upload, "{found:?}");
        assert!(found.story.schedule.steps.len() <= 2, "{:?}", found.story);
        assert!(found.lost.by_client.unwrap().received < 20_000);
    });
}
