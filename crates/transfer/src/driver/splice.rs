//! Payload that the kernel moves between files and the socket (sendfile, splice), without a copy in user space.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::PollFlags;

use super::{Session, eof};
use crate::error::Error;
use crate::host;

impl Session {
    /// Sends `length` bytes of a file from `offset`, at most 1 MiB, as one DATA frame, without copying them through this
    /// process (`sendfile(2)`). Returns how many bytes the file had: if it ends early, the rest of the frame is filled
    /// with zeros, because the frame's header has been sent already.
    ///
    /// # Errors
    /// Returns the errors of [`message`](Self::message) and of reading the file.
    pub fn data_from(
        &mut self,
        stream: u16,
        file: BorrowedFd<'_>,
        offset: u64,
        length: usize,
    ) -> Result<usize, Error> {
        self.begin_data(stream, length)?;
        self.flush()?;
        let mut offset = offset;
        while self.unfinished > 0 {
            match rustix::fs::sendfile(self.transport.socket(), file, Some(&mut offset), self.unfinished) {
                Ok(0) => {
                    let done = length - self.unfinished;
                    return self.pad_data().map(|()| done);
                }
                Ok(bytes) => {
                    self.continued(bytes);
                    self.sent += bytes as u64;
                    self.heard = host::now();
                }
                Err(rustix::io::Errno::AGAIN) => self.await_writable()?,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::Cut(error.into())),
            }
        }
        Ok(length)
    }

    /// Moves announced data from the socket into a file at `offset`, without copying it through this process
    /// (`splice(2)`). `pipe` is an empty pipe of the caller's. Returns the number of bytes, which are all that were
    /// announced.
    ///
    /// # Errors
    /// Returns the errors of [`receive`](Self::receive), and [`Error::Io`] if the bytes cannot be written to the file.
    pub fn data_into(
        &mut self,
        pipe: &(OwnedFd, OwnedFd),
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<usize, Error> {
        use rustix::pipe::{SpliceFlags, splice};
        let full = |error: rustix::io::Errno| Error::io("write", "the file", error);
        let length = self.payload;
        let mut offset = offset;
        // Bytes that were read together with the header are in our buffer, and written from there.
        let mut first = vec![0; (self.ahead.len() + self.filled - self.parsed).min(length)];
        self.read_data(&mut first)?;
        let mut rest = &first[..];
        while !rest.is_empty() {
            let bytes = rustix::io::pwrite(file, rest, offset).map_err(full)?;
            offset += bytes as u64;
            rest = &rest[bytes..];
        }
        let mut left = length - first.len();
        while left > 0 {
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK | SpliceFlags::MORE;
            let mut moved = match splice(self.transport.socket(), None, &pipe.1, None, left, flags) {
                Ok(0) => return Err(eof()),
                Ok(bytes) => bytes,
                Err(rustix::io::Errno::AGAIN) => {
                    self.wait(PollFlags::IN, true)?;
                    continue;
                }
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::Cut(error.into())),
            };
            self.received += moved as u64;
            left -= moved;
            // Whatever becomes of them, these bytes are not in the socket any more: the next frame begins where the rest
            // of this one ends.
            self.took(moved)?;
            while moved > 0 {
                match splice(&pipe.0, None, file, Some(&mut offset), moved, SpliceFlags::MOVE) {
                    Ok(0) => return Err(full(rustix::io::Errno::NOSPC)),
                    Ok(bytes) => moved -= bytes,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(full(error)),
                }
            }
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;
    use crate::driver::SessionEvent;
    use crate::machine::Role;
    use crate::transport::Plain;

    /// A disk that is full in the middle of a frame must not make the rest of the frame look like another one.
    #[test]
    fn frames_after_one_that_cannot_be_written_are_still_frames() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let session = |stream, role| Session::new(Box::new(Plain::new(stream).unwrap()), role).unwrap();
        let sending = std::thread::spawn(move || {
            let mut session = session(client, Role::Initiator);
            let stream = session.open(b"").unwrap();
            for _ in 0..6 {
                session.data(stream, &[b'x'; 1 << 19]).unwrap();
                session.message(stream, b"after").unwrap();
            }
            session.flush().unwrap();
            session.receive()
        });
        let mut session = session(server, Role::Responder);
        assert!(matches!(session.receive().unwrap(), SessionEvent::Opened { .. }));
        // splice(2) does not write to a file that appends; pwrite(2) does.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let appends = File::options().append(true).create(true).open(path).unwrap();
        for round in 0..6 {
            let event = session.receive().unwrap();
            assert_eq!(event, SessionEvent::Data { stream: 1, length: 1 << 19 }, "{round}");
            let pipe = rustix::pipe::pipe().unwrap();
            let written = session.data_into(&pipe, appends.as_fd(), 0);
            assert!(matches!(written, Err(Error::Io { .. })), "{written:?}");
            let event = session.receive().unwrap();
            assert_eq!(event, SessionEvent::Message { stream: 1, bytes: b"after".to_vec() }, "{round}");
        }
        session.goodbye(0, "").unwrap();
        assert!(matches!(sending.join().unwrap(), Ok(SessionEvent::Bye { code: 0, .. })));
    }
}
