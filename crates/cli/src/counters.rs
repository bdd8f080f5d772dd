//! The kernel's counters, for machines.

use std::collections::BTreeMap;

use linger_lab::COUNTERS;
use linger_netns::Counters;

/// The counters that concern closing, under the kernel's names.
pub(crate) fn counters(counters: &Counters) -> BTreeMap<&'static str, u64> {
    COUNTERS.iter().map(|name| (*name, counters.of(name))).collect()
}
