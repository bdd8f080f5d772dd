//! Compares the kernel's own counters with the events seen, so that missed events show.

use std::collections::BTreeMap;

use linger_netns::Counters;
use serde::Serialize;

/// Counters of resets, and of connections that never reached a process. `nstat(8)` shows the same names.
const SHOWN: [&str; 14] = [
    "OutRsts",
    "EstabResets",
    "AttemptFails",
    "TCPAbortOnClose",
    "TCPAbortOnData",
    "TCPAbortOnLinger",
    "TCPAbortOnTimeout",
    "TCPAbortOnMemory",
    "TCPAbortFailed",
    "ListenOverflows",
    "ListenDrops",
    "TCPReqQFullDrop",
    "TCPReqQFullDoCookies",
    "TCPTimeouts",
];

/// The kernel's counters and the events seen, both since the start.
///
/// The counters are those of this network namespace; the events are those of the whole host. So more resets may be seen than
/// counted. If fewer are seen than counted, events were missed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counted {
    /// How much each counter has grown, by the kernel's name for it. Counters that did not change are left out.
    pub kernel: BTreeMap<&'static str, u64>,
    /// Resets seen that this host sent, whether or not the user's filter shows them.
    pub seen_sent: u64,
    /// Resets seen that this host received, likewise unfiltered.
    pub seen_received: u64,
    /// Resets counted by the kernel as sent (`OutRsts`) and not seen. A lower bound.
    pub missed: u64,
    /// Events that the kernel dropped because they were not read in time.
    pub events_lost: u64,
    /// How often the netlink buffer for destroyed sockets overflowed. The byte counts of some resets are then unknown.
    pub overruns: u64,
}

impl Counted {
    /// For a line of text: `OutRsts 12 (none missed), TCPAbortOnClose 10`.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        for name in SHOWN {
            let Some(value) = self.kernel.get(name) else { continue };
            parts.push(match name {
                "OutRsts" if self.missed > 0 => format!("{name} {value} ({} missed)", self.missed),
                "OutRsts" => format!("{name} {value} (none missed)"),
                _ => format!("{name} {value}"),
            });
        }
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    }
}

/// Reads the kernel's counters and compares them with the events.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    start: Option<Counters>,
    counted: Counted,
    /// What [`compare`](Self::compare) returned last.
    told: Counted,
}

impl Comparison {
    /// Takes the current counters as the zero point. Call it with the tracepoints open, so that every later reset is seen.
    pub(crate) fn start() -> Self {
        Self { start: Counters::read().ok(), ..Self::default() }
    }

    pub(crate) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Notes the resets sent and received that were seen up to now.
    pub(crate) fn saw(&mut self, (sent, received): (u64, u64)) {
        (self.counted.seen_sent, self.counted.seen_received) = (sent, received);
    }

    pub(crate) fn overrun(&mut self) {
        self.counted.overruns += 1;
    }

    /// Reads the counters again. Call it before the events are read, so that every counted reset has its event.
    pub(crate) fn read(&mut self) {
        let (Some(start), Ok(now)) = (&self.start, Counters::read()) else { return };
        let grown = now.since(start);
        let shown = SHOWN.iter().map(|name| (*name, grown.of(name)));
        self.counted.kernel = shown.filter(|(_, value)| *value > 0).collect();
    }

    /// Compares counters and events. Returns `None` while nothing has changed since it last returned `Some`.
    pub(crate) fn compare(&mut self, events_lost: u64) -> Option<Counted> {
        let sent = self.counted.kernel.get("OutRsts").copied().unwrap_or(0);
        self.counted.missed = sent.saturating_sub(self.counted.seen_sent);
        self.counted.events_lost = events_lost;
        if self.counted == self.told {
            return None;
        }
        self.told = self.counted.clone();
        Some(self.counted.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_and_not_seen_is_missed() {
        let mut comparison = Comparison::default();
        assert_eq!(comparison.compare(0), None, "nothing new");
        comparison.counted.kernel = BTreeMap::from([("OutRsts", 3), ("TCPAbortOnClose", 2)]);
        comparison.saw((1, 0));
        let counted = comparison.compare(0).unwrap();
        assert_eq!(counted.missed, 2);
        assert_eq!(counted.describe(), "OutRsts 3 (2 missed), TCPAbortOnClose 2");
        assert_eq!(comparison.compare(0), None, "told already");
        comparison.saw((4, 0));
        assert_eq!(comparison.compare(1).unwrap().missed, 0, "another namespace's are seen as well");
    }
}
