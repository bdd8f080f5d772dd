//! Bounds on what a closer may hold.

use std::fmt;

/// The bounds of all lingering sockets together. Plain data; every field may be set directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Budget {
    /// Most sockets that linger at once. One more evicts one of them.
    ///
    /// More sockets hold more fds: keep the number well below `RLIMIT_NOFILE`, or `accept` fails first. A program that
    /// raises its limit of descriptors does so before it makes the first closer. A socket costs 96 bytes in the closer,
    /// and its send queue in the kernel.
    pub sockets: usize,
    /// Most sockets of one peer: an IPv4 address or an IPv6 /64; `None` for no bound. Those that stay ([`staying`](Self::staying)) count, and go first.
    ///
    /// The higher the number, the more of the others' sockets one peer can evict. Set no bound behind a proxy or a load
    /// balancer, which is one peer for all clients. Unix sockets have no address and are not counted.
    pub sockets_per_peer: Option<usize>,
    /// Most bytes to discard per second, over all sockets; `None` for no bound.
    ///
    /// At the bound the sockets take turns: their receive windows close, and the peers wait. A higher bound costs
    /// bandwidth and CPU for uploads that nobody wants. A lower bound delays peers that read the response only after they
    /// have sent everything.
    pub discard_per_second: Option<u64>,
    /// Most sockets that stay open behind a close that has ended because the peer has everything and was silent for
    /// [`grace`](crate::Policy::grace); 0 for none. They count among `sockets`.
    ///
    /// The peer's kernel has everything, and the peer's program may not have read it. If that program sends something first, a closed socket
    /// would answer with a reset, which some systems let take the unread response. A socket that stays reads it instead, until the peer
    /// closes, at most until [`total`](crate::Policy::total) or 30 s after the close has begun.
    ///
    /// A higher number holds more descriptors of peers that never close, and nothing else: the outcome is told before,
    /// [`finish`](crate::Closer::finish) does not wait for these sockets, and they are the first to go where a new one needs room, at
    /// [`evict`](crate::Closer::evict), and as soon as half of the descriptors that the process may have then are taken (the numbers of new
    /// sockets tell; where none come, a look twice a second). What a program holds in the upper half while lower numbers are free is not
    /// seen until there is no number left: call [`evict`](crate::Closer::evict) where `accept` fails. A stay never ends in a reset that the
    /// close would not have had, whatever [`at_limit`](crate::Policy::at_limit) says.
    pub staying: usize,
}

impl Default for Budget {
    /// Half of the descriptors that the process may have now (the soft `RLIMIT_NOFILE`), at most 4,096 sockets: 400 KB
    /// here. A quarter of the descriptors, at most 1,024, for those that stay. No other bound.
    fn default() -> Self {
        Self {
            sockets: part_of(linger_sys::descriptor_limit(), 2, 4_096),
            sockets_per_peer: None,
            discard_per_second: None,
            staying: part_of(linger_sys::descriptor_limit(), 4, 1_024),
        }
    }
}

/// One in `share` of the descriptors under this limit (`None` for no limit): at least 1, and at most `most`.
fn part_of(limit: Option<u64>, share: u64, most: usize) -> usize {
    let part = limit.map_or(usize::MAX, |limit| usize::try_from(limit / share).unwrap_or(usize::MAX));
    part.clamp(1, most)
}

impl Budget {
    /// Checks the fields. [`Closer::new`](crate::Closer::new) does the same.
    ///
    /// # Errors
    /// Returns an error that names the wrong field: a field that is zero, or `sockets` above 2^31, for which no system
    /// has fds.
    pub fn validate(&self) -> Result<(), InvalidBudget> {
        let wrong = |field, reason| Err(InvalidBudget { field, reason });
        if self.sockets == 0 {
            return wrong("sockets", "is zero: nothing could linger");
        }
        if self.sockets > 1 << 31 {
            return wrong("sockets", "is more than a process can have");
        }
        if self.sockets_per_peer == Some(0) {
            return wrong("sockets_per_peer", "is zero: leave it out for no bound, or allow at least one");
        }
        if self.discard_per_second == Some(0) {
            return wrong(
                "discard_per_second",
                "is zero: leave it out for no bound, or allow at least a byte",
            );
        }
        Ok(())
    }
}

/// A budget with which nothing could be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidBudget {
    /// The name of the field, as it stands in [`Budget`].
    pub field: &'static str,
    /// The fault, as the rest of a sentence.
    pub reason: &'static str,
}

impl fmt::Display for InvalidBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "budget field `{}` {}", self.field, self.reason)
    }
}

impl std::error::Error for InvalidBudget {}

/// The token bucket of `discard_per_second`: a tenth of a second's worth at most.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Option<u64>,
    tokens: u64,
    /// Up to when tokens have been given out, in nanoseconds.
    at: u64,
    /// All tokens have been spent. None are given until there are enough for many sockets at once: a wake-up for every
    /// few tokens would cost the CPU that the rate saves.
    dry: bool,
}

const SECOND: u128 = 1_000_000_000;

impl Throttle {
    pub(super) fn new(rate: Option<u64>) -> Self {
        Self { rate, tokens: 0, at: 0, dry: true }
    }

    /// Returns how many bytes one of `sharing` sockets that want to discard may discard now; 0 if it has to wait.
    pub(super) fn share(&mut self, now: u64, sharing: usize) -> u64 {
        let Some(rate) = self.rate else { return u64::MAX };
        let fresh = u128::from(now.saturating_sub(self.at)) * u128::from(rate) / SECOND;
        if fresh > 0 {
            // Only the time of whole tokens is used up.
            self.at += (fresh * SECOND / u128::from(rate)) as u64;
            let fresh = u64::try_from(fresh).unwrap_or(u64::MAX);
            self.tokens = fresh.saturating_add(self.tokens).min((rate / 10).max(1));
        }
        self.dry = self.tokens < if self.dry { Self::batch(rate) } else { Self::least_read(rate) };
        if self.dry {
            return 0;
        }
        (self.tokens / sharing.max(1) as u64).max(Self::least_read(rate))
    }

    pub(super) fn is_bounded(&self) -> bool {
        self.rate.is_some()
    }

    pub(super) fn spend(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(bytes);
    }

    /// The time at which bytes may be discarded again; a time in the past if they may be now.
    pub(super) fn refilled(&self) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let enough = if self.dry { Self::batch(rate) } else { Self::least_read(rate) };
        let missing = enough.saturating_sub(self.tokens);
        let wait = (u128::from(missing) * SECOND).div_ceil(u128::from(rate));
        if missing == 0 { 0 } else { self.at.saturating_add(wait as u64) }
    }

    /// The least worth a system call.
    fn least_read(rate: u64) -> u64 {
        (rate / 100).clamp(1, 16 << 10)
    }

    /// The least worth a wake-up: the tokens of a millisecond. More at once would hold up other threads.
    fn batch(rate: u64) -> u64 {
        (rate / 1000).max(Self::least_read(rate))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn half_of_the_descriptors_may_linger() {
        for (limit, sockets) in
            [(Some(0), 1), (Some(3), 1), (Some(8191), 4095), (Some(8192), 4096), (None, 4096)]
        {
            assert_eq!(part_of(limit, 2, 4_096), sockets, "{limit:?}");
        }
        assert_eq!([part_of(Some(1_024), 4, 1_024), part_of(Some(8_192), 4, 1_024)], [256, 1_024]);
    }

    #[test]
    fn a_bad_field_is_named() {
        let good = Budget::default();
        good.validate().unwrap();
        let cases = [
            (Budget { sockets: 0, ..good }, "sockets"),
            (Budget { sockets: usize::MAX, ..good }, "sockets"),
            (Budget { sockets_per_peer: Some(0), ..good }, "sockets_per_peer"),
            (Budget { discard_per_second: Some(0), ..good }, "discard_per_second"),
        ];
        for (budget, field) in cases {
            assert_eq!(budget.validate().unwrap_err().field, field, "{budget:?}");
        }
    }

    #[test]
    fn the_bounds_of_a_budget_are_bounds() {
        let good = Budget::default();
        Budget { sockets: 1, sockets_per_peer: Some(1), discard_per_second: Some(1), staying: 0 }
            .validate()
            .unwrap();
        Budget { sockets: 1 << 31, ..good }.validate().unwrap();
        assert!(Budget { sockets: (1 << 31) + 1, ..good }.validate().is_err());
    }

    /// Nanoseconds in a millisecond.
    const MS: u64 = 1_000_000;

    #[test]
    fn without_a_rate_there_is_no_bound() {
        let mut throttle = Throttle::new(None);
        assert!(!throttle.is_bounded() && Throttle::new(Some(1)).is_bounded());
        assert_eq!((throttle.share(0, 9), throttle.refilled()), (u64::MAX, 0));
        throttle.spend(u64::MAX);
        assert_eq!((throttle.share(0, 9), throttle.refilled()), (u64::MAX, 0));
    }

    #[test]
    fn tokens_come_in_batches_and_go_in_reads() {
        // 100 MB a second: a batch is 100 kB, a millisecond's; the least read 16 KiB; the most 10 MB.
        let mut throttle = Throttle::new(Some(100_000_000));
        assert_eq!((throttle.share(0, 1), throttle.refilled()), (0, MS));
        assert_eq!(throttle.share(MS - 10, 1), 0);
        assert_eq!(throttle.share(MS, 1), 100_000);
        // Among several each has its part, but no less than the least read.
        assert_eq!(
            (throttle.share(MS, 2), throttle.share(MS, 50), throttle.share(MS, 0)),
            (50_000, 16 << 10, 100_000)
        );
        // Until less than that is left, what is there is given at once.
        throttle.spend(100_000 - (16 << 10));
        assert_eq!((throttle.share(MS, 1), throttle.refilled()), (16 << 10, 0));
        throttle.spend(1);
        assert_eq!(throttle.share(MS, 1), 0);
        // Now it has to be a batch again: 16,383 are there, 83,617 are missing.
        assert_eq!(throttle.refilled(), MS + 836_170);
        assert_eq!((throttle.share(MS + 836_160, 1), throttle.share(MS + 836_170, 1)), (0, 100_000));
        // Spent all at once, even more than there was.
        throttle.spend(u64::MAX);
        assert_eq!(throttle.share(MS + 836_170, 1), 0);
        // A long pause saves up a tenth of a second's worth.
        assert_eq!(throttle.share(1_000 * MS, 1), 10_000_000);
    }

    #[test]
    fn time_without_a_whole_token_is_not_lost() {
        // A token takes a third of a second.
        let mut throttle = Throttle::new(Some(3));
        let times = [200, 330, 334, 400, 600, 666, 667];
        let shares = times.map(|time| {
            let share = throttle.share(time * MS, 1);
            throttle.spend(share);
            share
        });
        assert_eq!(shares, [0, 0, 1, 0, 0, 0, 1]);
    }

    proptest! {
        /// Whatever is asked and when, no more is given than the rate allows, and waiting always helps.
        #[test]
        fn the_rate_holds(rate in 1u64..10_000_000_000, pauses in proptest::collection::vec(0u64..100_000_000, 1..200)) {
            let mut throttle = Throttle::new(Some(rate));
            let (mut now, mut spent) = (0u64, 0u128);
            for pause in pauses {
                now += pause;
                let share = throttle.share(now, 3);
                if share == 0 {
                    let refilled = throttle.refilled();
                    prop_assert!(refilled > now);
                    now = refilled;
                    prop_assert!(throttle.share(now, 3) > 0, "waited in vain");
                    continue;
                }
                throttle.spend(share);
                spent += u128::from(share);
                prop_assert!(spent <= u128::from(now) * u128::from(rate) / SECOND);
            }
        }
    }
}
