//! The processes that a program leaves behind, found by the library that is mapped into them.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::mark::Mark;
use crate::proc;

/// Returns a pidfd of each process, other than this one, that is not older than this process and has the `mark`. Returns none once
/// the last such process has ended.
///
/// A process whose maps this process may not read is not found.
pub(crate) fn find(mark: &Mark) -> Vec<OwnedFd> {
    let own = rustix::process::getpid();
    // The program has made them since it was started, and that was not before this process.
    let since = proc::stat(std::process::id()).map_or(0, |stat| stat.born_by_ms);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    // Open the pidfd before reading the maps: if the pid is reused in between, a pidfd opened afterwards could be that of
    // an unrelated process.
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let number = pid.as_raw_nonzero().get().unsigned_abs();
            if proc::stat(number)?.born_by_ms < since {
                return None;
            }
            mark.may_be_on(number).then_some(process)
        })
        .collect()
}
