//! Simulated connections: bytes arrive when the seed decides, and connections are cut where the schedule says.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use super::{Cut, EndOfTransfer, Manner};

/// The bytes that one side has sent.
#[derive(Debug, Default)]
pub(super) struct SimulatedFlow {
    pub(super) under_way: VecDeque<u8>,
    pub(super) arrived: VecDeque<u8>,
    /// The sender has closed. The bytes that it has sent before still arrive.
    closed: bool,
    end_arrived: bool,
    /// Nothing arrives any more: the connection is cut.
    pub(super) silent: bool,
}

impl SimulatedFlow {
    /// Lets the first `bytes` that are under way arrive.
    fn move_on(&mut self, bytes: usize) {
        let (first, second) = self.under_way.as_slices();
        let split = bytes.min(first.len());
        self.arrived.extend(&first[..split]);
        self.arrived.extend(&second[..bytes - split]);
        self.under_way.drain(..bytes);
    }
}

#[derive(Debug, Default)]
pub(super) struct SimulatedSide {
    open: bool,
    /// This side has closed with a lingering close: bytes that still arrive are read and dropped.
    lingers: bool,
    reset: bool,
}

#[derive(Debug)]
pub(super) struct SimulatedConnection {
    /// The bytes sent by the client, and those sent by the server.
    pub(super) flows: [SimulatedFlow; 2],
    pub(super) sides: [SimulatedSide; 2],
    room: usize,
}

impl SimulatedConnection {
    pub(super) fn new(room: usize) -> Self {
        let side = || SimulatedSide { open: true, ..SimulatedSide::default() };
        Self { flows: [SimulatedFlow::default(), SimulatedFlow::default()], sides: [side(), side()], room }
    }

    pub(super) fn read(&mut self, end: EndOfTransfer, into: &mut [u8], most: usize) -> io::Result<usize> {
        let from = &mut self.flows[end.other() as usize];
        let bytes = into.len().min(from.arrived.len()).min(most.max(1));
        if bytes > 0 {
            return io::Read::read(&mut from.arrived, &mut into[..bytes]);
        }
        if self.sides[end as usize].reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if from.end_arrived || into.is_empty() { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) }
    }

    fn free(&self, end: EndOfTransfer) -> usize {
        let flow = &self.flows[end as usize];
        self.room.saturating_sub(flow.under_way.len() + flow.arrived.len())
    }

    pub(super) fn write(&mut self, end: EndOfTransfer, bytes: &[u8]) -> io::Result<usize> {
        if self.sides[end as usize].reset {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let bytes = &bytes[..bytes.len().min(self.free(end))];
        if bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.flows[end as usize].under_way.extend(bytes);
        Ok(bytes.len())
    }

    pub(super) fn is_readable(&self, end: EndOfTransfer) -> bool {
        let from = &self.flows[end.other() as usize];
        !from.arrived.is_empty() || from.end_arrived || self.sides[end as usize].reset
    }

    pub(super) fn is_writable(&self, end: EndOfTransfer) -> bool {
        self.free(end) > 0 || self.sides[end as usize].reset
    }

    /// Whether something that `end` has sent can arrive.
    pub(super) fn can_arrive(&self, end: EndOfTransfer) -> bool {
        let flow = &self.flows[end as usize];
        !flow.silent && (!flow.under_way.is_empty() || (flow.closed && !flow.end_arrived))
    }

    /// Lets at most `most` bytes that `end` has sent arrive.
    pub(super) fn arrive(&mut self, end: EndOfTransfer, most: usize) {
        let flow = &mut self.flows[end as usize];
        let bytes = flow.under_way.len().min(most);
        let peer = &mut self.sides[end.other() as usize];
        if bytes == 0 && flow.closed {
            flow.end_arrived = true;
        } else if peer.open {
            flow.move_on(bytes);
        } else {
            flow.under_way.drain(..bytes);
            if !peer.lingers {
                self.reset(end);
            }
        }
    }

    /// The peer of `end` has answered with a reset.
    pub(super) fn reset(&mut self, end: EndOfTransfer) {
        self.sides[end as usize].reset = true;
        self.flows[end as usize].under_way.clear();
        self.flows[end as usize].silent = true;
    }

    pub(super) fn lingers(&mut self, end: EndOfTransfer) {
        self.sides[end as usize].lingers = true;
    }

    pub(super) fn close(&mut self, end: EndOfTransfer) {
        let side = &mut self.sides[end as usize];
        if !std::mem::replace(&mut side.open, false) {
            return;
        }
        let unread = !self.flows[end.other() as usize].arrived.is_empty();
        if unread && !self.sides[end as usize].lingers {
            // Unread bytes: the kernel sends a reset instead of a FIN, and bytes under way are lost.
            self.flows[end as usize].under_way.clear();
            if !self.flows[end as usize].silent {
                self.sides[end.other() as usize].reset = true;
            }
        }
        self.flows[end as usize].closed = true;
    }

    /// The machine of `end` loses its power: its peer gets nothing any more.
    pub(super) fn vanish(&mut self, end: EndOfTransfer) {
        for flow in &mut self.flows {
            flow.silent = true;
        }
        self.sides[end as usize].open = false;
    }

    /// The other machine has booted again and does not know this connection: it answers with a reset.
    pub(super) fn forget(&mut self, to: EndOfTransfer) {
        if self.sides[to as usize].open {
            self.reset(to);
        }
    }

    pub(super) fn cut(&mut self, cut: Cut) {
        let sender = cut.sender;
        if cut.arrives {
            let flow = &mut self.flows[sender as usize];
            if self.sides[sender.other() as usize].open {
                flow.move_on(flow.under_way.len());
            }
        }
        let (mine, theirs) = match cut.manner {
            Manner::Reset => (true, true),
            Manner::Silence => (false, false),
            Manner::SenderHears => (true, false),
            Manner::ReceiverHears => (false, true),
        };
        for (end, hears) in [(sender, mine), (sender.other(), theirs)] {
            self.flows[end as usize].silent = true;
            self.flows[end as usize].under_way.clear();
            if hears {
                self.sides[end as usize].reset = true;
            }
        }
    }
}

/// A descriptor of a connection, and the state that its counter was last set to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watched {
    pub(super) connection: usize,
    pub(super) end: EndOfTransfer,
    pub(super) writes: bool,
    pub(super) is_set: bool,
}

impl Watched {
    /// Makes poll(2) report the state of the connection: an eventfd is readable while its counter is not 0, and
    /// writable while the counter is not at its maximum.
    pub(super) fn settle(&mut self, fd: BorrowedFd<'_>, connection: &SimulatedConnection) {
        let sets =
            if self.writes { !connection.is_writable(self.end) } else { connection.is_readable(self.end) };
        if sets != self.is_set {
            let counter: u64 = if self.writes { u64::MAX - 1 } else { 1 };
            let _ = if sets {
                rustix::io::write(fd, &counter.to_ne_bytes())
            } else {
                rustix::io::read(fd, &mut [0; 8])
            };
            self.is_set = sets;
        }
    }
}
