//! Reads from `/proc` which processes the program has and which fds they have.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use linger_custody::world::{Census, Inode, Pid, ProcessFd};

use crate::rings;

/// Returns the pids of all descendants of this process. If the kernel does not list children, returns the pids of all
/// other processes of the machine.
///
/// A pid too many only costs time. If a process is missing, a connection that it holds could be ended.
pub(crate) fn processes() -> Vec<u32> {
    descendants().unwrap_or_else(everybody)
}

/// The pids of all descendants of this process; `None` if the kernel does not list children.
pub(crate) fn descendants() -> Option<Vec<u32>> {
    let mut all = Vec::new();
    let mut next = vec![std::process::id()];
    while let Some(parent) = next.pop() {
        for task in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            match fs::read_to_string(task.path().join("children")) {
                Ok(children) => {
                    next.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()))
                }
                // The kernel has no CONFIG_PROC_CHILDREN, or the task has just ended.
                Err(_) if task.path().exists() => return None,
                Err(_) => {}
            }
        }
        // The program of this crate's unit tests is a thread of their process.
        if parent != std::process::id() || cfg!(test) {
            all.push(parent);
        }
    }
    Some(all)
}

fn everybody() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|pid| *pid != std::process::id()).collect()
}

/// A file of `/proc`, with few system calls. What is no UTF-8 in it is replaced: the name of a process is whatever its
/// program has chosen, and the kernel cuts a longer one within a character.
pub(crate) fn text(path: impl AsRef<Path>) -> io::Result<String> {
    let (mut file, mut start) = (File::open(path)?, [0; 4_096]);
    let read = loop {
        match file.read(&mut start) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    // The kernel gives as much at once as there is room for.
    let mut all = start.get(..read).unwrap_or_default().to_vec();
    if read == start.len() {
        file.read_to_end(&mut all)?;
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// What `/proc/PID/stat` says of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) parent: u32,
    /// The latest time at which it can have been made, in milliseconds of `CLOCK_BOOTTIME`: the kernel tells the clock
    /// tick only.
    pub(crate) born_by_ms: u64,
}

/// Parent and birth of a process, which every user may read (proc_pid_stat(5)); `None` if there is no such process.
pub(crate) fn stat(process: u32) -> Option<Stat> {
    stat_of(&text(format!("/proc/{process}/stat")).ok()?, rustix::param::clock_ticks_per_second())
}

/// Whether a process has ended: nobody has waited for it yet, or it is gone. It has nothing open.
pub(crate) fn has_ended(process: u32) -> bool {
    let stat = text(format!("/proc/{process}/stat")).ok();
    let state = stat.as_deref().and_then(|line| line.rsplit_once(") ")?.1.chars().next());
    matches!(state, None | Some('Z' | 'X'))
}

fn stat_of(line: &str, ticks_per_second: u64) -> Option<Stat> {
    // The name, in parentheses, may have any character.
    let (_, rest) = line.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let parent = words.nth(1)?.parse().ok()?;
    // The fields 5 to 21 lie between the parent and the start.
    let start: u64 = words.nth(17)?.parse().ok()?;
    Some(Stat { parent, born_by_ms: (start + 1) * 1_000 / ticks_per_second.max(1) })
}

/// The real user of a process.
pub(crate) fn user(process: u32) -> Option<u32> {
    let status = text(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
}

/// The number of seccomp filters of a process (`Seccomp_filters`, since Linux 5.9); 0 where that is not known.
pub(crate) fn filters(process: u32) -> u32 {
    let status = text(format!("/proc/{process}/status")).unwrap_or_default();
    let filters = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")?.trim().parse().ok());
    filters.unwrap_or(0)
}

/// The control groups of a process, which every user may read (cgroups(7)).
pub(crate) fn control_group(process: u32) -> Option<String> {
    text(format!("/proc/{process}/cgroup")).ok()
}

/// The inode of a process's directory in `/proc`; `Some(None)` for a thread that is not its process's first, `None` if
/// neither a process nor a thread has this pid.
pub(crate) fn process(pid: u32) -> Option<Option<u64>> {
    let inode = fs::metadata(format!("/proc/{pid}")).ok()?.ino();
    Some((process_of(pid)? == pid).then_some(inode))
}

/// The sockets that a process has open, by inode, with their fds; `None` where it does not let itself be looked at.
pub(crate) fn sockets(process: u32) -> Option<HashMap<u64, Vec<RawFd>>> {
    let census = census_of(&[process]);
    let fds = |names: Vec<ProcessFd>| names.into_iter().map(|name| name.fd).collect();
    (!census.hidden)
        .then(|| census.names.into_iter().map(|(Inode(inode), names)| (inode, fds(names))).collect())
}

/// The kind of file that an fd refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// A socket, by its inode.
    Socket(u64),
    Epoll,
    /// An io_uring, which may have files of its own.
    Ring,
}

/// The sockets, epolls and rings among the fds of a thread.
pub(crate) fn open(thread: u32) -> impl Iterator<Item = (RawFd, Open)> {
    let entries = fs::read_dir(format!("/proc/{thread}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        Some((fd, kind(&fs::read_link(entry.path()).ok()?)?))
    })
}

/// Takes a census of all sockets and their holders among the processes of the program.
pub(crate) fn census() -> Census {
    census_of(&processes())
}

/// As [`census`], among the given processes.
pub(crate) fn census_of(processes: &[u32]) -> Census {
    let mut census = Census::default();
    for process in processes {
        if add(&mut census, *process, &format!("/proc/{process}/fd")) > 0 {
            continue;
        }
        // The first thread may have ended while others still run.
        for task in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
            if add(&mut census, *process, &format!("{}/fd", task.path().display())) > 0 {
                break;
            }
        }
    }
    census
}

/// Adds the sockets of an fd directory to the census. Returns the number of entries.
fn add(census: &mut Census, process: u32, directory: &str) -> usize {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            census.hidden |= is_refused(process, &error);
            return 0;
        }
    };
    let mut count = 0;
    for entry in entries.flatten() {
        count += 1;
        match fs::read_link(entry.path()) {
            Ok(link) => {
                let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                    continue;
                };
                let inodes = match kind(&link) {
                    Some(Open::Socket(inode)) => Some(vec![inode]),
                    Some(Open::Ring) => rings::registered(process, fd),
                    Some(Open::Epoll) | None => continue,
                };
                census.hidden |= inodes.is_none();
                for inode in inodes.into_iter().flatten() {
                    census.names.entry(Inode(inode)).or_default().push(ProcessFd { pid: Pid(process), fd });
                }
            }
            Err(error) => census.hidden |= is_refused(process, &error),
        }
    }
    count
}

/// The first of these fds that refers to the socket.
pub(crate) fn which(Inode(inode): Inode, names: Vec<ProcessFd>) -> Option<ProcessFd> {
    names.into_iter().find(|name| has(name.pid.0, name.fd, inode))
}

/// Whether access to a process is denied. The `/proc` files of an exiting process belong to root once its memory is freed
/// (`task_dump_owner`); such a process does not count as denied, as it makes no further calls.
fn is_refused(process: u32, error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
        && text(format!("/proc/{process}/status")).is_ok_and(|status| status.contains("VmSize:"))
}

/// Whether no fds are in flight to these processes, in the queues of their unix sockets and of the connections that
/// wait to be accepted (`scm_fds` in `/proc/PID/fdinfo`, Linux 5.6).
pub(crate) fn quiet(processes: &[u32]) -> bool {
    !processes.iter().any(|process| {
        let sockets = open(*process).filter(|(_, open)| matches!(open, Open::Socket(_)));
        sockets.into_iter().any(|(fd, _)| {
            let told = fs::read_to_string(format!("/proc/{process}/fdinfo/{fd}")).unwrap_or_default();
            let waiting = told.lines().find_map(|line| line.strip_prefix("scm_fds:"));
            waiting.is_some_and(|waiting| waiting.trim() != "0")
        })
    })
}

/// Whether a thread may be within one of these system calls. For a running thread the kernel shows none, so it may be.
pub(crate) fn may_be_in(thread: u32, calls: &[i64]) -> bool {
    match fs::read_to_string(format!("/proc/{thread}/syscall")) {
        Ok(call) => {
            let number = call.split_whitespace().next().and_then(|number| number.parse().ok());
            call.starts_with("running") || number.is_some_and(|number| calls.contains(&number))
        }
        Err(_) => Path::new(&format!("/proc/{thread}")).exists(),
    }
}

/// The kind of one fd of a thread.
fn at(thread: u32, fd: RawFd) -> Option<Open> {
    kind(&fs::read_link(format!("/proc/{thread}/fd/{fd}")).ok()?)
}

/// Whether an fd of the calling thread is an epoll.
pub(crate) fn is_epoll(fd: &OwnedFd) -> bool {
    let link = fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| kind(&link) == Some(Open::Epoll))
}

impl Open {
    /// The inode of a socket.
    pub(crate) fn inode(self) -> Option<u64> {
        match self {
            Self::Socket(inode) => Some(inode),
            Self::Epoll | Self::Ring => None,
        }
    }
}

/// The kind of file that a link in `/proc/PID/fd` names.
pub(crate) fn kind(link: &Path) -> Option<Open> {
    let name = link.to_str()?;
    if name == "anon_inode:[eventpoll]" {
        return Some(Open::Epoll);
    }
    if name == "anon_inode:[io_uring]" {
        return Some(Open::Ring);
    }
    rings::socket(name).map(Open::Socket)
}

/// Whether a process waits for a connection by an io_uring.
pub(crate) fn accepts_by_ring(process: u32) -> bool {
    open(process).any(|(fd, open)| open == Open::Ring && rings::accepts(process, fd))
}

/// The process that a thread belongs to.
pub(crate) fn process_of(thread: u32) -> Option<u32> {
    let status = text(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// Whether a thread is the only one of its process. False if `/proc` cannot tell.
pub(crate) fn is_alone(thread: u32) -> bool {
    let status = text(format!("/proc/{thread}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Threads:")).is_some_and(|count| count.trim() == "1")
}

/// Whether an fd of a process refers to the same socket as a copy; `None` if that cannot be determined.
pub(crate) fn names(process: u32, fd: RawFd, copy: BorrowedFd<'_>) -> Option<bool> {
    let inode = rustix::fs::fstat(copy).ok()?.st_ino;
    Some(at(process, fd) == Some(Open::Socket(inode)))
}

/// Whether an fd of a process refers to the socket of this inode, or to a ring with which it is registered.
pub(crate) fn has(process: u32, fd: RawFd, inode: u64) -> bool {
    match at(process, fd) {
        Some(Open::Ring) => rings::registered(process, fd).is_none_or(|inodes| inodes.contains(&inode)),
        open => open == Some(Open::Socket(inode)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_name_may_look_like_the_rest_of_the_line() {
        let line = "42 (a) R 1 (b)) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 9 9";
        assert_eq!(stat_of(line, 100), Some(Stat { parent: 7, born_by_ms: 123_460 }));
        // Another tick, and a line that is cut.
        assert_eq!(stat_of(line, 1_000), Some(Stat { parent: 7, born_by_ms: 12_346 }));
        assert_eq!(stat_of("42 (a) S 7 42 42", 100), None);
    }

    /// The kernel cuts a longer name within a character.
    #[test]
    fn a_process_whose_name_is_no_text_is_there() {
        use std::os::unix::ffi::OsStrExt;
        let _turn = crate::turns::makes_processes();
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join(std::ffi::OsStr::from_bytes(b"sl\xc3) R 7"));
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program).arg("600").spawn().unwrap();
        let pid = child.id();
        let seen = (stat(pid).map(|stat| stat.parent), process_of(pid), user(pid), is_alone(pid));
        let all = census_of(&[pid]);
        assert!(!has_ended(pid) && !has_ended(std::process::id()));
        child.kill().unwrap();
        // It has ended, and nobody has waited for it.
        while !has_ended(pid) {
            std::thread::yield_now();
        }
        assert!(stat(pid).is_some());
        child.wait().unwrap();
        assert!(has_ended(pid));
        let own = rustix::process::getuid().as_raw();
        assert_eq!(seen, (Some(std::process::id()), Some(pid), Some(own), true));
        assert!(!all.hidden);
    }

    #[test]
    fn a_long_file_is_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        for length in [0, 4_095, 4_096, 4_097, 100_000] {
            fs::write(&file, vec![b'x'; length]).unwrap();
            assert_eq!(text(&file).unwrap().len(), length);
        }
        assert_eq!(text(directory.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_process_was_made_before_now_and_by_its_parent() {
        let own = stat(std::process::id()).unwrap();
        assert_eq!(own.parent, std::os::unix::process::parent_id());
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        assert!(own.born_by_ms <= now.tv_sec as u64 * 1_000 + 1_010);
        assert_eq!(stat(u32::MAX), None);
    }

    /// Of this process everything is known.
    #[test]
    fn this_process_is_seen_with_its_fds() {
        let own = std::process::id();
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = |fd: &dyn std::os::fd::AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_ino;
        let (first, second) = (inode(&one), inode(&other));
        let fd = one.as_raw_fd();
        assert!(
            has(own, fd, first) && !has(own, fd, second) && !has(own, -1, first) && !has(u32::MAX, fd, first)
        );
        assert_eq!(sockets(own).unwrap()[&first], [fd]);
        assert_eq!(
            sockets(u32::MAX).map(|sockets| sockets.len()),
            Some(0),
            "who is not there has nothing to hide"
        );
        let copy = one.try_clone().unwrap();
        let mut both = sockets(own).unwrap()[&first].clone();
        both.sort_unstable();
        let mut expected = [fd, copy.as_raw_fd()];
        expected.sort_unstable();
        assert_eq!(both, expected);
        let name = |fd| ProcessFd { pid: Pid(own), fd };
        let names = vec![name(other.as_raw_fd()), name(copy.as_raw_fd()), name(fd)];
        assert_eq!(which(Inode(first), names), Some(name(copy.as_raw_fd())));
        assert_eq!(which(Inode(first), vec![name(other.as_raw_fd())]), None);
        assert_eq!(super::names(own, fd, copy.as_fd()), Some(true));
        assert_eq!(super::names(own, other.as_raw_fd(), copy.as_fd()), Some(false));
    }

    #[test]
    fn fds_in_a_queue_are_in_flight_until_they_are_received() {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
        let (from, to) = std::os::unix::net::UnixStream::pair().unwrap();
        let table = |one: &std::os::unix::net::UnixStream| {
            fs::read_to_string(format!("/proc/self/fdinfo/{}", one.as_raw_fd())).unwrap()
        };
        assert!(!table(&to).contains("scm_fds: 1"));
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [from.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        rustix::net::sendmsg(&from, &[std::io::IoSlice::new(b"x")], &mut control, SendFlags::empty())
            .unwrap();
        // Another test of this process may have fds in flight, too; none is needed here to be so.
        assert!(table(&to).contains("scm_fds: 1") && !quiet(&[std::process::id()]));
        assert!(quiet(&[]) && quiet(&[u32::MAX]));
    }

    #[test]
    fn an_epoll_is_told_from_a_socket_and_from_a_file() {
        let kinds = ["socket:[77]", "anon_inode:[eventpoll]", "socket:[x]", "pipe:[77]", "/tmp/socket:[77]"];
        let expected = [Some(Open::Socket(77)), Some(Open::Epoll), None, None, None];
        assert_eq!(kinds.map(|name| kind(Path::new(name))), expected);
        assert_eq!(kind(Path::new("anon_inode:[io_uring]")), Some(Open::Ring));
        assert_eq!((Open::Socket(77).inode(), Open::Epoll.inode()), (Some(77), None));
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        let file = OwnedFd::from(fs::File::open("/dev/null").unwrap());
        assert!(is_epoll(&epoll) && !is_epoll(&file));
        let own = open(std::process::id()).find(|(fd, _)| *fd == epoll.as_raw_fd());
        assert_eq!(own, Some((epoll.as_raw_fd(), Open::Epoll)));
    }

    #[test]
    fn a_thread_is_told_from_its_process() {
        let (tell, told) = std::sync::mpsc::channel();
        let (go, gone) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(crate::kernel::own_thread()).unwrap();
            // Within this call until it is told to go.
            let _ = gone.recv();
        });
        let (other, own) = (told.recv().unwrap(), std::process::id());
        assert_eq!((process_of(other), process(other), is_alone(other)), (Some(own), Some(None), false));
        assert!(
            process(own).flatten().is_some() && process(u32::MAX).is_none() && process_of(u32::MAX).is_none()
        );
        assert!(!may_be_in(u32::MAX, &[]), "it is not there");
        // This thread is within the call that reads the file.
        let own_call = |call: i64| may_be_in(crate::kernel::own_thread(), &[call]);
        assert!(own_call(libc::SYS_read) && !own_call(libc::SYS_close));
        drop(go);
        thread.join().unwrap();
        assert_eq!(user(own), Some(rustix::process::getuid().as_raw()));
        assert_eq!((user(u32::MAX), filters(u32::MAX), is_alone(u32::MAX)), (None, 0, false));
    }
}
