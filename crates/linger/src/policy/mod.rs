//! How long, and for how many bytes, a close may wait for its peer.

#[cfg(feature = "serde")]
mod written;

use std::fmt;
use std::time::Duration;

/// The values of [`Policy::default`], with their reasons.
pub mod defaults {
    use std::time::Duration;

    /// Five seconds, as in nginx (`lingering_timeout`): four losses in a row of one segment cost
    /// 0.2 + 0.4 + 0.8 + 1.6 = 3 s of retransmission timeouts, so a living peer is heard in that time. (0.2 s is Linux's
    /// `TCP_RTO_MIN`; each timeout doubles, RFC 6298 section 5.5.)
    pub const IDLE: Duration = Duration::from_secs(5);
    /// Thirty seconds, as in nginx (`lingering_time`) and httpd (`MAX_SECS_TO_LINGER`).
    pub const TOTAL: Duration = Duration::from_secs(30);
    /// Half a second: once everything is acknowledged nothing can be lost on Linux, and most peers close
    /// within a round trip. The time is spent for peers whose kernel drops received data at a reset, and for peers that
    /// send more.
    pub const GRACE: Duration = Duration::from_millis(500);
    /// `grace` lasts at least this many measured round trips, whatever the policy says. A segment of the peer's
    /// that is lost must be retransmitted before this side hears anything. With a retransmission timeout of about two
    /// round trips, a segment that is lost twice is sent for the third time after 2 + 4 round trips (the timeout
    /// doubles, RFC 6298) and arrives half a round trip later. Eight leave some room.
    pub const GRACE_ROUND_TRIPS: u32 = 8;
}

/// What bounds a lingering close. Plain data; every field may be set directly.
///
/// ```
/// use std::time::Duration;
/// let mut policy = linger::Policy::default();
/// policy.total = Duration::from_secs(10);
/// policy.max_discard = Some(1 << 20);
/// policy.validate()?;
/// # Ok::<(), linger::InvalidPolicy>(())
/// ```
///
/// With the feature `serde` a policy is read from text, times in seconds, and [`validate`](Self::validate)d; fields that are
/// left out are those of the default: `{"idle": 2, "total": 10.5, "at_limit": "abort"}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "written::Written", into = "written::Written"))]
#[non_exhaustive]
pub struct Policy {
    /// Longest time without a sign of the peer: no byte received, none newly acknowledged, and no answer to the kernel's
    /// window probes and retransmissions.
    ///
    /// When this time has run out with something unacknowledged, the kernel is asked about the peer (`TCP_INFO`). If fewer
    /// than two window probes and fewer than two retransmissions are unanswered, the peer lives and its program has
    /// paused: the close waits for another `idle`, and at most until `total`. If the kernel does not know, as on AF_UNIX,
    /// silence alone ends the close.
    ///
    /// A longer time holds the sockets of dead peers longer. Below about 3 s, a peer looks dead after a few lost packets.
    pub idle: Duration,
    /// Longest time for the whole close, whatever the peer does.
    ///
    /// A longer time gives slow peers more time, and lets a hostile peer hold an fd and its send buffer for longer.
    pub total: Duration,
    /// Most bytes to read and discard; `None` for no bound but time.
    ///
    /// At the bound reading stops and the receive window closes, but the close still waits until the peer has
    /// acknowledged the response, at most for `total`: a bound on bytes at which the socket was closed would bring the
    /// loss back. A higher bound costs the bandwidth of an upload that nobody wants.
    pub max_discard: Option<u64>,
    /// How long to wait for the peer's own close once it has acknowledged everything and is silent.
    ///
    /// It lasts at least eight measured round trips ([`defaults::GRACE_ROUND_TRIPS`]), as far as these are within `idle`. It is
    /// for peers that are done. If the close has discarded anything of the peer's, or if the peer's data came in more than
    /// one segment (`tcpi_data_segs_in`), the peer may be in the middle of a request, and gets `idle` if that is longer: a peer that
    /// pauses in its request, and reads the answer only at the end, would otherwise meet a reset.
    ///
    /// A longer time protects peers that send something late and whose system discards received data at a reset (BSD,
    /// macOS, Windows). It holds a descriptor that much longer for every peer that never closes, and the thread of a blocking close. The
    /// kernel cannot tell whether the peer's program has read what its kernel has acknowledged. So a [`Closer`](crate::Closer) that has
    /// told the outcome then keeps the socket open as long as it has room for it ([`Budget::staying`](crate::Budget::staying));
    /// [`Policy::patient`] is for what cannot be left to room.
    pub grace: Duration,
    /// What to do when a bound ends the close.
    pub at_limit: AtLimit,
    /// Whether to linger at all: for the one connection that does not deserve it.
    pub mode: Mode,
}

/// Whether a close lingers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Mode {
    /// Half-close, discard and wait within the bounds.
    #[default]
    Linger,
    /// Half-close, one read of the bytes that have arrived, close. Bytes that arrive later make the kernel reset, and
    /// the response may be lost. Nothing is held for the peer.
    None,
    /// Reset at once (`SO_LINGER 0`): what the peer has not received is lost, and that is meant.
    Abort,
}

/// What to do with a connection whose bounds have run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum AtLimit {
    /// Plain `close()`: if nothing is unread the kernel goes on delivering what it holds.
    #[default]
    Close,
    /// `SO_LINGER 0` and `close()`: a reset at once, and the kernel's memory is free at once.
    Abort,
}

impl Default for Policy {
    /// As [`new`](Self::new).
    fn default() -> Self {
        Self::new()
    }
}

/// The default policy, those of other servers, and policies for connections that deserve less.
///
/// All of them, and the methods that change one field, are `const`:
///
/// ```
/// use std::time::Duration;
/// use linger::Policy;
///
/// static POLICY: Policy = Policy::new().with_total(Duration::from_secs(10));
/// ```
impl Policy {
    /// The default: what [`defaults`] says, no bound on bytes, and a plain close at a bound.
    pub const fn new() -> Self {
        Self {
            idle: defaults::IDLE,
            total: defaults::TOTAL,
            max_discard: None,
            grace: defaults::GRACE,
            at_limit: AtLimit::Close,
            mode: Mode::Linger,
        }
    }

    /// This policy with another [`idle`](Self::idle).
    pub const fn with_idle(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// This policy with another [`total`](Self::total).
    pub const fn with_total(self, total: Duration) -> Self {
        Self { total, ..self }
    }

    /// This policy with another [`grace`](Self::grace).
    pub const fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// This policy with another [`max_discard`](Self::max_discard).
    pub const fn with_max_discard(self, max_discard: Option<u64>) -> Self {
        Self { max_discard, ..self }
    }

    /// This policy with another [`at_limit`](Self::at_limit).
    pub const fn with_at_limit(self, at_limit: AtLimit) -> Self {
        Self { at_limit, ..self }
    }

    /// As nginx with `lingering_close always` and its defaults: 5 s of silence (`lingering_timeout`), 30 s in
    /// all (`lingering_time`), whether or not the peer has everything.
    pub const fn nginx() -> Self {
        let idle = Duration::from_secs(5);
        Self { idle, grace: idle, total: Duration::from_secs(30), ..Self::new() }
    }

    /// As Apache httpd, prefork: 2 s of silence (`SECONDS_TO_LINGER`), 30 s in all (`MAX_SECS_TO_LINGER`),
    /// whether or not the peer has everything. Its event module has the 30 s alone.
    pub const fn httpd() -> Self {
        let idle = Duration::from_secs(2);
        Self { idle, grace: idle, total: Duration::from_secs(30), ..Self::new() }
    }

    /// 2 s in all, as httpd's `short-lingering-close`: for peers whose requests were refused, and for a server
    /// under load.
    pub const fn short() -> Self {
        let all = Duration::from_secs(2);
        Self { idle: all, total: all, ..Self::new() }
    }

    /// For a server that would rather hold a socket than leave an unread response at risk: [`grace`](Self::grace) is as long as
    /// [`total`](Self::total), 30 s.
    ///
    /// With the default, the close of a response that fits into the client's buffers ends half a second after the client's kernel has
    /// acknowledged it. If the client reads only later, and sends something first, a socket that is closed answers with a reset, which on some
    /// systems takes the response with it. With this policy that can happen 30 s after the close has begun, and not before.
    ///
    /// A [`Closer`](crate::Closer), and so every adapter, does nearly the same without it: a socket whose close is over stays open, if there is room
    /// ([`Budget::staying`](crate::Budget::staying)). This policy is for blocking closes, and for servers that hold so many connections that
    /// there is no such room.
    ///
    /// A client that has everything and never closes holds its descriptor for 30 s, in place of half a second; its thread, too, if the
    /// close is a blocking one ([`close`](crate::close)). A [`Closer`](crate::Closer) bounds the number, and gives up sockets whose
    /// peers have everything first ([`Budget::sockets`](crate::Budget::sockets)); before the process exits
    /// [`Closer::finish`](crate::Closer::finish) waits for them, too, up to its deadline.
    pub const fn patient() -> Self {
        Self { grace: defaults::TOTAL, ..Self::new() }
    }

    /// No lingering: see [`Mode::None`].
    pub const fn none() -> Self {
        Self { mode: Mode::None, ..Self::new() }
    }

    /// A reset at once: see [`Mode::Abort`]. For peers that misbehave; they cost nothing any more.
    pub const fn abort() -> Self {
        Self { mode: Mode::Abort, ..Self::new() }
    }
}

/// The longest duration a policy may name; longer ones are mistakes, not wishes.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl Policy {
    /// Checks that the fields make sense together.
    ///
    /// [`close`](crate::close) takes any policy and simply obeys the tighter bound; whatever reads a policy
    /// from a person (a configuration file, a command line) should call this first.
    ///
    /// # Errors
    /// Returns an error that names the wrong field: `idle`, `total` or `max_discard` is zero, `idle` or `grace` is
    /// above `total`, or a duration is above a day.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let wrong = |field, reason| Err(InvalidPolicy { field, reason });
        for (field, value) in [("idle", self.idle), ("total", self.total), ("grace", self.grace)] {
            if value > LONGEST {
                return wrong(field, "is longer than a day");
            }
        }
        if self.idle.is_zero() {
            return wrong("idle", "is zero: every close would give up at once");
        }
        if self.total.is_zero() {
            return wrong("total", "is zero: every close would give up at once");
        }
        if self.idle > self.total {
            return wrong("idle", "is longer than `total`, which would always end the close first");
        }
        if self.grace > self.total {
            return wrong("grace", "is longer than `total`, which would always end the close first");
        }
        if self.max_discard == Some(0) {
            return wrong("max_discard", "is zero: leave it out for no bound, or name at least one byte");
        }
        Ok(())
    }
}

/// A policy that contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidPolicy {
    /// The name of the field, as it stands in [`Policy`].
    pub field: &'static str,
    /// The fault, as the rest of a sentence.
    pub reason: &'static str,
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy field `{}` {}", self.field, self.reason)
    }
}

impl std::error::Error for InvalidPolicy {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_ships_is_valid() {
        let all = [Policy::default(), Policy::nginx(), Policy::httpd(), Policy::short(), Policy::none()];
        all.iter()
            .chain([&Policy::patient(), &Policy::abort()])
            .for_each(|policy| policy.validate().unwrap());
    }

    #[test]
    fn a_bad_field_is_named() {
        let good = Policy::default();
        let cases = [
            (Policy { idle: Duration::ZERO, ..good }, "idle"),
            (Policy { total: Duration::ZERO, ..good }, "total"),
            (Policy { idle: good.total * 2, ..good }, "idle"),
            (Policy { grace: good.total * 2, ..good }, "grace"),
            (Policy { total: Duration::MAX, ..good }, "total"),
            (Policy { max_discard: Some(0), ..good }, "max_discard"),
        ];
        for (policy, field) in cases {
            assert_eq!(policy.validate().unwrap_err().field, field, "{policy:?}");
        }
    }

    #[test]
    fn the_bounds_of_a_policy_are_bounds() {
        let good =
            Policy { idle: Duration::from_secs(1), grace: Duration::from_secs(1), ..Policy::default() };
        // Each at its bound, and one step past it.
        for (policy, is_good) in [
            (Policy { total: LONGEST, ..good }, true),
            (Policy { total: LONGEST + Duration::from_nanos(1), ..good }, false),
            (Policy { total: good.idle, ..good }, true),
            (Policy { total: good.idle - Duration::from_nanos(1), ..good }, false),
            (Policy { grace: good.total, ..good }, true),
            (Policy { grace: good.total + Duration::from_nanos(1), ..good }, false),
            (Policy { idle: good.total, ..good }, true),
            (Policy { grace: Duration::ZERO, ..good }, true),
            (Policy { max_discard: Some(1), ..good }, true),
        ] {
            assert_eq!(policy.validate().is_ok(), is_good, "{policy:?}");
        }
    }

    #[test]
    fn each_field_is_changed_alone() {
        let seconds = Duration::from_secs;
        // Nothing of it is the default.
        let policy = Policy {
            idle: seconds(1),
            total: seconds(2),
            grace: seconds(3),
            max_discard: Some(4),
            at_limit: AtLimit::Abort,
            mode: Mode::None,
        };
        let other = seconds(9);
        assert_eq!(policy.with_idle(other), Policy { idle: other, ..policy });
        assert_eq!(policy.with_total(other), Policy { total: other, ..policy });
        assert_eq!(policy.with_grace(other), Policy { grace: other, ..policy });
        assert_eq!(policy.with_max_discard(Some(9)), Policy { max_discard: Some(9), ..policy });
        assert_eq!(policy.with_max_discard(None), Policy { max_discard: None, ..policy });
        assert_eq!(policy.with_at_limit(AtLimit::Close), Policy { at_limit: AtLimit::Close, ..policy });
    }

    #[test]
    fn what_ships_is_what_it_is_named_after() {
        let seconds =
            |policy: Policy| [policy.idle, policy.grace, policy.total].map(|time| time.as_secs_f64());
        assert_eq!(seconds(Policy::default()), [5.0, 0.5, 30.0]);
        assert_eq!(seconds(Policy::nginx()), [5.0, 5.0, 30.0]);
        assert_eq!(seconds(Policy::httpd()), [2.0, 2.0, 30.0]);
        assert_eq!(seconds(Policy::short()), [2.0, 0.5, 2.0]);
        assert_eq!(seconds(Policy::patient()), [5.0, 30.0, 30.0]);
        for (policy, mode) in [
            (Policy::default(), Mode::Linger),
            (Policy::nginx(), Mode::Linger),
            (Policy::short(), Mode::Linger),
            (Policy::patient(), Mode::Linger),
            (Policy::none(), Mode::None),
            (Policy::abort(), Mode::Abort),
        ] {
            assert_eq!((policy.mode, policy.at_limit, policy.max_discard), (mode, AtLimit::Close, None));
        }
        assert_eq!(LONGEST.as_secs(), 86_400);
    }
}
