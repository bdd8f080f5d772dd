//! Firewalls, NATs and ECN between real kernels: what a box that forgets does to responses, however they are ended.

use std::time::Duration;

use linger::Policy;
use linger_lab::{
    Blame, Bytes, CellClient, CellPlan, CellReport, EcnHandling, Ending, Fate, IpVersion, Link, Middlebox,
    MiddleboxCounts, MiddleboxEnd, MiddleboxKind, MiddleboxTimeouts, Named, Path, Peer, Rate, Setting, Stop,
    Tally, Trials, WithoutState, run,
};
use linger_testing::sandboxed;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn middlebox(then: WithoutState) -> Middlebox {
    Middlebox {
        kind: MiddleboxKind::Firewall,
        end: MiddleboxEnd::Server,
        timeouts: MiddleboxTimeouts::CONNTRACK,
        then,
        drop_invalid: true,
    }
}

/// A server that thinks for 1.2 s before it answers, behind a box that forgets a connection after a silence of `idle`.
fn thinking(ending: Ending, idle: Duration, then: WithoutState) -> CellPlan {
    let usual = middlebox(then);
    let timeouts = MiddleboxTimeouts { idle, ..usual.timeouts };
    let mut link = Link::named("lan").unwrap();
    link.middlebox = Some(Middlebox { timeouts, ..usual });
    let plan = CellPlan::new(ending, Peer::ReadsAll, link);
    CellPlan { busy: ms(1_200), timeout: ms(3_000), response: 20_000, ..plan }
}

fn tried(mut plan: CellPlan, trials: u64) -> (CellReport, MiddleboxCounts) {
    plan.trials = Trials::Exactly(trials);
    let report = run(&plan, &Setting::default(), &Stop::new().unwrap()).unwrap();
    assert_eq!(report.tally.trials, trials);
    let counts = report.wire.as_ref().unwrap().middlebox.unwrap_or_default();
    (report, counts)
}

#[test]
fn a_silence_longer_than_idle_loses_the_answer_however_it_is_ended() {
    sandboxed(|| {
        for ending in [Ending::Close, Ending::Lingering] {
            for (then, fate, is_reset) in [
                (WithoutState::Drop, Fate::TimedOut, false),
                // The server's answer meets the reset; its client hears of nothing.
                (WithoutState::Reset, Fate::TimedOut, true),
                (WithoutState::ResetBoth, Fate::ResetBeforeAny, true),
            ] {
                let (report, counts) = tried(thinking(ending, ms(400), then), 2);
                // Reset before it writes, the server has answered nobody: its close has lost nothing, and its client is without a response.
                let none = if then == WithoutState::ResetBoth { 2 } else { 0 };
                let Tally { lost, at_risk, unanswered, .. } = report.tally;
                assert_eq!(
                    (lost, at_risk, unanswered, report.tally.of(fate)),
                    (2, 0, none, 2),
                    "{then:?} {:?}",
                    report.tally
                );
                assert_eq!(counts.resets > 0, is_reset, "{then:?} {counts:?}");
                assert_eq!(Blame::of(&report), Blame::Middlebox, "{:?}", report.counters);
            }
            // One field away: a box that is more patient than the server.
            let (report, counts) = tried(thinking(ending, ms(2_500), WithoutState::ResetBoth), 2);
            assert_eq!((report.tally.of(Fate::Complete), counts.resets), (2, 0), "{:?}", report.tally);
            assert_eq!(Blame::of(&report), Blame::Nobody);
        }
    });
}

#[test]
fn a_box_that_picks_up_lets_the_late_answer_through() {
    sandboxed(|| {
        let (report, counts) = tried(thinking(Ending::Lingering, ms(400), WithoutState::PickUp), 2);
        assert_eq!(
            (report.tally.of(Fate::Complete), counts.picked_up),
            (2, 2),
            "{:?} {counts:?}",
            report.tally
        );
        // A NAT cannot: the answer comes from where nobody may open a connection.
        let plan = thinking(Ending::Lingering, ms(400), WithoutState::PickUp);
        let mut link = plan.link.clone();
        link.middlebox = link.middlebox.map(|usual| Middlebox { kind: MiddleboxKind::Nat, ..usual });
        let (report, counts) = tried(CellPlan { link, ..plan }, 2);
        assert_eq!((report.tally.lost, counts.picked_up), (2, 0), "{:?} {counts:?}", report.tally);
        assert!(counts.without_state > 0);
    });
}

/// A lingering close waits for what the client still sends, and a box that forgets half-closed connections answers in its place.
#[test]
fn a_half_closed_connection_that_is_forgotten_is_at_risk_again() {
    sandboxed(|| {
        let plan = |half_closed, then, client: &str| {
            let usual = middlebox(then);
            let timeouts = MiddleboxTimeouts { half_closed, ..usual.timeouts };
            let mut link = Link::named("lan").unwrap();
            link.middlebox = Some(Middlebox { timeouts, ..usual });
            let mut policy = Policy::default();
            (policy.idle, policy.grace, policy.total) = (ms(4_000), ms(4_000), ms(8_000));
            let client: CellClient = client.parse().unwrap();
            let plan = CellPlan::new(Ending::Lingering, Peer::Late, link);
            CellPlan { client, policy, response: 20_000, timeout: ms(3_000), ..plan }
        };
        let late = "reads-late=1";
        let (kept, _) = tried(plan(ms(2_500), WithoutState::Reset, late), 2);
        assert_eq!(kept.tally.of(Fate::Complete), 2, "{:?}", kept.tally);
        let (risky, counts) = tried(plan(ms(300), WithoutState::Reset, late), 2);
        assert_eq!((risky.tally.at_risk, risky.tally.lost), (2, 0), "{:?} {counts:?}", risky.tally);
        assert_eq!(Blame::of(&risky), Blame::Middlebox);
        // Dropped in silence: the client has its response, and never learns that its last bytes went nowhere.
        let (silent, counts) = tried(plan(ms(300), WithoutState::Drop, late), 2);
        assert_eq!((silent.tally.lost, silent.tally.at_risk), (0, 0), "{:?}", silent.tally);
        assert!(counts.without_state > 0);
    });
}

#[test]
fn nothing_is_lost_through_a_patient_box_of_either_kind() {
    sandboxed(|| {
        for (kind, end) in [
            (MiddleboxKind::Firewall, MiddleboxEnd::Server),
            (MiddleboxKind::Firewall, MiddleboxEnd::Client),
            (MiddleboxKind::Nat, MiddleboxEnd::Client),
        ] {
            for ip in [IpVersion::V4, IpVersion::V6] {
                let mut link = Link::named("wifi").unwrap();
                link.middlebox = Some(Middlebox { kind, end, ..middlebox(WithoutState::Drop) });
                let plan = CellPlan { ip, ..CellPlan::new(Ending::Lingering, Peer::Unread, link) };
                let (report, counts) = tried(plan, 6);
                assert_eq!(report.tally.of(Fate::Complete), 6, "{kind:?} {end:?}: {:?}", report.tally);
                assert!(!counts.has_interfered(), "{kind:?} {end:?} {ip:?}: {counts:?}");
            }
        }
    });
}

/// The reset of a plain close goes through a box as the kernel sends it: the loss is the close's, and not the box's.
#[test]
fn a_box_does_not_hide_whose_fault_it_is() {
    sandboxed(|| {
        let mut link = Link::named("wifi").unwrap();
        link.middlebox = Some(middlebox(WithoutState::Drop));
        let (report, counts) = tried(CellPlan::new(Ending::Close, Peer::Unread, link), 4);
        assert_eq!(report.tally.lost, 4);
        assert_eq!(Blame::of(&report), Blame::Close, "{counts:?}");
        // Some of the resets behind the first are below what the client has acknowledged: INVALID.
        assert_eq!(counts, MiddleboxCounts { invalid: counts.invalid, ..MiddleboxCounts::default() });
    });
}

#[test]
fn marks_are_heard_bleached_marks_are_not_and_a_refused_syn_is_sent_again_without() {
    sandboxed(|| {
        let cell = |ecn| {
            let mut link = Link::named("wifi").unwrap();
            let change = |path: &mut Path| {
                (path.rate, path.queue, path.ecn) = (Some(Rate(10_000_000)), Some(Bytes(40_000)), ecn);
            };
            link.paths.iter_mut().for_each(change);
            let plan = CellPlan::new(Ending::Lingering, Peer::ReadsAll, link);
            let (report, _) = tried(CellPlan { concurrency: 1, response: 2_000_000, ..plan }, 1);
            assert_eq!(report.tally.of(Fate::Complete), 1, "{ecn:?}: {:?}", report.tally);
            (report.wire.unwrap().marked, report.elapsed)
        };
        assert!(cell(Some(EcnHandling::Mark)).0 > 0);
        assert_eq!((cell(Some(EcnHandling::Bleach)).0, cell(None).0), (0, 0));
        let (_, elapsed) = cell(Some(EcnHandling::DropEctSyn));
        assert!(
            elapsed >= Duration::from_secs(1),
            "the SYN's first retransmission comes after a second: {elapsed:?}"
        );
    });
}
