//! The processes that a program leaves behind, found by the library that is mapped into them.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::proc;

/// Returns a pidfd of each process, other than this one, that is not older than this process and whose memory maps name
/// `mark`. Returns none once the last such process has ended.
///
/// A process whose maps this process may not read is not found.
pub(crate) fn find(mark: &str) -> Vec<OwnedFd> {
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
            let stat = proc::stat(pid.as_raw_nonzero().get().unsigned_abs())?;
            if stat.born_by_ms < since {
                return None;
            }
            let maps = fs::read(format!("/proc/{pid}/maps")).ok()?;
            maps.windows(mark.len()).any(|part| part == mark.as_bytes()).then_some(process)
        })
        .collect()
}
