//! What other connections of a listener show: refusals, accepted handshakes, many ends at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use hashbrown::HashMap;
use serde::Serialize;

use crate::opening::UnheardPackets;
use crate::places::Network;

/// Limit of listeners. Beyond it, the half that was silent for longest is forgotten.
const MAX_LISTENERS: usize = 8_192;
/// Connections that a listener ends within this time, in nanoseconds, end together.
const TOGETHER: u64 = 50_000_000;

/// A listener, and the interface and the network it was seen in.
pub(crate) type ListenerAddress = (SocketAddr, Network);

/// A SYN that was answered with a reset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedSyn {
    pub(crate) time: u64,
    pub(crate) frame: u64,
    /// The latest SYN-ACK of the listener before it.
    pub(crate) accepted: Option<u64>,
}

/// The facts about one listener.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ListenerHistory {
    /// The latest SYN-ACK.
    pub(crate) accepted: Option<u64>,
    /// The latest SYN that was answered with a reset.
    pub(crate) refused: Option<RefusedSyn>,
    /// The TTL of its SYN-ACKs.
    pub(crate) ttl: Option<u8>,
    /// SYN-ACKs repeated after the client's ACK, over all its connections.
    pub(crate) repeats: u32,
    /// Connections whose first packet after the handshake was refused.
    pub(crate) turned_away: u32,
    /// Connections whose SYN was repeated before the SYN-ACK came, and those of them that opened late
    /// ([`ObservedConnection::opened_late`](crate::connection::ObservedConnection::opened_late)).
    asked_again: u32,
    /// The openings since the first of these, and the greatest crowd of them.
    openings: Openings,
    pub(crate) crowd: Option<Openings>,
    pub(crate) opened_late: u32,
    /// Connections two SYNs of which went unanswered while the listener answered others.
    pub(crate) served_others: u32,
    /// The latest SYN-ACK, FIN or reset of the listener's side.
    heard: Option<u64>,
    /// What was sent to it in vain.
    drops: Drops,
    /// The connections that it had opened at the end of the capture.
    pub(crate) held: HeldConnections,
    /// When the latest group of ends began, and how many there were.
    burst: (u64, u32),
    /// The greatest such group.
    greatest: (u64, u32),
    touched: u64,
}

/// Packets of clients that a listener has dropped, as far as the capture shows: they were sent again, or nothing came back. Linux
/// counts each of them in `ListenOverflows` and in `ListenDrops`, if its accept queue was full.
///
/// It does not count a bare ACK that `TCP_DEFER_ACCEPT` holds back (`tcp_check_req`: `TCPDeferAcceptDrop`), but one that answers a SYN
/// cookie (`cookie_v4_check`). Packets do not tell the two apart. Nor do they show a bare ACK that was dropped just before the data
/// behind it was taken, which it counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Drops {
    /// SYNs.
    pub syns: u32,
    /// What clients sent after a SYN-ACK of which the server took no note: the last packet of the handshake, and data.
    pub answers: u32,
    /// Those of the answers that are nothing but an acknowledgement.
    pub bare: u32,
    /// What clients sent after a SYN-ACK, and got a reset for, as with `tcp_abort_on_overflow`. It is in no other count here.
    pub refused: u32,
}

impl Drops {
    /// What clients sent behind a SYN-ACK in vain.
    pub(crate) fn of(unheard: UnheardPackets) -> Self {
        debug_assert!(unheard.bare <= unheard.all);
        Self { answers: unheard.all, bare: unheard.bare, ..Self::default() }
    }

    /// All that were dropped without a word.
    pub fn total(self) -> u64 {
        u64::from(self.syns) + u64::from(self.answers)
    }

    /// What the kernel has counted in `ListenOverflows` at least, if nothing was lost on the way to it.
    pub fn at_least(self) -> u64 {
        self.total() + u64::from(self.refused) - u64::from(self.bare.min(self.answers))
    }
}

/// Connections with a request that a listener's host has opened, and that nobody has closed by the end of the capture. The application
/// has said nothing on them: either it has not accepted them, or it has no answer yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeldConnections {
    pub(crate) count: u32,
    /// The latest SYN-ACK of them.
    pub(crate) opened: u64,
    /// The latest acknowledgement of them.
    pub(crate) heard: Option<u64>,
    /// When the host reset the first of them: because the listener ended, or because the application had taken it.
    pub(crate) ended: Option<u64>,
    /// The latest packet of a connection on which the application has said something, or of which it has sent the FIN.
    pub(crate) served: Option<u64>,
}

/// How many connections of a listener opened within [`CROWD_SPAN`], after how many SYNs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Openings {
    pub(crate) start: u64,
    /// Those that were accepted at a repeated SYN only, and those at the first.
    pub(crate) again: u32,
    pub(crate) at_first: u32,
    /// Of the latter those that sent their first data three times, or got another SYN-ACK, before they were heard.
    pub(crate) unheard: u32,
}

/// Openings within this time, in nanoseconds, are counted together.
pub(crate) const CROWD_SPAN: u64 = 10_000_000_000;
/// Fewer connections than these that were accepted at a repeated SYN only are no crowd.
const CROWD: u32 = 16;

impl Openings {
    /// Whether so many SYNs went unanswered that a link which loses one in five does not explain it: more than that by 4.33 standard
    /// deviations (`(again - all/5)^2 >= 4.33^2 * all * 0.2 * 0.8`), which such a link reaches less than once in 10,000 times for any number.
    ///
    /// A full queue also drops what follows a SYN-ACK, if the kernel had answered the SYN with a cookie. Connections that sent their first
    /// data three times, or got another SYN-ACK, count too, against one in four: such a link fails 23 % of all openings so. Two copies prove
    /// little: an acknowledgement may be delayed by half a second (RFC 1122 section 4.2.3.2), but not that of a copy.
    fn is_crowded(self) -> bool {
        let (again, all) = (u64::from(self.again), u64::from(self.again) + u64::from(self.at_first));
        let dropped = self.dropped();
        self.again >= CROWD && (5 * again).saturating_sub(all).pow(2) >= 75 * all
            || dropped >= u64::from(CROWD) && 4 * (4 * dropped).saturating_sub(all).pow(2) >= 225 * all
    }

    /// Connections that were not taken at first.
    fn dropped(self) -> u64 {
        u64::from(self.again) + u64::from(self.unheard)
    }

    fn has_begun_by(self, time: u64) -> bool {
        (self.start..=self.start.saturating_add(CROWD_SPAN)).contains(&time)
    }
}

/// As many connections of one listener that opened late have one reason.
const OPENED_LATE: u32 = 3;

impl ListenerHistory {
    /// Keeps the openings since the latest beginning, if they are the greatest crowd.
    fn note_crowd(&mut self) {
        let greatest = self.crowd.map_or(0, Openings::dropped);
        if self.openings.is_crowded() && self.openings.dropped() > greatest {
            self.crowd = Some(self.openings);
        }
    }

    /// Whether the listener leaves SYNs unanswered for a time: connections opened late, and they are most of those whose SYN was
    /// repeated. On a lossy link few SYNs are lost twice in a row.
    pub(crate) fn leaves_waiting(&self) -> bool {
        self.opened_late >= OPENED_LATE && self.opened_late > self.asked_again / 2
    }

    /// How many connections the listener's side ended together around `time`.
    pub(crate) fn ended_together(&self, time: u64) -> u32 {
        [self.burst, self.greatest]
            .iter()
            .filter(|(start, _)| {
                time.saturating_add(TOGETHER) >= *start && time <= start.saturating_add(2 * TOGETHER)
            })
            .map(|&(_, count)| count)
            .max()
            .unwrap_or(0)
    }

    /// The largest number of connections that the listener's side ended at once, at most `before` nanoseconds
    /// before `time`.
    pub(crate) fn ended_within(&self, time: u64, before: u64) -> u32 {
        [self.burst, self.greatest]
            .iter()
            .filter(|(start, _)| *start <= time && time - start <= before)
            .map(|&(_, count)| count)
            .max()
            .unwrap_or(0)
    }
}

/// The listeners of a capture.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    listeners: HashMap<ListenerAddress, ListenerHistory>,
}

impl Surroundings {
    pub(crate) fn of(&self, listener: ListenerAddress) -> ListenerHistory {
        self.listeners.get(&listener).copied().unwrap_or_default()
    }

    fn touch(&mut self, listener: ListenerAddress, time: u64) -> &mut ListenerHistory {
        if self.listeners.len() >= MAX_LISTENERS && !self.listeners.contains_key(&listener) {
            // Half of them at once, so that the search costs little for each listener that is added.
            let mut times: Vec<u64> = self.listeners.values().map(|listener| listener.touched).collect();
            let middle = times.len() / 2;
            let (_, &mut median, _) = times.select_nth_unstable(middle);
            self.listeners.retain(|_, listener| listener.touched > median);
        }
        let listener = self.listeners.entry(listener).or_default();
        listener.touched = time;
        listener
    }

    pub(crate) fn accepts(&mut self, listener: ListenerAddress, time: u64, ttl: u8) {
        let listener = self.touch(listener, time);
        listener.accepted = Some(time);
        listener.heard = Some(time);
        listener.ttl = Some(ttl);
    }

    /// The listener's side sent a FIN or a reset.
    pub(crate) fn hears(&mut self, listener: ListenerAddress, time: u64) {
        self.touch(listener, time).heard = Some(time);
    }

    /// A SYN that was sent again at `time`, the connection's first packet at `first`. `known`: the listener had answered others
    /// by the time of the SYN before. Returns whether it has by now.
    pub(crate) fn asks_again(
        &mut self,
        listener: ListenerAddress,
        first: u64,
        time: u64,
        known: bool,
    ) -> bool {
        let listener = self.touch(listener, time);
        if known {
            listener.served_others = listener.served_others.saturating_add(1);
        }
        listener.heard.is_some_and(|heard| heard > first)
    }

    /// A connection was accepted after so many SYNs.
    pub(crate) fn opens(&mut self, listener: ListenerAddress, time: u64, syns: u8, late: bool) {
        let listener = self.touch(listener, time);
        let again = u32::from(syns > 1);
        let openings = &mut listener.openings;
        if time.saturating_sub(openings.start) > CROWD_SPAN {
            *openings = Openings { start: time, ..Openings::default() };
        }
        openings.again = openings.again.saturating_add(again);
        openings.at_first = openings.at_first.saturating_add(1 - again);
        listener.note_crowd();
        listener.asked_again = listener.asked_again.saturating_add(again);
        listener.drops.syns = listener.drops.syns.saturating_add(u32::from(syns.saturating_sub(1)));
        listener.opened_late = listener.opened_late.saturating_add(u32::from(late));
    }

    /// The listener had answered the first SYN of a connection at `time`, and did not hear it at first.
    pub(crate) fn ignores(&mut self, listener: ListenerAddress, time: u64) {
        if let Some(listener) = self.listeners.get_mut(&listener)
            && listener.openings.has_begun_by(time)
        {
            listener.openings.unheard = listener.openings.unheard.saturating_add(1);
            listener.note_crowd();
        }
    }

    /// Packets to the listener were dropped.
    pub(crate) fn drops(&mut self, listener: ListenerAddress, drops: Drops) {
        if drops != Drops::default()
            && let Some(listener) = self.listeners.get_mut(&listener)
        {
            let all = &mut listener.drops;
            all.syns = all.syns.saturating_add(drops.syns);
            all.answers = all.answers.saturating_add(drops.answers);
            all.bare = all.bare.saturating_add(drops.bare);
            all.refused = all.refused.saturating_add(drops.refused);
        }
    }

    /// A connection on which the application has said something, its last packet at `time`.
    pub(crate) fn serves(&mut self, listener: ListenerAddress, time: u64) {
        if let Some(listener) = self.listeners.get_mut(&listener) {
            listener.held.served = listener.held.served.max(Some(time));
        }
    }

    /// A connection was opened at `time`, and the application has said nothing to its request.
    pub(crate) fn holds(
        &mut self,
        listener: ListenerAddress,
        time: u64,
        heard: Option<u64>,
        ended: Option<u64>,
    ) {
        if let Some(listener) = self.listeners.get_mut(&listener) {
            listener.held.count = listener.held.count.saturating_add(1);
            listener.held.opened = listener.held.opened.max(time);
            listener.held.heard = listener.held.heard.max(heard);
            listener.held.ended = [listener.held.ended, ended].into_iter().flatten().min();
        }
    }

    /// What was dropped, by listener. Of a listener that was seen in several networks or on several interfaces, the least counts: what
    /// was lost on the way to it met no queue.
    pub(crate) fn dropped(&self) -> BTreeMap<SocketAddr, Drops> {
        let mut all = BTreeMap::<SocketAddr, Drops>::new();
        for ((address, _), listener) in
            self.listeners.iter().filter(|(_, listener)| listener.drops != Drops::default())
        {
            let least = all.entry(*address).or_insert(listener.drops);
            if listener.drops.total() < least.total() {
                *least = listener.drops;
            }
        }
        all
    }

    pub(crate) fn repeats(&mut self, listener: ListenerAddress, time: u64) {
        let listener = self.touch(listener, time);
        listener.repeats = listener.repeats.saturating_add(1);
    }

    /// The listener's host refused the first packet after a handshake.
    pub(crate) fn turns_away(&mut self, listener: ListenerAddress, time: u64) {
        let listener = self.touch(listener, time);
        listener.turned_away = listener.turned_away.saturating_add(1);
    }

    pub(crate) fn refuses(&mut self, listener: ListenerAddress, time: u64, frame: u64) {
        let listener = self.touch(listener, time);
        let accepted = listener.accepted.filter(|&accepted| accepted < time);
        listener.refused = Some(RefusedSyn { time, frame, accepted });
    }

    /// The listener's side ended an open connection, by FIN or by reset.
    pub(crate) fn ends(&mut self, listener: ListenerAddress, time: u64) {
        let listener = self.touch(listener, time);
        if time.saturating_sub(listener.burst.0) <= TOGETHER {
            listener.burst.1 = listener.burst.1.saturating_add(1);
        } else {
            listener.burst = (time, 1);
        }
        if listener.burst.1 >= listener.greatest.1 {
            listener.greatest = listener.burst;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_at_once_are_counted_together() {
        let listener = ("10.0.0.1:80".parse().unwrap(), Network::default());
        let mut all = Surroundings::default();
        for n in 0..6 {
            all.ends(listener, 1_000_000_000 + n);
        }
        all.ends(listener, 9_000_000_000);
        assert_eq!(all.of(listener).ended_together(1_000_000_003), 6);
        assert_eq!(all.of(listener).ended_together(9_000_000_000), 1);
        assert_eq!(all.of(listener).ended_together(5_000_000_000), 0);
    }

    #[test]
    fn memory_is_bounded_and_the_latest_stay() {
        let mut all = Surroundings::default();
        for n in 0..20_000u32 {
            all.accepts((SocketAddr::from((n.to_be_bytes(), 80)), Network::default()), u64::from(n), 64);
            assert!(all.listeners.len() <= MAX_LISTENERS);
        }
        assert!(
            all.of((SocketAddr::from((19_999u32.to_be_bytes(), 80)), Network::default())).accepted.is_some()
        );
    }
}
