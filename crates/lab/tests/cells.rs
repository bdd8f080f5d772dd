//! Cells on the real kernel: what is lost, what is not, and who is to blame.

use linger_host::testing::sandboxed;
use linger_lab::{CellPlan, CellReport, Ending, Fate, Link, Named, Peer, Record, Stop, Trials, run};

fn cell(ending: &str, peer: &str, link: &str) -> CellPlan {
    let ending = ending.parse().unwrap();
    CellPlan::new(ending, Peer::named(peer).unwrap(), Link::named(link).unwrap())
}

fn tried(mut plan: CellPlan, trials: u64) -> CellReport {
    plan.trials = Trials::Exactly(trials);
    let report = run(&plan, &Record::default(), &Stop::new().unwrap()).unwrap();
    assert_eq!(report.tally.trials, trials);
    assert_eq!(report.wire.as_ref().map_or(0, |wire| wire.accidents), 0, "the machine lost packets");
    report
}

#[test]
fn close_loses_and_lingering_keeps_over_wifi() {
    sandboxed(|| {
        let lost = tried(cell("close", "unread", "wifi"), 12);
        assert_eq!(lost.tally.lost, 12, "{lost:?}");
        assert_eq!(lost.counters.of("TCPAbortOnClose"), 12);
        let kept = tried(cell("lingering", "unread", "wifi"), 12);
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
            let report = tried(plan, 20);
            assert_eq!(report.tally.lost, losses, "{report:?}");
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
        for peer in Peer::ALL.into_iter().filter(|peer| *peer != Peer::NeverReads) {
            for link in ["loopback", "wifi", "overtake"] {
                let plan = CellPlan::new(Ending::Lingering, peer, Link::named(link).unwrap());
                let report = tried(plan, 4);
                assert_eq!(report.tally.of(Fate::Complete), 4, "{peer} {link}: {report:?}");
                assert_eq!(report.counters.of("TCPAbortOnClose"), 0, "{peer} {link}");
            }
        }
    });
}
