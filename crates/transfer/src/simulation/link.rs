//! One end's connection, as the code of that end has it: it is a transport whose bytes go through the simulated world.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use rustix::event::EventfdFlags;

use super::EndOfTransfer;
use super::network::Watched;
use super::world::{SimulatedWorld, world};
use crate::transport::Transport;

/// The descriptors of one side, which poll(2) reports as readable and writable when the simulated connection is.
#[derive(Debug)]
pub(super) struct SimulatedLink {
    connection: usize,
    end: EndOfTransfer,
    read: OwnedFd,
    write: OwnedFd,
}

impl SimulatedLink {
    pub(super) fn new(world: &SimulatedWorld, connection: usize, end: EndOfTransfer) -> io::Result<Self> {
        let eventfd = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (read, write) = (eventfd()?, eventfd()?);
        world.watch(read.as_raw_fd(), Watched { connection, end, writes: false, is_set: false });
        world.watch(write.as_raw_fd(), Watched { connection, end, writes: true, is_set: false });
        Ok(Self { connection, end, read, write })
    }

    fn world() -> io::Result<Rc<SimulatedWorld>> {
        world().ok_or_else(|| io::Error::other("the simulation is over"))
    }
}

impl Transport for SimulatedLink {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Self::world()?.read(self.connection, self.end, into)
    }

    fn write(&mut self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        Self::world()?.write(self.connection, self.end, if head.is_empty() { body } else { head })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    fn socket_to_write(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// The kernel cannot move these bytes with splice(2).
    fn is_plain(&self) -> bool {
        false
    }

    fn is_encrypted(&self) -> bool {
        false
    }

    fn farewell(&mut self) {
        if let Some(world) = world() {
            world.with(self.connection, |connection| connection.lingers(self.end));
        }
    }

    fn into_sockets(self: Box<Self>) -> Vec<OwnedFd> {
        Vec::new()
    }
}

impl Drop for SimulatedLink {
    fn drop(&mut self) {
        let Some(world) = world() else { return };
        let fds: [RawFd; 2] = [self.read.as_raw_fd(), self.write.as_raw_fd()];
        world.unwatch(fds);
        world.with(self.connection, |connection| connection.close(self.end));
        if self.end == EndOfTransfer::Client {
            let mut state = world.state.borrow_mut();
            let now = state.now;
            state.timeline.closes(now);
        }
    }
}
