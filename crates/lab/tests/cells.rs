//! Cells on the real kernel: what is lost, what is kept, and the blame.

use std::time::Duration;

use linger_lab::{
    Actor, BacklogPlan, Blame, CellPlan, CellReport, Ending, Fate, Link, LinkFault, Named, OneReport, Peer,
    Rate, Setting, StepAction, Stop, Trials, Verdict, burst, one, run, run_all, side_by_side,
};
use linger_testing::sandboxed;
use linger_testing::servers::{available, program};

fn cell(ending: &str, peer: &str, link: &str) -> CellPlan {
    let ending = ending.parse().unwrap();
    CellPlan::new(ending, Peer::named(peer).unwrap(), Link::named(link).unwrap())
}

fn tried(mut plan: CellPlan, trials: u64) -> CellReport {
    plan.trials = Trials::Exactly(trials);
    let report = run(&plan, &Setting::default(), &Stop::new().unwrap()).unwrap();
    assert_eq!(report.tally.trials, trials);
    assert_eq!(report.wire.as_ref().map_or(0, |wire| wire.accidents), 0, "the machine lost packets");
    report
}

/// Tries cells side by side: each has networks of its own and waits for its link most of the time.
fn all_tried(plans: Vec<CellPlan>, trials: u64) -> Vec<CellReport> {
    let stop = Stop::new().unwrap();
    let reports = run_all(&plans, side_by_side(), &stop, |plan| tried(plan.clone(), trials), |_, _| {});
    reports.into_iter().map(Option::unwrap).collect()
}

/// A wifi link on which the response takes most of a second. That is longer than a busy machine delays a server between
/// `write()` and `close()`, so such a delay does not change what is lost.
fn slow_wifi() -> Link {
    let mut link = Link::named("wifi").unwrap();
    link.paths.iter_mut().for_each(|path| path.rate = Some(Rate(2_000_000)));
    link
}

#[test]
fn close_loses_and_lingering_keeps_over_wifi() {
    sandboxed(|| {
        let cell = |ending: &str| CellPlan { link: slow_wifi(), ..cell(ending, "unread", "wifi") };
        let [lost, kept] =
            <[CellReport; 2]>::try_from(all_tried(vec![cell("close"), cell("lingering")], 12)).unwrap();
        assert_eq!(lost.tally.lost, 12, "{lost:?}");
        assert_eq!(lost.counters.of("TCPAbortOnClose"), 12);
        assert_eq!((kept.tally.lost, kept.tally.of(Fate::Complete)), (0, 12), "{kept:?}");
        assert_eq!((kept.counters.of("TCPAbortOnClose"), kept.counters.of("OutRsts")), (0, 0));
    });
}

#[test]
fn a_reset_overtakes_a_single_segment() {
    sandboxed(|| {
        for (ending, losses) in [("close", 20), ("lingering", 0)] {
            let mut plan = cell(ending, "unread", "overtake");
            plan.response = 1_000;
            for fault in &mut plan.link.faults {
                if let LinkFault::HoldDataUntilReset { at_most, .. } = fault {
                    // As above: long enough for a busy machine to reach its close().
                    *at_most = Duration::from_millis(600);
                }
            }
            let report = tried(plan, 20);
            assert_eq!(report.tally.lost, losses, "{report:?}");
            assert_eq!(report.counters.of("TCPAbortOnClose"), losses, "{report:?}");
        }
    });
}

/// What the usual client is told whole, and with a reset, is lost to others: the same servers, and clients that differ in one habit.
#[test]
fn what_is_at_risk_is_lost_to_other_clients() {
    sandboxed(|| {
        let of = |ending: &str, peer: &str, client: &str| CellPlan {
            client: client.parse().unwrap(),
            response: 1_000,
            // More than the buffers on the way take.
            upload: 16 << 20,
            ..cell(ending, peer, "lan")
        };
        for (ending, peer, client, lost, at_risk) in [
            ("close", "upload", "usual", 0, 6),
            ("close", "upload", "sends-first", 6, 0),
            ("lingering", "upload", "sends-first", 0, 0),
            ("close", "unread", "reads-late=0.3", 0, 6),
            ("close", "unread", "reads-late=0.3+discards", 6, 0),
            ("close", "reads-all", "reads-late=0.3+discards", 0, 0),
            ("lingering", "unread", "reads-late=0.3+discards", 0, 0),
        ] {
            let report = tried(of(ending, peer, client), 6);
            let got = (report.tally.lost, report.tally.at_risk);
            assert_eq!(got, (lost, at_risk), "{ending} {peer} {client}: {report:?}");
        }
    });
}

/// A client that reads later than the close stays, and sends something first. A policy that stays keeps it.
#[test]
fn a_late_reader_is_kept_by_a_policy_that_stays() {
    sandboxed(|| {
        for (policy, at_risk) in [(linger::Policy::default(), 4), (linger::Policy::patient(), 0)] {
            let client = "reads-late=1.5".parse().unwrap();
            let plan = CellPlan { client, policy, response: 1_000, ..cell("lingering", "late", "lan") };
            let report = tried(plan, 4);
            assert_eq!((report.tally.lost, report.tally.at_risk), (0, at_risk), "{report:?}");
        }
    });
}

/// A 413 to an upload, as clients see it that people use. curl reads after a write error, urllib does not.
#[test]
fn real_clients_lose_what_close_resets() {
    sandboxed(|| {
        for (client, program_name, needs_lingering) in [("curl", "curl", false), ("urllib", "python3", true)]
        {
            if available(program(program_name, program_name)).is_none() {
                continue;
            }
            for (ending, peer, lost) in [
                ("close", "upload", if needs_lingering { 3 } else { 0 }),
                ("lingering", "upload", 0),
                ("close", "reads-all", 0),
            ] {
                let client = client.parse().unwrap();
                let sizes = CellPlan { response: 400, upload: 4 << 20, ..cell(ending, peer, "wifi") };
                let report = tried(CellPlan { client, ..sizes }, 3);
                assert_eq!(report.tally.lost, lost, "{ending} {peer} {client}: {report:?}");
                // At the close with the body unread, or by the body that comes later.
                assert_eq!(report.counters.of("OutRsts") > 0, (ending, peer) == ("close", "upload"));
            }
        }
    });
}

#[test]
fn a_real_client_asks_in_http_and_nothing_else() {
    let plan = CellPlan { client: "curl".parse().unwrap(), ..cell("close", "unread", "lan") };
    assert!(plan.validate().unwrap_err().contains("cannot be `unread`"));
}

/// The response fits into the packets sent before the reset, so every byte arrives.
#[test]
fn a_small_response_that_is_reset_is_at_risk() {
    sandboxed(|| {
        for (ending, peer, at_risk) in [
            ("close", "unread", 6),
            ("shutdown-close", "unread", 6),
            ("shutdown-close", "late", 6),
            ("close", "upload", 6),
            // Each of these differs in one field from a case above, and is kept.
            ("close", "reads-all", 0),
            ("shutdown-close", "reads-all", 0),
            ("lingering", "unread", 0),
            ("lingering", "late", 0),
            ("lingering", "upload", 0),
        ] {
            let mut plan = cell(ending, peer, "lan");
            plan.response = 1_000;
            let report = tried(plan, 6);
            assert_eq!((report.tally.lost, report.tally.at_risk), (0, at_risk), "{report:?}");
            let blame = if at_risk > 0 { Blame::Close } else { Blame::Nobody };
            assert_eq!(Blame::find(&report.tally, &report.counters), blame, "{report:?}");
        }
    });
}

/// An upload pauses for a round trip between its flights. An `idle` shorter than that ends the close while the rest of the
/// upload is in flight, which then causes a reset. A short `grace` does not: it is for a peer that was silent from the start.
#[test]
fn a_bound_shorter_than_an_uploads_silence_puts_the_answer_at_risk() {
    let (short, long) = (Duration::from_millis(10), Duration::from_secs(5));
    sandboxed(|| {
        for (idle, grace, at_risk) in [(short, short, 4), (long, short, 0), (long, long, 0)] {
            let mut plan = cell("lingering", "upload", "lan");
            plan.link.paths.iter_mut().for_each(|path| path.delay = Duration::from_millis(100));
            plan.response = 1_000;
            (plan.policy.idle, plan.policy.grace) = (idle, grace);
            let report = tried(plan, 4);
            assert_eq!((report.tally.lost, report.tally.at_risk), (0, at_risk), "{idle:?} {report:?}");
        }
    });
}

#[test]
fn the_innocent_are_not_blamed() {
    sandboxed(|| {
        for ending in ["close", "shutdown-close", "so-linger", "exit", "lingering"] {
            for link in ["loopback", "wifi", "overtake"] {
                let report = tried(cell(ending, "reads-all", link), 4);
                assert_eq!(report.tally.of(Fate::Complete), 4, "{ending} {link}: {report:?}");
            }
        }
        let aborted = tried(cell("abort", "reads-all", "wifi"), 4);
        assert_eq!(aborted.tally.lost, 4, "{aborted:?}");
    });
}

#[test]
fn lingering_keeps_with_every_peer() {
    sandboxed(|| {
        let peers = Peer::ALL.into_iter().filter(|peer| *peer != Peer::NeverReads);
        let plans: Vec<CellPlan> = peers
            .flat_map(|peer| ["loopback", "wifi", "overtake"].map(|link| (peer, Link::named(link).unwrap())))
            .map(|(peer, link)| CellPlan::new(Ending::Lingering, peer, link))
            .collect();
        for (plan, report) in plans.iter().zip(all_tried(plans.clone(), 4)) {
            let (peer, link) = (plan.peer, &plan.link.name);
            assert_eq!(report.tally.of(Fate::Complete), 4, "{peer} {link}: {report:?}");
            assert_eq!(report.counters.of("TCPAbortOnClose"), 0, "{peer} {link}");
        }
    });
}

#[test]
fn an_accept_queue_that_overflows_is_recognised() {
    sandboxed(|| {
        let tried =
            |backlog, abort| burst(&BacklogPlan::new(Link::named("wifi").unwrap(), backlog, abort)).unwrap();
        let enough = tried(128, false);
        assert_eq!((enough.tally.lost, enough.counters.of("ListenDrops")), (0, 0), "{enough:?}");
        for (abort, fate) in [(false, Fate::TimedOut), (true, Fate::ResetBeforeAny)] {
            let report = tried(8, abort);
            assert!(report.tally.of(fate) > 0, "{report:?}");
            assert!(report.counters.of("ListenDrops") > 0, "{report:?}");
            assert_eq!(Blame::find(&report.tally, &report.counters), Blame::AcceptQueue, "{report:?}");
        }
    });
}

/// The steps of one connection: lost with a plain close, and kept if the server reads the last 8 bytes too or ends with
/// a lingering close.
#[test]
fn one_connection_is_told_step_by_step() {
    let told = |ending: &str, request: u64, extra: u64| {
        let plan = CellPlan { link: slow_wifi(), request, extra, ..cell(ending, "unread", "wifi") };
        one(&plan, &Setting::default(), &Stop::new().unwrap()).unwrap()
    };
    let at = |report: &OneReport, actor: Actor, wanted: &dyn Fn(&StepAction) -> bool| {
        report.steps.iter().position(|step| step.actor == actor && wanted(&step.action))
    };
    sandboxed(|| {
        let lost = told("close", 100, 8);
        assert_eq!(lost.attempt.verdict(), Verdict::Lost, "{lost:?}");
        assert!(lost.server_error.is_none(), "{lost:?}");
        let closed = |unread| move |action: &StepAction| matches!(action, StepAction::Ended { unread: found, error: None, .. } if *found == unread);
        let wrote = at(&lost, Actor::Server, &|action| *action == StepAction::Wrote(200_000)).unwrap();
        let ended = at(&lost, Actor::Server, &closed(8)).unwrap();
        let sent = at(&lost, Actor::Link, &|action| matches!(action, StepAction::ResetSent(_))).unwrap();
        let arrived = at(
            &lost,
            Actor::Link,
            &|action| matches!(action, StepAction::ResetArrived(bytes) if *bytes >= lost.attempt.received),
        );
        let failed = at(&lost, Actor::Client, &|action| matches!(action, StepAction::ReadFailed(_)));
        assert!(wrote < ended && ended < sent && Some(sent) < arrived && arrived < failed, "{lost:#?}");
        // One field changed: the 8 bytes are a part of the request, and the server reads them.
        let kept = told("close", 108, 0);
        assert_eq!(kept.attempt.verdict(), Verdict::Kept, "{kept:?}");
        assert!(at(&kept, Actor::Server, &closed(0)).is_some(), "{kept:#?}");
        let kept = [kept, told("lingering", 100, 8)];
        for report in &kept {
            let reset = at(report, Actor::Link, &|_| true);
            let last = report.steps.last().map(|step| &step.action);
            assert_eq!((reset, last), (None, Some(&StepAction::Closed { reset: false })), "{report:#?}");
            assert_eq!(report.attempt.received, 200_000);
        }
    });
}

#[test]
fn without_namespaces_loopback_still_works() {
    let setting = Setting { shared: true, ..Setting::default() };
    let mut plan = cell("lingering", "unread", "loopback");
    plan.trials = Trials::Exactly(8);
    let report = run(&plan, &setting, &Stop::new().unwrap()).unwrap();
    assert_eq!((report.tally.trials, report.tally.lost), (8, 0), "{report:?}");
    let wifi = cell("lingering", "unread", "wifi");
    assert!(run(&wifi, &setting, &Stop::new().unwrap()).is_err());
}

#[test]
fn any_two_programs_meet_over_a_link() {
    use linger_lab::{ExecPlan, IpVersion, exec};
    sandboxed(|| {
        let server = "exec python3 -c 'import socket, os
s = socket.create_server((os.environ[\"LINGER_SERVER\"], 9000), family=socket.AF_INET6)
c, _ = s.accept()
c.sendall(b\"hello\")'";
        let client = "exec python3 -c 'import socket, os, sys
c = socket.create_connection((os.environ[\"LINGER_SERVER\"], 9000))
sys.exit(len(c.recv(100)))'";
        let plan = ExecPlan {
            link: Link::named("lan").unwrap(),
            server: server.to_owned(),
            client: client.to_owned(),
            guests: linger_lab::Guests::default(),
            ip: IpVersion::V6,
            seed: 1,
            ready: Some(std::time::Duration::from_secs(30)),
            capture: None,
        };
        let report = exec(&plan, &Stop::new().unwrap()).unwrap();
        assert_eq!(report.client.and_then(|status| status.code()), Some(5));
        assert!(report.wire.unwrap().carried >= 6);
        assert_eq!(report.server_counters.of("PassiveOpens"), 1);
    });
}
