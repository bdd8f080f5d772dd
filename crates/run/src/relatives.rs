//! The processes of the program, with the time at which each was made.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::os::unix::fs::{DirEntryExt, FileExt};
use std::time::{Duration, Instant};

use linger_custody::proof::Relations;
use linger_custody::world::Pid;

use crate::proc;

/// How long a process may take to appear in `/proc` after it was given its pid (both happen late in `copy_process` in
/// Linux, but a busy machine may run other threads in between).
const BIRTH: Duration = Duration::from_secs(1);

/// Most pids since the last look that are looked at one by one. For more, all of `/proc` is listed.
const FEW: u32 = 256;

/// The root and all processes below it, kept current.
///
/// The descent of an orphan that was not seen before cannot be followed: its parent is now an ancestor of the root, or
/// the first process of the namespace. So children of those count as well if they are not older than the root, are in
/// its control group, and have its user. A process inherits control group and user, but may be moved, or change its
/// user. If all of the program's processes have a seccomp filter, which no process can lose, the filter and one of the
/// two are enough.
#[derive(Debug)]
pub(crate) struct Relatives {
    root: u32,
    forebears: Vec<u32>,
    control_group: Option<String>,
    user: Option<u32>,
    /// When the root was made, at the latest.
    born_by_ms: u64,
    /// The least number of seccomp filters of the program's processes; 0 if they are not recognized by a filter.
    filters: u32,
    family: Relations,
    /// All processes of the machine that are known: the inode of each one's directory, and whether it is one of the
    /// program's. The inode is new for each process, also for one that gets the pid of another.
    known: HashMap<u32, (u64, bool)>,
    last_pid: LastPid,
    /// Pids that were given and did not belong to a process yet, and when that was seen.
    unborn: HashMap<u32, Given>,
    /// When the next list of all is due at the latest.
    list_by: Instant,
    /// When it was seen last that pids were given of which nobody has told which.
    untold: Given,
}

/// When it was seen that a pid was given.
#[derive(Clone, Copy, Debug)]
struct Given {
    seen: Instant,
    /// The same moment by the clock of births and accepts (`CLOCK_BOOTTIME`).
    seen_ms: u64,
}

impl Given {
    /// Whether a process with this pid may be yet to appear, with a copy of a connection that was accepted at `since_ms`.
    ///
    /// A process gets its copy of the fds before its pid (`copy_process` in Linux), so it has none of what was accepted later.
    fn matters(&self, now: Instant, since_ms: u64) -> bool {
        now.duration_since(self.seen) < BIRTH && since_ms <= self.seen_ms
    }
}

impl Relatives {
    /// The program's process, or the one whose children are the program.
    pub(crate) fn new(root: u32) -> Self {
        let now = Instant::now();
        let parent = |pid: &u32| proc::stat(*pid).map(|stat| stat.parent).filter(|parent| *parent != 0);
        let forebears = std::iter::successors(parent(&root), parent).chain([1]);
        Self {
            root,
            forebears: forebears.filter(|pid| *pid != root).collect(),
            control_group: proc::control_group(root),
            user: proc::user(root),
            born_by_ms: proc::stat(root).map_or(0, |stat| stat.born_by_ms),
            filters: 0,
            family: Relations::default(),
            known: HashMap::new(),
            last_pid: LastPid::open(),
            unborn: HashMap::new(),
            list_by: now,
            untold: Given { seen: now, seen_ms: u64::MAX },
        }
    }

    /// As [`new`](Self::new), if the root has `before` seccomp filters and gets another, by which its processes are
    /// known. Files that this keeps open get fds of `least` and above.
    pub(crate) fn with_filter(root: u32, before: u32, least: RawFd) -> Self {
        let mut relatives = Self { filters: before + 1, ..Self::new(root) };
        relatives.last_pid.move_up(least);
        relatives
    }

    /// The processes as they were known last.
    pub(crate) fn family(&self) -> &Relations {
        &self.family
    }

    /// All processes at a moment after this call began; `None` where `/proc` cannot be read.
    pub(crate) fn update(&mut self) -> Option<&Relations> {
        self.update_since(0)
    }

    /// As [`update`](Self::update), but for those that cannot have inherited a connection that was accepted at `since_ms`
    /// (`CLOCK_BOOTTIME`) or later: one of these may be missing.
    ///
    /// Most pids to which no process belongs are those of processes that have ended. They are not asked about again with each
    /// close, but only for connections that are older than they.
    pub(crate) fn update_since(&mut self, since_ms: u64) -> Option<&Relations> {
        let given = self.last_pid.given();
        // Read after the pids.
        let now = Instant::now();
        let mut pids: HashSet<u32> = HashSet::new();
        match given {
            Some(given) if given.is_empty() => {}
            Some(given) => {
                let seen = Given { seen: now, seen_ms: since_boot_ms() };
                pids.extend(given.clone());
                self.unborn.extend(given.map(|pid| (pid, seen)));
            }
            None => self.untold = Given { seen: now, seen_ms: since_boot_ms() },
        }
        self.unborn.retain(|_, given| now.duration_since(given.seen) < BIRTH);
        let matters = self.unborn.iter().filter(|(_, given)| given.matters(now, since_ms));
        pids.extend(matters.map(|(pid, _)| *pid));
        // A list costs about as much for each process as a look at one pid.
        if self.untold.matters(now, since_ms) || now >= self.list_by || pids.len() * 2 > self.known.len() {
            self.list()?;
            self.list_by = now + BIRTH;
            return Some(&self.family);
        }
        if pids.is_empty() {
            return Some(&self.family);
        }
        let born: HashMap<u32, u64> =
            pids.into_iter().filter_map(|pid| Some((pid, proc::process(pid)?.unwrap_or(THREAD)))).collect();
        self.unborn.retain(|pid, _| !born.contains_key(pid));
        self.add(born.into_iter().filter(|(_, inode)| *inode != THREAD).collect());
        Some(&self.family)
    }

    fn list(&mut self) -> Option<()> {
        let listing: HashMap<u32, u64> = fs::read_dir("/proc").ok()?.flatten().filter_map(numbered).collect();
        // Mounted with `hidepid`: only the kernel's lists of children name processes of other users.
        let children = if listing.contains_key(&1) { Vec::new() } else { proc::processes() };
        let is_gone =
            |(pid, known): (&u32, &(u64, bool))| (listing.get(pid) != Some(&known.0)).then_some(*pid);
        let gone: Vec<u32> = self.known.iter().filter_map(is_gone).collect();
        for pid in gone {
            self.known.remove(&pid);
            self.family.remove(Pid(pid));
        }
        self.unborn.retain(|pid, _| !listing.contains_key(pid));
        let new = listing.iter().filter(|(pid, _)| !self.known.contains_key(pid));
        self.add(new.map(|(pid, inode)| (*pid, *inode)).collect());
        for pid in children.into_iter().filter(|pid| !listing.contains_key(pid)) {
            self.family.insert(Pid(pid), u64::MAX);
        }
        Some(())
    }

    /// Adds processes, by the inodes of their directories.
    fn add(&mut self, new: HashMap<u32, u64>) {
        let mut stats = HashMap::new();
        for (pid, inode) in new {
            // `None`: it has ended since.
            if pid != std::process::id()
                && let Some(stat) = proc::stat(pid)
            {
                stats.insert(pid, (inode, stat));
            }
        }
        for (pid, (inode, stat)) in &stats {
            let ours = self.is_ours(*pid, &stats);
            self.known.insert(*pid, (*inode, ours));
            if ours {
                self.family.insert(Pid(*pid), stat.born_by_ms);
            }
        }
    }

    /// Whether a new process is one of the program's. One whose descent cannot be followed may be.
    fn is_ours(&self, pid: u32, new: &HashMap<u32, (u64, proc::Stat)>) -> bool {
        let mut at = pid;
        // A line of descent has at most as many members as there are processes.
        for _ in 0..=new.len() {
            let Some((_, stat)) = new.get(&at) else { return true };
            let known = self.known.get(&stat.parent);
            if at == self.root || stat.parent == self.root || known.is_some_and(|(_, ours)| *ours) {
                return true;
            }
            if self.forebears.contains(&stat.parent) {
                // An orphan of the program's, another forebear, or a process that has nothing to do with the program.
                return !self.forebears.contains(&at)
                    && stat.born_by_ms >= self.born_by_ms
                    && self.is_like_root(at);
            }
            if stat.parent == 0 || known.is_some() || stat.parent == std::process::id() {
                return false;
            }
            at = stat.parent;
        }
        true
    }

    /// Whether an orphan may be a descendant of the root, by its user, control group and filters.
    fn is_like_root(&self, pid: u32) -> bool {
        let has_its_user = proc::user(pid) == self.user;
        if self.filters == 0 {
            return has_its_user && self.is_in_control_group(pid);
        }
        proc::filters(pid) >= self.filters && (has_its_user || self.is_in_control_group(pid))
    }

    fn is_in_control_group(&self, pid: u32) -> bool {
        let both = self.control_group.as_ref().zip(proc::control_group(pid));
        both.is_none_or(|(root, other)| {
            other.trim_end().strip_prefix(root.trim_end()).is_some_and(|rest| {
                rest.is_empty() || rest.starts_with('/') || root.trim_end().ends_with('/')
            })
        })
    }
}

fn since_boot_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec.cast_unsigned() * 1_000 + now.tv_nsec.cast_unsigned() / 1_000_000
}

/// In place of the inode of a process's directory: the pid is a thread's.
const THREAD: u64 = 0;

fn numbered(entry: fs::DirEntry) -> Option<(u32, u64)> {
    Some((entry.file_name().to_str()?.parse().ok()?, entry.ino()))
}

/// The pid that was given last in this process's namespace: the last word of `/proc/loadavg`. Threads and the processes of
/// namespaces below get one, too.
#[derive(Debug)]
struct LastPid {
    file: Option<File>,
    seen: Option<u32>,
}

impl LastPid {
    fn open() -> Self {
        let file = File::open("/proc/loadavg").ok();
        // A container's runtime may have mounted another file there (lxcfs), which may show another number.
        let is_real =
            |file: &File| rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type == PROC_SUPER_MAGIC);
        Self { file: file.filter(is_real), seen: None }
    }

    fn move_up(&mut self, least: RawFd) {
        let moved = |file: &File| rustix::io::fcntl_dupfd_cloexec(file, least).ok().map(File::from);
        self.file = self.file.as_ref().and_then(moved);
    }

    /// The pids that were given since the last call; `None` if the kernel does not tell, or if they are many.
    fn given(&mut self) -> Option<RangeInclusive<u32>> {
        let mut line = [0; 128];
        let read = self.file.as_ref()?.read_at(&mut line, 0).ok()?;
        self.read(std::str::from_utf8(&line[..read]).ok()?)
    }

    /// As [`given`](Self::given), by the text of the file.
    fn read(&mut self, line: &str) -> Option<RangeInclusive<u32>> {
        // gVisor's is a constant line of zeros.
        let last = line.split_whitespace().next_back()?.parse().ok().filter(|last| *last != 0)?;
        let seen = self.seen.replace(last)?;
        // Pids are given in ascending order, and start again after the largest.
        (last.checked_sub(seen)? <= FEW).then_some(seen + 1..=last)
    }
}

/// `PROC_SUPER_MAGIC` (linux/magic.h).
const PROC_SUPER_MAGIC: rustix::fs::FsWord = 0x9fa0;

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    #[test]
    fn pids_that_were_given_since_are_told_unless_they_are_many_or_begin_anew() {
        let mut last = LastPid { file: None, seen: None };
        let mut read = |line: &str| last.read(line).map(|pids| (*pids.start(), *pids.end()));
        assert_eq!(read("0.10 0.20 0.30 1/100 700\n"), None, "nothing is known of before");
        assert_eq!(read("0.10 0.20 0.30 1/100 703\n"), Some((701, 703)));
        assert_eq!(last.read("0 0 0 1/100 703\n").unwrap().count(), 0);
        let mut read = |line: String| last.read(&line).map(|pids| pids.count());
        assert_eq!(read(format!("0 0 0 1/100 {}", 703 + FEW)), Some(FEW as usize));
        assert_eq!(read(format!("0 0 0 1/100 {}", 704 + 2 * FEW)), None, "one more");
        assert_eq!(read("0 0 0 1/100 5".to_owned()), None);
        assert_eq!(read("0 0 0 1/100 6".to_owned()), Some(1));
        // gVisor's line tells nothing, and what was seen before stays.
        assert_eq!(read("0.00 0.00 0.00 0/0 0".to_owned()), None);
        assert_eq!(read("0 0 0 1/100 8".to_owned()), Some(2));
        assert_eq!(read(String::new()), None);
    }

    /// How the descent of a new process is followed, with this process as a stranger.
    #[test]
    fn descent_is_followed_as_far_as_it_is_known() {
        const ROOT: u32 = 900_000_000;
        let stat = |parent: u32, born_by_ms: u64| (7, proc::Stat { parent, born_by_ms });
        let mut relatives = Relatives::new(ROOT);
        relatives.forebears = vec![1];
        relatives.born_by_ms = 5_000;
        relatives.known = HashMap::from([(ROOT + 1, (8, true)), (ROOT + 2, (9, false))]);
        let is_ours = |relatives: &Relatives, parent: u32, born_by_ms: u64| {
            let new = HashMap::from([(ROOT + 9, stat(parent, born_by_ms))]);
            relatives.is_ours(ROOT + 9, &new)
        };
        assert!(is_ours(&relatives, ROOT, 0), "a child of the root, whenever it was made");
        assert!(is_ours(&relatives, ROOT + 1, 0) && !is_ours(&relatives, ROOT + 2, 9_000));
        assert!(!is_ours(&relatives, 0, 9_000), "the kernel's own");
        assert!(!is_ours(&relatives, std::process::id(), 9_000), "the supervisor's other children");
        assert!(is_ours(&relatives, ROOT + 3, 9_000), "nobody knows its parent");
        // An orphan: neither it nor the root has a user that could be read, nor a control group.
        assert!(is_ours(&relatives, 1, 5_000) && !is_ours(&relatives, 1, 4_999));
        relatives.user = Some(1_000);
        assert!(!is_ours(&relatives, 1, 5_000), "another user's");
        // Through a parent that is new as well, and in a ring that no kernel has.
        let new = HashMap::from([(ROOT + 9, stat(ROOT + 8, 0)), (ROOT + 8, stat(ROOT + 2, 0))]);
        assert!(!relatives.is_ours(ROOT + 9, &new));
        let ring = HashMap::from([(ROOT + 9, stat(ROOT + 8, 0)), (ROOT + 8, stat(ROOT + 9, 0))]);
        assert!(relatives.is_ours(ROOT + 9, &ring));
    }

    /// A pid to which no process belongs is asked about with each look while it matters, and not with the others.
    #[test]
    fn who_may_appear_yet_is_asked_about_for_older_connections_alone() {
        let _turn = crate::turns::makes_processes();
        let mut relatives = Relatives::new(std::process::id());
        relatives.update().unwrap();
        let mut child = sleep();
        let pid = child.id();
        // The look that sees the pid given finds its process.
        relatives.update_since(u64::MAX).unwrap();
        assert!(relatives.family().contains(Pid(pid)));
        // As if it had not appeared by then.
        let (now, seen_ms) = (Instant::now(), since_boot_ms());
        let long_ago = now.checked_sub(BIRTH).unwrap();
        let unborn = |relatives: &mut Relatives, seen| {
            relatives.family.remove(Pid(pid));
            relatives.known.remove(&pid);
            relatives.unborn = HashMap::from([(pid, Given { seen, seen_ms })]);
            relatives.list_by = now + BIRTH * 60;
            relatives.untold = Given { seen: long_ago, seen_ms };
        };
        let mut has_found = |since_ms, seen| {
            unborn(&mut relatives, seen);
            relatives.update_since(since_ms).unwrap().contains(Pid(pid))
        };
        assert!(!has_found(seen_ms + 1, now), "accepted afterwards");
        assert!(has_found(seen_ms, now), "perhaps accepted before");
        assert!(has_found(0, now), "nobody knows when");
        assert!(!has_found(0, long_ago), "it would be there by now");
        // The same for pids of which it is not known which were given.
        unborn(&mut relatives, now);
        relatives.unborn.clear();
        relatives.untold = Given { seen: now, seen_ms };
        assert!(!relatives.update_since(seen_ms + 1).unwrap().contains(Pid(pid)));
        assert!(relatives.update_since(seen_ms).unwrap().contains(Pid(pid)));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_control_group_holds_those_below_it_and_not_its_neighbours() {
        let own = proc::control_group(std::process::id());
        let mut relatives = Relatives::new(std::process::id());
        assert!(relatives.is_in_control_group(std::process::id()));
        relatives.control_group = own.map(|own| format!("{}/below\n", own.trim_end().trim_end_matches('/')));
        assert!(!relatives.is_in_control_group(std::process::id()), "it is above");
        relatives.control_group = None;
        assert!(relatives.is_in_control_group(std::process::id()), "nothing speaks against it");
    }

    fn sleep() -> Child {
        Command::new("sleep").arg("600").spawn().unwrap()
    }

    /// A process whose parent has ended.
    fn orphan() -> u32 {
        let shell = Command::new("sh").args(["-c", "sleep 600 >&- & echo $!"]).stderr(Stdio::null()).output();
        String::from_utf8(shell.unwrap().stdout).unwrap().trim().parse().unwrap()
    }

    /// Nobody tells whose child an orphan was. One that is older than the root was no descendant's.
    #[test]
    fn an_orphan_may_be_the_programs_unless_it_is_older() {
        let _turn = crate::turns::makes_processes();
        let older = orphan();
        let born = proc::stat(older).unwrap().born_by_ms;
        // The kernel tells the birth by the clock tick.
        let mut root = sleep();
        while proc::stat(root.id()).unwrap().born_by_ms == born {
            root.kill().unwrap();
            root.wait().unwrap();
            root = sleep();
        }
        let mut relatives = Relatives::new(root.id());
        let younger = orphan();
        let family = relatives.update().unwrap();
        let is_ours = [root.id(), younger, older].map(|pid| family.contains(Pid(pid)));
        for pid in [older, younger] {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        root.kill().unwrap();
        root.wait().unwrap();
        assert_eq!(is_ours, [true, true, false]);
    }
}
