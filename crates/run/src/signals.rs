//! Signals: passed on to the program, but for the one that asks for a report.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::process::{Pid, Signal, getpgid, getpgrp, kill_process};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::{SignalsInfo, exfiltrator::SignalOnly};

const PASSED_ON: [i32; 9] = [SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];

/// Takes the signals; those that this process was told to ignore (`nohup`) stay ignored, here and in the program.
pub(crate) fn take() -> io::Result<SignalsInfo<SignalOnly>> {
    let ignored = mask("/proc/self/status", "SigIgn:");
    let wanted = PASSED_ON.into_iter().filter(|signal| !has(ignored, *signal));
    SignalsInfo::new(wanted.chain([SIGCHLD]))
}

/// Passes a signal on to the program.
pub(crate) fn pass_on(signal: i32, program: Pid) {
    if from_the_terminal(signal) && getpgid(Some(program)).is_ok_and(|group| group == getpgrp()) {
        // The terminal has told the whole foreground group, and the program is in it still: php-fpm leaves it.
        return;
    }
    // A program without a handler for it would die of a request for a report.
    if signal == SIGUSR1 && !has(mask(&format!("/proc/{program}/status"), "SigCgt:"), SIGUSR1) {
        return;
    }
    send(signal, program);
}

/// Passes a signal on to what an ended program has left behind: this process's children, by adoption.
pub(crate) fn pass_on_to_orphans(signal: i32) {
    for task in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|word| Pid::from_raw(word.parse().ok()?)) {
            send(signal, child);
        }
    }
}

fn send(signal: i32, process: Pid) {
    if let Some(signal) = Signal::from_named_raw(signal) {
        // Gone already: its end is about to be noticed.
        let _ = kill_process(process, signal);
    }
}

fn from_the_terminal(signal: i32) -> bool {
    matches!(signal, SIGINT | SIGQUIT | SIGWINCH | SIGCONT)
        && rustix::termios::tcgetpgrp(io::stdin().as_fd()).is_ok_and(|group| group == getpgrp())
}

fn mask(path: &str, name: &str) -> u64 {
    let status = fs::read_to_string(path).unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or(0)
}

fn has(mask: u64, signal: i32) -> bool {
    mask >> (signal - 1) & 1 == 1
}
