//! The processes that a program leaves behind, found by the library that is mapped into them.

use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Returns a pidfd of each process, other than this one, whose memory maps name `mark`. Returns none once the last such
/// process has ended.
///
/// A process whose maps this process may not read is not found.
pub(crate) fn find(mark: &str) -> Vec<OwnedFd> {
    let own = rustix::process::getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    // Open the pidfd before reading the maps: if the pid is reused in between, a pidfd opened afterwards could be that of
    // an unrelated process.
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let maps = fs::read(format!("/proc/{pid}/maps")).ok()?;
            maps.windows(mark.len()).any(|part| part == mark.as_bytes()).then_some(process)
        })
        .collect()
}
