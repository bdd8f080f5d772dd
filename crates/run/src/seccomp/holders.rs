//! Who has what open: the processes of the program, and their descriptors, as `/proc` tells them.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
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
        Some((number, kind(&fs::read_link(entry.path()).ok()?)?))
    })
}

/// Who has which socket, at one moment.
#[derive(Debug, Default)]
pub(super) struct Everything {
    /// Processes and their numbers, by inode.
    names: HashMap<u64, Vec<(u32, RawFd)>>,
    /// The descriptors of some process are refused: what nobody is seen to have it may have.
    pub(super) blind: bool,
}

impl Everything {
    /// Looks at all descriptors of all processes of the program.
    pub(super) fn now() -> Self {
        Self::of(&processes())
    }

    pub(super) fn of(processes: &[u32]) -> Self {
        let mut all = Self::default();
        for process in processes {
            if all.add(*process, &format!("/proc/{process}/fd")) > 0 {
                continue;
            }
            // The first thread may have ended, the others not.
            for task in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
                if all.add(*process, &format!("{}/fd", task.path().display())) > 0 {
                    break;
                }
            }
        }
        all
    }

    fn add(&mut self, process: u32, directory: &str) -> usize {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                self.blind |= is_refused(process, &error);
                return 0;
            }
        };
        let mut count = 0;
        for entry in entries.flatten() {
            count += 1;
            match fs::read_link(entry.path()) {
                Ok(link) => {
                    if let Some(Open::Socket(inode)) = kind(&link)
                        && let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                    {
                        self.names.entry(inode).or_default().push((process, number));
                    }
                }
                Err(error) => self.blind |= is_refused(process, &error),
            }
        }
        count
    }

    /// The names of a socket.
    pub(super) fn names(&self, inode: u64) -> &[(u32, RawFd)] {
        self.names.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// A process that has a socket.
    pub(super) fn holder(&self, inode: u64) -> Option<u32> {
        self.names(inode).first().map(|(process, _)| *process)
    }
}

/// Whether a process forbids to be looked into. One that is ending belongs to root from the moment when it has no memory
/// any more (`task_dump_owner`): it was asked about before, and has nothing that it could go on with.
fn is_refused(process: u32, error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::PermissionDenied
        && fs::read_to_string(format!("/proc/{process}/status"))
            .is_ok_and(|status| status.contains("VmSize:"))
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

/// Whether a thread is in the middle of one of these calls, or may be: of one that runs the kernel tells no call.
pub(super) fn may_be_in(thread: u32, calls: &[i64]) -> bool {
    match fs::read_to_string(format!("/proc/{thread}/syscall")) {
        Ok(call) => {
            let number = call.split_whitespace().next().and_then(|number| number.parse().ok());
            call.starts_with("running") || number.is_some_and(|number| calls.contains(&number))
        }
        Err(_) => Path::new(&format!("/proc/{thread}")).exists(),
    }
}

/// What one descriptor of a thread is.
pub(super) fn at(thread: u32, number: RawFd) -> Option<Open> {
    kind(&fs::read_link(format!("/proc/{thread}/fd/{number}")).ok()?)
}

/// Whether a descriptor of the calling thread is an epoll.
pub(super) fn is_epoll(fd: &OwnedFd) -> bool {
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
pub(super) fn process_of(thread: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}
