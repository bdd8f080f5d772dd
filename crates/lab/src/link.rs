//! The properties of a link, as plain data.

use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::named::Named;
use crate::units::{Bytes, Rate};

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
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Path {
    /// Shortest time that a packet takes.
    #[serde(with = "crate::duration")]
    pub delay: Duration,
    /// Added to `delay`, evenly distributed between 0 and this; it does not reorder.
    #[serde(with = "crate::duration")]
    pub jitter: Duration,
    /// Bits a second, counted over whole Ethernet frames; none for no limit.
    pub rate: Option<Rate>,
    /// Longest queue before the rate limit, in bytes; packets beyond it are dropped.
    pub queue: Option<Bytes>,
    /// Probability of losing a packet, 0 to 1.
    #[serde(deserialize_with = "probability")]
    pub loss: f64,
    /// Probability, 0 to 1, of holding a packet back for `reorder_by`, so that later ones overtake it.
    #[serde(deserialize_with = "probability")]
    pub reorder: f64,
    /// How long a reordered packet is held back.
    #[serde(with = "crate::duration")]
    pub reorder_by: Duration,
}

fn probability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(D::Error::custom(format!("{value} is no probability: it must be between 0 and 1")))
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

/// The network between server and client.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// The preset's name, or `custom`.
    pub name: String,
    /// No emulated link: both ends in one namespace, over `lo`.
    pub loopback: bool,
    /// The path from server to client, then the path from client to server.
    pub paths: [Path; 2],
    /// Faults that events trigger.
    pub faults: Vec<LinkFault>,
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
                let lossy =
                    Path { loss: 0.02, reorder: 0.005, reorder_by: ms(4), ..path(ms(4), ms(3), 20, 128) };
                (symmetric(lossy), vec![])
            }
            "mobile" => {
                let down = Path { loss: 0.002, ..path(ms(35), ms(10), 20, 512) };
                let up = Path { loss: 0.002, ..path(ms(35), ms(10), 5, 256) };
                ([down, up], vec![])
            }
            "satellite" => ([path(ms(270), ms(5), 20, 2_048), path(ms(270), ms(5), 4, 512)], vec![]),
            "overtake" => {
                let hold = LinkFault::HoldDataUntilReset { direction: Direction::ToClient, at_most: ms(40) };
                (symmetric(path(ms(1), Duration::ZERO, 100, 256)), vec![hold])
            }
            _ => return None,
        };
        Some(Self { name: name.to_owned(), loopback: name == "loopback", paths, faults })
    }
}

impl Link {
    /// The path of the link in this direction.
    pub fn path(&self, direction: Direction) -> &Path {
        &self.paths[direction.index()]
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// Returns a message that names the key that is out of its range.
    pub fn validate(&self) -> Result<(), String> {
        for path in &self.paths {
            for (key, value) in [("loss", path.loss), ("reorder", path.reorder)] {
                if !(0.0..=1.0).contains(&value) {
                    return Err(format!("`{key}` is a probability between 0 and 1, not {value}"));
                }
            }
            if path.reorder > 0.0 && path.reorder_by.is_zero() {
                return Err("`reorder` needs `reorder_by`: how long a packet is held back".to_owned());
            }
            if path.rate.is_none() && path.queue.is_some() {
                return Err("`queue` needs `rate`: without a rate nothing ever waits".to_owned());
            }
        }
        let nth_is_zero = |fault: &LinkFault| matches!(fault, LinkFault::DropDataSegment { nth: 0, .. });
        if self.faults.iter().any(nth_is_zero) {
            return Err("`nth` counts from 1".to_owned());
        }
        Ok(())
    }
}

/// Parses a link in a scenario: the name of a preset, or a table. A table may name a preset as its `base`, replaces
/// whole paths of it, and adds faults.
impl<'de> Deserialize<'de> for Link {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        struct Table {
            base: Option<String>,
            both: Option<Path>,
            to_client: Option<Path>,
            to_server: Option<Path>,
            #[serde(default)]
            fault: Vec<LinkFault>,
        }
        /// Not an untagged enum: its errors would not say where in the file they are.
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Link;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "the name of a link ({}) or a table", PRESETS.join(", "))
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Link, E> {
                Link::named(name).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Link, A::Error> {
                let table = Table::deserialize(MapAccessDeserializer::new(map))?;
                let mut link = match &table.base {
                    Some(name) => Link::named(name).map_err(A::Error::custom)?,
                    None => Link {
                        paths: Default::default(),
                        faults: vec![],
                        loopback: false,
                        name: String::new(),
                    },
                };
                if link.loopback {
                    return Err(A::Error::custom("`loopback` has no wire that could differ"));
                }
                link.name = "custom".to_owned();
                let [to_client, to_server] = link.paths;
                let either = |own: Option<Path>, old| own.or_else(|| table.both.clone()).unwrap_or(old);
                link.paths = [either(table.to_client, to_client), either(table.to_server, to_server)];
                link.faults.extend(table.fault);
                link.validate().map_err(A::Error::custom)?;
                Ok(link)
            }
        }
        deserializer.deserialize_any(Either)
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
