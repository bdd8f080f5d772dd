//! Output: from frames to bytes. A session that waits for room in the socket reads meanwhile what arrives.

use std::io::{self, ErrorKind};
use std::time::Instant;

use rustix::event::PollFlags;

use super::{BUFFER, DIRECT, Session};
use crate::error::Error;
use crate::host;
use crate::wire::{FrameKind, Header, MAX_DATA};

impl Session {
    /// Begins a DATA frame of `length` bytes, at most 1 MiB. Its payload has to follow by
    /// [`continue_data`](Self::continue_data) before any other frame.
    pub(crate) fn begin_data(&mut self, stream: u16, length: usize) -> Result<(), Error> {
        debug_assert!(self.unfinished == 0 && length <= MAX_DATA);
        self.await_credit(stream, length)?;
        self.header(FrameKind::Data, stream, length, &[]);
        self.unfinished = length;
        Ok(())
    }

    /// Sends the next payload bytes of the current DATA frame.
    pub(crate) fn continue_data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        debug_assert!(bytes.len() <= self.unfinished);
        if bytes.len() < DIRECT {
            self.output.extend_from_slice(bytes);
            self.flush_if_full()?;
        } else {
            self.write_out(bytes)?;
        }
        self.continued(bytes.len());
        Ok(())
    }

    /// Fills the rest of the current DATA frame, if there is one, with zeros: the frame's header, which has its length,
    /// has been sent and cannot be taken back.
    pub(crate) fn pad_data(&mut self) -> Result<(), Error> {
        while self.unfinished > 0 {
            self.continue_data(&[0; 4 << 10][..self.unfinished.min(4 << 10)])?;
        }
        Ok(())
    }

    /// Counts sent payload of the current DATA frame. After the frame's last byte, the frames that waited for it follow.
    pub(super) fn continued(&mut self, bytes: usize) {
        self.unfinished -= bytes;
        self.payload_went(bytes, self.unfinished == 0);
        if self.unfinished == 0 {
            self.output.append(&mut self.behind);
        }
    }

    pub(super) fn header(&mut self, kind: FrameKind, stream: u16, length: usize, payload: &[u8]) {
        if matches!(kind, FrameKind::Data | FrameKind::Message) {
            self.machine.sent(stream, length as u64);
        }
        self.output.extend(Header { kind, stream, length: length as u32 }.encode(payload));
    }

    /// Sends one frame. Fails after a frame that was sent in part: the peer would take the new frame for the other's rest.
    pub(super) fn frame(&mut self, kind: FrameKind, stream: u16, payload: &[u8]) -> Result<(), Error> {
        if self.torn || self.unfinished > 0 {
            let told = "it was given up in the middle of a frame";
            return Err(Error::Cut(io::Error::new(ErrorKind::BrokenPipe, told)));
        }
        self.header(kind, stream, payload.len(), payload);
        self.output.extend_from_slice(payload);
        self.activity.got_on(self.heard);
        self.flush_if_full()
    }

    pub(super) fn flush_if_full(&mut self) -> Result<(), Error> {
        if self.output.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Writes the buffer and then `body`, reading meanwhile when the socket is full.
    pub(super) fn write_out(&mut self, body: &[u8]) -> Result<(), Error> {
        let mut body = body;
        let mut head = std::mem::take(&mut self.output);
        let mut done = 0;
        let before = self.sent;
        self.writing = true;
        let result = loop {
            if done >= head.len() && body.is_empty() {
                match self.transport.flush() {
                    Ok(()) => break Ok(()),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => break Err(Error::Cut(error)),
                }
            } else {
                match self.transport.write(&head[done..], body) {
                    Ok(bytes) => {
                        let of_head = bytes.min(head.len() - done);
                        done += of_head;
                        body = &body[bytes - of_head..];
                        self.sent += bytes as u64;
                        self.heard = host::now();
                        continue;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => break Err(Error::Cut(error)),
                }
            }
            if let Err(error) = self.await_writable() {
                break Err(error);
            }
        };
        self.writing = false;
        self.torn |= self.sent > before && (done < head.len() || !body.is_empty());
        // Answers to pings may have been added meanwhile. Otherwise reuse the buffer's memory.
        head.clear();
        if self.output.is_empty() {
            self.output = head;
        }
        // The peer may have sent a reason before it left, which says more than EPIPE.
        if matches!(result, Err(Error::Cut(_))) {
            self.read_last_words();
        }
        result
    }

    pub(super) fn await_credit(&mut self, stream: u16, bytes: usize) -> Result<(), Error> {
        let longest = self.machine.longest();
        if bytes > longest {
            let told = format!("a frame of {bytes} bytes: with this window they have {longest} at most");
            return Err(Error::Usage(told.into()));
        }
        loop {
            match self.machine.sendable(stream) {
                None => return Err(Error::Ended("the stream is closed".into())),
                Some(credit) if credit >= bytes as u64 => return Ok(()),
                Some(_) => {
                    self.flush()?;
                    if !self.service()? {
                        self.wait(PollFlags::IN, true)?;
                    }
                }
            }
        }
    }

    pub(super) fn await_writable(&mut self) -> Result<(), Error> {
        // While the caller is taking a payload, no other frame can be read.
        let can_read = self.payload == 0 && self.inbox_has_room();
        let ready =
            self.wait(if can_read { PollFlags::IN | PollFlags::OUT } else { PollFlags::OUT }, false)?;
        if can_read && ready.intersects(PollFlags::IN) {
            self.service()?;
        }
        Ok(())
    }

    /// The buffer for PONG and CREDIT frames. If a DATA frame is under way, they are sent after it.
    pub(super) fn aside(&mut self) -> &mut Vec<u8> {
        if self.unfinished > 0 { &mut self.behind } else { &mut self.output }
    }

    /// Adds a frame with a payload of eight bytes, which uses no credit.
    pub(super) fn control(&mut self, kind: FrameKind, stream: u16, value: u64) {
        let aside = self.aside();
        let payload = value.to_be_bytes();
        aside.extend(Header { kind, stream, length: 8 }.encode(&payload));
        aside.extend(payload);
    }

    /// Writes as much as the socket takes now. The next flush sends the rest.
    pub(super) fn try_flush(&mut self) {
        if !self.writing
            && let Ok(bytes) = self.transport.write(&self.output, &[])
        {
            self.sent += bytes as u64;
            self.output.drain(..bytes);
            // An error is reported by the next call that must succeed.
            let _ = self.transport.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::cancel::Cancel;
    use crate::driver::{Deadlines, SessionEvent};
    use crate::machine::{Role, SessionLimits};
    use crate::transport::Plain;
    use crate::wire::{preface, reason_bytes};

    /// A session, a stream of it and the bare other end.
    fn session() -> (Session, u16, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        let mut session = Session::new(Box::new(Plain::new(stream).unwrap()), Role::Initiator).unwrap();
        let stream = session.open(b"").unwrap();
        (session, stream, peer)
    }

    fn frame(kind: FrameKind, stream: u16, payload: &[u8]) -> Vec<u8> {
        [&Header { kind, stream, length: payload.len() as u32 }.encode(payload)[..], payload].concat()
    }

    /// What arrives until the other side closes.
    fn rest(mut peer: TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn answers_wait_for_the_end_of_a_frame() {
        let (mut session, stream, mut peer) = session();
        session.begin_data(stream, 8).unwrap();
        session.continue_data(b"1234").unwrap();
        session.flush().unwrap();
        peer.write_all(&[&preface()[..], &frame(FrameKind::Ping, 0, b"are you?")].concat()).unwrap();
        while !session.service().unwrap() {
            session.wait(PollFlags::IN, false).unwrap();
        }
        session.flush().unwrap();
        session.continue_data(b"5678").unwrap();
        session.flush().unwrap();
        drop(session);
        let expected = [
            preface().to_vec(),
            frame(FrameKind::Open, stream, b""),
            frame(FrameKind::Data, stream, b"12345678"),
            frame(FrameKind::Pong, 0, b"are you?"),
        ];
        assert_eq!(rest(peer), expected.concat());
    }

    /// Both sides make progress even if each keeps credit back until it is worth a frame.
    #[test]
    fn a_small_window_is_no_obstacle() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let limits = SessionLimits { window: 128 << 10, most: 128 << 10, streams: 1 };
        let session = move |stream, role| {
            let plain = Box::new(Plain::new(stream).unwrap());
            Session::with(plain, role, limits, Deadlines::default(), Cancel::new().unwrap())
        };
        let receiving = std::thread::spawn(move || {
            let mut session = session(server, Role::Responder);
            let mut bytes = 0;
            loop {
                match session.receive().unwrap() {
                    SessionEvent::Data { length, .. } => {
                        bytes += length;
                        session.read_data(&mut vec![0; length]).unwrap();
                    }
                    SessionEvent::Message { bytes: message, .. } => bytes += message.len(),
                    SessionEvent::Opened { .. } => {}
                    other => return (other, bytes),
                }
            }
        });
        let mut session = session(client, Role::Initiator);
        let stream = session.open(b"").unwrap();
        for length in [1, 64 << 10, 7, 1, 64 << 10] {
            session.message(stream, &vec![1; length]).unwrap();
            session.data(stream, &vec![2; (1 << 20) + 1]).unwrap();
        }
        assert!(matches!(session.begin_data(stream, (64 << 10) + 1), Err(Error::Usage(_))));
        session.finish(stream).unwrap();
        session.flush().unwrap();
        let bytes = (128 << 10) + 9 + 5 * ((1 << 20) + 1);
        assert_eq!(receiving.join().unwrap(), (SessionEvent::Finished { stream }, bytes));
    }

    #[test]
    fn a_frame_that_is_given_up_is_not_filled_with_the_goodbye() {
        let (mut session, stream, peer) = session();
        let goodbye = reason_bytes(1, "");
        session.begin_data(stream, goodbye.len() + 8 + 1).unwrap();
        session.continue_data(b"1").unwrap();
        session.flush().unwrap();
        assert!(matches!(session.goodbye(1, ""), Err(Error::Cut(_))));
        session.pad_data().unwrap();
        session.goodbye(1, "").unwrap();
        drop(session);
        let padded = [&b"1"[..], &vec![0; goodbye.len() + 8]].concat();
        let expected = [
            preface().to_vec(),
            frame(FrameKind::Open, stream, b""),
            frame(FrameKind::Data, stream, &padded),
            frame(FrameKind::Bye, 0, &goodbye),
        ];
        assert_eq!(rest(peer), expected.concat());
    }
}
