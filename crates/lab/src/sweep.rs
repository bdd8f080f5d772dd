//! Lists in scenarios: each value of a list makes cells of its own.

use std::fmt;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::units::Bytes;

/// Most cells of one scenario: each takes networks of its own, and up to a hundred trials.
const MOST_CELLS: usize = 1_000;

/// A size, or a list of sizes.
#[derive(Clone, Debug)]
pub(crate) struct Sizes(Vec<Bytes>);

impl Sizes {
    /// The sizes; the usual one if the scenario names none.
    pub(crate) fn or(sizes: &Option<Self>, usual: u64) -> Vec<u64> {
        match sizes {
            Some(Self(sizes)) => sizes.iter().map(|size| size.0).collect(),
            None => vec![usual],
        }
    }
}

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Sizes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a positive whole number, text with a unit, or a list of these")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Sizes, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Sizes, E> {
                u64::try_from(number)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
                    .and_then(|number| self.visit_u64(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Sizes, E> {
                Ok(Sizes(vec![text.parse().map_err(E::custom)?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sizes, A::Error> {
                let mut sizes: Vec<Bytes> = Vec::new();
                while let Some(size) = list.next_element::<Bytes>()? {
                    if sizes.contains(&size) {
                        return Err(A::Error::custom(format!("{} bytes stand twice in the list", size.0)));
                    }
                    if sizes.len() == MOST_CELLS {
                        return Err(A::Error::custom(format!("a list of more than {MOST_CELLS} sizes")));
                    }
                    sizes.push(size);
                }
                if sizes.is_empty() {
                    return Err(A::Error::custom("an empty list: name at least one"));
                }
                Ok(Sizes(sizes))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// Refuses more cells than anybody waits for. The product of lists grows quickly, so it is reckoned before any cell is made.
///
/// # Errors
/// Says how many cells the lists would make, and of what.
pub(crate) fn check(lists: &[(&str, usize)]) -> Result<(), String> {
    let cells = lists.iter().try_fold(1usize, |cells, (_, length)| cells.checked_mul(*length));
    if cells.is_some_and(|cells| cells <= MOST_CELLS) {
        return Ok(());
    }
    let parts: Vec<String> = lists
        .iter()
        .filter(|(_, length)| *length > 1)
        .map(|(key, length)| format!("{length} of `{key}`"))
        .collect();
    Err(format!(
        "{} are more than {MOST_CELLS} cells: shorten a list, or make several scenarios",
        parts.join(" times ")
    ))
}

/// Every combination of the sizes, the first list's slowest.
pub(crate) fn product(lists: [Vec<u64>; 4]) -> Vec<[u64; 4]> {
    let [a, b, c, d] = &lists;
    let mut all = Vec::with_capacity(a.len() * b.len() * c.len() * d.len());
    for &a in a {
        for &b in b {
            for &c in c {
                all.extend(d.iter().map(|&d| [a, b, c, d]));
            }
        }
    }
    all
}
