//! Who has what open: the processes of the program, and their descriptors, as `/proc` tells them.

use std::collections::HashSet;
use std::fs;
use std::os::fd::RawFd;
use std::path::Path;

/// The processes below this one, however far; all processes of the machine where the kernel does not tell children.
///
/// A process too many costs time; one too few could end a connection that it has.
pub(super) fn processes() -> Vec<u32> {
    let mut all = Vec::new();
    let mut next = vec![std::process::id()];
    while let Some(parent) = next.pop() {
        for task in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            match fs::read_to_string(task.path().join("children")) {
                Ok(children) => {
                    next.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()))
                }
                // Without CONFIG_PROC_CHILDREN; a task that has just ended says the same.
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

/// What a descriptor refers to, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Open {
    /// A socket, by its inode.
    Socket(u64),
    Epoll,
}

/// The sockets and epolls among the descriptors of a thread, by number.
pub(super) fn open(thread: u32) -> impl Iterator<Item = (RawFd, Open)> {
    let entries = fs::read_dir(format!("/proc/{thread}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, kind(&entry.path())?))
    })
}

/// The processes of the program that have a socket.
pub(super) fn of(inode: u64) -> Vec<u32> {
    let has = |process: &u32| open(*process).any(|(_, open)| open == Open::Socket(inode));
    processes().into_iter().filter(has).collect()
}

/// Whether descriptors are under way to one of these processes, in the queues of its unix sockets and of the
/// connections that wait to be accepted.
pub(super) fn receives_descriptors(processes: &[u32]) -> bool {
    processes.iter().any(|process| {
        let sockets = open(*process).filter(|(_, open)| matches!(open, Open::Socket(_)));
        sockets.into_iter().any(|(number, _)| {
            let told = fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).unwrap_or_default();
            let waiting = told.lines().find_map(|line| line.strip_prefix("scm_fds:"));
            waiting.is_some_and(|waiting| waiting.trim() != "0")
        })
    })
}

/// Whether a thread is in the middle of sending a message, or may be: of one that runs the kernel tells no call.
pub(super) fn is_sending(thread: u32) -> bool {
    let call = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap_or_default();
    let number = call.split_whitespace().next().and_then(|number| number.parse::<i64>().ok());
    call.starts_with("running") || [libc::SYS_sendmsg, libc::SYS_sendmmsg].map(Some).contains(&number)
}

/// What one descriptor of a thread is.
pub(super) fn at(thread: u32, number: RawFd) -> Option<Open> {
    kind(Path::new(&format!("/proc/{thread}/fd/{number}")))
}

fn kind(path: &Path) -> Option<Open> {
    let link = fs::read_link(path).ok()?;
    let name = link.to_str()?;
    if name == "anon_inode:[eventpoll]" {
        return Some(Open::Epoll);
    }
    name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok().map(Open::Socket)
}

/// The process that a thread belongs to.
pub(super) fn process_of(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// The inodes of all sockets that any process of the program has.
pub(super) fn every_socket() -> HashSet<u64> {
    let all = processes().into_iter().flat_map(open);
    all.filter_map(|(_, open)| if let Open::Socket(inode) = open { Some(inode) } else { None }).collect()
}
