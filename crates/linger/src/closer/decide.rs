//! What the closer's thread decides about a socket, apart from how it is done.

/// A peer of which this many bytes were discarded counts as flooding.
pub(super) const FLOOD: u64 = 1 << 20;

/// Whether a read has emptied the socket, so that no second call is needed to know it.
///
/// `fresh`: epoll has just reported the socket readable and not closed, so later data raises a new event. `share` bytes
/// were asked for, and `bytes` were read. If that is less, the kernel had no more, provided that the read was made
/// without a buffer: a read through the buffer returns at most [`linger_sys::SCRATCH`] bytes, however many there are.
pub(super) fn is_emptied(fresh: bool, bytes: u64, share: u64) -> bool {
    fresh && bytes < share && bytes > linger_sys::SCRATCH
}

/// What to do with a receive buffer after a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buffer {
    /// Leave the buffer as it is.
    Kept,
    /// Small: nothing is read any more, or slowly.
    Narrow,
    /// Leave the buffer as it is, and ask for fewer wake-ups.
    Batched,
}

/// How to treat the buffer of a socket from which `discarded` bytes were read in all.
///
/// `sated`: the policy lets nothing more be read. `bounded`: all sockets share a rate. `known`: the flood was
/// treated before.
pub(super) fn buffer(discarded: u64, sated: bool, bounded: bool, known: bool) -> Buffer {
    match (sated, discarded >= FLOOD && !known, bounded) {
        (true, _, _) | (false, true, true) => Buffer::Narrow,
        (false, true, false) => Buffer::Batched,
        (false, false, _) => Buffer::Kept,
    }
}

/// What a fired timer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fired {
    /// The socket has bytes to read and waits for its turn. The peer is not silent then, so only the bound of the whole
    /// close applies.
    UntilItsEnd,
    /// The deadline has moved to a later time.
    Again,
    /// Ask the machine.
    Due,
}

/// What a timer that has fired by `now` means. `queued`: the socket waits for its turn. `end` bounds the whole close, `patience`
/// the present silence.
pub(super) fn fired(now: u64, queued: bool, end: u64, patience: u64) -> Fired {
    if queued && now < end {
        Fired::UntilItsEnd
    } else if now < patience {
        Fired::Again
    } else {
        Fired::Due
    }
}

/// The earliest of several times, if there is one.
pub(super) fn earliest<const COUNT: usize>(times: [Option<u64>; COUNT]) -> Option<u64> {
    times.into_iter().flatten().min()
}

/// Returns how soon the thread has to look at the board: `within`, or 0 while more sockets linger than `most`.
pub(super) fn urgency(within: u64, lingering: u64, most: usize) -> u64 {
    if lingering > most as u64 { 0 } else { within }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use linger_sys::SCRATCH;

    #[test]
    fn a_socket_is_known_to_be_empty_after_a_short_read_of_its_own() {
        let share = 4 * SCRATCH;
        assert!(is_emptied(true, SCRATCH + 1, share));
        assert!(is_emptied(true, share - 1, share));
        // One thing different each: what came after the event is not known, all was given, a buffer was used.
        assert!(!is_emptied(false, SCRATCH + 1, share));
        assert!(!is_emptied(true, share, share));
        assert!(!is_emptied(true, SCRATCH, share));
    }

    #[test]
    fn a_buffer_changes_once_for_a_flood_and_whenever_nothing_more_is_read() {
        let cases = [
            ((FLOOD - 1, false, false, false), Buffer::Kept),
            ((FLOOD, false, false, false), Buffer::Batched),
            ((FLOOD, false, false, true), Buffer::Kept),
            ((FLOOD, false, true, false), Buffer::Narrow),
            ((FLOOD - 1, false, true, false), Buffer::Kept),
            ((FLOOD, false, true, true), Buffer::Kept),
            ((1, true, false, false), Buffer::Narrow),
            ((FLOOD, true, false, false), Buffer::Narrow),
            ((FLOOD, true, true, true), Buffer::Narrow),
        ];
        for ((discarded, sated, bounded, known), wanted) in cases {
            let got = buffer(discarded, sated, bounded, known);
            assert_eq!(got, wanted, "{discarded} {sated} {bounded} {known}");
        }
    }

    #[test]
    fn who_waits_for_its_turn_is_not_silent_but_has_an_end() {
        let cases = [
            ((5, true, 9, 5), Fired::UntilItsEnd),
            ((5, false, 9, 5), Fired::Due),
            ((9, true, 9, 9), Fired::Due),
            ((5, true, 5, 6), Fired::Again),
            ((5, false, 9, 6), Fired::Again),
        ];
        for ((now, queued, end, patience), wanted) in cases {
            assert_eq!(fired(now, queued, end, patience), wanted, "{now} {queued} {end} {patience}");
        }
    }

    #[test]
    fn the_earliest_time_counts_and_too_many_sockets_are_urgent() {
        assert_eq!(earliest([Some(3), None, Some(2)]), Some(2));
        assert_eq!(earliest([None; 3]), None);
        assert_eq!((urgency(7, 3, 3), urgency(7, 4, 3)), (7, 0));
    }
}
