//! What this process was started with, as far as Rust's runtime changes it before `main`.
//!
//! The runtime ignores SIGPIPE and opens `/dev/null` for each standard stream that is closed (std's `rt::init`). A program
//! that is started in this process's place, or by it, must find both as the starter left them: systemd ignores SIGPIPE by
//! default, and a server with the default action dies when a client leaves.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use rustix::fs::{OFlags, fcntl_getfl};

use rustix::process::{Resource, setrlimit};

use super::image::Image;
use super::signals::{Mask, set_action};
use crate::stack;

const SIGPIPE_IGNORED: u8 = 1 << 7;

/// A bit for each standard stream that was closed, and one for SIGPIPE.
static AT_START: AtomicU8 = AtomicU8::new(0);

/// The C library runs it before `main`, and so before Rust's runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    let mut seen = 0;
    for fd in 0..3 {
        // SAFETY: asks for flags; any number is allowed.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
            seen |= 1 << fd;
        }
    }
    if is_ignored(libc::SIGPIPE) {
        seen |= SIGPIPE_IGNORED;
    }
    AT_START.store(seen, Relaxed);
}

/// Whether this process ignores a signal now.
pub(crate) fn is_ignored(signal: i32) -> bool {
    // SAFETY: zeroes are a valid value of this plain C structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: writes the present action to a live structure, and changes nothing.
    let told = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    told == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// Makes a command start with what this process was started with: SIGPIPE, closed standard streams, the limit of the stack and, for
/// those that are given, a mask of signals and ignored ones.
///
/// Add it after everything else that runs before the command's `exec`: it unblocks signals.
pub(crate) fn as_at_start(command: &mut Command, mask: Option<Mask>, ignored: Vec<i32>) {
    let (at_start, limit) = (AT_START.load(Relaxed), stack::at_start());
    let prepare = move || {
        // std has set it to its default action (`Command` does so for every child).
        if at_start & SIGPIPE_IGNORED != 0 {
            set_action(libc::SIGPIPE, libc::SIG_IGN)?;
        }
        for signal in &ignored {
            set_action(*signal, libc::SIG_IGN)?;
        }
        for fd in (0..3).filter(|fd| at_start & 1 << fd != 0) {
            close_null(fd);
        }
        if let Some(limit) = limit {
            setrlimit(Resource::Stack, limit)?;
        }
        mask.as_ref().map_or(Ok(()), Mask::set)
    };
    // SAFETY: `prepare` makes system calls only: no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(prepare) };
}

/// Closes a standard stream that Rust's runtime has opened.
fn close_null(fd: i32) {
    // SAFETY: one of the three standard streams, borrowed for one call.
    let stream = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    // The runtime opens it for both directions, and nobody else opens a closed standard stream here.
    if fcntl_getfl(stream).is_ok_and(|flags| flags.contains(OFlags::RDWR)) {
        // SAFETY: between fork and exec, or just before an exec in place; std does not own it.
        unsafe { libc::close(fd) };
    }
}

/// Makes the command's `exec` with an environment in which some variables are the process's own pid, which is known only
/// after the fork (`LISTEN_PID`, sd_listen_fds(3)).
///
/// Add it last: it does not return where the program is started.
pub(crate) fn exec_with_own_pid(command: &mut Command, mut image: Image) {
    let exec = move || -> io::Result<()> { Err(image.exec()) };
    // SAFETY: writes to memory of its own and makes system calls.
    unsafe { command.pre_exec(exec) };
}
