//! The frames of a WebSocket (RFC 6455 section 5.2), as far as they show how it ends.

const CLOSE: u8 = 8;
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
                    self.state = FrameState::Closed;
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
        if first & 0x70 != 0 || is_masked || !is_known || (is_control && (is_long || !is_last)) {
            self.state = FrameState::Broken;
            return;
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
        self.left = match (short, length.len()) {
            (0..=125, _) => u64::from(short),
            (126, 2) | (127, 8) => number(length),
            _ => return,
        };
        self.is_close = opcode == CLOSE;
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
