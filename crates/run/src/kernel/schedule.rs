//! A thread that works in batches.

use std::{fs, io};

/// Makes the calling thread, and those that it starts from now on, wait for their turn instead of interrupting whoever wakes
/// them (`SCHED_BATCH`, sched(7)). False if that is not to be had.
///
/// A thread that is woken by each message of a busy server interrupts it each time, for two changes of context a message. In this
/// class it runs when the server waits for its next event, on an idle processor at once, and otherwise in its turn: by then several
/// messages are there. So the kernel makes the batches, and no message waits for a timer.
///
/// A thread that has another class already keeps it: real-time threads do not interrupt their equals.
pub(crate) fn work_in_batches() -> bool {
    (!is_filtered() || survives()) && ask()
}

fn ask() -> bool {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: takes a number; 0 is the calling thread.
    let class = unsafe { libc::sched_getscheduler(0) };
    if class != libc::SCHED_OTHER {
        return class >= 0;
    }
    // SAFETY: reads a live structure.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) == 0 }
}

/// Whether a seccomp filter is in place. It may kill who makes a call that it does not know: systemd's
/// `SystemCallFilter=~@resources` does for this one.
fn is_filtered() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_none_or(|mode| mode.trim() != "0")
}

/// Whether a process that makes the call lives on: a child tries it.
fn survives() -> bool {
    let nothing = 0usize;
    // SAFETY: a fork that sends no signal at its end. The child makes system calls only and never returns.
    let child = unsafe { libc::syscall(libc::SYS_clone, nothing, nothing, nothing, nothing, nothing) };
    match child {
        -1 => false,
        0 => {
            // A process that a filter kills leaves no core file.
            // SAFETY: takes numbers.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
            let status = i32::from(!ask());
            // SAFETY: ends this process without running exit handlers.
            unsafe { libc::_exit(status) }
        }
        child => {
            let mut status = 0;
            loop {
                // SAFETY: writes to a live int. `__WCLONE`: only this call waits for such a child.
                let waited = unsafe { libc::waitpid(child as i32, &raw mut status, libc::__WCLONE) };
                if waited >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    return waited == child as i32 && status == 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_works_in_batches_and_its_maker_does_not() {
        let class = || {
            // SAFETY: takes a number.
            unsafe { libc::sched_getscheduler(0) }
        };
        let before = class();
        let (got, inner) = std::thread::spawn(move || {
            let got = work_in_batches();
            (got, std::thread::spawn(class).join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(class(), before);
        assert!(!got || before != libc::SCHED_OTHER || inner == libc::SCHED_BATCH);
        assert!(got || is_filtered());
    }

    #[test]
    fn a_child_says_whether_the_call_is_permitted() {
        // Where no filter forbids it, it is.
        assert!(is_filtered() || survives());
    }
}
