//! The shipped scenarios: each is run, and its expectations are met. A new file needs one line here.

use linger_lab::{Expectation, NetworkPlan, Scenario, Setting, Stop, run, run_all, side_by_side};
use linger_testing::sandboxed;

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scenarios");

fn holds(name: &str) {
    let path = format!("{DIRECTORY}/{name}.toml");
    let scenario = Scenario::parse(&path, &std::fs::read_to_string(&path).unwrap()).unwrap();
    sandboxed(|| {
        let stop = Stop::new().unwrap();
        let plans = &scenario.cells;
        let tried = run_all(
            plans,
            side_by_side(),
            &stop,
            |(plan, _)| run(plan, &Setting::default(), &stop),
            |_, _| {},
        );
        for ((plan, expect), report) in plans.iter().zip(tried) {
            let report = report.unwrap().unwrap();
            let expect: Expectation =
                expect.expect("a shipped scenario says what it expects of every ending");
            assert!(expect.is_met(&report.tally), "{}: {expect}: {:?}", plan.ending, report.tally);
        }
    });
}

macro_rules! scenarios {
    ($($test:ident = $file:literal;)*) => {
        $(#[test] fn $test() { holds($file); })*

        #[test]
        fn every_shipped_scenario_is_tested() {
            // Those with hosts are run by the program's tests (crates/cli/tests/slow/network.rs): they expect what packets say.
            let mut shipped: Vec<String> = std::fs::read_dir(DIRECTORY)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| !NetworkPlan::is_in(&std::fs::read_to_string(path).unwrap()))
                .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
                .collect();
            let mut tested = vec![$($file.to_owned()),*];
            shipped.sort();
            tested.sort();
            assert_eq!(shipped, tested);
        }
    };
}

scenarios! {
    dead_spot_behind_a_firewall = "dead-spot-behind-a-firewall";
    early_answer_to_an_upload = "early-answer-to-an-upload";
    early_small_answer = "early-small-answer";
    firewall_forgets_half_closed = "firewall-forgets-half-closed";
    fastcgi_empty_stdin = "fastcgi-empty-stdin";
    idle_balancer = "idle-balancer";
    innocent = "innocent";
    late_close_notify = "late-close-notify";
    late_acknowledgements = "late-acknowledgements";
    late_line_end = "late-line-end";
    long_fat_link = "long-fat-link";
    lost_segment = "lost-segment";
    one_segment_overtaken = "one-segment-overtaken";
    peer_that_never_closes = "peer-that-never-closes";
    slow_reader_on_loopback = "slow-reader-on-loopback";
    small_mtu = "small-mtu";
    the_long_walk = "the-long-walk";
    unread_upload = "unread-upload";
}
