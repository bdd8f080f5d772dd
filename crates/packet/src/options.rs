//! The TCP options that a diagnosis needs (RFC 9293 section 3.1, RFC 7323).

/// The options of one segment. An absent or malformed option is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Maximum segment size in bytes.
    pub mss: Option<u16>,
    /// Shift count of the window scale option, at most 14 (RFC 7323 section 2.3).
    pub window_scale: Option<u8>,
    /// TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// The sender accepts selective acknowledgements.
    pub sack_permitted: bool,
    /// Selective acknowledgement blocks are present.
    pub sack: bool,
    /// Why Multipath TCP ends this subflow, or the whole connection.
    pub mptcp_end: Option<MptcpEnd>,
}

/// What Multipath TCP says in a reset (RFC 8684 sections 3.5 and 3.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MptcpEnd {
    /// MP_TCPRST: the subflow ends for this reason.
    Subflow {
        /// The reason's code.
        reason: u8,
        /// The T bit: the error is temporary, and the receiver of the reset may set the subflow up again.
        transient: bool,
    },
    /// MP_FASTCLOSE: all subflows end.
    Connection,
}

/// The blocks of a selective acknowledgement (RFC 2018): the first sequence number of each, and the one after its last.
#[inline]
pub(crate) fn sack_blocks(mut bytes: &[u8]) -> impl Iterator<Item = (u32, u32)> {
    let blocks = loop {
        match bytes {
            [] | [0, ..] | [_] => break &[][..],
            [1, rest @ ..] => bytes = rest,
            [kind, length, ..] => match bytes.split_at_checked(usize::from(*length)) {
                Some((option, _)) if *kind == 5 && option.len() >= 2 => break &option[2..],
                Some((option, rest)) if option.len() >= 2 => bytes = rest,
                _ => break &[][..],
            },
        }
    };
    blocks.chunks_exact(8).map(|block| (be32(block, 0), be32(block, 4)))
}

impl TcpOptions {
    /// Reads the bytes between the fixed header and the payload.
    ///
    /// Stops at the first option with an impossible length, and keeps the options before it.
    pub fn parse(mut bytes: &[u8]) -> Self {
        let mut options = Self::default();
        // The layout almost every data segment has: NOP, NOP, timestamps (RFC 7323 appendix A).
        if let [1, 1, 8, 10, rest @ ..] = bytes
            && rest.len() == 8
        {
            options.timestamps = Some((be32(rest, 0), be32(rest, 4)));
            return options;
        }
        loop {
            match bytes {
                [] | [0, ..] => return options,
                [1, rest @ ..] => bytes = rest,
                [kind, length, ..] => {
                    let length = usize::from(*length);
                    if length < 2 || length > bytes.len() {
                        return options;
                    }
                    let (option, rest) = bytes.split_at(length);
                    match (*kind, length) {
                        (2, 4) => options.mss = Some(u16::from_be_bytes([option[2], option[3]])),
                        (3, 3) => options.window_scale = Some(option[2].min(14)),
                        (4, 2) => options.sack_permitted = true,
                        (5, _) => options.sack = true,
                        (30, 4) if option[2] >> 4 == 8 => {
                            let transient = option[2] & 1 != 0;
                            options.mptcp_end = Some(MptcpEnd::Subflow { reason: option[3], transient });
                        }
                        (30, 12) if option[2] >> 4 == 7 => options.mptcp_end = Some(MptcpEnd::Connection),
                        (8, 10) => options.timestamps = Some((be32(option, 2), be32(option, 6))),
                        _ => {}
                    }
                    bytes = rest;
                }
                [_] => return options,
            }
        }
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syn_is_read() {
        let bytes = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];
        let options = TcpOptions::parse(&bytes);
        assert_eq!(options.mss, Some(1460));
        assert_eq!(options.window_scale, Some(7));
        assert_eq!(options.timestamps, Some((1, 2)));
        assert!(options.sack_permitted && !options.sack);
    }

    #[test]
    fn the_reason_of_a_multipath_reset_is_read() {
        let end = |bytes: &[u8]| TcpOptions::parse(bytes).mptcp_end;
        assert_eq!(end(&[30, 4, 0x81, 5]), Some(MptcpEnd::Subflow { reason: 5, transient: true }));
        assert_eq!(end(&[1, 1, 30, 4, 0x80, 0]), Some(MptcpEnd::Subflow { reason: 0, transient: false }));
        assert_eq!(end(&[30, 12, 0x70, 0, 1, 2, 3, 4, 5, 6, 7, 8]), Some(MptcpEnd::Connection));
        assert_eq!((end(&[30, 4, 0x60, 5]), end(&[30, 3, 0x81]), end(&[30, 4, 0x81])), (None, None, None));
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        assert_eq!(TcpOptions::parse(&[3, 3, 9, 8, 200, 1]).window_scale, Some(9));
        assert_eq!(TcpOptions::parse(&[8, 0, 0]), TcpOptions::default());
        assert_eq!(TcpOptions::parse(&[8]), TcpOptions::default());
        assert_eq!(TcpOptions::parse(&[3, 3, 200]).window_scale, Some(14), "RFC 7323: 14 is the most");
    }

    #[test]
    fn blocks_are_found_behind_other_options() {
        let block = [0, 0, 0, 9, 0, 0, 1, 0];
        let with = |before: &[u8], length: u8| {
            let bytes = [before, &[5, length], &block, &block].concat();
            sack_blocks(&bytes).collect::<Vec<_>>()
        };
        let timestamps = [1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!(with(&[1, 1], 18), [(9, 256), (9, 256)]);
        assert_eq!(with(&timestamps, 10), [(9, 256)]);
        assert_eq!(with(&[0], 18), [], "the end of the list");
        assert_eq!(with(&[], 19), [], "longer than the header");
        assert_eq!(sack_blocks(&timestamps).count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            sack_blocks(&bytes).count();
            TcpOptions::parse(&bytes);
        }
    }
}
