//! A middlebox on the link: a firewall, a NAT or a balancer, which keeps a state for each connection and forgets it.
//!
//! Here: what such a box is like, as plain data. `track.rs` is its memory, `tracked.rs` what it knows of one connection, `phase.rs` the
//! states of a connection, `window.rs` which packets are in the window, and `file.rs` how a scenario writes it.

#[cfg(test)]
mod conntrack_tests;
pub(crate) mod file;
mod phase;
pub(crate) mod track;
mod tracked;
mod window;

use std::fmt;
use std::time::Duration;

use serde::Deserialize;

/// A box between client and server that keeps a state for each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Middlebox {
    /// What it does beside keeping states.
    pub kind: MiddleboxKind,
    /// Where it stands: packets to this end meet it when they leave the link, packets from there before they enter it.
    pub end: MiddleboxEnd,
    /// After which silence it forgets a connection.
    pub timeouts: MiddleboxTimeouts,
    /// What it does with a packet of no connection that it knows.
    pub then: WithoutState,
    /// Whether it drops what Linux's conntrack calls INVALID: sequence numbers that neither end can have meant, and flags that make no
    /// sense in the state of the connection.
    pub drop_invalid: bool,
}

/// The kinds of middleboxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MiddleboxKind {
    /// Lets packets through as they are.
    #[default]
    Firewall,
    /// Lets clients begin connections, and may give them another port. The address stays: each link has one client's host.
    Nat,
}

/// The ends of a link at which a middlebox may stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MiddleboxEnd {
    /// Before the server, as a balancer or a data centre's firewall.
    #[default]
    Server,
    /// Before the client, as a NAT at home.
    Client,
}

/// After which silence a connection is forgotten, by its state. A packet that comes at that very time finds nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MiddleboxTimeouts {
    /// Before the handshake is done.
    pub syn: Duration,
    /// Once it is done, while neither end has sent a FIN.
    pub idle: Duration,
    /// Once one end has sent its FIN.
    pub half_closed: Duration,
    /// Once both ends have, or one has sent a reset.
    pub closed: Duration,
}

impl MiddleboxTimeouts {
    /// Linux's (`nf_conntrack_proto_tcp.c`): `syn_sent` 2 minutes, `established` 5 days, `close_wait` 1 minute, `time_wait` 2 minutes.
    pub const CONNTRACK: Self = Self {
        syn: Duration::from_secs(120),
        idle: Duration::from_secs(432_000),
        half_closed: Duration::from_secs(60),
        closed: Duration::from_secs(120),
    };
    /// The least that a NAT may have: RFC 5382, REQ-5, 2 hours and 4 minutes for an established connection, 4 minutes for one that is
    /// partly open or partly closed.
    pub const RFC_5382: Self = Self {
        syn: Duration::from_secs(240),
        idle: Duration::from_secs(7_440),
        half_closed: Duration::from_secs(240),
        closed: Duration::from_secs(240),
    };
}

/// What a middlebox does with a packet of no connection that it knows, unless it opens one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutState {
    /// Drops it: nobody is told.
    #[default]
    Drop,
    /// Drops it and answers with a reset, as AWS's balancers and NAT gateways do. A reset is not answered.
    Reset,
    /// Resets both ends as soon as it forgets a connection that they still have, as Azure's balancers do with "TCP reset"; later
    /// packets as [`Self::Reset`].
    ResetBoth,
    /// Takes it for a connection under way, as Linux does (`nf_conntrack_tcp_loose`), unless it is a FIN, a reset or a SYN-ACK. A NAT
    /// gives it a new port, and only if it comes from the client.
    PickUp,
}

/// What a middlebox has done to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MiddleboxCounts {
    /// Packets that it dropped because it knew no connection of theirs.
    pub without_state: u64,
    /// Packets that it dropped as INVALID.
    pub invalid: u64,
    /// Resets of its own.
    pub resets: u64,
    /// Connections that it picked up in their middle.
    pub picked_up: u64,
}

impl MiddleboxCounts {
    /// Whether it did anything but let packets through.
    pub fn has_interfered(&self) -> bool {
        *self != Self::default()
    }
}

impl std::ops::Add for MiddleboxCounts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            without_state: self.without_state + other.without_state,
            invalid: self.invalid + other.invalid,
            resets: self.resets + other.resets,
            picked_up: self.picked_up + other.picked_up,
        }
    }
}

impl fmt::Display for MiddleboxCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { without_state, invalid, resets, picked_up } = self;
        write!(f, "dropped {without_state} packets of connections that it did not know or had forgotten")?;
        write!(f, ", and {invalid} as INVALID; sent {resets} resets")?;
        if *picked_up > 0 {
            write!(f, "; picked up {picked_up} connections in their middle")?;
        }
        Ok(())
    }
}

/// What a middlebox remembers of a connection when a packet of it comes that has no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// It never knew it.
    Unknown,
    /// It forgot it before the handshake was done.
    Opening,
    /// It forgot it while it was established and idle.
    Idle,
    /// It forgot it when one end had sent its FIN.
    HalfClosed,
    /// It forgot it when both ends had sent their FIN, or one a reset.
    Closed,
}

impl Middlebox {
    /// Whether packets of this direction meet the box before they enter the link.
    pub(crate) fn is_met_first(&self, to_client: bool) -> bool {
        to_client == (self.end == MiddleboxEnd::Server)
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// Returns a message that names the key that is out of its range.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let MiddleboxTimeouts { syn, idle, half_closed, closed } = self.timeouts;
        let times = [("syn", syn), ("idle", idle), ("half_closed", half_closed), ("closed", closed)];
        match times.iter().find(|(_, time)| time.is_zero()) {
            Some((key, _)) => Err(format!("a middlebox with `{key}` of no time lets nothing through")),
            None => Ok(()),
        }
    }
}
