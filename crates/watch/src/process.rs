//! Looks up processes by pid and by socket inode in `/proc`.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use linger_untrusted::Untrusted;
use serde::Serialize;

use crate::access::Access;
use crate::cgroup::Workload;

/// A process by pid and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct NamedProcess {
    /// The pid.
    pub pid: u32,
    /// The process's `comm`, at most 15 bytes. The process chooses it freely (`PR_SET_NAME`), so it is untrusted.
    pub name: Untrusted,
}

impl NamedProcess {
    /// `name[pid]` for a terminal.
    pub fn terminal(&self) -> String {
        format!("{}[{}]", self.name.terminal(), self.pid)
    }

    /// `name[pid]` as one word of a line.
    pub fn plain(&self) -> String {
        format!("{}[{}]", self.name.plain(), self.pid)
    }
}

/// Looks up processes, and caches their names so that processes which have ended can still be named.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    names: HashMap<u32, (Instant, Untrusted)>,
    workloads: HashMap<u32, Workload>,
    access: Access,
}

/// Number of names in the cache, and how long an entry is valid. A busy server closes thousands of times a second, and
/// the kernel does not reuse a pid that soon.
const MAX_NAMES: usize = 4_096;
const BELIEVED: Duration = Duration::from_secs(5);

impl Processes {
    pub(crate) fn new(access: Access) -> Self {
        Self { access, ..Self::default() }
    }

    /// The process with a pid; `None` for pid 0, the kernel itself, and for -1, which perf reports of a task that is gone.
    pub(crate) fn of(&mut self, pid: u32) -> Option<NamedProcess> {
        if pid == 0 || pid == u32::MAX {
            return None;
        }
        let now = Instant::now();
        let known = self.names.get(&pid);
        if let Some((_, name)) = known.filter(|(read, _)| now - *read < BELIEVED) {
            let process = NamedProcess { pid, name: name.clone() };
            if !self.workloads.contains_key(&pid) {
                self.read_workload(pid);
            }
            return Some(process);
        }
        let name = match std::fs::read(format!("/proc/{pid}/comm")) {
            Ok(name) => Untrusted::from(name.strip_suffix(b"\n").unwrap_or(&name)),
            // The process has ended meanwhile.
            Err(_) => known.map_or_else(|| "?".into(), |(_, name)| name.clone()),
        };
        self.remember(pid, now, name.clone());
        self.read_workload(pid);
        Some(NamedProcess { pid, name })
    }

    /// The workload of a process that [`of`](Self::of) has named, also after its end.
    pub(crate) fn workload(&self, pid: u32) -> Option<&Workload> {
        self.workloads.get(&pid)
    }

    fn read_workload(&mut self, pid: u32) {
        if self.workloads.len() >= MAX_NAMES {
            // Of those that live, such as listeners, it is asked again and again.
            self.workloads.retain(|pid, _| Path::new(&format!("/proc/{pid}")).exists());
            if self.workloads.len() > MAX_NAMES / 2 {
                self.workloads.clear();
            }
        }
        if let Some(workload) = Workload::of(pid) {
            self.workloads.insert(pid, workload);
        }
    }

    /// Caches the name of a process as a perf record reports it; the process may end before it is looked up.
    pub(crate) fn named(&mut self, pid: u32, name: &[u8]) {
        self.remember(pid, Instant::now(), name.into());
    }

    fn remember(&mut self, pid: u32, read: Instant, name: Untrusted) {
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        self.names.insert(pid, (read, name));
    }

    /// The processes that hold the sockets with these inodes.
    pub(crate) fn owners(&mut self, inodes: &[u32]) -> HashMap<u32, NamedProcess> {
        let owners = self.access.owners(inodes);
        owners.into_iter().filter_map(|(inode, pid)| Some((inode, self.of(pid)?))).collect()
    }
}
