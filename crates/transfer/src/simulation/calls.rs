//! What the kernel does for both ends, done by the simulated world.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;

use super::link::SimulatedLink;
use super::network::SimulatedConnection;
use super::threads::ThreadWork;
use super::world::{Command, SimulatedState, SimulatedWorld, set_world, world};
use super::{EndOfTransfer, Planted};
use crate::host::{DiskCall, HostCalls, Rule};
use crate::progress::Progress;
use crate::serve::Serving;
use crate::transport::Transport;

/// Puts a world in the kernel's place on this thread, or ends that with `None`.
pub(super) fn stand_in(world: Option<Rc<SimulatedWorld>>) {
    crate::host::simulate(world.clone().map(|world| world as Rc<dyn HostCalls>));
    set_world(world);
}

/// Handles the server's reports while it serves.
fn observe(serving: Serving<'_>) {
    if let (Serving::Progress(_, Progress::Confirmed(confirmation)), Some(world)) = (serving, world())
        && world.state.borrow().disk.owner == EndOfTransfer::Server
    {
        world.confirmed(confirmation);
    }
}

impl HostCalls for SimulatedWorld {
    fn now(&self) -> Instant {
        let state = self.state.borrow();
        state.started + state.now
    }

    fn poll(&self, fds: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> Result<usize, Errno> {
        self.step();
        let timeout = timeout.and_then(|time| Duration::try_from(*time).ok());
        let deadline = timeout.and_then(|time| self.state.borrow().now.checked_add(time));
        loop {
            let mut state = self.state.borrow_mut();
            if state.is_dying() {
                return Err(Errno::IO);
            }
            let SimulatedState { watched, connections, .. } = &mut *state;
            for fd in fds.iter() {
                if let Some(watched) = watched.get_mut(&fd.as_fd().as_raw_fd()) {
                    watched.settle(fd.as_fd(), &connections[watched.connection]);
                }
            }
            let now = state.now;
            drop(state);
            let ready = rustix::event::poll(fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
            if ready > 0 || deadline.is_some_and(|deadline| deadline <= now) {
                self.state.borrow_mut().changes += u64::from(timeout != Some(Duration::ZERO));
                return Ok(ready);
            }
            self.wait(deadline);
        }
    }

    fn random(&self, into: &mut [u8]) {
        let mut state = self.state.borrow_mut();
        for bytes in into.chunks_mut(8) {
            let next = state.random.next().to_ne_bytes();
            let length = bytes.len();
            bytes.copy_from_slice(&next[..length]);
        }
    }

    fn pause(&self, time: Duration) {
        let deadline = self.state.borrow().now + time;
        while self.state.borrow().now < deadline {
            self.wait(Some(deadline));
        }
    }

    fn boot(&self) -> Vec<u8> {
        let state = self.state.borrow();
        if state.planted == Some(Planted::BootForgotten) {
            return Vec::new();
        }
        state.boots[state.end() as usize].to_ne_bytes().to_vec()
    }

    fn start(&self, work: ThreadWork) {
        let end = self.state.borrow().end();
        self.start_on(end, work);
    }

    fn connect(&self) -> io::Result<Box<dyn Transport>> {
        self.step();
        let mut state = self.state.borrow_mut();
        let now = state.now;
        state.timeline.connects(now);
        let Some(server) = state.server.clone() else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let room = 1 << (9 + state.random.below(12));
        let number = state.connections.len();
        state.connections.push(SimulatedConnection::new(room));
        drop(state);
        let theirs = SimulatedLink::new(self, number, EndOfTransfer::Server)?;
        let work = move || {
            let peer = SocketAddr::from(([192, 0, 2, 1], 1));
            let served = server.simulated_connection(Box::new(theirs), peer, &observe);
            if let Some(world) = world() {
                world.state.borrow_mut().served.push((number, served));
            }
        };
        self.start_on(EndOfTransfer::Server, Box::new(work));
        Ok(Box::new(SimulatedLink::new(self, number, EndOfTransfer::Client)?))
    }

    fn command(&self, content: &[u8]) -> io::Result<()> {
        self.step();
        let mut state = self.state.borrow_mut();
        let number = state.commands.len();
        if state.anew {
            state.known = number;
        }
        if state.is_open() {
            state
                .fault
                .get_or_insert("the command was started again, and nobody knew what it had done".into());
        }
        state.commands.push(Command { content: content.to_vec(), outcome: None });
        let (time, succeeds) = (state.random.below(20_000), !state.random.once_in(8));
        drop(state);
        self.pause(Duration::from_millis(time));
        self.step();
        self.state.borrow_mut().commands[number].outcome = Some(succeeds);
        if succeeds { Ok(()) } else { Err(io::Error::other("no paper")) }
    }

    fn before(&self, call: &DiskCall<'_>) -> Result<bool, Errno> {
        self.step();
        let mut state = self.state.borrow_mut();
        if state.is_dying() {
            return Err(Errno::IO);
        }
        let (planted, owns) = (state.planted, state.disk.owner == state.end());
        if !owns {
            return Ok(true);
        }
        if state.full > 0 && call.needs_room() {
            state.full -= 1;
            return Err(Errno::NOSPC);
        }
        if state.broken > 0 {
            state.broken -= 1;
            state.disk.fail(call);
            return Err(Errno::IO);
        }
        state.disk.before(call, planted)
    }

    fn after(&self, call: &DiskCall<'_>) {
        let mut state = self.state.borrow_mut();
        if state.disk.owner == state.end() {
            state.disk.after(call);
        }
    }

    fn lacks(&self, rule: Rule) -> bool {
        matches!(self.state.borrow().planted, Some(Planted::Rule(planted)) if planted.rule() == rule)
    }
}
