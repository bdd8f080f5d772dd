//! The link between two hosts. Here: its properties, as plain data; in the folder what it does to packets, and how files write it.

pub(crate) mod capture;
pub(crate) mod decision;
pub(crate) mod ecn;
pub(crate) mod emulator;
pub(crate) mod file;
#[cfg(test)]
pub(crate) mod frames;
pub(crate) mod identity;
mod lane;
pub(crate) mod loss;
pub(crate) mod middlebox;
pub(crate) mod mtu;
mod rewrite;
pub(crate) mod trace;
pub(crate) mod wire;

use std::time::Duration;

use serde::Deserialize;

use crate::link::ecn::EcnHandling;
use crate::link::loss::Loss;
use crate::link::middlebox::Middlebox;
use crate::link::mtu::PathMtu;
use crate::link::trace::Trace;
use crate::named::Named;
use crate::units::{Bytes, Rate};

/// The names of a wire's two interfaces in its namespace: the server's end, then the client's.
pub(crate) const ENDS: [&str; 2] = ["server", "client"];

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the server to the client.
    ToClient,
    /// From the client to the server.
    ToServer,
}

impl Direction {
    /// Both directions, in the order in which arrays hold them.
    pub const BOTH: [Self; 2] = [Self::ToClient, Self::ToServer];

    /// The position in an array with an element for each direction.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The opposite direction.
    pub const fn reverse(self) -> Self {
        match self {
            Self::ToClient => Self::ToServer,
            Self::ToServer => Self::ToClient,
        }
    }
}

/// One direction of a link.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path {
    /// Shortest time that a packet takes.
    pub delay: Duration,
    /// Added to `delay`, evenly distributed between 0 and this; it does not reorder.
    pub jitter: Duration,
    /// Bits a second, counted over whole Ethernet frames; none for no limit.
    pub rate: Option<Rate>,
    /// In the place of a rate: when the link delivers, of IP packets without their Ethernet header.
    pub trace: Option<Trace>,
    /// Longest queue before the rate limit, in bytes; packets beyond it are dropped.
    pub queue: Option<Bytes>,
    /// How packets are lost by chance.
    pub loss: Loss,
    /// Probability, 0 to 1, of holding a packet back for `reorder_by`, so that later ones overtake it.
    pub reorder: f64,
    /// How long a reordered packet is held back.
    pub reorder_by: Duration,
    /// Probability, 0 to 1, of sending a packet twice, the second right behind the first.
    pub duplicate: f64,
    /// Probability, 0 to 1, of changing one bit of a packet behind its Ethernet header.
    pub corrupt: f64,
    /// Largest packet that passes; none for what the hosts' interfaces allow, 1500 bytes.
    pub mtu: Option<PathMtu>,
    /// What it does to the bits of explicit congestion notification; none to leave them as they are.
    pub ecn: Option<EcnHandling>,
}

impl Path {
    /// Whether anything here depends on chance.
    fn is_random(&self) -> bool {
        let chances = [self.reorder, self.duplicate, self.corrupt];
        !self.loss.is_none() || !self.jitter.is_zero() || chances.iter().any(|chance| *chance > 0.0)
    }

    fn validate(&self) -> Result<(), String> {
        let chances = [("reorder", self.reorder), ("duplicate", self.duplicate), ("corrupt", self.corrupt)];
        for (key, value) in chances.into_iter().chain([("loss", self.loss.rate())]) {
            if !(0.0..=1.0).contains(&value) {
                return Err(format!("`{key}` is a probability between 0 and 1, not {value}"));
            }
        }
        if self.reorder > 0.0 && self.reorder_by.is_zero() {
            return Err("`reorder` needs `reorder_by`: how long a packet is held back".to_owned());
        }
        if self.rate.is_none() && self.trace.is_none() && self.queue.is_some() {
            return Err("`queue` needs `rate` or `trace`: without one nothing ever waits".to_owned());
        }
        if self.ecn == Some(EcnHandling::Mark) && (self.rate.is_none() || self.queue.is_none()) {
            return Err(
                "`ecn = \"mark\"` needs `rate` and `queue`: it marks once the queue is half full".to_owned()
            );
        }
        Ok(())
    }
}

/// A fault that is triggered by an event, not by chance.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum LinkFault {
    /// Holds every segment with data or a FIN until a reset that its receiver accepts has passed, or for
    /// `at_most`: the reset overtakes the data.
    HoldDataUntilReset {
        /// The direction of the data.
        direction: Direction,
        /// How long a segment waits for a reset that does not come.
        #[serde(with = "crate::duration")]
        at_most: Duration,
    },
    /// Drops the n-th data segment of every connection, once; 1 is the first.
    DropDataSegment {
        /// The direction of the data.
        direction: Direction,
        /// Which segment, in the order of their first transmission.
        nth: u32,
    },
    /// Delays segments that carry nothing but an acknowledgement.
    HoldAcks {
        /// The direction of the acknowledgements.
        direction: Direction,
        /// How much longer than other segments they take.
        #[serde(rename = "for", with = "crate::duration")]
        hold: Duration,
    },
}

impl LinkFault {
    /// Whether both are the same fault of the same direction, whatever their numbers.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let direction = |fault: &Self| match *fault {
            Self::HoldDataUntilReset { direction, .. }
            | Self::DropDataSegment { direction, .. }
            | Self::HoldAcks { direction, .. } => direction,
        };
        std::mem::discriminant(self) == std::mem::discriminant(other) && direction(self) == direction(other)
    }
}

/// The network between server and client.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link {
    /// The preset's name, its own name in a scenario, or `custom`.
    pub name: String,
    /// No emulated link: both ends in one namespace, over `lo`.
    pub loopback: bool,
    /// The path from server to client, then the path from client to server.
    pub paths: [Path; 2],
    /// Faults that events trigger.
    pub faults: Vec<LinkFault>,
    /// A firewall or a NAT at one of the ends.
    pub middlebox: Option<Middlebox>,
    /// What the paths are like later on, in order of time.
    pub changes: Vec<LinkChange>,
    /// From when `changes` and traces count their time.
    pub clock: LinkClock,
}

/// What a link is like from a time on, until the next change.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkChange {
    /// When, by the link's clock.
    pub time: Duration,
    /// The paths from then on.
    pub paths: [Path; 2],
}

/// From when a link's changes and traces count their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkClock {
    /// From each connection's SYN. Each connection then has rate, queue and traces to itself, so that a trial does not depend on
    /// those beside it.
    #[default]
    Connection,
    /// From the link's first packet.
    Link,
}

/// The presets.
pub const PRESETS: [&str; 7] = ["loopback", "lan", "wifi", "wifi-lossy", "mobile", "satellite", "overtake"];

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn path(delay: Duration, jitter: Duration, mbit: u64, queue_kib: u64) -> Path {
    Path {
        delay,
        jitter,
        rate: Some(Rate(mbit * 1_000_000)),
        queue: Some(Bytes(queue_kib << 10)),
        ..Path::default()
    }
}

impl Named for Link {
    const WHAT: &'static str = "link";

    fn names() -> Vec<&'static str> {
        PRESETS.to_vec()
    }

    fn by_name(name: &str) -> Option<Self> {
        let symmetric = |path: Path| [path.clone(), path];
        let (paths, faults) = match name {
            "loopback" => (<[Path; 2]>::default(), vec![]),
            "lan" => (symmetric(path(Duration::from_micros(150), Duration::ZERO, 1_000, 512)), vec![]),
            "wifi" => (symmetric(path(ms(3), ms(1), 40, 256)), vec![]),
            "wifi-lossy" => {
                let lossy = Path {
                    loss: Loss::Each(0.02),
                    reorder: 0.005,
                    reorder_by: ms(4),
                    ..path(ms(4), ms(3), 20, 128)
                };
                (symmetric(lossy), vec![])
            }
            "mobile" => {
                let down = Path { loss: Loss::Each(0.002), ..path(ms(35), ms(10), 20, 512) };
                let up = Path { loss: Loss::Each(0.002), ..path(ms(35), ms(10), 5, 256) };
                ([down, up], vec![])
            }
            "satellite" => ([path(ms(270), ms(5), 20, 2_048), path(ms(270), ms(5), 4, 512)], vec![]),
            "overtake" => {
                let hold = LinkFault::HoldDataUntilReset { direction: Direction::ToClient, at_most: ms(40) };
                (symmetric(path(ms(1), Duration::ZERO, 100, 256)), vec![hold])
            }
            _ => return None,
        };
        let loopback = name == "loopback";
        Some(Self { name: name.to_owned(), loopback, paths, faults, ..Self::default() })
    }
}

impl Link {
    /// The path of the link in this direction.
    pub fn path(&self, direction: Direction) -> &Path {
        &self.paths[direction.index()]
    }

    /// The paths at this time by the link's clock.
    pub fn paths_at(&self, time: Duration) -> &[Path; 2] {
        let later = self.changes.partition_point(|change| change.time <= time);
        later.checked_sub(1).map_or(&self.paths, |last| &self.changes[last].paths)
    }

    /// When the link changes next after this time.
    pub fn next_change(&self, time: Duration) -> Option<Duration> {
        let later = self.changes.partition_point(|change| change.time <= time);
        self.changes.get(later).map(|change| change.time)
    }

    /// The paths of all times.
    pub(crate) fn all_paths(&self) -> impl Iterator<Item = &Path> {
        self.paths.iter().chain(self.changes.iter().flat_map(|change| &change.paths))
    }

    /// Whether it says anything of ECN, so that its hosts are to use it.
    pub(crate) fn has_ecn(&self) -> bool {
        self.all_paths().any(|path| path.ecn.is_some())
    }

    /// Whether each connection has a clock of its own, and with it its own rate and queue.
    pub(crate) fn is_apart(&self) -> bool {
        let has_clock = !self.changes.is_empty() || self.all_paths().any(|path| path.trace.is_some());
        has_clock && self.clock == LinkClock::Connection
    }

    /// Whether what the link does depends on what is in a packet.
    pub(crate) fn looks(&self) -> bool {
        let path = |path: &Path| path.is_random() || path.mtu.is_some() || path.ecn.is_some();
        !self.faults.is_empty() || self.middlebox.is_some() || self.is_apart() || self.all_paths().any(path)
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// Returns a message that names the key that is out of its range.
    pub fn validate(&self) -> Result<(), String> {
        self.all_paths().try_for_each(Path::validate)?;
        let nth_is_zero = |fault: &LinkFault| matches!(fault, LinkFault::DropDataSegment { nth: 0, .. });
        if self.faults.iter().any(nth_is_zero) {
            return Err("`nth` counts from 1".to_owned());
        }
        if !self.changes.is_sorted_by_key(|change| change.time) {
            return Err("the link's changes are not in order of time".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid() {
        for name in PRESETS {
            Link::by_name(name).unwrap().validate().unwrap();
        }
    }
}
