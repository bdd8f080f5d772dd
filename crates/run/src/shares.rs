//! How much of a limited resource the users of the program's processes may have, each for itself.
//!
//! A worker that runs as another user may be hostile: it can send as many descriptors as it likes. A single user may
//! have nearly all. As soon as there is a second, a user gets another one only while it has fewer than are free. So a
//! user that takes much leaves as much for the others, and gets no more until it has given some back.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Debug)]
pub(crate) struct Shares(Arc<Mutex<TakenShares>>);

#[derive(Debug)]
struct TakenShares {
    /// The number for all users together.
    most: usize,
    /// How many a user may have while nobody else has any.
    alone: usize,
    of: HashMap<u32, usize>,
    total: usize,
}

/// One unit of the resource, taken by a user. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    user: u32,
    shares: Shares,
}

/// A descriptor that a process has passed, and the share of its user that it takes.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) fd: OwnedFd,
    pub(crate) share: Share,
}

impl Shares {
    pub(crate) fn new(most: usize, alone: usize) -> Self {
        Self(Arc::new(Mutex::new(TakenShares { most, alone, of: HashMap::new(), total: 0 })))
    }

    /// Takes one for a user; `None` if the user's share is used up.
    pub(crate) fn take(&self, user: u32) -> Option<Share> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.of.get(&user).copied().unwrap_or(0);
        let most = if own == taken.total { taken.alone } else { taken.most.saturating_sub(taken.total) };
        if own >= most {
            return None;
        }
        *taken.of.entry(user).or_default() += 1;
        taken.total += 1;
        Some(Share { user, shares: self.clone() })
    }
}

impl Share {
    /// The user.
    pub(crate) fn user(&self) -> u32 {
        self.user
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total = taken.total.saturating_sub(1);
        if let Some(own) = taken.of.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.of.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(shares: &Shares, user: u32) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(user)).collect()
    }

    #[test]
    fn a_user_alone_has_all_but_what_a_second_one_needs_to_begin() {
        let shares = Shares::new(100, 88);
        assert_eq!(all(&shares, 1).len(), 88);
    }

    #[test]
    fn whoever_takes_much_leaves_as_much() {
        let shares = Shares::new(100, 88);
        let other = shares.take(2).unwrap();
        let hog = all(&shares, 1);
        assert!((48..=50).contains(&hog.len()), "{}", hog.len());
        // A third gets half of what is left; the second is not in want either.
        let third = all(&shares, 3);
        assert!((23..=26).contains(&third.len()), "{}", third.len());
        assert!(shares.take(2).is_some());
        drop((hog, other, third));
        assert_eq!(all(&shares, 1).len(), 88);
    }

    #[test]
    fn who_has_taken_all_while_alone_gets_no_more_until_it_has_given_back() {
        let shares = Shares::new(100, 88);
        let mut hog = all(&shares, 1);
        let other: Vec<Share> = (0..6).filter_map(|_| shares.take(2)).collect();
        assert_eq!(other.len(), 6);
        hog.pop();
        assert!(shares.take(1).is_none(), "it has more than is free");
        hog.truncate(40);
        assert!(shares.take(1).is_some());
    }
}
