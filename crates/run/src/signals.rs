//! Passes signals on to a program that is a child, as its starter would have sent them.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::process::Pid;

use crate::kernel::{Arrived, Witness, group_of, send};

/// Signals that a terminal sends to a process group (termios(3), setpgid(2)).
const OF_TERMINALS: [i32; 7] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU, libc::SIGWINCH];

/// Passes a signal on to the program, unless it has it already: the terminal and many others (`kill -TERM -PGID`, a shell that
/// continues a job) signal a whole process group. A program such as php-fpm leaves the group, and gets it by this alone.
pub(crate) fn pass_on(arrived: Arrived, program: Pid, witness: Option<&mut Witness>) {
    let to_the_group = match arrived.signal {
        signal if arrived.is_from_kernel() => signal == libc::SIGCONT || OF_TERMINALS.contains(&signal),
        signal => {
            signal == libc::SIGCONT && is_foreground() || witness.is_some_and(|witness| witness.got(&arrived))
        }
    };
    if to_the_group && is_in_own_group(program) {
        tracing::debug!(
            signal = arrived.signal,
            "not passed on: it was sent to the process group, which the program is in"
        );
        return;
    }
    // SIGUSR1 asks for a report, and by default it would end the program.
    if arrived.signal == libc::SIGUSR1 && !survives(program, libc::SIGUSR1) {
        return;
    }
    // It has ended already, which `wait` is about to report.
    let _ = send(program, arrived);
}

/// Passes a signal on to the processes that the program left behind, which this process has adopted as subreaper.
pub(crate) fn pass_on_to_orphans(arrived: Arrived) {
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|word| Pid::from_raw(word.parse().ok()?)) {
            let _ = send(child, arrived);
        }
    }
}

fn is_in_own_group(process: Pid) -> bool {
    group_of(Some(process)).is_some_and(|group| group_of(None) == Some(group))
}

fn is_foreground() -> bool {
    let foreground = rustix::termios::tcgetpgrp(io::stdin().as_fd());
    foreground.is_ok_and(|group| group_of(None) == Some(group.as_raw_nonzero().get()))
}

/// Whether the process has a handler for the signal, ignores it, or waits for signals (`sigwait(3)`).
///
/// That it blocks the signal says nothing: shells do so around each fork.
fn survives(process: Pid, signal: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let waits = format!("{} ", libc::SYS_rt_sigtimedwait);
    let mut calls = tasks.filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok());
    if calls.any(|call| call.starts_with(&waits)) {
        return true;
    }
    let status = crate::proc::text(format!("/proc/{process}/status")).unwrap_or_default();
    let masks = status.lines().filter_map(|line| match line.split_once(':')? {
        ("SigCgt" | "SigIgn", mask) => u64::from_str_radix(mask.trim(), 16).ok(),
        _ => None,
    });
    masks.fold(0, |all, mask| all | mask) >> (signal - 1) & 1 == 1
}
