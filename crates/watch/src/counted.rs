//! Compares the kernel's own counters with the events seen, so that missed events show.

use std::collections::{BTreeMap, HashMap, HashSet};

use linger_netns::Counters;
use serde::Serialize;

use crate::blind::Blind;
use crate::cgroup::KnownPlace;
use crate::namespace_id::NamespaceId;

/// The counter of resets that were sent.
const RESETS: &str = "OutRsts";
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

/// The kernel's counters of another network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CountedPlace {
    /// Where.
    pub place: KnownPlace,
    /// How much each counter has grown since the namespace was found. Those that did not change are left out.
    pub kernel: BTreeMap<&'static str, u64>,
}

/// The kernel's counters and the events seen, both since the start.
///
/// The events are those of the whole host, the counters those of the network namespaces that are known. So more resets may be seen
/// than counted. If fewer are seen than counted, events were missed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counted {
    /// How much each counter of this network namespace has grown, by the kernel's name for it. Counters that did not change are
    /// left out.
    pub kernel: BTreeMap<&'static str, u64>,
    /// Resets seen that this host sent, whether or not the user's filter shows them.
    pub seen_sent: u64,
    /// Resets seen that this host received, likewise unfiltered.
    pub seen_received: u64,
    /// Those of both that were of connections of this program's own ([`OwnClient`](crate::OwnClient)), and are not told.
    pub own_resets: u64,
    /// Resets counted by the kernel as sent (`OutRsts`, of all namespaces that are known) and not seen. A lower bound.
    pub missed: u64,
    /// Events that the kernel dropped because they were not read in time.
    pub events_lost: u64,
    /// What cannot be seen, and why.
    pub blind: Vec<Blind>,
    /// The counters of other network namespaces, of those that have grown.
    pub places: Vec<CountedPlace>,
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
        let own = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
        let others = SHOWN.iter().filter_map(|name| {
            let sum: u64 = self.places.iter().filter_map(|place| place.kernel.get(name)).sum();
            (sum > 0).then(|| format!("{name} {sum}"))
        });
        let others: Vec<_> = others.collect();
        match self.places.len() {
            0 => own,
            1 => format!("{own}; in another network namespace {}", others.join(", ")),
            several => format!("{own}; in {several} other network namespaces {}", others.join(", ")),
        }
    }
}

/// Reads the kernel's counters and compares them with the events.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    start: Option<Counters>,
    counted: Counted,
    /// What [`compare`](Self::compare) returned last.
    told: Counted,
    /// The counters of each other namespace when it was found.
    found: HashMap<NamespaceId, Counters>,
    /// Counters of other namespaces that were read after the events.
    later: Vec<CountedPlace>,
    /// `OutRsts` of namespaces that are gone, as last read.
    gone: u64,
    /// `ListenOverflows` as of the last [`notice_overflows`](Self::notice_overflows).
    overflows: u64,
}

impl Comparison {
    /// Takes the current counters as the zero point. Call it with the tracepoints open, so that every later reset is seen.
    pub(crate) fn start() -> Self {
        Self { start: Counters::read().ok(), ..Self::default() }
    }

    pub(crate) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Notes the resets sent and received that were seen up to now, and how many of them were this program's own.
    pub(crate) fn saw(&mut self, (sent, received): (u64, u64), own: u64) {
        (self.counted.seen_sent, self.counted.seen_received) = (sent, received);
        self.counted.own_resets = own;
    }

    pub(crate) fn overrun(&mut self) {
        self.counted.overruns += 1;
    }

    /// Reads the counters again. Call it before the events are read, so that every counted reset has its event.
    pub(crate) fn read(&mut self) {
        let (Some(start), Ok(now)) = (&self.start, Counters::read()) else { return };
        let grown = now.since(start);
        self.counted.kernel = shown(&grown);
        // Their events have been read since.
        if !self.later.is_empty() || !self.counted.places.is_empty() {
            let there: HashSet<NamespaceId> = self.later.iter().map(|later| later.place.namespace).collect();
            let gone = self.counted.places.iter().filter(|place| !there.contains(&place.place.namespace));
            self.gone += gone.map(CountedPlace::resets).sum::<u64>();
            self.counted.places = self.later.clone();
        }
    }

    /// Whether accept queues of this namespace have overflowed since the last time that this was asked.
    pub(crate) fn notice_overflows(&mut self) -> bool {
        let now = self.counted.kernel.get("ListenOverflows").copied().unwrap_or(0);
        now > std::mem::replace(&mut self.overflows, now)
    }

    /// Notes the counters of the other namespaces. They count from the next [`read`](Self::read) on: the events of what they say by
    /// now may not have been read yet.
    pub(crate) fn others(&mut self, others: Vec<(KnownPlace, Counters)>) {
        let there: HashSet<NamespaceId> = others.iter().map(|(place, _)| place.namespace).collect();
        self.found.retain(|id, _| there.contains(id));
        self.later.clear();
        for (place, counters) in others {
            let found = self.found.entry(place.namespace).or_insert_with(|| counters.clone());
            let kernel = shown(&counters.since(found));
            if !kernel.is_empty() {
                self.later.push(CountedPlace { place, kernel });
            }
        }
    }

    /// Compares counters and events. Returns `None` while nothing has changed since it last returned `Some`.
    pub(crate) fn compare(&mut self, events_lost: u64, blind: &[Blind]) -> Option<Counted> {
        let own = self.counted.kernel.get(RESETS).copied().unwrap_or(0);
        let sent = own + self.counted.places.iter().map(CountedPlace::resets).sum::<u64>() + self.gone;
        self.counted.blind = blind.to_vec();
        self.counted.missed = sent.saturating_sub(self.counted.seen_sent);
        self.counted.events_lost = events_lost;
        if self.counted == self.told {
            return None;
        }
        self.told = self.counted.clone();
        Some(self.counted.clone())
    }
}

impl CountedPlace {
    /// Resets that were sent.
    fn resets(&self) -> u64 {
        self.kernel.get(RESETS).copied().unwrap_or(0)
    }
}

/// The counters that are shown, of those that have grown.
fn shown(grown: &Counters) -> BTreeMap<&'static str, u64> {
    SHOWN.iter().map(|name| (*name, grown.of(name))).filter(|(_, value)| *value > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overflows_are_noticed_once() {
        let mut comparison = Comparison::default();
        let mut grown = |overflows| {
            comparison.counted.kernel.insert("ListenOverflows", overflows);
            comparison.notice_overflows()
        };
        assert!(!grown(0));
        assert!(grown(3));
        assert!(!grown(3));
        assert!(grown(4));
    }

    #[test]
    fn other_namespaces_count_once_their_events_were_read_and_after_their_end() {
        let counters = |resets| [("OutRsts", resets), ("ListenOverflows", resets / 2)].into_iter().collect();
        let place = |inode| KnownPlace::new(NamespaceId::from_inode(inode));
        let mut comparison = Comparison::start();
        comparison.others(vec![(place(1), counters(10)), (place(2), counters(0))]);
        comparison.read();
        let missed = |comparison: &mut Comparison| {
            comparison.counted.kernel.clear();
            comparison.compare(0, &[]);
            comparison.counted.missed
        };
        assert_eq!(missed(&mut comparison), 0, "what was before it was found does not count");
        comparison.others(vec![(place(1), counters(14)), (place(2), counters(1))]);
        assert_eq!(missed(&mut comparison), 0, "their events may not have been read");
        comparison.read();
        comparison.saw((2, 0), 0);
        assert_eq!(missed(&mut comparison), 3);
        let said = comparison.counted.describe();
        assert_eq!(said, "nothing; in 2 other network namespaces OutRsts 5, ListenOverflows 2");
        // One is gone. Its resets were sent.
        comparison.others(vec![(place(2), counters(1))]);
        comparison.read();
        assert_eq!((missed(&mut comparison), comparison.counted.places.len()), (3, 1));
        comparison.others(vec![(place(2), counters(3))]);
        comparison.read();
        assert_eq!(missed(&mut comparison), 5);
    }

    #[test]
    fn what_was_counted_and_not_seen_is_missed() {
        let mut comparison = Comparison::default();
        assert_eq!(comparison.compare(0, &[]), None, "nothing new");
        comparison.counted.kernel = BTreeMap::from([("OutRsts", 3), ("TCPAbortOnClose", 2)]);
        comparison.saw((1, 0), 0);
        let counted = comparison.compare(0, &[]).unwrap();
        assert_eq!(counted.missed, 2);
        assert_eq!(counted.describe(), "OutRsts 3 (2 missed), TCPAbortOnClose 2");
        assert_eq!(comparison.compare(0, &[]), None, "told already");
        comparison.saw((4, 0), 0);
        let blind = comparison.compare(0, &[Blind::NoOpener]).unwrap().blind;
        assert_eq!(blind, [Blind::NoOpener], "a new limitation is told");
        assert_eq!(
            comparison.compare(1, &[]).unwrap().missed,
            0,
            "more are seen where a namespace is not known"
        );
    }
}
