//! Several connections as one transport, for paths whose bandwidth one TCP connection cannot use.
//!
//! The session's bytes are split into stripes of fixed length, one connection after the other, and read in the same
//! order. The session does not notice. Bytes that arrive early wait in their socket's receive buffer.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::cancel::Cancel;
use crate::error::Error;
use crate::host;
use crate::transport::Transport;
use crate::wire::{PREFACE, Violation};

/// Length of a stripe in bytes. It is small compared to socket buffers, so all connections are busy at once.
const STRIPE: usize = 64 << 10;
/// Most connections in a bundle.
pub(crate) const MOST: usize = 16;
/// The first bytes of every connection of a bundle, instead of a session's preface.
const MAGIC: [u8; 6] = *b"LNGRBN";
/// How long the connections of a bundle may take to come together, and the first bytes of each to be written or read.
const PATIENCE: Duration = Duration::from_secs(15);

/// The random name of a bundle, the same on all of its connections.
pub(crate) type Name = [u8; 16];

pub(crate) struct Bundle {
    members: Vec<Box<dyn Transport>>,
    written: u64,
    read: u64,
}

impl Bundle {
    pub(crate) fn new(members: Vec<Box<dyn Transport>>) -> Self {
        Self { members, written: 0, read: 0 }
    }

    /// Returns the member that carries the byte at `position`, and how many bytes are left of the byte's stripe.
    fn place(&self, position: u64) -> (usize, usize) {
        let stripe = position / STRIPE as u64;
        ((stripe % self.members.len() as u64) as usize, STRIPE - (position % STRIPE as u64) as usize)
    }
}

impl Transport for Bundle {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (member, left) = self.place(self.read);
        let length = into.len().min(left);
        let bytes = self.members[member].read(&mut into[..length])?;
        self.read += bytes as u64;
        Ok(bytes)
    }

    fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        for part in [head, body] {
            let mut part = part;
            while !part.is_empty() {
                let (member, left) = self.place(self.written);
                let length = part.len().min(left);
                let bytes = match self.members[member].write(&part[..length], &[]) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && taken > 0 => return Ok(taken),
                    Err(error) => return Err(error),
                };
                self.written += bytes as u64;
                (taken, part) = (taken + bytes, &part[bytes..]);
                if bytes == left {
                    // After this stripe the member is written again only after all others. If its socket is full, the
                    // flush at the end of the frame sends the rest.
                    match self.members[member].flush() {
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                        _ => {}
                    }
                }
            }
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let (current, _) = self.place(self.written);
        // Every member is flushed, even after one whose socket is full. `socket_to_write` then finds a member with bytes left.
        let count = self.members.len();
        let order = (1..=count).map(|step| (current + step) % count);
        let mut full = None;
        for member in order {
            match self.members[member].flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => full = Some(error),
                other => other?,
            }
        }
        full.map_or(Ok(()), Err)
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.members[self.place(self.read).0].socket()
    }

    fn socket_to_write(&self) -> BorrowedFd<'_> {
        let full = self.members.iter().find(|member| member.holds_back());
        full.unwrap_or(&self.members[self.place(self.written).0]).socket_to_write()
    }

    fn holds_back(&self) -> bool {
        self.members.iter().any(|member| member.holds_back())
    }

    fn is_encrypted(&self) -> bool {
        self.members.iter().all(|member| member.is_encrypted())
    }

    fn is_plain(&self) -> bool {
        // The kernel cannot splice: it does not know the stripes.
        false
    }

    fn farewell(&mut self) {
        self.members.iter_mut().for_each(|member| member.farewell());
    }

    fn into_sockets(self: Box<Self>) -> Vec<OwnedFd> {
        self.members.into_iter().flat_map(Transport::into_sockets).collect()
    }
}

/// The first bytes of connection `index` of `count`.
pub(crate) fn introduction(name: Name, index: usize, count: usize) -> Vec<u8> {
    [&MAGIC[..], &[index as u8, count as u8], &name].concat()
}

/// Writes all bytes. Waits for the socket, for [`PATIENCE`] in all.
pub(crate) fn write_all(transport: &mut dyn Transport, mut bytes: &[u8]) -> Result<(), Error> {
    let until = host::now() + PATIENCE;
    loop {
        let done = if bytes.is_empty() { transport.flush().map(|()| 0) } else { transport.write(bytes, &[]) };
        match done {
            Ok(_) if bytes.is_empty() => return Ok(()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(transport.socket_to_write(), PollFlags::OUT, until)?;
            }
            Err(error) => return Err(Error::Cut(error)),
        }
    }
}

fn read_exact<const N: usize>(transport: &mut dyn Transport, cancel: &Cancel) -> Result<[u8; N], Error> {
    let until = host::now() + PATIENCE;
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        match transport.read(&mut bytes[done..]) {
            Ok(0) => return Err(Error::Cut(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = until.saturating_duration_since(host::now());
                match cancel.wait_beside(transport.socket(), PollFlags::IN, left) {
                    Ok(true) => {}
                    Ok(false) => {
                        let told = io::Error::new(io::ErrorKind::TimedOut, "the connection said nothing");
                        return Err(Error::Cut(told));
                    }
                    Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
                    Err(error) => return Err(Error::Cut(error)),
                }
            }
            Err(error) => return Err(Error::Cut(error)),
        }
    }
    Ok(bytes)
}

fn wait(socket: BorrowedFd<'_>, interest: PollFlags, until: Instant) -> Result<(), Error> {
    let left = until.saturating_duration_since(host::now());
    let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    match host::poll(&mut [PollFd::from_borrowed_fd(socket, interest)], Some(&timeout)) {
        Ok(0) => Err(Error::Cut(io::Error::new(io::ErrorKind::TimedOut, "the connection said nothing"))),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(Error::Cut(error.into())),
    }
}

/// The kind of a connection, by its first bytes.
pub(crate) enum Greeted {
    /// The only connection of its session, with the bytes already read from it.
    Single(Box<dyn Transport>, [u8; PREFACE]),
    /// The connection that completes a bundle; holds all connections of the bundle as one transport.
    Complete(Box<dyn Transport>),
    /// A connection of a bundle that is not complete yet. The thread of the last connection will serve the session.
    Waiting,
}

/// Bundles of which some connections are missing.
#[derive(Default)]
pub(crate) struct Gathering(Mutex<BTreeMap<Name, Gathered>>);

struct Gathered {
    since: Instant,
    members: Vec<Option<Box<dyn Transport>>>,
}

impl std::fmt::Debug for Gathering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gathering")
    }
}

impl Gathering {
    /// Reads the first bytes of a connection.
    pub(crate) fn greet(&self, mut transport: Box<dyn Transport>, cancel: &Cancel) -> Result<Greeted, Error> {
        let first: [u8; PREFACE] = read_exact(&mut *transport, cancel)?;
        let [magic @ .., index, count] = first;
        if magic != MAGIC {
            return Ok(Greeted::Single(transport, first));
        }
        let name: Name = read_exact(&mut *transport, cancel)?;
        let (index, count) = (usize::from(index), usize::from(count));
        if !(1..=MOST).contains(&count) || index >= count {
            return Err(Violation::Malformed("bundle").into());
        }
        let mut gathering = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Drop bundles that took too long. Dropping a bundle closes its connections.
        gathering.retain(|_, gathered| gathered.since.elapsed() < PATIENCE);
        let gathered = gathering
            .entry(name)
            .or_insert_with(|| Gathered { since: host::now(), members: (0..count).map(|_| None).collect() });
        let agrees = count == gathered.members.len();
        match gathered.members.get_mut(index) {
            Some(place @ None) if agrees => *place = Some(transport),
            _ => return Err(Violation::Malformed("bundle").into()),
        }
        if gathered.members.iter().any(Option::is_none) {
            return Ok(Greeted::Waiting);
        }
        let members = gathering.remove(&name).map(|gathered| gathered.members).unwrap_or_default();
        Ok(Greeted::Complete(Box::new(Bundle::new(members.into_iter().flatten().collect()))))
    }
}
