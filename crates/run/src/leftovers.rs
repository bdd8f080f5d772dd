//! The processes that a program leaves behind, found by the library that is mapped into them.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::proc;

/// The processes other than this one whose memory maps name `mark`, as pidfds. Empty once the last has ended.
///
/// A process that forbids to be looked into, to this process's user, is not seen.
pub(crate) fn find(mark: &str) -> Vec<OwnedFd> {
    let own = rustix::process::getpid();
    // The program has made them since it was started, and that was not before this process.
    let since = proc::stat(std::process::id()).map_or(0, |stat| stat.born_by_ms);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    // The pidfd comes first: were the process to end, the maps could be another's.
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let stat = proc::stat(pid.as_raw_nonzero().get().unsigned_abs())?;
            if stat.born_by_ms < since {
                return None;
            }
            let maps = fs::read(format!("/proc/{pid}/maps")).ok()?;
            maps.windows(mark.len()).any(|part| part == mark.as_bytes()).then_some(process)
        })
        .collect()
}
