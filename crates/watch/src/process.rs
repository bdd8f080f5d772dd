//! Which process a number or a socket belongs to, as `/proc` tells it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use linger_untrusted::Untrusted;
use serde::Serialize;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The name the kernel has for it, at most 15 bytes: whatever the process chose (`PR_SET_NAME`).
    pub name: Untrusted,
}

impl Process {
    /// `name[pid]` for a terminal.
    pub fn terminal(&self) -> String {
        format!("{}[{}]", self.name.terminal(), self.pid)
    }

    /// `name[pid]` as one word of a line.
    pub fn plain(&self) -> String {
        format!("{}[{}]", self.name.plain(), self.pid)
    }
}

/// Looks processes up, and remembers their names for those that end at once.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    names: HashMap<u32, (Instant, Untrusted)>,
}

/// Names remembered, and for how long one is believed: a busy server closes thousands of times a second, and
/// numbers are not given out again that soon.
const MAX_NAMES: usize = 4_096;
const BELIEVED: Duration = Duration::from_secs(5);

impl Processes {
    /// The process with a number; `None` for the kernel itself.
    pub(crate) fn of(&mut self, pid: u32) -> Option<Process> {
        if pid == 0 || pid == u32::MAX {
            return None;
        }
        let now = Instant::now();
        let known = self.names.get(&pid);
        if let Some((_, name)) = known.filter(|(read, _)| now - *read < BELIEVED) {
            return Some(Process { pid, name: name.clone() });
        }
        let name = match std::fs::read(format!("/proc/{pid}/comm")) {
            Ok(name) => Untrusted::from(name.strip_suffix(b"\n").unwrap_or(&name)),
            // It has ended meanwhile.
            Err(_) => known.map_or_else(|| "?".into(), |(_, name)| name.clone()),
        };
        self.remember(pid, now, name.clone());
        Some(Process { pid, name })
    }

    /// A process has got a name; it may have ended by the time anybody asks for it.
    pub(crate) fn named(&mut self, pid: u32, name: &[u8]) {
        self.remember(pid, Instant::now(), name.into());
    }

    fn remember(&mut self, pid: u32, read: Instant, name: Untrusted) {
        if self.names.len() >= MAX_NAMES {
            self.names.clear();
        }
        self.names.insert(pid, (read, name));
    }

    /// The processes that have the sockets with these inodes open.
    pub(crate) fn owners(&mut self, inodes: &[u32]) -> HashMap<u32, Process> {
        let mut owners = HashMap::new();
        let Ok(processes) = std::fs::read_dir("/proc") else { return owners };
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(descriptors) = std::fs::read_dir(entry.path().join("fd")) else { continue };
            for descriptor in descriptors.flatten() {
                let Ok(target) = std::fs::read_link(descriptor.path()) else { continue };
                let inode = target.to_str().and_then(|target| {
                    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u32>().ok()
                });
                if let Some(inode) = inode.filter(|inode| inodes.contains(inode))
                    && let Some(process) = self.of(pid)
                {
                    owners.entry(inode).or_insert(process);
                }
            }
        }
        owners
    }
}
