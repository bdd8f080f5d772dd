//! Random schedules of events, and what happens when they run: shrunk, and counted by kind and state.

use super::coverage::Coverage;
use super::kernel::{Fault, Mode, PROCESSES, World};

/// The kinds of event. The numbers of an event choose among the possibilities at that moment, so that any part of
/// a schedule is a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Accept,
    Receive,
    Copy,
    CopyOver,
    Close,
    Shutdown,
    Send,
    /// A program without the library is started with the connection as its input, by `vfork` or `posix_spawn`.
    Spawn,
    Watch,
    Fork,
    /// An `execve` that succeeds, or fails.
    Exec,
    FailedExec,
    Exit,
    Kill,
    /// A close by a bare system call.
    RawClose,
    /// Another program's close.
    ForeignClose,
    /// A second `connect` of the same socket.
    Again,
    /// The fd is made inheritable, or not.
    CloseOnExec,
    /// The peer sends, finishes, or resets; the program asks for a reset; the supervisor refuses the next message.
    Peer,
    /// A process is made by a bare system call.
    RawClone,
    /// A thread takes the next steps of its call.
    Go,
}

pub(crate) const KINDS: [Kind; 21] = [
    Kind::Accept,
    Kind::Receive,
    Kind::Copy,
    Kind::CopyOver,
    Kind::Close,
    Kind::Shutdown,
    Kind::Send,
    Kind::Spawn,
    Kind::Watch,
    Kind::Fork,
    Kind::Exec,
    Kind::FailedExec,
    Kind::Exit,
    Kind::Kill,
    Kind::RawClose,
    Kind::ForeignClose,
    Kind::Again,
    Kind::CloseOnExec,
    Kind::Peer,
    Kind::RawClone,
    Kind::Go,
];

/// How often each kind is chosen, relative to the sum.
const WEIGHTS: [u32; 21] = [24, 10, 12, 6, 22, 6, 5, 2, 6, 14, 2, 3, 3, 2, 2, 4, 3, 4, 8, 2, 24];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) process: u8,
    pub(crate) a: u8,
    pub(crate) b: u8,
    /// Steps of the call before other threads continue. Most calls are made whole.
    pub(crate) steps: u8,
}

/// A schedule, with what the whole run is set to.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) mode: Mode,
    pub(crate) hold: bool,
    pub(crate) events: Vec<Event>,
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

impl Schedule {
    /// A random one.
    pub(crate) fn random(random: &mut Random, mode: Mode, into: &mut Self) {
        into.mode = mode;
        into.hold = random.below(3) == 0;
        let processes = 2 + random.below(PROCESSES as u32 - 1) as u8;
        into.events.clear();
        // Half of the schedules leave some kinds out, so that the others occur together more often.
        let left_out = if random.below(2) == 0 { random.next() & random.next() } else { 0 };
        let weight = |kind: Kind, weight| {
            let always = matches!(kind, Kind::Accept | Kind::Close | Kind::Go);
            if always || left_out & 1 << kind as u32 == 0 { weight } else { 0 }
        };
        let weights = || KINDS.into_iter().zip(WEIGHTS).map(|(kind, of)| (kind, weight(kind, of)));
        let all: u32 = weights().map(|(_, weight)| weight).sum();
        for _ in 0..30 + random.below(10) {
            let mut at = random.below(all);
            let kind = weights().find(|(_, weight)| {
                let found = at < *weight;
                at = at.wrapping_sub(*weight);
                found
            });
            let kind = kind.map_or(Kind::RawClone, |(kind, _)| kind);
            let bits = random.next();
            let [process, a, b, steps, ..] = bits.to_le_bytes();
            let steps = if steps < 100 { 1 + steps % 6 } else { u8::MAX };
            into.events.push(Event { kind, process: process % processes, a, b, steps });
        }
    }

    pub(crate) fn empty() -> Self {
        Self { mode: Mode::Seen, hold: false, events: Vec::new() }
    }

    /// Runs the schedule. Returns the first fault.
    pub(crate) fn run(&self, coverage: &mut Coverage) -> Option<Fault> {
        let run = std::panic::AssertUnwindSafe(|| self.run_through(coverage));
        std::panic::catch_unwind(run).unwrap_or(Some(Fault::Panicked))
    }

    fn run_through(&self, coverage: &mut Coverage) -> Option<Fault> {
        let mut world = World::new(self.mode, self.hold);
        for event in &self.events {
            world.happens(*event, coverage);
            world.check();
            if world.fault.is_some() {
                return world.fault;
            }
        }
        world.finish();
        world.fault
    }

    /// The smallest part of the schedule with the same fault, each event as simple as possible.
    pub(crate) fn shrunk(&self, fault: Fault) -> Self {
        let fails = |schedule: &Self| schedule.run(&mut Coverage::default()) == Some(fault);
        let mut least = self.clone();
        loop {
            let mut simpler = Vec::new();
            for size in [8, 4, 2, 1] {
                for at in 0..least.events.len().saturating_sub(size - 1) {
                    let mut without = least.clone();
                    without.events.drain(at..at + size);
                    simpler.push(without);
                }
            }
            if least.hold {
                simpler.push(Self { hold: false, ..least.clone() });
            }
            for at in 0..least.events.len() {
                let event = least.events[at];
                let plainer = [
                    Event { steps: u8::MAX, ..event },
                    Event { a: 0, ..event },
                    Event { b: 0, ..event },
                    Event { process: 0, ..event },
                ];
                for plain in plainer.into_iter().filter(|plain| *plain != event) {
                    let mut schedule = least.clone();
                    schedule.events[at] = plain;
                    simpler.push(schedule);
                }
            }
            match simpler.into_iter().find(|schedule| fails(schedule)) {
                Some(found) => least = found,
                None => return least,
            }
        }
    }
}
