//! What the tests with real tracepoints share.

use linger_watch::{Filter, Watcher};
use rustix::thread::CapabilitySet;

/// A watcher. If it cannot be opened, prints why and returns `None`; with all capabilities that is a failure.
pub(crate) fn watcher(filter: Filter) -> Option<Watcher> {
    match Watcher::open(filter) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            let effective = rustix::thread::capabilities(None).unwrap().effective;
            let first_user = std::fs::read_to_string("/proc/self/uid_map").unwrap();
            let everything = effective.contains(CapabilitySet::SYS_ADMIN | CapabilitySet::PERFMON)
                && first_user.split_whitespace().eq(["0", "0", "4294967295"]);
            assert!(!everything, "an administrator may watch: {error}");
            linger_testing::skip("live tracepoints", &error.to_string());
            None
        }
    }
}
