//! Random schedules over the simulated kernel: the steps, their order, and the faults that are found.

mod act;
mod run;
pub(crate) mod shrink;

pub(crate) use run::{Outcome, run};
pub(crate) use shrink::shrink;

/// One step. Its parameters choose among the possibilities at that moment, so that a schedule without one of its steps
/// is a schedule, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) what: What,
    pub(crate) who: u8,
    pub(crate) a: u8,
    pub(crate) b: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Accept,
    Close,
    CloseRange,
    Dup,
    Dup2,
    Shutdown,
    Fork,
    Vfork,
    Spawn,
    Exec,
    Exit,
    Kill,
    Send,
    Receive,
    EpollCreate,
    EpollAdd,
    CloseOnExec,
    Hide,
    PeerSends,
    PeerFinishes,
    PeerResets,
    Aborts,
    Read,
    Wait,
    /// The supervisor is stopped; `Continue` lets it run again.
    Stop,
    Continue,
    /// A thread makes a call that was continued.
    Run,
    /// The supervisor takes a step or, while it is stopped, the guard.
    Supervise,
}

/// Each kind of step, with its share of a schedule.
const WEIGHTS: [(What, u32); 28] = [
    (What::Accept, 8),
    (What::Close, 8),
    (What::CloseRange, 1),
    (What::Dup, 4),
    (What::Dup2, 3),
    (What::Shutdown, 2),
    (What::Fork, 4),
    (What::Vfork, 1),
    (What::Spawn, 1),
    (What::Exec, 2),
    (What::Exit, 3),
    (What::Kill, 2),
    (What::Send, 4),
    (What::Receive, 5),
    (What::EpollCreate, 1),
    (What::EpollAdd, 3),
    (What::CloseOnExec, 2),
    (What::Hide, 1),
    (What::PeerSends, 3),
    (What::PeerFinishes, 2),
    (What::PeerResets, 1),
    (What::Aborts, 1),
    (What::Read, 1),
    (What::Wait, 4),
    (What::Stop, 2),
    (What::Continue, 5),
    (What::Run, 22),
    (What::Supervise, 60),
];

/// A small, fast generator (xorshift64*). It only has to give the same numbers for the same seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero, and seeds that follow each other would begin alike.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// A random schedule. Together with the end of all processes, which follows it, it has at least 30 steps that do
/// something.
pub(crate) fn random(seed: u64) -> (bool, Vec<Step>) {
    let mut random = Random::new(seed);
    let total: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let first = random.next();
    let hold = first & 1 == 1;
    // Some schedules have no hidden processes, other programs or kills, because those can hide other faults.
    let calm = first & 6 == 0;
    // In most schedules the supervisor is never stopped: faults are excused if it was not notified of a call.
    let stops = first & 0x30 == 0;
    let length = 140 + (first >> 8) % 128;
    let mut steps = Vec::with_capacity(length as usize);
    while (steps.len() as u64) < length {
        let bits = random.next();
        let mut place = (bits % u64::from(total)) as u32;
        let what = WEIGHTS.iter().find_map(|(what, weight)| {
            if place < *weight {
                return Some(*what);
            }
            place -= weight;
            None
        });
        let what = what.unwrap_or(What::Supervise);
        if calm && matches!(what, What::Hide | What::Kill)
            || !stops && matches!(what, What::Stop | What::Continue)
        {
            continue;
        }
        let b = if calm { (bits >> 48) as u8 & 0x7f } else { (bits >> 48) as u8 };
        steps.push(Step { what, who: (bits >> 32) as u8, a: (bits >> 40) as u8, b });
    }
    (hold, steps)
}
