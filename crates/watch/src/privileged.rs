//! [`Privileged`]: what watching does after its start that takes capabilities. [`Access`] has it done by this process or by the opener.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use linger_netns::Counters;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::kernel::leftovers::Leftovers;
use crate::kernel::ring::{Ring, RingError, Subscription};
use crate::kernel::sock_diag::DiagSocket;
use crate::namespace_id::NamespaceId;
use crate::namespaces::{self, Survey};
use crate::opener::Opener;

/// Most namespaces that are looked into. Each takes two file descriptors.
pub(crate) const MOST_NAMESPACES: usize = 1_024;
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
}

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
        let mut all: HashMap<NamespaceId, (PathBuf, Option<String>, Option<u32>)> = HashMap::new();
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
        self.entered.retain(|id, _| all.contains_key(id));
        let mut found = Vec::with_capacity(all.len());
        self.paths.clear();
        for (id, (path, name, pid)) in all {
            found.push(FoundNamespace { inode: id.inode(), name, pid });
            self.paths.insert(id, path);
        }
        // A few processes may be hidden even from root. Only if most of them are, entering counts as refused.
        FoundNamespaces { found, refused: hidden > shown }
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
            let file = File::open(path)?;
            // The process may have ended meanwhile, and its pid or the name may be another's.
            if NamespaceId::of_file(&file)? != id {
                return Err(gone());
            }
            if self.entered.len() >= MOST_NAMESPACES {
                return Err(io::Error::from_raw_os_error(libc::EMFILE));
            }
            self.entered.insert(id, file);
        }
        self.entered.get(&id).ok_or_else(gone)
    }

    /// The processes that hold the sockets with these inodes: inode and pid.
    pub(crate) fn owners(&self, inodes: &[u32]) -> Vec<(u32, u32)> {
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

    /// Reads them. `half_closed`: also the connections whose peer has closed and that have unread bytes.
    pub(crate) fn read(mut self, half_closed: bool) -> Survey {
        let texts = std::mem::take(&mut self.files).map(|file| {
            let mut text = String::new();
            file?.read_to_string(&mut text).ok()?;
            Some(text)
        });
        let [snmp, netstat, abort, trie, v6] = texts;
        let counters = snmp.zip(netstat).map(|(snmp, netstat)| Counters::of_texts(&snmp, &netstat));
        let texts = [abort, trie, v6].map(Option::unwrap_or_default);
        namespaces::survey(self.sockets.as_ref(), counters, &texts, half_closed)
    }
}

/// Who does what takes capabilities.
#[derive(Debug)]
enum Way {
    /// This process, as far as it has them.
    Here(Privileged),
    Opener(Opener),
}

/// Has done what takes capabilities. Clones do it the same way.
#[derive(Clone, Debug)]
pub(crate) struct Access(Arc<Mutex<Way>>);

impl Default for Access {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Way::Here(Privileged::default()))))
    }
}

impl Access {
    fn way(&self) -> MutexGuard<'_, Way> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has it done by the opener from now on.
    pub(crate) fn delegate(&self, opener: Opener) {
        *self.way() = Way::Opener(opener);
    }

    /// Whether the opener was to do it, and has ended.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(&*self.way(), Way::Opener(opener) if opener.has_ended())
    }

    /// Opens the events of a processor.
    pub(crate) fn processor(
        &self,
        sources: &[Subscription],
        cpu: i32,
        size: usize,
    ) -> Result<Ring, RingError> {
        match &mut *self.way() {
            Way::Here(_) => Ring::open(sources, cpu, size),
            Way::Opener(opener) => opener.processor(cpu, size),
        }
    }

    /// See [`Privileged::namespaces`].
    pub(crate) fn namespaces(&self) -> io::Result<FoundNamespaces> {
        match &mut *self.way() {
            Way::Here(privileged) => Ok(privileged.namespaces()),
            Way::Opener(opener) => opener.namespaces(),
        }
    }

    /// See [`Privileged::leftovers`].
    pub(crate) fn leftovers(&self, id: NamespaceId) -> io::Result<Leftovers> {
        match &mut *self.way() {
            Way::Here(privileged) => privileged.leftovers(id),
            Way::Opener(opener) => opener.leftovers(id),
        }
    }

    /// See [`Privileged::survey`].
    pub(crate) fn survey(&self, id: NamespaceId) -> io::Result<NamespaceFiles> {
        match &mut *self.way() {
            Way::Here(privileged) => privileged.survey(id),
            Way::Opener(opener) => opener.survey(id),
        }
    }

    /// See [`Privileged::owners`].
    pub(crate) fn owners(&self, inodes: &[u32]) -> Vec<(u32, u32)> {
        match &mut *self.way() {
            Way::Here(privileged) => privileged.owners(inodes),
            Way::Opener(opener) => opener.owners(inodes).unwrap_or_default(),
        }
    }
}
