//! Selective acknowledgements: what arrived beyond a hole.

use linger_packet::Segment;

/// What a side has acknowledged beyond its acknowledgement, by selective acknowledgements (RFC 2018).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sacked {
    /// How many bytes. An upper bound if `is_partial`.
    pub(crate) bytes: u32,
    /// The longest block seen.
    pub(crate) longest: u16,
    /// Whether blocks may have been left out, because a segment has room for three or four only.
    pub(crate) is_partial: bool,
}

/// How many blocks fill the options of a segment that has timestamps too (RFC 2018 section 3).
const MANY_BLOCKS: u32 = 3;

impl Sacked {
    /// Takes the blocks of a selective acknowledgement. The latest segment with any tells of all of them, as far as they fit.
    #[cold]
    pub(crate) fn take(&mut self, segment: &Segment<'_>) {
        let beyond = |number: u32| number.wrapping_sub(segment.ack);
        let blocks = || {
            segment.sack_blocks().filter(move |&(from, to)| {
                let (from, to) = (beyond(from), beyond(to));
                from > 0 && from < to && to < 1 << 30
            })
        };
        // A first block inside the second one reports bytes that came twice (RFC 2883).
        let mut first_two = blocks().take(2);
        let twice = match (first_two.next(), first_two.next()) {
            (Some(first), Some(second)) => {
                beyond(first.0) >= beyond(second.0) && beyond(first.1) <= beyond(second.1)
            }
            _ => false,
        };
        let (mut count, mut bytes, mut end) = (0, 0u32, 0);
        for (from, to) in blocks().skip(usize::from(twice)) {
            count += 1;
            bytes = bytes.saturating_add(to.wrapping_sub(from));
            end = end.max(beyond(to));
            let length = to.wrapping_sub(from).min(u32::from(u16::MAX)) as u16;
            self.longest = self.longest.max(length);
        }
        if count > 0 {
            self.is_partial = count >= MANY_BLOCKS;
            // All bytes up to the end of the last block, less one: before the first block at least a byte is missing.
            self.bytes = if self.is_partial { end - 1 } else { bytes };
        }
    }
}
