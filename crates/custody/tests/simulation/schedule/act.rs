//! One step of a schedule.

use std::time::Duration;

use super::{Step, What};
use crate::driver::{Driver, Fault};
use crate::kernel::{Call, End, File, Kernel, Process, Thread, control};

/// A call that does not wait takes less time than this.
const LONG: Duration = Duration::from_millis(50);

/// Takes one step of a schedule. Returns whether it did anything.
pub(super) fn act(kernel: &mut Kernel, driver: &mut Driver, step: Step) -> Result<bool, Fault> {
    let Step { what, who, a, b } = step;
    match what {
        What::Supervise => return driver.step(kernel, a, b),
        What::Stop => return Ok(driver.stop(b & 3)),
        What::Continue => return Ok(driver.go_on()),
        What::Wait => {
            let wait = [1, 25, 60, 1_000, 5_000][usize::from(a) % 5];
            driver.now += Duration::from_millis(wait);
            if driver.now.saturating_sub(driver.went_on) >= LONG {
                // Each half of a call takes less time than this.
                for _ in 0..(wait / LONG.as_millis() as u64).clamp(1, 2) {
                    go_on_all(kernel);
                }
                driver.went_on = driver.now;
            }
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
    // When the last process ends, the schedule ends. So that seldom happens early.
    if alive.len() == 1 && matches!(what, What::Kill | What::Exit) && b < 240 {
        return Ok(false);
    }
    let thread = if kernel.processes[process].single { 0 } else { usize::from(who & 1) };
    match what {
        What::Kill => {
            kernel.kill(process);
            return Ok(true);
        }
        What::Hide => return Ok(kernel.hide(process)),
        What::Run => return Ok(go_on(kernel, process, thread)),
        _ if kernel.processes[process].threads[thread] != Thread::Idle => return Ok(false),
        _ => {}
    }
    match what {
        What::Accept if !driver.is_held() => Ok(kernel.accept(process).is_some()),
        What::Receive | What::CloseOnExec | What::EpollAdd => Ok(do_untold(kernel, process, thread, step)),
        _ => {
            let call = call(kernel, process, step);
            let does = call.is_some();
            call.into_iter().for_each(|call| kernel.processes[process].call(thread, call));
            Ok(does)
        }
    }
}

/// The fd of a connection that a step means.
fn chosen(this: &Process, choice: u8) -> Option<i32> {
    let open: Vec<i32> = this.connections().map(|(fd, _)| fd).collect();
    open.get(usize::from(choice) % open.len().max(1)).copied()
}

/// The call that a thread makes, of those that the supervisor is notified of.
fn call(kernel: &Kernel, process: usize, Step { what, a, b, .. }: Step) -> Option<Call> {
    let this = &kernel.processes[process];
    Some(match what {
        What::Accept => Call::Accept,
        What::EpollCreate => Call::EpollCreate,
        What::Fork => Call::Fork,
        What::Vfork | What::Spawn => Call::Vfork,
        What::Exec => Call::Exec { fails: b & 3 == 0 },
        What::Exit => Call::Exit,
        What::CloseRange => Call::CloseRange(i32::from(a % 4), i32::from(b % 8)),
        What::Close => Call::Close(chosen(this, a)?),
        What::Dup => Call::Dup(chosen(this, a)?),
        What::Dup2 => Call::Dup2(chosen(this, a)?, i32::from(b % 8)),
        What::Shutdown => Call::Shutdown(chosen(this, a)?),
        What::Send => {
            let fd = chosen(this, a)?;
            let more = chosen(this, b >> 4).filter(|more| *more != fd);
            let fds: Vec<i32> = [Some(fd), more].into_iter().flatten().collect();
            let to = usize::from(b & 7) % kernel.processes.len();
            Call::Send(control(&fds, b >> 2), (b & 0x80 == 0 || b & 3 != 0).then_some(to))
        }
        _ => return None,
    })
}

/// Does what needs no notification of the supervisor. Returns whether it did anything.
fn do_untold(kernel: &mut Kernel, process: usize, thread: usize, Step { what, a, .. }: Step) -> bool {
    let this = &mut kernel.processes[process];
    if what == What::Receive {
        let Some(files) = this.inbox.pop_front() else { return false };
        this.threads[thread] = Thread::Receiving(files);
        return true;
    }
    let Some(fd) = chosen(this, a) else { return false };
    if what == What::CloseOnExec {
        if let Some(Some(fd)) = this.fds.get_mut(fd as usize) {
            fd.closes_on_exec = true;
        }
        return true;
    }
    let (Some(File::Connection(index)), Some(epoll)) = (this.file(fd), this.epolls().next()) else {
        return false;
    };
    // If another thread closes the fd meanwhile, that is the program's race with itself.
    let closes = |thread: &Thread| matches!(thread, Thread::Notified(call) | Thread::Continued(call) if call.closes(fd));
    !this.threads.iter().any(closes) && kernel.connections[index].watched_by.insert(epoll)
}

/// Changes what a socket says, by its peer or its program.
fn change(kernel: &mut Kernel, what: What, a: u8) -> bool {
    let count = kernel.connections.len();
    let Some(connection) = kernel.connections.get_mut(usize::from(a) % count.max(1)) else { return false };
    let by_peer = matches!(what, What::PeerSends | What::PeerFinishes);
    // A segment of the peer may have crossed the FIN.
    connection.acknowledged |= by_peer && connection.handed > 0 && a & 0x80 == 0;
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

/// Makes a thread's continued call, or installs the fds that it has received.
fn go_on(kernel: &mut Kernel, process: usize, thread: usize) -> bool {
    match kernel.processes[process].threads[thread].clone() {
        Thread::Continued(call) => kernel.make(process, thread, call),
        Thread::Receiving(_) => kernel.install(process, thread),
        Thread::Forking(..) => kernel.bear(process, thread),
        _ => return false,
    }
    true
}

pub(super) fn go_on_all(kernel: &mut Kernel) -> bool {
    let mut any = false;
    for process in 0..kernel.processes.len() {
        for thread in 0..2 {
            any |= go_on(kernel, process, thread);
        }
    }
    any
}
