//! A program that forks without end, runs helpers, and has children killed: a fork at the end costs what one cost at the
//! beginning, and each close is counted.

use crate::support::{PORT, Server, aborts, compiled};
use linger_testing::{Counters, secluded};

/// Forks `count` times. Every tenth child runs a helper, every hundredth is killed, every thousandth is made while a connection
/// is open, which the parent closes with unread bytes once the child has ended.
fn forks(settings: &'static str, count: u64) {
    secluded(move || {
        let directory = tempfile::tempdir().unwrap();
        let Some(program) = compiled("forks", directory.path(), "gcc", "gcc", &["-O2"]) else { return };
        let before = Counters::read().unwrap();
        let command = [&program, &PORT.to_string(), &count.to_string(), "/bin/true"];
        let mut server = Server::start(Some(settings), &command);
        assert!(server.wait().success(), "{}", server.log());
        let report = server.report();
        let closes = &serde_json::Value::from(count / 1_000);
        let counted = ["closes", "lingered", "would_have_reset"].map(|name| &report[name]);
        assert_eq!(counted, [closes; 3], "{settings:?}: {report:?}");
        assert_eq!(aborts(&before), 0, "{settings:?}");
        // The processor time of the server and its children for a fork, in each fifth of the way. What grows with the number
        // of forks grows without bound.
        let log = server.log();
        let costs: Vec<f64> = log.lines().filter_map(cost).collect();
        let [first, .., last] = costs[..] else { panic!("{log}") };
        assert!(costs.len() == 5 && last <= 4.0 * first, "{settings:?}: {log}");
        eprintln!("{settings:?}, {count} forks: {first} us a fork at first, {last} us at last; {report:?}");
    });
}

/// The number in a line such as `1 to 800: 194.0 us a fork`.
fn cost(line: &str) -> Option<f64> {
    line.strip_suffix(" us a fork")?.rsplit(' ').next()?.parse().ok()
}

#[test]
fn forks_cost_what_the_first_have_cost_and_nothing_is_uncounted() {
    forks("", 10_000);
}

#[test]
fn forks_cost_what_the_first_have_cost_and_nothing_is_uncounted_via_seccomp() {
    forks("seccomp", 3_000);
}

#[test]
#[ignore = "takes some minutes: cargo test -p linger-run --test supervised forks:: -- --ignored --nocapture"]
fn a_million_forks() {
    forks("", 1_000_000);
}
