//! The kernel's counters, for machines.

use linger_lab::COUNTERS;
use linger_netns::Counters;
use serde_json::{Map, Value};

/// The counters that concern closing, under the kernel's names.
pub(crate) fn counters(counters: &Counters) -> Value {
    COUNTERS.iter().map(|name| ((*name).to_owned(), counters.of(name).into())).collect::<Map<_, _>>().into()
}
