//! Random schedules over the simulated kernel: what is done, in which order, and what is found wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use linger_custody::world::State;

use crate::driver::{Driver, Fault};
use crate::kernel::{Call, End, File, Kernel, Thread, control};

/// What is done next. The parameters choose among what there is, so that a schedule with a step less is one, too.
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
    /// A thread goes on with what it was let do.
    Run,
    /// The supervisor does one thing.
    Supervise,
}

/// With its share of a schedule.
const WEIGHTS: [(What, u32); 26] = [
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
    (What::Run, 22),
    (What::Supervise, 60),
];

/// A small, fast generator (xorshift64*): what is wanted of it is that a seed repeats.
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

/// A random schedule; with the ends of all processes, which follow it, it comes to 30 steps that do something or more.
pub(crate) fn random(seed: u64) -> (bool, Vec<Step>) {
    let mut random = Random::new(seed);
    let total: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let first = random.next();
    let hold = first & 1 == 1;
    // Some schedules are without hidden processes, other programs and kills, so that what is hidden by those shows.
    let calm = first & 6 == 0;
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
        if calm && matches!(what, What::Hide | What::Kill) {
            continue;
        }
        let b = if calm { (bits >> 48) as u8 & 0x7f } else { (bits >> 48) as u8 };
        steps.push(Step { what, who: (bits >> 32) as u8, a: (bits >> 40) as u8, b });
    }
    (hold, steps)
}

/// What a run has come to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) fault: Option<Fault>,
    /// Steps that did something: of the program, of the peers, of the supervisor.
    pub(crate) events: usize,
    pub(crate) covered: BTreeMap<(&'static str, State), u64>,
}

/// Runs a schedule, then lets everything end; an assertion that fails is a fault, too.
pub(crate) fn run(hold: bool, steps: &[Step], tracing: bool) -> Outcome {
    std::panic::catch_unwind(|| run_unguarded(hold, steps, tracing)).unwrap_or_else(|panic| {
        let told = panic.downcast_ref::<String>().cloned();
        let told = told.or_else(|| panic.downcast_ref::<&str>().map(|told| (*told).to_owned()));
        Outcome { fault: Some(format!("panics: {}", told.unwrap_or_default())), ..Outcome::default() }
    })
}

fn run_unguarded(hold: bool, steps: &[Step], tracing: bool) -> Outcome {
    let mut kernel = Kernel::new();
    let mut driver = Driver::new(hold);
    driver.tracing = tracing;
    let mut outcome = Outcome::default();
    let result = steps
        .iter()
        .try_for_each(|step| {
            let did = act(&mut kernel, &mut driver, *step)?;
            if tracing && did {
                eprintln!("{step:?}");
            }
            outcome.events += usize::from(did);
            Ok(())
        })
        .and_then(|()| finish(&mut kernel, &mut driver, &mut outcome.events));
    outcome.fault = result.err();
    for told in &driver.told {
        *outcome.covered.entry(*told).or_default() += 1;
    }
    outcome
}

/// Does one step; whether it did anything.
fn act(kernel: &mut Kernel, driver: &mut Driver, step: Step) -> Result<bool, Fault> {
    let Step { what, who, a, b } = step;
    match what {
        What::Supervise => return driver.step(kernel, a),
        What::Wait => {
            let wait = [1, 25, 60, 1_000, 6_000][usize::from(a) % 5];
            if wait >= 50 {
                // No call takes so long that is not waiting.
                go_on_all(kernel);
            }
            driver.now += Duration::from_millis(wait);
            driver.check_patience()?;
            return Ok(true);
        }
        What::PeerSends | What::PeerFinishes | What::PeerResets | What::Read | What::Aborts => {
            return Ok(change(kernel, what, a));
        }
        _ => {}
    }
    let alive: Vec<usize> =
        (0..kernel.processes.len()).filter(|process| kernel.processes[*process].alive).collect();
    let Some(process) = alive.get(usize::from(who >> 1) % alive.len().max(1)).copied() else {
        return Ok(false);
    };
    let thread = usize::from(who & 1);
    // The end of the last process is the end of the schedule: seldom before its time.
    if alive.len() == 1 && matches!(what, What::Kill | What::Exit) && b < 240 {
        return Ok(false);
    }
    let processes = kernel.processes.len();
    let this = &mut kernel.processes[process];
    let thread = if this.single { 0 } else { thread };
    match what {
        What::Kill => {
            kernel.kill(process);
            return Ok(true);
        }
        What::Hide => {
            let changed = !std::mem::replace(&mut this.hidden, true);
            kernel.ever_hidden = true;
            return Ok(changed);
        }
        What::Run => return Ok(go_on(kernel, process, thread)),
        _ => {}
    }
    if this.threads[thread] != Thread::Idle {
        return Ok(false);
    }
    let open: Vec<i32> = this.connections().map(|(fd, _)| fd).collect();
    let fd = open.get(usize::from(a) % open.len().max(1)).copied();
    let call = match what {
        What::Accept if driver.is_held() => Call::Accept,
        What::Accept => return Ok(kernel.accept(process).is_some()),
        What::EpollCreate => Call::EpollCreate,
        What::Fork => Call::Fork,
        What::Vfork => Call::Vfork,
        What::Spawn => Call::Vfork,
        What::Exec => Call::Exec { fails: b & 3 == 0 },
        What::Exit => Call::Exit,
        What::CloseRange => Call::CloseRange(i32::from(a % 4), i32::from(b % 8)),
        What::Receive => {
            let Some(files) = this.inbox.pop_front() else { return Ok(false) };
            this.threads[thread] = Thread::Receiving(files);
            return Ok(true);
        }
        _ => {
            let Some(fd) = fd else { return Ok(false) };
            match what {
                What::Close => Call::Close(fd),
                What::Dup => Call::Dup(fd),
                What::Dup2 => Call::Dup2(fd, i32::from(b % 8)),
                What::Shutdown => Call::Shutdown(fd, b & 1 == 0),
                What::Send => {
                    let more = open.get(usize::from(b >> 4) % open.len()).copied();
                    let fds: Vec<i32> =
                        [Some(fd), more.filter(|more| *more != fd)].into_iter().flatten().collect();
                    let to = (b & 0x80 == 0 || b & 7 != 0).then_some(usize::from(b & 7) % processes);
                    Call::Send(control(&fds, b >> 2), to)
                }
                What::CloseOnExec => {
                    if let Some(Some(fd)) = this.fds.get_mut(fd as usize) {
                        fd.closes_on_exec = true;
                    }
                    return Ok(true);
                }
                What::EpollAdd => {
                    let Some(File::Connection(index)) = this.file(fd) else { return Ok(false) };
                    let Some(epoll) = this.epolls().next() else { return Ok(false) };
                    // What another thread is closing meanwhile is the program's own race.
                    if this.threads.iter().any(|thread| *thread != Thread::Idle) {
                        return Ok(false);
                    }
                    return Ok(kernel.connections[index].watched_by.insert(epoll));
                }
                _ => return Ok(false),
            }
        }
    };
    this.threads[thread] = Thread::Notified(call);
    Ok(true)
}

/// Changes what a socket says, by its peer or its program.
fn change(kernel: &mut Kernel, what: What, a: u8) -> bool {
    let count = kernel.connections.len();
    let Some(connection) = kernel.connections.get_mut(usize::from(a) % count.max(1)) else { return false };
    let socket = &mut connection.socket;
    match what {
        What::PeerSends if !socket.peer_finished && !socket.over => socket.unread += 1,
        What::PeerFinishes if !socket.over => socket.peer_finished = true,
        What::PeerResets => {
            socket.over = true;
            // A reset purges what was not read from the program's view of the socket's end.
            socket.unread = 0;
        }
        What::Read if connection.end == End::Open => socket.unread = 0,
        What::Aborts if connection.end == End::Open => socket.aborts = true,
        _ => return false,
    }
    true
}

/// A thread makes the call that it was let go on with, or installs what it has received.
fn go_on(kernel: &mut Kernel, process: usize, thread: usize) -> bool {
    match kernel.processes[process].threads[thread].clone() {
        Thread::Continued(call) => kernel.make(process, thread, call),
        Thread::Receiving(_) => kernel.install(process, thread),
        _ => return false,
    }
    true
}

fn go_on_all(kernel: &mut Kernel) -> bool {
    let mut any = false;
    for process in 0..kernel.processes.len() {
        for thread in 0..2 {
            any |= go_on(kernel, process, thread);
        }
    }
    any
}

/// Lets all processes exit, and the supervisor finish.
fn finish(kernel: &mut Kernel, driver: &mut Driver, events: &mut usize) -> Result<(), Fault> {
    for turn in 0..4_000_u32 {
        if go_on_all(kernel) {
            *events += 1;
            continue;
        }
        // A process that waits for its child of `vfork` goes on when that is gone.
        for process in (0..kernel.processes.len()).rev() {
            let this = &mut kernel.processes[process];
            if this.alive && this.threads == [Thread::Idle, Thread::Idle] && driver.is_at_rest() {
                this.threads[0] = Thread::Notified(Call::Exit);
                *events += 1;
                break;
            }
        }
        let gone = kernel.processes.iter().all(|process| !process.alive);
        if gone && driver.has_settled() {
            driver.end();
        }
        let did = driver.step(kernel, turn as u8)?;
        if !did && gone && driver.has_ended() && !driver.is_busy() {
            driver.check_pace()?;
            return driver.check_end(kernel);
        }
        if !did || turn % 16 == 15 {
            driver.now += Duration::from_millis(25);
        }
    }
    Err("the end never comes".into())
}

/// The smallest schedule that goes wrong in some way: without steps that are not needed, then with small parameters.
pub(crate) fn shrink(hold: bool, steps: &[Step]) -> (bool, Vec<Step>, Fault) {
    let wrong = |hold: bool, steps: &[Step]| run(hold, steps, false).fault;
    let mut best = steps.to_vec();
    let mut hold = hold;
    let mut fault = wrong(hold, &best).unwrap_or_default();
    if let Some(same) = wrong(!hold, &best).filter(|_| hold) {
        (hold, fault) = (false, same);
    }
    loop {
        let before = best.clone();
        let mut size = best.len().max(1);
        while size > 0 {
            let mut at = 0;
            while at < best.len() {
                let mut fewer = best.clone();
                fewer.drain(at..(at + size).min(best.len()));
                match wrong(hold, &fewer) {
                    Some(found) => (best, fault) = (fewer, found),
                    None => at += size,
                }
            }
            size /= 2;
        }
        for at in 0..best.len() {
            for change in [
                |step: &mut Step| step.who = 0,
                |step: &mut Step| step.who &= 2,
                |step: &mut Step| step.a = 0,
                |step: &mut Step| step.a = 1,
                |step: &mut Step| step.b = 0,
                |step: &mut Step| step.b = 1,
            ] {
                let mut simpler = best.clone();
                change(&mut simpler[at]);
                if simpler[at] != best[at]
                    && let Some(found) = wrong(hold, &simpler)
                {
                    (best, fault) = (simpler, found);
                }
            }
        }
        if best == before {
            return (hold, best, fault);
        }
    }
}
