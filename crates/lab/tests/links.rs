//! Links that change, lose, double and spoil packets, between real kernels.

use std::time::Duration;

use linger_lab::{
    CellPlan, CellReport, Ending, Fate, GilbertElliott, IpVersion, Link, LinkChange, Loss, Named, Path,
    PathMtu, Peer, Scenario, Setting, Stop, Trials, run,
};
use linger_testing::sandboxed;

/// A lingering close over `lan`, both of whose paths are changed.
fn cell(peer: Peer, change: impl Fn(&mut Path)) -> CellPlan {
    let mut link = Link::named("lan").unwrap();
    link.paths.iter_mut().for_each(change);
    CellPlan::new(Ending::Lingering, peer, link)
}

fn tried(mut plan: CellPlan, trials: u64) -> CellReport {
    plan.trials = Trials::Exactly(trials);
    let report =
        run(&plan, &Setting { decisions: true, ..Setting::default() }, &Stop::new().unwrap()).unwrap();
    assert_eq!(report.tally.trials, trials);
    report
}

fn all_kept(report: &CellReport) {
    assert_eq!(
        report.tally.of(Fate::Complete),
        report.tally.trials,
        "{:?}, {:?}",
        report.tally,
        report.errors
    );
}

/// How often the link decided so.
fn count(report: &CellReport, decision: linger_lab::Decision) -> usize {
    let log = &report.wire.as_ref().unwrap().log;
    log.iter().filter(|(_, decided)| *decided == decision).count()
}

#[test]
fn bursts_are_survived() {
    sandboxed(|| {
        let model = GilbertElliott { p: 0.02, r: 0.4, bad: 1.0, good: 0.0 };
        let report = tried(cell(Peer::Unread, |path| path.loss = Loss::Bursts(model)), 6);
        all_kept(&report);
        assert!(count(&report, linger_lab::Decision::Lost) > 0);
    });
}

#[test]
fn every_packet_twice_is_one_connection() {
    sandboxed(|| {
        let report = tried(cell(Peer::Unread, |path| path.duplicate = 1.0), 4);
        all_kept(&report);
        let wire = report.wire.as_ref().unwrap();
        let twice = count(&report, linger_lab::Decision::Duplicated) as u64;
        assert!(
            twice > 4 * 140 && wire.carried > wire.log.len() as u64 && wire.carried <= 2 * twice,
            "{wire:?}"
        );
    });
}

/// Both hosts check what they receive: no offload of this wire hides a changed bit from TCP's checksum.
#[test]
fn the_receivers_checksum_finds_a_changed_bit() {
    sandboxed(|| {
        let report = tried(cell(Peer::Upload, |path| path.corrupt = 0.05), 4);
        all_kept(&report);
        let (found, changed) =
            (report.counters.of("InCsumErrors"), count(&report, linger_lab::Decision::Corrupted) as u64);
        // The server's kernel counts its own half; and those in the header of IPv4 IP finds, not TCP.
        assert!(found > 0 && found <= changed, "{found} of {changed}");
    });
}

#[test]
fn a_sender_that_is_told_sends_smaller_packets() {
    sandboxed(|| {
        for ip in [IpVersion::V4, IpVersion::V6] {
            let mtu = Some(PathMtu { bytes: 1_280, icmp: true });
            let report = tried(CellPlan { ip, ..cell(Peer::Unread, |path| path.mtu = mtu) }, 3);
            all_kept(&report);
            assert!(count(&report, linger_lab::Decision::TooBig) > 0);
        }
    });
}

#[test]
fn nobody_leaves_a_black_hole_but_small_packets() {
    sandboxed(|| {
        let mtu = Some(PathMtu { bytes: 1_280, icmp: false });
        let plan = cell(Peer::ReadsAll, |path| path.mtu = mtu);
        let plan = CellPlan { timeout: Duration::from_secs(2), ..plan };
        let large = tried(plan.clone(), 2);
        assert_eq!((large.tally.lost, large.tally.of(Fate::TimedOut)), (2, 2), "{:?}", large.tally);
        all_kept(&tried(CellPlan { response: 1_000, ..plan }, 2));
    });
}

#[test]
fn a_dead_spot_holds_a_response_up_and_does_not_lose_it() {
    sandboxed(|| {
        let mut plan = cell(Peer::Unread, |path| path.rate = Some(linger_lab::Rate(10_000_000)));
        let usual = plan.link.paths.clone();
        let dead = usual.clone().map(|path| Path { loss: Loss::Each(1.0), ..path });
        let at = |millis, paths| LinkChange { time: Duration::from_millis(millis), paths };
        // 200 kB take 160 ms.
        plan.link.changes = vec![at(60, dead), at(560, usual)];
        let report = tried(plan, 3);
        all_kept(&report);
        assert!(count(&report, linger_lab::Decision::Lost) >= 3, "each connection has its own clock");
        assert!(report.elapsed >= Duration::from_millis(560));
    });
}

#[test]
fn a_trace_is_as_slow_as_it_says() {
    sandboxed(|| {
        let directory = std::env::temp_dir().join(format!("linger-links-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("4ms.trace"), "4\n").unwrap();
        let name = directory.join("scenario.toml");
        let text = "title = \"t\"\nending = \"lingering\"\npeer = \"unread\"\n[link]\nbase = \"lan\"\n\
                    to-client = { trace = \"4ms.trace\" }\n";
        let scenario = Scenario::parse(name.to_str().unwrap(), text);
        std::fs::remove_dir_all(&directory).unwrap();
        let (plan, _) = scenario.unwrap().cells.remove(0);
        let report = tried(CellPlan { concurrency: 1, ..plan }, 1);
        all_kept(&report);
        // 200,000 bytes in packets of at most 1500, one every 4 ms.
        assert!(report.elapsed >= Duration::from_millis(4 * 200_000 / 1_500), "{:?}", report.elapsed);
    });
}
