//! Reads along the frames that a server sends: where the response ends, and what resets its stream.

use h2::Reason;
use linger_untrusted::Untrusted;

/// The stream of the one request: a client's first (RFC 9113 section 5.1.1).
const STREAM: u32 = 1;
/// Length of a frame's head (RFC 9113 section 4.1), in bytes.
const HEAD: usize = 9;
/// The beginning of a payload that is kept: the last stream and the error code of GOAWAY.
const KEPT: usize = 8;
/// How much is shown of what is not HTTP/2, in bytes.
const OPENING: usize = 40;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// What the frames of a connection have said of its only request.
#[derive(Debug, Default)]
pub(crate) struct FrameLog {
    opening: Vec<u8>,
    head: Vec<u8>,
    kept: Vec<u8>,
    left: usize,
    /// Bytes of the response's body, without padding.
    pub(crate) got: u64,
    /// A complete block of header fields came: the response has begun.
    pub(crate) begun: bool,
    /// The response's last frame came.
    pub(crate) ended: bool,
    /// The code of the RST_STREAM that came.
    pub(crate) reset: Option<Reason>,
    /// The code of the last GOAWAY that came.
    pub(crate) goaway: Option<Reason>,
}

impl FrameLog {
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        let room = OPENING - self.opening.len();
        self.opening.extend_from_slice(&bytes[..bytes.len().min(room)]);
        while !bytes.is_empty() {
            if self.head.len() < HEAD {
                let taken = bytes.len().min(HEAD - self.head.len());
                self.head.extend_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
                if self.head.len() < HEAD {
                    return;
                }
                self.left = usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8;
                self.left |= usize::from(self.head[2]);
            } else {
                let taken = bytes.len().min(self.left);
                let kept = taken.min(KEPT - self.kept.len());
                self.kept.extend_from_slice(&bytes[..kept]);
                if self.head[3] == DATA && self.is_ours() {
                    self.got += taken as u64;
                }
                (self.left, bytes) = (self.left - taken, &bytes[taken..]);
            }
            if self.left == 0 {
                self.note();
                self.head.clear();
                self.kept.clear();
            }
        }
    }

    /// What is not HTTP/2, if the first frame is not the SETTINGS of stream 0 with which a server begins (RFC 9113
    /// section 3.4).
    pub(crate) fn not_http2(&self) -> Option<Untrusted> {
        let begins = |at: usize, value: u8| self.opening.get(at).is_none_or(|byte| *byte == value);
        let is_settings = begins(3, SETTINGS) && (5..HEAD).all(|at| begins(at, 0));
        let whole = self.opening.is_empty() || self.opening.len() >= HEAD;
        (!is_settings || !whole).then(|| self.opening.as_slice().into())
    }

    fn is_ours(&self) -> bool {
        self.stream() == STREAM
    }

    fn stream(&self) -> u32 {
        // The first bit is reserved.
        word(&self.head[5..]) & 0x7fff_ffff
    }

    /// Notes a complete frame.
    fn note(&mut self) {
        let (kind, flags) = (self.head[3], self.head[4]);
        match kind {
            DATA if self.is_ours() => {
                if flags & PADDED != 0 {
                    let padding = self.kept.first().map_or(0, |length| 1 + u64::from(*length));
                    self.got = self.got.saturating_sub(padding);
                }
                self.ended |= flags & END_STREAM != 0;
            }
            HEADERS if self.is_ours() => {
                self.begun |= flags & END_HEADERS != 0;
                self.ended |= flags & END_STREAM != 0;
            }
            CONTINUATION if self.is_ours() => self.begun |= flags & END_HEADERS != 0,
            RST_STREAM if self.is_ours() && self.reset.is_none() && self.kept.len() >= 4 => {
                self.reset = Some(word(&self.kept).into());
            }
            GOAWAY if self.stream() == 0 && self.kept.len() >= 8 => {
                self.goaway = Some(word(&self.kept[4..]).into());
            }
            _ => {}
        }
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |word, byte| word << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut out = length[1..].to_vec();
        out.extend([kind, flags]);
        out.extend(stream.to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    fn logged(frames: &[Vec<u8>], size: usize) -> FrameLog {
        let mut log = FrameLog::default();
        frames.concat().chunks(size).for_each(|piece| log.feed(piece));
        log
    }

    #[test]
    fn a_response_is_read_along_at_any_split() {
        let padded = [&[3][..], b"hello", &[0; 3]].concat();
        let frames = [
            frame(SETTINGS, 0, 0, &[0; 6]),
            frame(HEADERS, END_HEADERS, STREAM, b"fields"),
            frame(DATA, PADDED, STREAM, &padded),
            frame(DATA, 0, 3, b"of another stream"),
            frame(DATA, END_STREAM, STREAM, b"."),
            frame(RST_STREAM, 0, STREAM, &[0, 0, 0, 0]),
            frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 2]),
        ];
        for size in 1..100 {
            let log = logged(&frames, size);
            assert_eq!((log.got, log.begun, log.ended), (6, true, true), "{size}");
            assert_eq!((log.reset, log.goaway), (Some(Reason::NO_ERROR), Some(Reason::INTERNAL_ERROR)));
            assert!(log.not_http2().is_none());
            // One field away each: the end, the stream, the last byte.
            let mut cut = frames.clone();
            cut[4] = frame(DATA, 0, STREAM, b".");
            assert!(!logged(&cut, size).ended);
            cut[4] = frame(DATA, END_STREAM, 3, b".");
            assert!(!logged(&cut, size).ended);
            cut[5] = frame(RST_STREAM, 0, 3, &[0, 0, 0, 0]);
            assert_eq!(logged(&cut, size).reset, None);
        }
    }

    #[test]
    fn what_is_not_http2_is_kept_to_be_shown() {
        for other in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"220 mail", b"\x15\x03\x01", b"x"] {
            let log = logged(&[other.to_vec()], 5);
            assert_eq!(log.not_http2().unwrap().raw(), other);
        }
        assert!(FrameLog::default().not_http2().is_none(), "nothing came");
        assert!(logged(&[frame(SETTINGS, 0, 1, &[])], 9).not_http2().is_some(), "of stream 1");
        assert!(logged(&[frame(SETTINGS, 0, 0, &[])], 9).not_http2().is_none());
    }

    proptest::proptest! {
        #[test]
        fn noise_does_not_panic(noise in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2000)) {
            FrameLog::default().feed(&noise);
        }
    }
}
