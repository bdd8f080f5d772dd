//! The witness: a process in this process's group that tells which signals it got as well.
//!
//! A process is not told whether a signal was sent to it alone or to its group (kill(2)). If the program is in the group, it has
//! the second kind already, and passing it on would be a second one: many servers stop with care at the first SIGTERM and at once
//! at the second. The kernel signals the youngest process of a group first (`__kill_pgrp_info` follows a list whose head is the last
//! that `attach_pid` added), so that the witness, which is younger than this process, has a signal of the group when this process has it.

use std::io;
use std::mem::zeroed;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::with_exposed_provenance_mut;
use std::time::Duration;

use super::signals::{Arrived, SignalSender, Signals};

/// A signal of the group reaches all its processes within one system call, though they may take it later on a busy machine. What the
/// witness took longer than this before the supervisor was another.
const RECENT_NS: u64 = 5_000_000_000;
/// The longest wait for the witness, which may wait for a processor.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile: one that was stopped does not answer.
const LOOK: Duration = Duration::from_millis(100);
/// The most signals that are kept to be compared.
const MOST_KEPT: usize = 64;

/// What the witness sends: a signal that it got, or the number of the question that it answers, with signal 0.
#[derive(Clone, Copy)]
#[repr(C)]
struct WitnessReport {
    signal: i32,
    question: u32,
    sender: SignalSender,
    /// Nanoseconds of CLOCK_MONOTONIC.
    at: u64,
}

/// A process that got every signal of the group, or none if it could not be made.
#[derive(Debug)]
pub(crate) struct Witness {
    /// A socket pair of type SOCK_SEQPACKET.
    socket: OwnedFd,
    /// Not used again before this process ends: nobody waits for it, so that it stays a zombie.
    process: libc::pid_t,
    questions: u32,
    kept: Vec<(i32, SignalSender, u64)>,
}

impl Witness {
    /// Makes the witness. Call it after [`Mask::block_all`](super::Mask::block_all), before there is a second thread, and before the
    /// program is started.
    ///
    /// It ends with this process. `wait` does not report it (it is a `__WCLONE` child). Its command line is empty and its name a
    /// word that no program has: whoever signals processes by their names (pkill(1)) and means this one does not find it.
    ///
    /// # Errors
    /// No process or no fd can be had.
    pub(crate) fn start() -> io::Result<Self> {
        let mut pair: [RawFd; 2] = [-1; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        // SAFETY: fills a live array of two.
        if unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: new fds that nobody else owns.
        let [socket, theirs] = pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        // Before the fork: if there is another thread after all, it may hold the allocator's lock, for ever in the child.
        let (nothing, arguments) = (0usize, arguments());
        // SAFETY: a fork that sends no SIGCHLD. The child makes system calls only and never returns.
        let process =
            match unsafe { libc::syscall(libc::SYS_clone, nothing, nothing, nothing, nothing, nothing) } {
                -1 => return Err(io::Error::last_os_error()),
                0 => stand_by(theirs.as_raw_fd(), arguments),
                process => process as libc::pid_t,
            };
        drop(theirs);
        let mut witness = Self { socket, process, questions: 0, kept: Vec::new() };
        // It has none of this process's fds any more when it answers.
        if witness.ask() { Ok(witness) } else { Err(io::Error::from(io::ErrorKind::TimedOut)) }
    }

    /// Whether the witness got this signal as well, from the same sender, so that it was sent to the group.
    ///
    /// `false` if the witness does not answer: it was stopped or killed, or gets no processor for five seconds.
    pub(crate) fn got(&mut self, arrived: &Arrived) -> bool {
        let recent = now().saturating_sub(RECENT_NS);
        if !self.ask() {
            return false;
        }
        self.kept.retain(|(_, _, at)| *at >= recent);
        let same = |(signal, sender, _): &(i32, SignalSender, u64)| {
            (*signal, *sender) == (arrived.signal, arrived.sender)
        };
        let found = self.kept.iter().position(same);
        found.map(|index| self.kept.remove(index)).is_some()
    }

    /// Whether somebody has stopped it (`T`, or `t` by a debugger; proc_pid_stat(5)). What stops the group stops this process as well.
    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process)).unwrap_or_default();
        // The second field is the name, in parentheses.
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['T', 't']))
    }

    /// Receives what the witness has got until now. Returns whether it has answered.
    fn ask(&mut self) -> bool {
        self.questions = self.questions.wrapping_add(1);
        let question = self.questions.to_ne_bytes();
        let fd = self.socket.as_raw_fd();
        // SAFETY: reads four live bytes.
        let sent = unsafe {
            libc::send(fd, question.as_ptr().cast(), question.len(), libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
        };
        if sent < 0 {
            return false;
        }
        let end = now().saturating_add(PATIENCE.as_nanos() as u64);
        loop {
            if now() >= end {
                return false;
            }
            let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one live pollfd.
            match unsafe { libc::poll(&raw mut one, 1, LOOK.as_millis() as i32) } {
                0 if self.is_stopped() => return false,
                0 => continue,
                ready if ready < 0 => return false,
                _ => {}
            }
            // SAFETY: zeroes are a valid value of these integers.
            let mut told: WitnessReport = unsafe { zeroed() };
            // SAFETY: writes at most its size to a live structure of integers.
            let got = unsafe {
                libc::recv(fd, (&raw mut told).cast(), size_of::<WitnessReport>(), libc::MSG_DONTWAIT)
            };
            if usize::try_from(got) != Ok(size_of::<WitnessReport>()) {
                return false;
            }
            if told.signal != 0 && self.kept.len() < MOST_KEPT {
                self.kept.push((told.signal, told.sender, told.at));
            } else if told.signal == 0 && told.question == self.questions {
                return true;
            }
        }
    }
}

/// In the witness: reports each signal as it arrives, and answers questions, until the socket's other end is gone.
fn stand_by(socket: RawFd, arguments: Range<usize>) -> ! {
    close_all_but(socket);
    if !arguments.is_empty() {
        // SAFETY: the kernel has put the arguments there; this process is a copy, and nothing in it reads them.
        unsafe { with_exposed_provenance_mut::<u8>(arguments.start).write_bytes(0, arguments.len()) };
    }
    // SAFETY: reads a string that ends in a zero.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"witness".as_ptr()) };
    if let Ok(signals) = Signals::new() {
        // SAFETY: takes nothing, changes nothing.
        let parent = unsafe { libc::getppid() };
        loop {
            let mut both = [socket, signals.as_fd().as_raw_fd()].map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
            // SAFETY: two live pollfds.
            unsafe { libc::poll(both.as_mut_ptr(), 2, -1) };
            while let Some(arrived) = signals.next() {
                // What the supervisor sends is no signal to its group.
                if !arrived.is_from_kernel() && arrived.sender.pid != parent as u32 {
                    tell(
                        socket,
                        &WitnessReport {
                            signal: arrived.signal,
                            question: 0,
                            sender: arrived.sender,
                            at: now(),
                        },
                    );
                }
            }
            if both[0].revents == 0 {
                continue;
            }
            let mut question = [0u8; 4];
            // SAFETY: writes at most four bytes to a live array.
            let got = unsafe {
                libc::recv(socket, question.as_mut_ptr().cast(), question.len(), libc::MSG_DONTWAIT)
            };
            if got <= 0 {
                break;
            }
            let question = u32::from_ne_bytes(question);
            tell(socket, &WitnessReport { signal: 0, question, sender: SignalSender::default(), at: now() });
        }
    }
    // SAFETY: ends this process without running the supervisor's exit handlers.
    unsafe { libc::_exit(0) }
}

/// Sends one packet, or drops it if too many wait to be read: then a signal of the group counts as one to the supervisor alone.
fn tell(socket: RawFd, told: &WitnessReport) {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: reads a live structure of integers without padding.
    unsafe { libc::send(socket, (&raw const *told).cast(), size_of::<WitnessReport>(), flags) };
}

fn close_all_but(kept: RawFd) {
    let kept = kept as u32;
    if kept > 0 {
        // SAFETY: nothing in this process uses any other fd.
        unsafe { libc::close_range(0, kept - 1, 0) };
    }
    // SAFETY: as above.
    unsafe { libc::close_range(kept + 1, u32::MAX, 0) };
}

/// Where this process's arguments are, which `/proc/PID/cmdline` shows. Empty if it is not known.
fn arguments() -> Range<usize> {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the name, in parentheses; `arg_start` and `arg_end` are the 48th and the 49th (proc_pid_stat(5)).
    let mut fields = stat.rsplit(") ").next().unwrap_or_default().split_ascii_whitespace().skip(48 - 3);
    let mut address = || fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
    let (start, end) = (address(), address());
    if start == 0 { 0..0 } else { start..end }
}

fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}
