//! Faults that events trigger: what they do to a segment, and what is held for them.

use std::cmp::Reverse;
use std::time::Duration;

use linger_packet::Flags;

use super::{Emulator, Pending, SeenSegment};
use crate::clock::Nanos;
use crate::link::decision::Decision;
use crate::link::identity::Identity;
use crate::link::{Direction, LinkFault};

impl<P: AsRef<[u8]> + AsMut<[u8]> + for<'a> From<&'a [u8]>> Emulator<P> {
    /// What the first fault that applies to this segment does to it, and the longest time for which; `None` if no fault applies.
    pub(super) fn strike(
        &mut self,
        direction: Direction,
        identity: &Identity,
        look: SeenSegment,
    ) -> Option<(Decision, Duration)> {
        let reset_or_syn = look.flags.any(Flags::RST | Flags::SYN);
        let data = look.data;
        let ends = look.flags.has(Flags::FIN);
        for fault in &self.link.faults {
            match *fault {
                LinkFault::HoldDataUntilReset { direction: of, at_most }
                    if of == direction && !reset_or_syn && (data || ends) =>
                {
                    return Some((Decision::Held, at_most));
                }
                LinkFault::DropDataSegment { direction: of, nth }
                    if of == direction && data && identity.transmission == 0 =>
                {
                    let seen = self.data_segments.entry((identity.flow, direction)).or_default();
                    *seen += 1;
                    if *seen == nth {
                        return Some((Decision::Dropped, Duration::ZERO));
                    }
                }
                LinkFault::HoldAcks { direction: of, hold }
                    if of == direction && !reset_or_syn && !data && !ends =>
                {
                    return Some((Decision::AckHeld, hold));
                }
                _ => {}
            }
        }
        None
    }

    /// Ends [`LinkFault::HoldDataUntilReset`] for a connection: if the receiver will accept this reset, sends the held
    /// packets right after it. The receiver accepts a reset whose sequence number is that of the first held byte (RFC
    /// 5961 section 3.2).
    pub(super) fn reset_passes(&mut self, direction: Direction, flow: u32, sequence: u32, due: Nanos) {
        let Some(held) = self.held.get(&flow) else { return };
        let oldest = held.iter().filter(|held| held.pending.direction == direction).map(|held| held.sequence);
        let oldest = oldest.min_by_key(|candidate| candidate.wrapping_sub(sequence) as i32);
        if oldest != Some(sequence) {
            return;
        }
        for held in self.held.remove(&flow).into_iter().flatten() {
            // Due with the reset, and queued after it in their own order.
            let order = self.next_order();
            self.queue.push(Reverse(Pending { due, order, ..held.pending }));
        }
    }

    pub(super) fn release_overdue(&mut self, now: Nanos) {
        for held in self.held.values_mut() {
            while held.front().is_some_and(|held| held.pending.due <= now) {
                self.queue.extend(held.pop_front().map(|held| Reverse(held.pending)));
            }
        }
        self.held.retain(|_, held| !held.is_empty());
    }
}
