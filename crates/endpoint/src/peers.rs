//! Who is served, and who makes room for whom.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A peer that connected this lately is not ended to make room: its request may be on its way.
pub(crate) const YOUNG: Duration = Duration::from_millis(100);

/// The peers of one endpoint, by what they do, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    next: u64,
    /// Their request has not been read to its end.
    asking: VecDeque<ServedPeer>,
    answered: VecDeque<ServedPeer>,
}

#[derive(Debug)]
struct ServedPeer {
    id: u64,
    since: Instant,
    end: Arc<Notify>,
}

impl Peers {
    pub(crate) fn len(&self) -> usize {
        self.asking.len() + self.answered.len()
    }

    /// How many have sent their request, and not yet read all of its answer.
    pub(crate) fn answered(&self) -> usize {
        self.answered.len()
    }

    /// Adds a peer. The notification is for its task, and means that it is to end.
    pub(crate) fn admit(&mut self, now: Instant) -> (u64, Arc<Notify>) {
        let (id, end) = (self.next, Arc::new(Notify::new()));
        self.next += 1;
        self.asking.push_back(ServedPeer { id, since: now, end: end.clone() });
        (id, end)
    }

    /// Notes that a peer's request is being answered.
    pub(crate) fn answers(&mut self, id: u64) {
        if let Some(at) = self.asking.iter().position(|peer| peer.id == id)
            && let Some(peer) = self.asking.remove(at)
        {
            self.answered.push_back(peer);
        }
    }

    pub(crate) fn forget(&mut self, id: u64) {
        self.asking.retain(|peer| peer.id != id);
        self.answered.retain(|peer| peer.id != id);
    }

    /// Ends the oldest peer that has sent no whole request, or else the oldest that does not take its answer. If all are young,
    /// ends none, and returns how long the oldest stays so.
    pub(crate) fn evict(&mut self, now: Instant) -> Result<(), Duration> {
        let young = |peers: &VecDeque<ServedPeer>| {
            let oldest = peers.front()?;
            Some(YOUNG.saturating_sub(now.saturating_duration_since(oldest.since)))
        };
        let queue = match (young(&self.asking), young(&self.answered)) {
            (Some(Duration::ZERO), _) => &mut self.asking,
            (_, Some(Duration::ZERO)) => &mut self.answered,
            (asking, answered) => return Err(asking.into_iter().chain(answered).min().unwrap_or(YOUNG)),
        };
        if let Some(peer) = queue.pop_front() {
            peer.end.notify_one();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(peers: &VecDeque<ServedPeer>) -> Vec<u64> {
        peers.iter().map(|peer| peer.id).collect()
    }

    #[test]
    fn the_oldest_without_a_request_makes_room_first() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        for _ in 0..4 {
            peers.admit(start);
        }
        peers.answers(0);
        peers.answers(2);
        let later = start + YOUNG;
        assert_eq!(peers.evict(later), Ok(()));
        assert_eq!((ids(&peers.asking), ids(&peers.answered)), (vec![3], vec![0, 2]));
        assert_eq!(peers.evict(later), Ok(()));
        assert_eq!(peers.evict(later), Ok(()));
        assert_eq!((ids(&peers.asking), ids(&peers.answered)), (vec![], vec![2]));
        peers.forget(2);
        assert_eq!((peers.len(), peers.evict(later)), (0, Err(YOUNG)));
    }

    #[test]
    fn a_young_peer_is_let_send_its_request() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        peers.admit(start);
        peers.admit(start + YOUNG / 2);
        let almost = start + YOUNG - Duration::from_millis(1);
        assert_eq!(peers.evict(almost), Err(Duration::from_millis(1)));
        assert_eq!(peers.evict(start + YOUNG), Ok(()));
        // An old peer that does not take its answer goes before a young one that asks.
        peers.answers(1);
        peers.admit(start + YOUNG);
        assert_eq!(peers.evict(start + YOUNG), Err(YOUNG / 2));
        assert_eq!(peers.evict(start + YOUNG * 3 / 2), Ok(()));
        assert_eq!((ids(&peers.asking), peers.answered()), (vec![2], 0));
    }
}
