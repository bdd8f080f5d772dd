//! The processes that a program leaves behind, found by the library that is mapped into them, or that they are about to load.

use std::fs;
use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::mark::{Mark, Sight};
use crate::proc;

/// How long an `execve` may take that is under way while there is nobody else: it may read from a slow disk. After that its process is
/// taken for one that clears its arguments and its environment.
const EXECVE: Duration = Duration::from_secs(5);

/// Returns a pidfd of each process, other than this one, that is not older than this process and has the `mark`, or is to have it.
/// Returns none once the last such process has ended.
///
/// A process whose maps this process may not read is not found.
pub(crate) fn find(mark: &Mark) -> Vec<OwnedFd> {
    let began = Instant::now();
    loop {
        let (left, is_sure) = look(mark);
        if !left.is_empty() || is_sure || began.elapsed() > EXECVE {
            return left;
        }
        sleep(Duration::from_millis(5));
    }
}

/// The processes that are there, and whether none is in the middle of its `execve`.
fn look(mark: &Mark) -> (Vec<OwnedFd>, bool) {
    let own = rustix::process::getpid();
    // The program has made them since it was started, and that was not before this process.
    let since = proc::stat(std::process::id()).map_or(0, |stat| stat.born_by_ms);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    // Open the pidfd before reading the maps: if the pid is reused in between, a pidfd opened afterwards could be that of
    // an unrelated process.
    let mut is_sure = true;
    let left = pids.filter(|pid| *pid != own).filter_map(|pid| {
        let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let number = pid.as_raw_nonzero().get().unsigned_abs();
        if proc::stat(number)?.born_by_ms < since {
            return None;
        }
        let sight = mark.look(number);
        is_sure &= sight != Sight::NotYet;
        (sight == Sight::Has).then_some(process)
    });
    (left.collect(), is_sure)
}
