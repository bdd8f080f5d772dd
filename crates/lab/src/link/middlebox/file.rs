//! How a scenario writes a middlebox.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::{Middlebox, MiddleboxEnd, MiddleboxKind, MiddleboxTimeouts, WithoutState};

/// The table `middlebox` of a link.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MiddleboxTable {
    kind: MiddleboxKind,
    #[serde(default)]
    end: MiddleboxEnd,
    #[serde(default, deserialize_with = "some_time")]
    syn: Option<Duration>,
    #[serde(default, deserialize_with = "some_time")]
    idle: Option<Duration>,
    #[serde(default, deserialize_with = "some_time")]
    half_closed: Option<Duration>,
    #[serde(default, deserialize_with = "some_time")]
    closed: Option<Duration>,
    #[serde(default)]
    then: WithoutState,
    #[serde(default = "usually")]
    drop_invalid: bool,
}

fn usually() -> bool {
    true
}

fn some_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    crate::duration::deserialize(deserializer).map(Some)
}

impl MiddleboxTable {
    /// The box. Times that are not written are Linux's for a firewall, and the least that RFC 5382 allows for a NAT.
    ///
    /// # Errors
    /// Names the key that is out of its range.
    pub(crate) fn middlebox(self) -> Result<Middlebox, String> {
        let usual = match self.kind {
            MiddleboxKind::Firewall => MiddleboxTimeouts::CONNTRACK,
            MiddleboxKind::Nat => MiddleboxTimeouts::RFC_5382,
        };
        let timeouts = MiddleboxTimeouts {
            syn: self.syn.unwrap_or(usual.syn),
            idle: self.idle.unwrap_or(usual.idle),
            half_closed: self.half_closed.unwrap_or(usual.half_closed),
            closed: self.closed.unwrap_or(usual.closed),
        };
        let Self { kind, end, then, drop_invalid, .. } = self;
        let middlebox = Middlebox { kind, end, timeouts, then, drop_invalid };
        middlebox.validate().map(|()| middlebox)
    }
}
