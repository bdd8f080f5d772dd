//! [`Privileged`]: what watching does after its start that takes capabilities, in this process or in the opener's.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::kernel::leftovers::Leftovers;
use crate::kernel::sock_diag::DiagSocket;
use crate::namespace_id::NamespaceId;

/// Most namespaces that are looked into. Each takes a file descriptor of the process that parses and one of the opener.
const MOST_NAMESPACES: usize = 1_024;
/// The part of the descriptors that namespaces may take: one in so many.
const DESCRIPTORS: u64 = 4;
/// Where namespaces without a process of their own have names: those of `ip netns`, and of Docker.
const NAMED: [&str; 3] = ["/run/netns", "/var/run/netns", "/run/docker/netns"];
/// What a look into a namespace reads, of the calling thread's.
const FILES: [&str; 5] = [
    "/proc/thread-self/net/snmp",
    "/proc/thread-self/net/netstat",
    "/proc/sys/net/ipv4/tcp_abort_on_overflow",
    "/proc/thread-self/net/fib_trie",
    "/proc/thread-self/net/if_inet6",
];

/// The network namespaces of this host.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct FoundNamespaces {
    pub(crate) found: Vec<FoundNamespace>,
    /// Most processes do not show theirs.
    pub(crate) refused: bool,
    /// There are more than are looked into.
    pub(crate) crowded: bool,
}

/// A namespace that was met: where, under which name, and a process in it.
type MetNamespace = (PathBuf, Option<String>, Option<u32>);

/// A network namespace, and who has it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FoundNamespace {
    pub(crate) inode: u64,
    pub(crate) name: Option<String>,
    /// A process in it.
    pub(crate) pid: Option<u32>,
}

/// What takes capabilities: CAP_SYS_PTRACE to see namespaces and descriptors of other users' processes, and CAP_SYS_ADMIN to enter
/// namespaces.
#[derive(Debug, Default)]
pub(crate) struct Privileged {
    /// Where each namespace was found last.
    paths: HashMap<NamespaceId, PathBuf>,
    /// Those that were entered.
    entered: HashMap<NamespaceId, File>,
}

impl Privileged {
    /// Looks for the network namespaces of this host: at all processes, and where they have names.
    pub(crate) fn namespaces(&mut self) -> FoundNamespaces {
        let mut all: HashMap<NamespaceId, MetNamespace> = HashMap::new();
        for folder in NAMED {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Ok(id) = NamespaceId::of(&entry.path()) {
                    all.entry(id).or_insert((entry.path(), Some(name), None));
                }
            }
        }
        let (mut shown, mut hidden) = (0u32, 0u32);
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let path = entry.path().join("ns/net");
            match NamespaceId::of(&path) {
                Ok(id) => {
                    shown += 1;
                    all.entry(id).or_insert((path, None, None)).2.get_or_insert(pid);
                }
                Err(error) => hidden += u32::from(error.kind() == io::ErrorKind::PermissionDenied),
            }
        }
        let crowded = leave_out(&mut all, most_namespaces());
        self.entered.retain(|id, _| all.contains_key(id));
        let mut found = Vec::with_capacity(all.len());
        self.paths.clear();
        for (id, (path, name, pid)) in all {
            found.push(FoundNamespace { inode: id.inode(), name, pid });
            self.paths.insert(id, path);
        }
        // A few processes may be hidden even from root. Only if most of them are, entering counts as refused.
        FoundNamespaces { found, refused: hidden > shown, crowded }
    }

    /// Opens a source of the destroyed sockets of a namespace.
    pub(crate) fn leftovers(&mut self, id: NamespaceId) -> io::Result<Leftovers> {
        within(self.enter(id)?, || Leftovers::open(Some(id)))?
    }

    /// Opens what a look into a namespace reads.
    pub(crate) fn survey(&mut self, id: NamespaceId) -> io::Result<NamespaceFiles> {
        within(self.enter(id)?, NamespaceFiles::open)
    }

    fn enter(&mut self, id: NamespaceId) -> io::Result<&File> {
        if !self.entered.contains_key(&id) {
            let path = self.paths.get(&id).ok_or_else(gone)?;
            // Not to wait for the other end of a pipe that has taken the place of a name.
            let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
            // The process may have ended meanwhile, and its pid or the name may be another's.
            if NamespaceId::of_file(&file)? != id {
                return Err(gone());
            }
            self.entered.insert(id, file);
        }
        self.entered.get(&id).ok_or_else(gone)
    }

    /// The processes that hold the sockets with these inodes: inode and pid.
    pub(crate) fn owners(&self, inodes: &[u32]) -> Vec<(u32, u32)> {
        let inodes: HashSet<u32> = inodes.iter().copied().collect();
        let mut owners = HashMap::new();
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        for entry in processes.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
            for descriptor in descriptors.flatten() {
                let Ok(target) = fs::read_link(descriptor.path()) else { continue };
                let inode = target.to_str().and_then(|target| {
                    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u32>().ok()
                });
                if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                    owners.entry(inode).or_insert(pid);
                }
            }
        }
        owners.into_iter().collect()
    }
}

/// The most namespaces that are looked into.
fn most_namespaces() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.map_or(u64::MAX, |limit| limit / DESCRIPTORS);
    usize::try_from(descriptors).map_or(MOST_NAMESPACES, |most| most.min(MOST_NAMESPACES))
}

/// Leaves out what is beyond `most`: last those with a name and those whose process has the user namespace of this one. Everybody
/// may make others, as many as there is memory for, in a user namespace of their own. Returns whether there were more.
fn leave_out(all: &mut HashMap<NamespaceId, MetNamespace>, most: usize) -> bool {
    if all.len() <= most {
        return false;
    }
    let users = |path: &Path| std::fs::metadata(path).ok().map(|found| found.ino());
    let own = users(Path::new("/proc/self/ns/user"));
    let rank = |(_, name, pid): &MetNamespace| {
        let of_process = || users(Path::new(&format!("/proc/{}/ns/user", (*pid)?)));
        (name.is_none() && of_process() != own, *pid)
    };
    let mut ranked: Vec<_> = all.iter().map(|(id, met)| (rank(met), *id)).collect();
    ranked.sort_unstable();
    let kept: HashSet<NamespaceId> = ranked.into_iter().take(most).map(|(_, id)| id).collect();
    all.retain(|id, _| kept.contains(id));
    true
}

/// A namespace that is not there, or not any more. By number, as it passes between processes.
fn gone() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

/// Runs a closure in a network namespace, on a thread of its own.
fn within<R: Send>(namespace: &File, task: impl FnOnce() -> R + Send) -> io::Result<R> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().spawn_scoped(scope, move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(task())
        })?;
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What a look into a namespace reads. It can be read from outside.
#[derive(Debug)]
pub(crate) struct NamespaceFiles {
    sockets: Option<DiagSocket>,
    files: [Option<File>; FILES.len()],
}

impl NamespaceFiles {
    /// Opens those of the calling thread's namespace, as far as that is possible.
    pub(crate) fn open() -> Self {
        Self { sockets: DiagSocket::open().ok(), files: FILES.map(|path| File::open(path).ok()) }
    }

    /// Those that are there, and which ones these are.
    pub(crate) fn into_descriptors(self) -> (Vec<bool>, Vec<OwnedFd>) {
        let files = self.files.into_iter().map(|file| file.map(OwnedFd::from));
        let all: Vec<_> = std::iter::once(self.sockets.map(DiagSocket::into_fd)).chain(files).collect();
        (all.iter().map(Option::is_some).collect(), all.into_iter().flatten().collect())
    }

    /// The reverse of [`into_descriptors`](Self::into_descriptors).
    pub(crate) fn of_descriptors(which: &[bool], descriptors: Vec<OwnedFd>) -> Self {
        let mut descriptors = descriptors.into_iter();
        let mut all = which.iter().map(|is_there| if *is_there { descriptors.next() } else { None });
        let sockets = all.next().flatten().map(DiagSocket::of_fd);
        Self { sockets, files: std::array::from_fn(|_| all.next().flatten().map(File::from)) }
    }

    /// The socket for lists, and the texts of `snmp`, `netstat`, `tcp_abort_on_overflow`, `fib_trie` and `if_inet6`, as far as they are there.
    pub(crate) fn read(self) -> (Option<DiagSocket>, [Option<String>; FILES.len()]) {
        let texts = self.files.map(|file| {
            let mut text = String::new();
            file?.read_to_string(&mut text).ok()?;
            Some(text)
        });
        (self.sockets, texts)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A process that ends with the test.
    struct Sleeper(Child);

    impl Sleeper {
        /// One that is started by these words.
        fn start(words: &[&str]) -> Self {
            let mut command = Command::new(words[0]);
            Self(command.args(&words[1..]).args(["sleep", "1000"]).spawn().unwrap())
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn what_is_no_namespace_is_not_entered() {
        let directory = tempfile::tempdir().unwrap();
        let (file, pipe) = (directory.path().join("file"), directory.path().join("pipe"));
        std::fs::write(&file, "").unwrap();
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [file, pipe] {
            NamespaceId::of(&path).unwrap_err();
            // It has taken the place of a name since that was seen.
            let id = NamespaceId::from_inode(std::fs::metadata(&path).unwrap().ino());
            let mut privileged = Privileged::default();
            privileged.paths.insert(id, path);
            assert_eq!(privileged.enter(id).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        }
    }

    #[test]
    fn namespaces_that_everybody_can_make_do_not_crowd_out_the_others() {
        let mut theirs = Sleeper::start(&["unshare", "--user", "--net"]);
        let mut ours = Sleeper::start(&["env"]);
        // Both are what they are to be once they have become `sleep`.
        for sleeper in [&mut theirs, &mut ours] {
            let comm = format!("/proc/{}/comm", sleeper.0.id());
            while std::fs::read_to_string(&comm).unwrap() != "sleep\n" {
                if sleeper.0.try_wait().unwrap().is_some() {
                    return linger_testing::skip("private networks", "no user namespace can be made");
                }
                std::thread::yield_now();
            }
        }
        let all = || -> HashMap<NamespaceId, MetNamespace> {
            let met = |inode, name: Option<&str>, pid| {
                (NamespaceId::from_inode(inode), (PathBuf::new(), name.map(str::to_owned), pid))
            };
            let (theirs, ours) = (theirs.0.id(), ours.0.id());
            HashMap::from([met(1, None, Some(theirs)), met(2, None, Some(ours)), met(3, Some("blue"), None)])
        };
        let kept = |most| {
            let mut all = all();
            let crowded = leave_out(&mut all, most);
            let mut kept: Vec<u64> = all.into_keys().map(NamespaceId::inode).collect();
            kept.sort_unstable();
            (crowded, kept)
        };
        assert_eq!(kept(3), (false, vec![1, 2, 3]));
        assert_eq!(kept(2), (true, vec![2, 3]));
        assert_eq!(kept(1), (true, vec![3]), "a name was given by somebody who may");
    }
}
