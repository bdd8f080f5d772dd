//! Reads from `/proc` which processes the program has and which fds they have.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use linger_custody::world::{Census, Inode, Name, Pid};

/// Returns the pids of all descendants of this process. If the kernel does not list children, returns the pids of all
/// other processes of the machine.
///
/// A pid too many only costs time. If a process is missing, a connection that it holds could be ended.
pub(in crate::seccomp) fn processes() -> Vec<u32> {
    let mut all = Vec::new();
    let mut next = vec![std::process::id()];
    while let Some(parent) = next.pop() {
        for task in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            match fs::read_to_string(task.path().join("children")) {
                Ok(children) => {
                    next.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()))
                }
                // The kernel has no CONFIG_PROC_CHILDREN, or the task has just ended.
                Err(_) if task.path().exists() => return everybody(),
                Err(_) => {}
            }
        }
        if parent != std::process::id() {
            all.push(parent);
        }
    }
    all
}

fn everybody() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    all.filter(|pid| *pid != std::process::id()).collect()
}

/// The kind of file that an fd refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::seccomp) enum Open {
    /// A socket, by its inode.
    Socket(u64),
    Epoll,
}

/// The sockets and epolls among the fds of a thread.
pub(in crate::seccomp) fn open(thread: u32) -> impl Iterator<Item = (RawFd, Open)> {
    let entries = fs::read_dir(format!("/proc/{thread}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        Some((fd, kind(&fs::read_link(entry.path()).ok()?)?))
    })
}

/// Takes a census of all sockets and their holders among the processes of the program.
pub(in crate::seccomp) fn census() -> Census {
    census_of(&processes())
}

/// As [`census`], among the given processes.
pub(in crate::seccomp) fn census_of(processes: &[u32]) -> Census {
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
                if let Some(Open::Socket(inode)) = kind(&link)
                    && let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                {
                    census.names.entry(Inode(inode)).or_default().push(Name { pid: Pid(process), fd });
                }
            }
            Err(error) => census.hidden |= is_refused(process, &error),
        }
    }
    count
}

/// The first of these fds that refers to the socket.
pub(in crate::seccomp) fn which(Inode(inode): Inode, names: Vec<Name>) -> Option<Name> {
    names.into_iter().find(|name| at(name.pid.0, name.fd) == Some(Open::Socket(inode)))
}

/// Whether access to a process is denied. The `/proc` files of an exiting process belong to root once its memory is freed
/// (`task_dump_owner`); such a process does not count as denied, as it makes no further calls.
fn is_refused(process: u32, error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
        && fs::read_to_string(format!("/proc/{process}/status"))
            .is_ok_and(|status| status.contains("VmSize:"))
}

/// Whether no fds are in flight to these processes, in the queues of their unix sockets and of the connections that
/// wait to be accepted (`scm_fds` in `/proc/PID/fdinfo`, Linux 5.6).
pub(in crate::seccomp) fn quiet(processes: &[u32]) -> bool {
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
pub(in crate::seccomp) fn may_be_in(thread: u32, calls: &[i64]) -> bool {
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
pub(in crate::seccomp) fn is_epoll(fd: &OwnedFd) -> bool {
    let link = fs::read_link(format!("/proc/thread-self/fd/{}", fd.as_raw_fd()));
    link.is_ok_and(|link| kind(&link) == Some(Open::Epoll))
}

fn kind(link: &Path) -> Option<Open> {
    let name = link.to_str()?;
    if name == "anon_inode:[eventpoll]" {
        return Some(Open::Epoll);
    }
    name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok().map(Open::Socket)
}

/// The process that a thread belongs to.
pub(in crate::seccomp) fn process_of(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// Whether a thread is the only one of its process. False if `/proc` cannot tell.
pub(in crate::seccomp) fn is_alone(thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    status.lines().find_map(|line| line.strip_prefix("Threads:")).is_some_and(|count| count.trim() == "1")
}

/// Whether an fd of a process refers to the same socket as a copy; `None` if that cannot be determined.
pub(in crate::seccomp) fn names(process: u32, fd: RawFd, copy: BorrowedFd<'_>) -> Option<bool> {
    let inode = rustix::fs::fstat(copy).ok()?.st_ino;
    Some(at(process, fd) == Some(Open::Socket(inode)))
}
