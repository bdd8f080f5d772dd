//! The kernel counters that show why connections ended.

use std::collections::BTreeMap;
use std::fs;

/// The counters that are shown: resets sent and their reasons, and connections that never reached the server.
const SHOWN: [&str; 8] = [
    "OutRsts",
    "TCPAbortOnClose",
    "TCPAbortOnData",
    "TCPAbortOnLinger",
    "TCPAbortOnTimeout",
    "TCPAbortOnMemory",
    "ListenOverflows",
    "ListenDrops",
];

/// Where counters are read: in this process's network namespace, or in that of another process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum CounterSource {
    Here,
    Process(u32),
    Nowhere,
}

impl CounterSource {
    /// Reads the counters; empty if they cannot be read.
    pub(crate) fn read(self) -> BTreeMap<String, u64> {
        let folder = match self {
            Self::Here => "/proc/thread-self/net".to_owned(),
            Self::Process(id) => format!("/proc/{id}/net"),
            Self::Nowhere => return BTreeMap::new(),
        };
        let mut counters = BTreeMap::new();
        for file in ["snmp", "netstat"] {
            let text = fs::read_to_string(format!("{folder}/{file}")).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            // Lines of names and of values alternate.
            for pair in lines.chunks_exact(2) {
                for (name, value) in pair[0].split_whitespace().zip(pair[1].split_whitespace()) {
                    if let (true, Ok(value)) = (SHOWN.contains(&name), value.parse()) {
                        counters.insert(name.to_owned(), value);
                    }
                }
            }
        }
        counters
    }
}

/// The differences between two readings, without zeros.
pub(crate) fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let difference = |(name, value): (&String, &u64)| {
        let grown = value.saturating_sub(before.get(name).copied().unwrap_or(0));
        (grown > 0).then(|| (name.clone(), grown))
    };
    after.iter().filter_map(difference).collect()
}
