//! A watch thread that speaks for a session whose own thread is away.
//!
//! What a thread does between two calls of its session may take long, and may never end: an open on NFS, a read of a
//! dying disk, a sync. No system call can be ended from outside while it waits for a disk, and nobody knows beforehand
//! which call will do so. So no call can be chosen to run in another thread. Instead a watch thread looks four times a
//! second whether the session was used. If it was not, the watch thread takes over, as the monitor of Go's scheduler
//! takes the processor of a thread that is stuck in a system call: it tells the peer that this side waits, and looks whether
//! the peer has left or a stop was requested. If so, it gives the session's own thread a moment to come back, closes the
//! connection, and leaves that thread behind.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread::{self, Builder, Thread};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::core::{BUFFER, Core};
use super::{PhaseWork, Session, end};
use crate::host;
use crate::wire::{FrameKind, Header, reason_bytes};

/// How often to look. A session that is away for less needs nobody to speak for it.
const BEAT: Duration = Duration::from_millis(250);
/// How long the session's thread may take to come back once its session is to end.
const MOMENT: Duration = Duration::from_millis(200);
/// Longest time for closing the connection of a thread that is left behind.
const CLOSING: Duration = Duration::from_secs(2);

/// The thread that watches over one session, until this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    thread: Thread,
    over: Arc<AtomicBool>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

impl Session {
    /// Starts a watch thread, which speaks for this session whenever the session's own thread is away. `left` is called if
    /// that thread is left behind: the session has lost its connection then.
    pub(crate) fn watch(&mut self, left: impl FnOnce() + Send + 'static) {
        if host::simulated().is_some() {
            // A simulation's clock stands still while a thread computes, and no call there is slow by itself.
            return;
        }
        let (core, over) = (self.core.clone(), Arc::new(AtomicBool::new(false)));
        let its = over.clone();
        match Builder::new().name("watch".into()).spawn(move || watch(&core, &its, left)) {
            Ok(handle) => self.watch = Some(Watch { thread: handle.thread().clone(), over }),
            Err(error) => {
                tracing::warn!(%error, "no thread can be had: while the disk is waited for, the peer hears nothing");
            }
        }
    }
}

fn watch(core: &Mutex<Core>, over: &AtomicBool, left: impl FnOnce()) {
    let (mut calls, mut since) = (0, Instant::now());
    // When the watch thread found that the session has to end.
    let mut ends: Option<Instant> = None;
    loop {
        thread::park_timeout(if ends.is_some() { MOMENT / 4 } else { BEAT });
        if over.load(Ordering::Acquire) {
            return;
        }
        let mut core = match core.try_lock() {
            Ok(core) => core,
            // The session's thread is in a call of the session, and hears everything itself.
            Err(TryLockError::WouldBlock) => {
                ends = None;
                continue;
            }
            Err(TryLockError::Poisoned(_)) => return,
        };
        if core.is_gone {
            return;
        }
        if core.calls != calls {
            (calls, since, ends) = (core.calls, Instant::now(), None);
            core.activity.set_away(None);
            continue;
        }
        core.activity.set_away(Some(since));
        let is_asked = core.cancel.is_cancelled();
        if !is_asked && core.speak() {
            ends = None;
        } else if ends.get_or_insert_with(Instant::now).elapsed() >= MOMENT {
            if is_asked {
                core.say_goodbye();
            }
            let transport = core.take_transport();
            drop(core);
            tracing::warn!(
                seconds = since.elapsed().as_secs_f64(),
                "a thread that waits for a disk is left behind"
            );
            left();
            if let Some(transport) = transport {
                let policy = linger::Policy::default().with_total(CLOSING).with_idle(CLOSING);
                end::close(transport, &policy);
            }
            return;
        }
    }
}

impl Core {
    /// Tells the peer that this side waits for something else, and keeps the session from counting as idle. Returns
    /// false if the peer has left.
    fn speak(&mut self) -> bool {
        let now = Instant::now();
        self.activity.got_on(now);
        self.heard = now;
        // Nothing may come into the middle of a frame.
        if self.unfinished == 0 && !self.torn && self.output.len() < BUFFER {
            if self.version < 2 {
                // Version 1 of the protocol has no WORK.
                self.control(FrameKind::Ping, 0, 0);
            } else {
                let payload = PhaseWork::new(self.phase, 0, 0).encode();
                self.output.extend(Header { kind: FrameKind::Work, stream: 0, length: 17 }.encode(&payload));
                self.output.extend(payload);
            }
            self.try_flush();
        }
        !has_left(self.transport.socket())
    }

    /// Writes a goodbye as far as the socket takes it now.
    fn say_goodbye(&mut self) {
        if self.unfinished == 0 && !self.torn {
            let error = self.cancel.error();
            let payload = reason_bytes(error.code(self.machine.role()), &error.farewell());
            self.output.extend(
                Header { kind: FrameKind::Bye, stream: 0, length: payload.len() as u32 }.encode(&payload),
            );
            self.output.extend(payload);
            self.try_flush();
        }
    }
}

/// Whether the peer has sent its FIN, or the connection is broken. A peer sends its FIN only after its goodbye.
pub(super) fn has_left(socket: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
    let found = rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    found.is_ok_and(|found| found > 0)
}
