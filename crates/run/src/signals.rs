//! Passes signals on to the program. SIGUSR1 asks the supervisor for a report.

use std::fs;
use std::io;
use std::os::fd::AsFd;

use rustix::process::{Pid, Signal, getpgid, getpgrp, kill_process};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::{SignalsInfo, exfiltrator::SignalOnly};

const PASSED_ON: [i32; 9] = [SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];

/// Installs the handlers. Signals that were ignored at the start (`nohup`) stay ignored, here and in the program.
pub(crate) fn take() -> io::Result<SignalsInfo<SignalOnly>> {
    let ignored = mask("/proc/self/status", "SigIgn:");
    let wanted = PASSED_ON.into_iter().filter(|signal| !has(ignored, *signal));
    SignalsInfo::new(wanted.chain([SIGCHLD]))
}

/// Passes a signal on to the program.
pub(crate) fn pass_on(signal: i32, program: Pid) {
    if from_the_terminal(signal) && getpgid(Some(program)).is_ok_and(|group| group == getpgrp()) {
        // The terminal signals its whole foreground process group. If the program is still in it, it got the signal already; a
        // program such as php-fpm leaves the group.
        return;
    }
    // Without a handler SIGUSR1 would kill the program.
    if signal == SIGUSR1 && !has(mask(&format!("/proc/{program}/status"), "SigCgt:"), SIGUSR1) {
        return;
    }
    send(signal, program);
}

/// Passes a signal on to the processes that the program left behind, which this process has adopted as subreaper.
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
        // It has ended already, which `wait` is about to report.
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
