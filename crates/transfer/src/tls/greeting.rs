//! The handshake and the exchange after it, in which each side says whether it knows the other's key. It blocks.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustls::Connection;

use super::wrong;
use crate::cancel::{Cancel, Stopped};
use crate::error::Error;
use crate::identity::{PublicKey, key_of_spki};

/// A side's answer once it has seen the other's key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Known = 1,
    Stranger = 2,
    Refused = 3,
}

/// A socket whose calls fail after a deadline.
pub(super) struct Deadline<'a> {
    pub(super) stream: &'a TcpStream,
    pub(super) until: Instant,
    /// Interrupts the wait when it is used.
    pub(super) cancel: &'a Cancel,
    /// Called whenever this side writes. A server first writes when the client's whole ClientHello has arrived.
    pub(super) writes: &'a dyn Fn(),
}

impl Deadline<'_> {
    pub(super) fn left(&self) -> io::Result<Option<Duration>> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long")),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Deadline<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.left()?.unwrap_or_default();
        if self.cancel.wait_beside(self.stream.as_fd(), PollFlags::IN, left)? {
            self.stream.read(into)
        } else {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))
        }
    }
}

impl Write for Deadline<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        (self.writes)();
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection during the greeting, with blocking reads and writes.
pub(super) struct Greeting<'a> {
    pub(super) connection: &'a mut Connection,
    pub(super) socket: Deadline<'a>,
}

impl Greeting<'_> {
    pub(super) fn handshake(&mut self) -> Result<PublicKey, Error> {
        while self.connection.is_handshaking() {
            self.connection.complete_io(&mut self.socket).map_err(cut)?;
        }
        let spki = self.connection.peer_certificates().and_then(<[_]>::first);
        spki.and_then(|spki| key_of_spki(spki))
            .ok_or_else(|| Error::Identity("the peer has no Ed25519 key".into()))
    }

    pub(super) fn exporter(&self) -> Result<[u8; 32], Error> {
        let label = b"EXPORTER-linger-transfer-pairing";
        match &self.connection {
            Connection::Client(connection) => connection.export_keying_material([0; 32], label, None),
            Connection::Server(connection) => connection.export_keying_material([0; 32], label, None),
        }
        .map_err(wrong)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.connection.writer().write_all(bytes).map_err(cut)?;
        while self.connection.wants_write() {
            self.connection.write_tls(&mut self.socket).map_err(cut)?;
        }
        Ok(())
    }

    pub(super) fn receive<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        let mut done = 0;
        while done < N {
            match self.connection.reader().read(&mut bytes[done..]) {
                Ok(0) => return Err(cut(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.connection.read_tls(&mut self.socket).map_err(cut)? == 0 {
                        return Err(cut(io::ErrorKind::UnexpectedEof.into()));
                    }
                    self.connection.process_new_packets().map_err(wrong)?;
                }
                Err(error) => return Err(cut(error)),
            }
        }
        Ok(bytes)
    }

    pub(super) fn say(&mut self, word: Word) -> Result<(), Error> {
        self.send(&[word as u8])
    }

    pub(super) fn hear(&mut self) -> Result<Word, Error> {
        match self.receive()? {
            [1] => Ok(Word::Known),
            [2] => Ok(Word::Stranger),
            _ => Ok(Word::Refused),
        }
    }
}

pub(crate) fn cut(error: io::Error) -> Error {
    // `InvalidData` is the kind of rustls's errors in the peer's records.
    if error.get_ref().is_some_and(|inner| inner.is::<Stopped>()) {
        Error::Cancelled
    } else if error.kind() == io::ErrorKind::InvalidData {
        Error::Identity(format!("TLS: {error}").into())
    } else {
        Error::Cut(error)
    }
}
