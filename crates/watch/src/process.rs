//! Which process a number or a socket belongs to, as `/proc` tells it.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// The name the kernel has for it, at most 15 characters.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.name, self.pid)
    }
}

/// Looks processes up, and remembers their names for those that end at once.
#[derive(Debug, Default)]
pub(crate) struct Processes {
    names: HashMap<u32, String>,
}

/// Names remembered.
const MAX_NAMES: usize = 4_096;

impl Processes {
    /// The process with a number; `None` for the kernel itself.
    pub(crate) fn of(&mut self, pid: u32) -> Option<Process> {
        if pid == 0 || pid == u32::MAX {
            return None;
        }
        let name = match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => {
                if self.names.len() >= MAX_NAMES {
                    self.names.clear();
                }
                let name = name.trim().to_owned();
                self.names.insert(pid, name.clone());
                name
            }
            // It has ended meanwhile.
            Err(_) => self.names.get(&pid).cloned().unwrap_or_else(|| "?".into()),
        };
        Some(Process { pid, name })
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
