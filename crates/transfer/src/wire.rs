//! Frames on the wire: the preface, headers and their limits, without I/O. `docs/transfer-protocol.md` specifies
//! them.

/// The first bytes that each side sends. Two bytes follow: the newest version that it speaks, and the oldest.
pub(crate) const MAGIC: [u8; 6] = *b"LNGRTX";
/// The newest version of the protocol that this crate speaks.
pub const VERSION: u8 = 3;
/// The oldest version that this crate speaks. Version 2 adds WORK, and fields at the end of some messages; version 3 the answer to
/// a goodbye.
const OLDEST: u8 = 1;
/// Bytes of a preface: the magic and two versions.
pub(crate) const PREFACE: usize = 8;
/// Bytes of a frame header.
pub(crate) const HEADER: usize = 8;
/// Most payload bytes of a DATA frame: one block.
pub const MAX_DATA: usize = 1 << 20;
/// Most payload bytes of an OPEN or MESSAGE frame.
pub const MAX_MESSAGE: usize = 64 << 10;
/// Most bytes of the reason in CANCEL and BYE.
pub(crate) const MAX_REASON: usize = 1 << 10;

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Open = 1,
    Message = 2,
    Data = 3,
    Finish = 4,
    Cancel = 5,
    Credit = 6,
    Ping = 7,
    Pong = 8,
    Bye = 9,
    Work = 10,
}

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FrameKind,
    pub(crate) stream: u16,
    /// Bytes of the payload.
    pub(crate) length: u32,
}

impl Header {
    /// The header of a frame with this payload. The payload of DATA is not checked, and may be empty here.
    pub(crate) fn encode(self, payload: &[u8]) -> [u8; HEADER] {
        let [_, b, c, d] = self.length.to_be_bytes();
        let [s, t] = self.stream.to_be_bytes();
        let sum = if self.kind == FrameKind::Data { 0 } else { parity(payload) };
        let header = [sum, b, c, d, self.kind as u8, 0, s, t];
        [sum, b, c, d, self.kind as u8, parity(&header), s, t]
    }

    /// Reads a header and checks it against the limits of its kind, which do not depend on any state.
    pub(crate) fn decode(bytes: [u8; HEADER]) -> Result<Self, Violation> {
        if parity(&bytes) != 0 {
            return Err(Violation::Damaged("header"));
        }
        let [_, b, c, d, kind, _, s, t] = bytes;
        let length = u32::from_be_bytes([0, b, c, d]);
        let kind = match kind {
            1 => FrameKind::Open,
            2 => FrameKind::Message,
            3 => FrameKind::Data,
            4 => FrameKind::Finish,
            5 => FrameKind::Cancel,
            6 => FrameKind::Credit,
            7 => FrameKind::Ping,
            8 => FrameKind::Pong,
            9 => FrameKind::Bye,
            10 => FrameKind::Work,
            other => return Err(Violation::UnknownFrame(other)),
        };
        let allowed = match kind {
            FrameKind::Open | FrameKind::Message => 0..=MAX_MESSAGE,
            FrameKind::Data => 1..=MAX_DATA,
            FrameKind::Finish => 0..=0,
            FrameKind::Cancel | FrameKind::Bye => 2..=2 + MAX_REASON,
            FrameKind::Credit | FrameKind::Ping | FrameKind::Pong => 8..=8,
            FrameKind::Work => 17..=17,
        };
        if !allowed.contains(&(length as usize)) {
            return Err(Violation::BadLength { kind: kind as u8, length });
        }
        Ok(Self { kind, stream: u16::from_be_bytes([s, t]), length })
    }
}

/// The exclusive or of all bytes. It detects any single flipped bit, which could otherwise make a peer wait for bytes
/// that were never sent. TCP's checksum misses some damage (Stone and Partridge, "When the CRC and TCP checksum
/// disagree", SIGCOMM 2000).
fn parity(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum ^ byte)
}

/// Checks that the payload of a frame other than DATA fits its header.
pub(crate) fn check_payload(header: [u8; HEADER], payload: &[u8]) -> Result<(), Violation> {
    if header[0] == parity(payload) { Ok(()) } else { Err(Violation::Damaged("payload")) }
}

/// Makes the preface.
pub(crate) fn preface() -> [u8; PREFACE] {
    let [a, b, c, d, e, f] = MAGIC;
    [a, b, c, d, e, f, VERSION, OLDEST]
}

/// Reads the peer's preface. Returns the newest version that both sides speak.
pub(crate) fn read_preface(bytes: [u8; PREFACE]) -> Result<u8, Violation> {
    let [magic @ .., newest, oldest] = bytes;
    if magic != MAGIC {
        return Err(Violation::NotThisProtocol);
    }
    if oldest > VERSION || newest < OLDEST {
        return Err(Violation::Version { newest, oldest });
    }
    Ok(newest.min(VERSION))
}

/// Makes the payload of CANCEL and BYE; a reason that is too long is cut.
pub(crate) fn reason_bytes(code: u16, reason: &str) -> Vec<u8> {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    [&code.to_be_bytes()[..], &reason.as_bytes()[..end]].concat()
}

/// Reads the payload of CANCEL and BYE.
pub(crate) fn read_reason(payload: &[u8]) -> Result<(u16, String), Violation> {
    let (code, reason) = payload.split_first_chunk::<2>().ok_or(Violation::Malformed("reason"))?;
    let reason = std::str::from_utf8(reason).map_err(|_| Violation::Malformed("reason"))?;
    Ok((u16::from_be_bytes(*code), reason.to_owned()))
}

/// A violation of the protocol by the peer. It ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// The first bytes are not this protocol's.
    #[error("does not speak this protocol")]
    NotThisProtocol,
    /// Both sides have no version in common.
    #[error(
        "speaks versions {oldest} to {newest} of the protocol, this program speaks {OLDEST} to {VERSION}"
    )]
    Version {
        /// The newest version that the peer speaks.
        newest: u8,
        /// The oldest version that the peer speaks.
        oldest: u8,
    },
    /// A frame of no known kind.
    #[error("sent a frame of unknown kind {0}")]
    UnknownFrame(u8),
    /// A frame whose header or payload does not fit its check byte.
    #[error("sent a frame whose {0} arrived damaged")]
    Damaged(&'static str),
    /// A frame longer or shorter than its kind may be.
    #[error("sent a frame of kind {kind} with {length} bytes, which it may not have")]
    BadLength {
        /// The frame's kind.
        kind: u8,
        /// The frame's length.
        length: u32,
    },
    /// A frame for a stream that is not open, or opened a stream it may not open.
    #[error("sent a frame for stream {0}, which is not open for it")]
    BadStream(u16),
    /// More streams than allowed.
    #[error("opened more streams than allowed")]
    TooManyStreams,
    /// More bytes than it had credit for.
    #[error("sent more on stream {0} than it had credit for")]
    OverCredit(u16),
    /// Credit of 2^63 bytes or more.
    #[error("gave more credit on stream {0} than can be counted")]
    TooMuchCredit(u16),
    /// A frame after BYE.
    #[error("sent a frame after its goodbye")]
    AfterBye,
    /// A payload that does not have the form of its frame.
    #[error("sent a malformed {0}")]
    Malformed(&'static str),
    /// A message that makes no sense at this point.
    #[error("sent {0} where it may not")]
    Unexpected(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        for (kind, payload) in [
            (FrameKind::Credit, &[0, 0, 0, 0, 0, 8, 0, 0][..]),
            (FrameKind::Message, b"accept"),
            (FrameKind::Finish, b""),
        ] {
            let header = Header { kind, stream: 1, length: payload.len() as u32 };
            let frame = [&header.encode(payload)[..], payload].concat();
            let read = |frame: &[u8]| {
                let bytes = *frame.first_chunk::<HEADER>().unwrap();
                let header = Header::decode(bytes)?;
                check_payload(bytes, &frame[HEADER..]).map(|()| header)
            };
            assert_eq!(read(&frame), Ok(header));
            for bit in 0..frame.len() * 8 {
                let mut frame = frame.clone();
                frame[bit / 8] ^= 1 << (bit % 8);
                assert!(matches!(read(&frame), Err(Violation::Damaged(_))), "{kind:?}, bit {bit}");
            }
        }
    }

    /// The shortest and the longest payload of each kind are accepted; one byte less or more is not.
    #[test]
    fn every_kind_has_its_lengths() {
        for (number, kind, shortest, longest) in [
            (1, FrameKind::Open, 0, 65_536),
            (2, FrameKind::Message, 0, 65_536),
            (3, FrameKind::Data, 1, 1_048_576),
            (4, FrameKind::Finish, 0, 0),
            (5, FrameKind::Cancel, 2, 1_026),
            (6, FrameKind::Credit, 8, 8),
            (7, FrameKind::Ping, 8, 8),
            (8, FrameKind::Pong, 8, 8),
            (9, FrameKind::Bye, 2, 1_026),
            (10, FrameKind::Work, 17, 17),
        ] {
            let read = |length| Header::decode(Header { kind, stream: 0x1234, length }.encode(b"payload"));
            for length in [shortest, longest] {
                assert_eq!(read(length), Ok(Header { kind, stream: 0x1234, length }), "{kind:?}");
            }
            let outside = [shortest.checked_sub(1), Some(longest + 1)];
            for length in outside.into_iter().flatten() {
                assert_eq!(read(length), Err(Violation::BadLength { kind: number, length }), "{kind:?}");
            }
        }
    }

    #[test]
    fn a_kind_that_nobody_knows_is_refused() {
        for number in [0, 11, 255] {
            let mut bytes = Header { kind: FrameKind::Ping, stream: 0, length: 8 }.encode(b"");
            bytes[5] ^= bytes[4] ^ number;
            bytes[4] = number;
            assert_eq!(Header::decode(bytes), Err(Violation::UnknownFrame(number)));
        }
    }

    #[test]
    fn data_has_no_check_but_its_blocks_own() {
        let header = |kind| Header { kind, stream: 1, length: 3 }.encode(b"\x01\x02\x04")[0];
        assert_eq!((header(FrameKind::Data), header(FrameKind::Message)), (0, 7));
    }

    #[test]
    fn prefaces_agree_on_a_version_that_both_know() {
        assert_eq!(preface(), *b"LNGRTX\x03\x01");
        let read = |newest, oldest| read_preface([b'L', b'N', b'G', b'R', b'T', b'X', newest, oldest]);
        for (newest, oldest, both) in
            [(1, 1, 1), (2, 1, 2), (3, 1, 3), (3, 3, 3), (1, 0, 1), (255, 0, 3), (4, 3, 3)]
        {
            assert_eq!(read(newest, oldest), Ok(both), "{oldest} to {newest}");
        }
        for (newest, oldest) in [(0, 0), (4, 4), (255, 4)] {
            assert_eq!(read(newest, oldest), Err(Violation::Version { newest, oldest }));
        }
        assert_eq!(read_preface(*b"LNGRTY\x01\x01"), Err(Violation::NotThisProtocol));
        assert_eq!(read_preface(*b"HTTP/1.1"), Err(Violation::NotThisProtocol));
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let longest = "a".repeat(MAX_REASON);
        for (reason, kept) in [
            ("gone", "gone"),
            ("", ""),
            (&longest[..], &longest[..]),
            (&format!("{longest}b"), &longest[..]),
            (&format!("{}é", &longest[1..]), &longest[1..]),
            (&format!("{}é", &longest[2..]), &format!("{}é", &longest[2..])),
        ] {
            assert_eq!(read_reason(&reason_bytes(0x0102, reason)), Ok((0x0102, kept.to_owned())));
        }
        assert_eq!(reason_bytes(0x0102, "x"), b"\x01\x02x");
        for payload in [&b""[..], b"\x01", b"\x01\x02\xff"] {
            assert_eq!(read_reason(payload), Err(Violation::Malformed("reason")));
        }
    }
}
