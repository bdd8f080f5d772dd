//! The processes of the program, with the time at which each was made.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, FileExt};
use std::time::{Duration, Instant};

use linger_custody::proof::Family;
use linger_custody::world::Pid;

use crate::proc;

/// How long the pid that was given last says that no process has been made: the kernel gives all pids anew after a while,
/// 32,768 by default, and no machine makes as many processes in this time.
const RECENT: Duration = Duration::from_millis(50);

/// All processes below this one, kept current.
///
/// One that this process cannot see is none of them, unless a process of the program names it as its child.
#[derive(Debug)]
pub(crate) struct Relatives {
    family: Family,
    /// All processes of the machine that are known: the inode of each one's directory, and whether it is one of the
    /// program's. The inode is new for each process, also for one that gets the pid of another.
    known: HashMap<u32, (u64, bool)>,
    last_pid: LastPid,
    listed: Option<Instant>,
}

impl Relatives {
    pub(crate) fn new() -> Self {
        Self { family: Family::default(), known: HashMap::new(), last_pid: LastPid::open(), listed: None }
    }

    /// The processes at a moment after this call began; `None` where `/proc` cannot be read.
    pub(crate) fn now(&mut self) -> Option<&Family> {
        let now = Instant::now();
        let recent = self.listed.is_some_and(|listed| now.duration_since(listed) < RECENT);
        // Read before the list: what is made meanwhile is noticed the next time.
        let changed = self.last_pid.has_changed();
        if !recent || changed {
            self.list()?;
            self.listed = Some(now);
        }
        Some(&self.family)
    }

    fn list(&mut self) -> Option<()> {
        let listing: HashMap<u32, u64> = fs::read_dir("/proc").ok()?.flatten().filter_map(numbered).collect();
        // Mounted with `hidepid`: only the kernel's lists of children name processes of other users.
        let children = if listing.contains_key(&1) { Vec::new() } else { proc::processes() };
        let gone: Vec<u32> = self
            .known
            .iter()
            .filter(|(pid, known)| listing.get(pid) != Some(&known.0))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in gone {
            self.known.remove(&pid);
            self.family.remove(Pid(pid));
        }
        let mut parents = HashMap::new();
        for (pid, inode) in &listing {
            if !self.known.contains_key(pid) && *pid != std::process::id() {
                // `None`: it has ended since, or is ending.
                if let Some(stat) = proc::stat(*pid) {
                    parents.insert(*pid, (*inode, stat));
                }
            }
        }
        for (pid, (inode, stat)) in &parents {
            let ours = self.is_ours(stat.parent, &parents);
            self.known.insert(*pid, (*inode, ours));
            if ours {
                self.family.insert(Pid(*pid), stat.born_by_ms);
            }
        }
        for pid in children {
            if !listing.contains_key(&pid) {
                self.family.insert(Pid(pid), u64::MAX);
            }
        }
        Some(())
    }

    /// Whether a process with this parent is one of the program's. One whose descent cannot be followed may be.
    fn is_ours(&self, parent: u32, new: &HashMap<u32, (u64, proc::Stat)>) -> bool {
        let mut parent = parent;
        // No line of descent is longer than the processes are many.
        for _ in 0..=new.len() {
            if parent == std::process::id() {
                return true;
            }
            if parent == 0 {
                return false;
            }
            if let Some((_, ours)) = self.known.get(&parent) {
                return *ours;
            }
            match new.get(&parent) {
                Some((_, stat)) => parent = stat.parent,
                None => return true,
            }
        }
        true
    }
}

fn numbered(entry: fs::DirEntry) -> Option<(u32, u64)> {
    Some((entry.file_name().to_str()?.parse().ok()?, entry.ino()))
}

/// The pid that was given last in this process's namespace: the last word of `/proc/loadavg`. Threads and the processes of
/// namespaces below get one, too.
#[derive(Debug)]
struct LastPid {
    file: Option<File>,
    seen: Vec<u8>,
}

impl LastPid {
    fn open() -> Self {
        let file = File::open("/proc/loadavg").ok();
        // Not one that a container's runtime has put in its place (lxcfs), which may show another number.
        let is_real =
            |file: &File| rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC);
        Self { file: file.filter(is_real), seen: Vec::new() }
    }

    fn has_changed(&mut self) -> bool {
        let mut line = [0; 128];
        let read = self.file.as_ref().and_then(|file| file.read_at(&mut line, 0).ok()).unwrap_or(0);
        let words = line[..read].trim_ascii_end();
        let last = words.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        // gVisor's is a constant line of zeros.
        if last.is_empty() || last == b"0" {
            return true;
        }
        let changed = last != self.seen;
        if changed {
            self.seen = last.to_vec();
        }
        changed
    }
}

/// `PROC_SUPER_MAGIC` (linux/magic.h).
const PROC_SUPER_MAGIC: rustix::fs::FsWord = 0x9fa0;
