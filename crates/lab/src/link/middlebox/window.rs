//! Which packets are in the window, as a box between the ends can know it: the four bounds of "Real Stateful TCP Packet Filtering in IP
//! Filter" (Guido van Rooij, 2000), as Linux has them since 6.2 (`tcp_in_window`): what is beyond an upper bound is INVALID, what is
//! below a lower one passes, and nothing is concluded from it.

use linger_packet::{Flags, Segment};

/// The part of a packet that the bounds are about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) seq: u32,
    /// One beyond the last byte, SYN and FIN counted.
    pub(super) end: u32,
    pub(super) ack: Option<u32>,
    /// The highest byte that is acknowledged, selectively or not.
    sack: u32,
    window: u32,
    is_syn: bool,
    /// Of a SYN's options.
    scale: Option<u8>,
}

impl Numbers {
    pub(super) fn of(segment: &Segment<'_>) -> Self {
        let has_ack = segment.flags.has(Flags::ACK);
        // "Broken TCP stacks, that set ACK in RST packets as well with zero ack value" (tcp_in_window).
        let ack = Some(segment.ack).filter(|ack| has_ack && (*ack != 0 || !segment.flags.has(Flags::RST)));
        let sacked = segment.sack_blocks().map(|(_, end)| end);
        Self {
            seq: segment.seq,
            end: segment.end(),
            ack,
            sack: sacked.fold(segment.ack, |high, end| if is_after(end, high) { end } else { high }),
            window: u32::from(segment.window.unwrap_or(0)),
            is_syn: segment.flags.has(Flags::SYN),
            scale: segment.parse_options().window_scale,
        }
    }
}

/// What is known of the packets of one direction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OneSide {
    /// One beyond the highest byte sent.
    pub(super) end: u32,
    /// One beyond the highest byte that the receiver has room for.
    max_end: u32,
    /// The largest window that its packets offered; 0 before the first.
    max_window: u32,
    /// Its highest acknowledgement: what its receiver expects next of the other.
    pub(super) max_ack: Option<u32>,
    scale: Option<u8>,
}

/// What the bounds say of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Inside,
    /// Below a lower bound, or a little too much.
    Ignored,
    Outside,
}

/// Largest distance of an old acknowledgement (MAXACKWINCONST).
const OLD_ACK: u32 = 66_000;

fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

impl OneSide {
    /// Of the packet that opens a connection.
    pub(super) fn first(numbers: &Numbers) -> Self {
        let mut side = Self {
            end: numbers.end,
            max_end: numbers.end,
            max_window: numbers.window.max(1),
            max_ack: None,
            scale: numbers.scale,
        };
        if !numbers.is_syn {
            // In the middle of a connection nothing is known of its window but what this packet says.
            side.max_end = numbers.end.wrapping_add(side.max_window);
        }
        side
    }

    fn is_known(&self) -> bool {
        self.max_window > 0
    }
}

/// Compares a packet with what is known of both directions, and learns from it if it is inside.
pub(super) fn check(
    sender: &mut OneSide,
    receiver: &mut OneSide,
    numbers: &Numbers,
    is_opening: bool,
    is_liberal: bool,
) -> Fit {
    let is_new_syn = numbers.is_syn && is_opening && is_after(numbers.end, sender.end);
    if numbers.is_syn && (!sender.is_known() || is_new_syn) {
        *sender = OneSide::first(numbers);
        if sender.scale.is_none() || receiver.scale.is_none() {
            // Both have to offer it (RFC 7323 section 2.2).
            (sender.scale, receiver.scale) = (None, None);
        }
    } else if !sender.is_known() {
        let ack = numbers.ack.unwrap_or(receiver.end);
        *sender = OneSide { scale: sender.scale, ..OneSide::first(numbers) };
        if !receiver.is_known() {
            (receiver.end, receiver.max_end) = (ack, ack);
        } else if ack == receiver.end.wrapping_add(1) {
            // The answer to a keep-alive.
            receiver.end = ack;
        }
    }
    let (ack, sack) = numbers.ack.map_or((receiver.end, receiver.end), |ack| (ack, numbers.sack));
    let oldest_ack = receiver.end.wrapping_sub(OLD_ACK.max(sender.max_window)).wrapping_sub(1);
    let is_ack_old = !is_after(sack, oldest_ack);
    let oldest_end = sender.end.wrapping_sub(receiver.max_window).wrapping_sub(1);
    let is_old = receiver.is_known() && !is_after(numbers.end, oldest_end);
    let outside = if is_liberal { Fit::Inside } else { Fit::Outside };
    if is_after(numbers.seq, sender.max_end) {
        let beyond = numbers.end.wrapping_sub(sender.max_end).wrapping_add(1);
        let is_small = receiver.is_known() && beyond <= receiver.max_window;
        if is_small && !is_old && !is_ack_old && !is_after(sack, receiver.end) {
            // A sender that takes a little more room than it has. Its bytes may still be acknowledged.
            sender.end = numbers.end;
            return if is_liberal { Fit::Inside } else { Fit::Ignored };
        }
        return outside;
    }
    if is_after(sack, receiver.end) {
        return outside;
    }
    if is_old || is_ack_old {
        return if is_liberal { Fit::Inside } else { Fit::Ignored };
    }
    learn(sender, receiver, numbers, (ack, sack));
    Fit::Inside
}

fn learn(sender: &mut OneSide, receiver: &mut OneSide, numbers: &Numbers, (ack, sack): (u32, u32)) {
    let scale = if numbers.is_syn { 0 } else { sender.scale.unwrap_or(0) };
    let window = numbers.window << scale;
    sender.max_window = sender.max_window.max(window.saturating_add(sack.wrapping_sub(ack)));
    if is_after(numbers.end, sender.end) {
        sender.end = numbers.end;
    }
    if numbers.ack.is_some() && sender.max_ack.is_none_or(|max| is_after(ack, max)) {
        sender.max_ack = Some(ack);
    }
    if receiver.is_known() && is_after(numbers.end, sender.max_end) {
        let more = numbers.end.wrapping_sub(sender.max_end);
        receiver.max_window = receiver.max_window.saturating_add(more);
    }
    let right = sack.wrapping_add(window.max(1));
    if !is_after(receiver.max_end, right) {
        receiver.max_end = right;
    }
}
