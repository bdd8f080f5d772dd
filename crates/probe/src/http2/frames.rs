//! Reads along the frames that a server sends: where the response ends, and what resets its stream.

use h2::Reason;
use linger_untrusted::Untrusted;

/// The stream of the first request: a client's have odd numbers (RFC 9113 section 5.1.1).
const FIRST: u32 = 1;
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

/// What the frames of a connection have said of its last request.
#[derive(Debug)]
pub(crate) struct FrameLog {
    /// The request's stream.
    stream: u32,
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
    /// The last stream that the server may have worked on, as that GOAWAY says.
    last_stream: u32,
}

impl Default for FrameLog {
    fn default() -> Self {
        Self {
            stream: FIRST,
            opening: Vec::new(),
            head: Vec::new(),
            kept: Vec::new(),
            left: 0,
            got: 0,
            begun: false,
            ended: false,
            reset: None,
            goaway: None,
            last_stream: u32::MAX,
        }
    }
}

impl FrameLog {
    /// Another request is made, on the next stream: what is read from now on is its response.
    pub(crate) fn next(&mut self) {
        self.stream += 2;
        (self.got, self.begun, self.ended, self.reset) = (0, false, false, None);
    }

    /// Whether the server has said that it did not work on the request, so that a client may make it again whatever it is (RFC 9113
    /// sections 6.8 and 8.7).
    pub(crate) fn is_returned(&self) -> bool {
        let is_behind = self.goaway.is_some() && self.stream > self.last_stream;
        !self.begun && (is_behind || self.reset == Some(Reason::REFUSED_STREAM))
    }

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
        self.frame_stream() == self.stream
    }

    fn frame_stream(&self) -> u32 {
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
            GOAWAY if self.frame_stream() == 0 && self.kept.len() >= 8 => {
                self.goaway = Some(word(&self.kept[4..]).into());
                self.last_stream = word(&self.kept) & 0x7fff_ffff;
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
            frame(HEADERS, END_HEADERS, FIRST, b"fields"),
            frame(DATA, PADDED, FIRST, &padded),
            frame(DATA, 0, 3, b"of another stream"),
            frame(DATA, END_STREAM, FIRST, b"."),
            frame(RST_STREAM, 0, FIRST, &[0, 0, 0, 0]),
            frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 2]),
        ];
        for size in 1..100 {
            let log = logged(&frames, size);
            assert_eq!((log.got, log.begun, log.ended), (6, true, true), "{size}");
            assert_eq!((log.reset, log.goaway), (Some(Reason::NO_ERROR), Some(Reason::INTERNAL_ERROR)));
            assert!(log.not_http2().is_none());
            // One field away each: the end, the stream, the last byte.
            let mut cut = frames.clone();
            cut[4] = frame(DATA, 0, FIRST, b".");
            assert!(!logged(&cut, size).ended);
            cut[4] = frame(DATA, END_STREAM, 3, b".");
            assert!(!logged(&cut, size).ended);
            cut[5] = frame(RST_STREAM, 0, 3, &[0, 0, 0, 0]);
            assert_eq!(logged(&cut, size).reset, None);
        }
    }

    #[test]
    fn a_request_that_the_server_has_not_worked_on_may_be_made_again() {
        let first = [
            frame(SETTINGS, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, FIRST, b"fields"),
            frame(DATA, END_STREAM, FIRST, b"all"),
        ];
        let with = |frames: &[Vec<u8>]| {
            let mut log = logged(&first, 7);
            assert!(log.ended && !log.is_returned());
            log.next();
            assert!(!log.ended && !log.begun && log.got == 0);
            frames.concat().chunks(5).for_each(|piece| log.feed(piece));
            log
        };
        let goaway = |last: u8| frame(GOAWAY, 0, 0, &[0, 0, 0, last, 0, 0, 0, 0]);
        assert!(with(&[goaway(1)]).is_returned());
        // One field away: the server may have worked on it; it has answered; it has reset the stream for another reason.
        assert!(!with(&[goaway(3)]).is_returned());
        assert!(!with(&[frame(HEADERS, END_HEADERS, 3, b"fields"), goaway(1)]).is_returned());
        assert!(with(&[frame(RST_STREAM, 0, 3, &[0, 0, 0, 7])]).is_returned());
        assert!(!with(&[frame(RST_STREAM, 0, 3, &[0, 0, 0, 8])]).is_returned());
        assert!(!with(&[frame(RST_STREAM, 0, 1, &[0, 0, 0, 7])]).is_returned());
        // The second response is its own.
        let both = with(&[frame(HEADERS, END_HEADERS, 3, b"f"), frame(DATA, END_STREAM, 3, b"more")]);
        assert_eq!((both.got, both.ended), (4, true));
        assert!(!with(&[frame(DATA, END_STREAM, FIRST, b"late")]).ended);
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
