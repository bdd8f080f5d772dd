//! The frames of a WebSocket (RFC 6455 section 5.2), as far as they show how it ends.

const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;
/// The longest payload of all: the highest bit of the length is 0 (RFC 6455 section 5.2).
const MOST_LENGTH: u64 = u64::MAX >> 1;
/// The longest payload of a control frame (RFC 6455 section 5.5).
const MOST_CONTROL: u64 = 125;

/// What a server has sent on a WebSocket.
#[derive(Debug, Default)]
pub(crate) struct ServerFrames {
    /// The beginning of a frame, until its length is known.
    head: Vec<u8>,
    /// Bytes of the frame's payload that are still to come.
    left: u64,
    is_within: bool,
    /// A message has begun whose last frame is still to come.
    is_fragment: bool,
    is_close: bool,
    close: Vec<u8>,
    state: FrameState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FrameState {
    #[default]
    Open,
    /// The Close frame has come.
    Closed,
    Broken,
}

impl ServerFrames {
    /// Parses bytes up to the end of the Close frame. Returns how many of them are payload, and leaves what follows in `bytes`.
    pub(crate) fn feed(&mut self, bytes: &mut &[u8]) -> u64 {
        let mut payload = 0;
        while self.state == FrameState::Open && !bytes.is_empty() {
            if !self.is_within {
                let (byte, rest) = (bytes[0], &bytes[1..]);
                *bytes = rest;
                self.head.push(byte);
                self.begin();
            } else {
                let (taken, rest) = bytes.split_at(self.left.min(bytes.len() as u64) as usize);
                *bytes = rest;
                payload += taken.len() as u64;
                self.left -= taken.len() as u64;
                if self.is_close {
                    self.close.extend_from_slice(taken);
                }
            }
            if self.is_within && self.left == 0 {
                self.is_within = false;
                if self.is_close {
                    self.state =
                        if is_allowed(&self.close) { FrameState::Closed } else { FrameState::Broken };
                }
            }
        }
        payload
    }

    /// Looks whether the head is whole.
    fn begin(&mut self) {
        let [first, second, ref length @ ..] = self.head[..] else { return };
        let (is_masked, short) = (second & 0x80 != 0, second & 0x7f);
        let opcode = first & 0x0f;
        let is_control = opcode >= CLOSE;
        let is_last = first & 0x80 != 0;
        // No extension was asked for, a server does not mask, and a control frame is short and whole.
        let is_known = matches!(opcode, 0..=2 | CLOSE..=10);
        let is_long = u64::from(short) > MOST_CONTROL;
        // The frames of a message follow each other: a continuation has a beginning, and no other message begins within (section 5.4).
        let is_astray = !is_control && self.is_fragment != (opcode == CONTINUATION);
        if first & 0x70 != 0 || is_masked || !is_known || (is_control && (is_long || !is_last)) || is_astray {
            self.state = FrameState::Broken;
            return;
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        self.left = match (short, length.len()) {
            (0..=125, _) => u64::from(short),
            (126, 2) | (127, 8) => number(length),
            _ => return,
        };
        if self.left > MOST_LENGTH {
            self.state = FrameState::Broken;
            return;
        }
        self.is_close = opcode == CLOSE;
        self.is_fragment = if is_control { self.is_fragment } else { !is_last };
        self.is_within = true;
        self.head.clear();
    }

    /// Whether the Close frame has come.
    pub(crate) fn is_closed(&self) -> bool {
        self.state == FrameState::Closed
    }

    /// Whether what came breaks the rules.
    pub(crate) fn is_broken(&self) -> bool {
        self.state == FrameState::Broken
    }

    /// The code of the Close frame, if it has come with one.
    pub(crate) fn code(&self) -> Option<u16> {
        let code = self.close.first_chunk::<2>().filter(|_| self.is_closed())?;
        Some(u16::from_be_bytes(*code))
    }
}

/// Whether a Close frame may say this: nothing, or a code that is sent (RFC 6455 section 7.4) and a reason in UTF-8.
///
/// 1005, 1006 and 1015 stand for what no frame has said; 1004 has no meaning; from 5000 on there are none. Those that are not given out
/// yet (1016 to 2999) are taken: a later standard may have given them out.
fn is_allowed(close: &[u8]) -> bool {
    match close.split_first_chunk::<2>() {
        None => close.is_empty(),
        Some((code, reason)) => {
            let code = u16::from_be_bytes(*code);
            (1000..5000).contains(&code)
                && !matches!(code, 1004..=1006 | 1015)
                && std::str::from_utf8(reason).is_ok()
        }
    }
}

/// The head of a client's frame with a binary message of so many bytes. Its mask is zero, so that the payload follows as it is.
pub(crate) fn binary_head(length: usize) -> Vec<u8> {
    head(2, length)
}

/// A client's Close frame with the code 1000: its purpose is fulfilled (RFC 6455 section 7.4.1).
pub(crate) fn close() -> Vec<u8> {
    let mut frame = head(CLOSE, 2);
    frame.extend(1000_u16.to_be_bytes());
    frame
}

fn head(opcode: u8, length: usize) -> Vec<u8> {
    const LAST: u8 = 0x80;
    const MASKED: u8 = 0x80;
    let mut head = vec![LAST | opcode];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => head.push(MASKED | short),
        (_, Ok(middle)) => {
            head.push(MASKED | 126);
            head.extend(middle.to_be_bytes());
        }
        _ => {
            head.push(MASKED | 127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head.extend([0; 4]);
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A server's frame.
    fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = head(opcode, payload.len());
        frame[1] &= 0x7f;
        frame.truncate(frame.len() - 4);
        frame.extend_from_slice(payload);
        frame
    }

    fn at_any_split(bytes: &[u8]) -> Vec<(u64, bool, bool, Option<u16>)> {
        (1..=bytes.len().min(300))
            .map(|size| {
                let (mut frames, mut payload) = (ServerFrames::default(), 0);
                for mut piece in bytes.chunks(size) {
                    payload += frames.feed(&mut piece);
                }
                (payload, frames.is_closed(), frames.is_broken(), frames.code())
            })
            .collect()
    }

    #[test]
    fn the_close_frame_is_found_at_any_split() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let mut bytes =
                [frame(2, &vec![7; length]), frame(9, b"ping"), frame(8, b"\x03\xf1too big")].concat();
            let payload = length as u64 + 4 + 9;
            assert!(at_any_split(&bytes).iter().all(|seen| *seen == (payload, true, false, Some(1009))));
            bytes.pop();
            assert!(at_any_split(&bytes).iter().all(|seen| *seen == (payload - 1, false, false, None)));
        }
        let bare = [frame(8, b""), frame(1, b"what follows is not read")].concat();
        assert!(at_any_split(&bare).iter().all(|seen| *seen == (0, true, false, None)));
    }

    #[test]
    fn what_breaks_the_rules_is_no_close() {
        let close = frame(8, b"\x03\xe8");
        for (at, wrong) in [(0, 0xc8), (0, 0x08), (0, 0x8b), (0, 0x83), (1, 0x82), (1, 126)] {
            let mut bytes = close.clone();
            bytes[at] = wrong;
            assert!(
                at_any_split(&bytes).iter().all(|seen| (seen.1, seen.2) == (false, true)),
                "{at}: {wrong:x}"
            );
        }
        assert!(at_any_split(&close).iter().all(|seen| *seen == (2, true, false, Some(1000))));
    }

    fn is_close(payload: &[u8]) -> bool {
        let seen = at_any_split(&frame(8, payload));
        assert!(seen.iter().all(|seen| seen.1 != seen.2), "it is one or the other");
        seen[0].1
    }

    /// A client that is told such a thing gives up: it has not been told why.
    #[test]
    fn a_close_that_says_what_none_may_say_is_none() {
        for code in [1000_u16, 1001, 1003, 1007, 1009, 1014, 1016, 2999, 3000, 4999] {
            assert!(is_close(&code.to_be_bytes()), "{code}");
        }
        for code in [0_u16, 999, 1004, 1005, 1006, 1015, 5000, u16::MAX] {
            assert!(!is_close(&code.to_be_bytes()), "{code}");
        }
        assert!(is_close(b"") && !is_close(b"\x03"), "half a code");
        assert!(is_close(b"\x03\xe8gr\xc3\xbc\xc3\x9f") && !is_close(b"\x03\xe8\xc3"), "no UTF-8");
    }

    #[test]
    fn the_frames_of_a_message_follow_each_other() {
        let part = |opcode: u8| {
            let mut part = frame(opcode, b"part");
            part[0] &= 0x7f;
            part
        };
        let ends = |frames: &[Vec<u8>]| {
            let seen = at_any_split(&[frames.concat(), frame(8, b"")].concat());
            (seen[0].1, seen[0].2)
        };
        let ping = frame(9, b"");
        assert_eq!(ends(&[part(1), ping, part(0), frame(0, b"last"), frame(2, b"")]), (true, false));
        // A Close may come within a message.
        assert_eq!(ends(&[part(1)]), (true, false));
        for astray in
            [vec![frame(0, b"")], vec![part(0)], vec![part(1), frame(2, b"")], vec![frame(1, b""), part(0)]]
        {
            assert_eq!(ends(&astray), (false, true), "{astray:?}");
        }
        let mut endless = vec![0x82, 127];
        endless.extend(u64::MAX.to_be_bytes());
        assert!(at_any_split(&endless).iter().all(|seen| seen.2));
        endless[2] = 0x7f;
        assert!(at_any_split(&endless).iter().all(|seen| !seen.2));
    }

    #[test]
    fn a_clients_frame_is_masked() {
        assert_eq!(close(), [0x88, 0x82, 0, 0, 0, 0, 3, 0xe8]);
        assert_eq!(binary_head(100)[..2], [0x82, 0x80 | 100]);
        assert_eq!(binary_head(70_000), [0x82, 0xff, 0, 0, 0, 0, 0, 1, 0x11, 0x70, 0, 0, 0, 0]);
    }

    proptest! {
        #[test]
        fn noise_does_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
            ServerFrames::default().feed(&mut &noise[..]);
        }
    }
}
