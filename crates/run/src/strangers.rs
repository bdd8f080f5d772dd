//! Connections that have not sent the token yet. Any process of the host can connect.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The most connections without a token at a time. The library sends the token at once, so it has arrived when the
/// process is accepted.
const MOST: usize = 256;

/// How long such a connection may be silent.
const SILENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// In the order in which they came, with the users that they run as.
    waiting: VecDeque<(u64, u32, Instant)>,
}

impl Strangers {
    /// Adds a connection. Returns the one to turn away for it, if they are too many: the first of the user
    /// that has the most.
    pub(crate) fn enter(&mut self, id: u64, user: u32, now: Instant) -> Option<u64> {
        self.waiting.push_back((id, user, now + SILENCE));
        if self.waiting.len() <= MOST {
            return None;
        }
        let mut numbers: HashMap<u32, usize> = HashMap::new();
        self.waiting.iter().for_each(|(_, user, _)| *numbers.entry(*user).or_default() += 1);
        let (most, _) = numbers.into_iter().max_by_key(|(_, number)| *number)?;
        let place = self.waiting.iter().position(|(_, user, _)| *user == most)?;
        self.waiting.remove(place).map(|(id, ..)| id)
    }

    /// Removes a connection that has sent the token, or is gone.
    pub(crate) fn leave(&mut self, id: u64) {
        self.waiting.retain(|(other, ..)| *other != id);
    }

    /// When the next connection has been silent for too long.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(.., until)| *until)
    }

    /// A connection that has been silent for too long.
    pub(crate) fn late(&mut self, now: Instant) -> Option<u64> {
        self.due().filter(|until| now >= *until)?;
        self.waiting.pop_front().map(|(id, ..)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_one_user_does_not_keep_another_out() {
        let (mut strangers, now) = (Strangers::default(), Instant::now());
        assert_eq!(strangers.enter(1, 7, now), None);
        for id in 2..=256 {
            assert_eq!(strangers.enter(id, 9, now), None);
        }
        // The oldest connection is the other user's.
        assert_eq!(strangers.enter(257, 9, now), Some(2));
        assert_eq!(strangers.enter(258, 7, now), Some(3));
    }

    #[test]
    fn who_is_silent_for_a_second_is_turned_away() {
        let (mut strangers, now) = (Strangers::default(), Instant::now());
        assert_eq!(strangers.due(), None);
        strangers.enter(1, 7, now);
        strangers.enter(2, 7, now + SILENCE / 2);
        strangers.enter(3, 7, now + SILENCE / 2);
        strangers.leave(3);
        assert_eq!(strangers.due(), Some(now + SILENCE));
        assert_eq!(strangers.late(now + SILENCE / 2), None);
        assert_eq!((strangers.late(now + SILENCE), strangers.late(now + SILENCE)), (Some(1), None));
        assert_eq!(strangers.late(now + 2 * SILENCE), Some(2));
        assert_eq!(strangers.late(now + 2 * SILENCE), None);
    }
}
