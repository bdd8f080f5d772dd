//! The kernel's TCP counters of one network namespace.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;

/// The counters `Tcp` and `TcpExt` of a network namespace, by the kernel's names (`OutRsts`,
/// `TCPAbortOnClose`, `ListenOverflows` ...).
///
/// In a private namespace the difference of two readings is exact. In a shared namespace it includes all other connections.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads the counters of the calling thread's namespace.
    ///
    /// # Errors
    /// Returns an error if `/proc` is not mounted.
    pub fn read() -> io::Result<Self> {
        let text = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        Ok(Self::of_texts(&text("snmp")?, &text("netstat")?))
    }

    /// The counters in the texts of `/proc/net/snmp` and `/proc/net/netstat`.
    pub fn of_texts(snmp: &str, netstat: &str) -> Self {
        let mut counters = Self::default();
        counters.parse(snmp, "Tcp:");
        counters.parse(netstat, "TcpExt:");
        counters
    }

    /// Both files hold pairs of lines: names, then values, each prefixed by the group's name.
    fn parse(&mut self, text: &str, group: &str) {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
        while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
            for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
                // A few are signed (MaxConn is -1); none of those counts events.
                self.0.insert(name.to_owned(), value.parse().unwrap_or(0));
            }
        }
    }

    /// The growth since an earlier reading.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let grown = |(name, value): (&String, &u64)| (name.clone(), value.saturating_sub(earlier.of(name)));
        Self(self.0.iter().map(grown).collect())
    }

    /// The sum of two growths, as of two namespaces.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        for (name, value) in &other.0 {
            *sum.0.entry(name.clone()).or_default() += value;
        }
        sum
    }

    /// The value of one counter; 0 if this kernel does not have it.
    pub fn of(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All counters that are not 0, in the order of their names.
    pub fn nonzero(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().filter(|(_, value)| **value > 0).map(|(name, value)| (name.as_str(), *value))
    }
}

impl FromIterator<(&'static str, u64)> for Counters {
    fn from_iter<I: IntoIterator<Item = (&'static str, u64)>>(counters: I) -> Self {
        Self(counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.nonzero()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_of_lines_are_read_by_name() {
        let mut counters = Counters::default();
        counters.parse("Ip: A\nIp: 9\nTcp: RtoMin MaxConn OutRsts\nTcp: 200 -1 7\n", "Tcp:");
        assert_eq!((counters.of("OutRsts"), counters.of("MaxConn"), counters.of("A")), (7, 0, 0));
        let mut later = counters.clone();
        later.0.insert("OutRsts".into(), 9);
        assert_eq!(later.since(&counters).nonzero().collect::<Vec<_>>(), [("OutRsts", 2)]);
        let sum = later.since(&counters).plus(&[("OutRsts", 5), ("InErrs", 1)].into_iter().collect());
        assert_eq!(sum.nonzero().collect::<Vec<_>>(), [("InErrs", 1), ("OutRsts", 7)]);
    }

    #[test]
    fn this_kernel_has_the_counters_the_project_stands_on() {
        let counters = Counters::read().unwrap();
        for name in ["OutRsts", "TCPAbortOnClose", "TCPAbortOnData", "TCPAbortOnLinger", "ListenOverflows"] {
            assert!(counters.0.contains_key(name), "{name}");
        }
    }
}
