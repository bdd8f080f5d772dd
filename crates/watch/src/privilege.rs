//! Gives up what watching does not need once it has begun: capabilities, most of the file system, and system calls.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use crate::kernel::seccomp;

/// What is needed later: perf events and their memory on processors that come online, other network namespaces, the bytes
/// of their connections, and the names of other users' processes.
const KEPT: CapabilitySet = CapabilitySet::PERFMON
    .union(CapabilitySet::IPC_LOCK)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::NET_BROADCAST)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::DAC_READ_SEARCH);

/// Gives up all capabilities that an open [`Watcher`](crate::Watcher) does not use, for the calling thread and the threads that it
/// starts from then on; and no program that they execute gains any.
///
/// # Errors
/// Returns the errors of `capset(2)` and `prctl(2)`.
pub fn give_up_capabilities() -> io::Result<()> {
    keep_only(KEPT)
}

/// Gives up all capabilities, for a [`Watcher`](crate::Watcher) that has an [`Opener`](crate::Opener): those of the calling thread
/// and of the threads that it starts from then on, and what programs could gain.
///
/// # Errors
/// Returns the errors of `capset(2)` and `prctl(2)`.
pub fn give_up_all_capabilities() -> io::Result<()> {
    if capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        // What this kernel does not know is in no bounding set.
        for capability in CapabilitySet::all().iter() {
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
    keep_only(CapabilitySet::empty())
}

fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    let had = capabilities(None)?;
    let kept = CapabilitySets {
        effective: had.effective & kept,
        permitted: had.permitted & kept,
        inheritable: had.inheritable & kept,
    };
    set_capabilities(None, kept)?;
    Ok(set_no_new_privs(true)?)
}

/// Whether `/proc` hides other users' processes (`hidepid=`), so that their names take CAP_SYS_PTRACE.
pub fn is_proc_hidden() -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(is_hidden)
}

/// A line of `mountinfo`: ids, root and mount point, options, then behind a dash type, source and the file system's options.
fn is_hidden(mount: &str) -> bool {
    let Some((before, behind)) = mount.split_once(" - ") else { return false };
    let mut hides = behind.split(' ').nth(2).unwrap_or_default().split(',');
    before.split(' ').nth(4) == Some("/proc")
        && behind.starts_with("proc ")
        && hides.any(|option| option.strip_prefix("hidepid=").is_some_and(|how| how != "0" && how != "off"))
}

/// What the kernel enforces on this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Confinement {
    /// Landlock: no file but those that watching reads and writes, and no TCP connection.
    pub files: bool,
    /// seccomp: no other programs, processes, mounts, modes, owners and sockets.
    pub calls: bool,
}

/// Confines the calling thread, and the threads that it starts from then on, for good. They may read `/proc` and the list of
/// processors, use the terminal, and write into `directory`. What is open stays so. Needs `no_new_privs`, and an
/// [`Opener`](crate::Opener) for the rest.
pub fn confine(directory: Option<&Path>) -> Confinement {
    let calls = seccomp::refuse(seccomp::PARSER).is_ok();
    // The filter bounds signals. Landlock would hold back that by which the kernel ends the opener with this process as well
    // (PR_SET_PDEATHSIG), which is sent in the name of this one.
    let scopes = if calls { Scope::AbstractUnixSocket.into() } else { Scope::from_all(KNOWN) };
    Confinement { files: close_files(directory, scopes).is_some(), calls }
}

/// Confines the calling thread, and those that it starts from then on, to connecting to another host's `port`: for good. They may read
/// what looking up names takes. Needs `no_new_privs`.
pub fn confine_client(port: u16) -> Confinement {
    let calls = seccomp::refuse(seccomp::CLIENT).is_ok();
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let files = NAMES.iter().map(|file| (Path::new(*file), BitFlags::from(AccessFs::ReadFile)));
    let folders = LIBRARIES.iter().map(|folder| (Path::new(*folder), reading));
    let places: Vec<_> = files.chain(folders).collect();
    let files = restrict(&places, &[port, DOMAIN], Scope::from_all(KNOWN)).is_some();
    Confinement { files, calls }
}

/// What the C library reads to look up a name.
const NAMES: [&str; 6] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/ld.so.cache",
];
/// Where its modules for that are, and where what stands behind a link of that name is rewritten.
const LIBRARIES: [&str; 7] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
];
/// The port of name servers, for answers that are too long for UDP.
const DOMAIN: u16 = 53;

/// Rights that are handled. Older kernels know fewer of them.
const KNOWN: ABI = ABI::V6;

/// `None` if the kernel enforces nothing of it.
fn close_files(directory: Option<&Path>, scopes: BitFlags<Scope>) -> Option<()> {
    let everything = AccessFs::from_all(KNOWN);
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let mut places = vec![
        (Path::new("/proc"), reading),
        (Path::new("/sys/devices/system/cpu"), reading),
        (Path::new("/dev/tty"), device),
        (Path::new("/dev/null"), device),
    ];
    places.extend(directory.map(|directory| (directory, everything & !AccessFs::Execute)));
    restrict(&places, &[], scopes)
}

/// Leaves these places and TCP connections to these ports. `None` if the kernel enforces nothing of it.
fn restrict(places: &[(&Path, BitFlags<AccessFs>)], ports: &[u16], scopes: BitFlags<Scope>) -> Option<()> {
    let restrict = || -> Result<_, RulesetError> {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(scopes)?
            .create()?;
        for (path, access) in places {
            // What is not there cannot be used anyway.
            let Ok(path) = PathFd::new(path) else { continue };
            ruleset = ruleset.add_rule(PathBeneath::new(path, *access))?;
        }
        for port in ports {
            ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
        ruleset.restrict_self()
    };
    (restrict().ok()?.ruleset != RulesetStatus::NotEnforced).then_some(())
}

/// Makes the calls with which [`confine`] restricts files, without an effect.
pub(crate) fn rehearse() {
    let made = Ruleset::default().handle_access(AccessFs::from_write(KNOWN)).and_then(Ruleset::create);
    if let (Ok(ruleset), Ok(null)) = (made, PathFd::new("/dev/null")) {
        let _ = ruleset.add_rule(PathBeneath::new(null, AccessFs::WriteFile));
    }
    seccomp::restrict_by_nothing();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_else_is_left() {
        // Capabilities belong to a thread: the test's own stay.
        let left = std::thread::spawn(|| {
            let had = capabilities(None).unwrap();
            give_up_capabilities().unwrap();
            (had, capabilities(None).unwrap())
        });
        let (had, left) = left.join().unwrap();
        assert_eq!((left.effective, left.permitted), (had.effective & KEPT, had.permitted & KEPT));
        assert!(!left.permitted.intersects(CapabilitySet::DAC_OVERRIDE | CapabilitySet::SYS_MODULE));
        assert!(!left.permitted.intersects(CapabilitySet::NET_ADMIN | CapabilitySet::SETUID));
    }

    #[test]
    fn no_capability_is_left_where_none_is_needed() {
        let left = std::thread::spawn(|| {
            give_up_all_capabilities().unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let left = left.join().unwrap();
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(left.contains(&format!("{set}:\t0000000000000000\n")), "{left}");
        }
        assert!(left.contains("NoNewPrivs:\t1\n"), "{left}");
        let all = capabilities(None).unwrap();
        if all.effective.contains(CapabilitySet::SETPCAP) {
            assert!(left.contains("CapBnd:\t0000000000000000\n"), "{left}");
        }
    }

    /// In a thread of its own: it is confined for good.
    fn confined<R: Send + 'static>(directory: &Path, task: impl FnOnce() -> R + Send + 'static) -> R {
        let directory = directory.to_owned();
        let inside = std::thread::spawn(move || {
            give_up_capabilities().unwrap();
            assert!(confine(Some(&directory)).calls);
            task()
        });
        inside.join().unwrap()
    }

    #[test]
    fn what_watching_needs_is_there_and_nothing_else() {
        if Ruleset::default().handle_access(AccessFs::Execute).and_then(Ruleset::create).is_err() {
            return linger_testing::skip("Landlock", "this kernel has none");
        }
        let directory = tempfile::tempdir().unwrap();
        let (inside, outside) = (directory.path().join("inside"), directory.path().join("outside"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(&outside, "x").unwrap();
        let before = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(before.local_addr().unwrap()).unwrap();
        let (record, other) = (inside.join("record"), outside.clone());
        confined(&inside, move || {
            std::fs::write(&record, "y").unwrap();
            std::fs::remove_file(&record).unwrap();
            for path in ["/proc/1/comm", "/proc/thread-self/net/snmp", "/sys/devices/system/cpu/online"] {
                std::fs::read(path).unwrap();
            }
            assert_eq!(before.accept().unwrap().1, client.local_addr().unwrap(), "what is open stays so");
            crate::kernel::sock_diag::DiagSocket::open().unwrap();
            std::thread::spawn(|| ()).join().unwrap();
            let refused = |result: io::Result<()>| {
                let error = result.unwrap_err();
                assert!(matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)), "{error}");
            };
            refused(std::fs::read(&other).map(drop));
            refused(std::fs::write(&other, "z"));
            refused(std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o777)));
            refused(std::process::Command::new("/bin/true").status().map(drop));
            refused(std::net::UdpSocket::bind("127.0.0.1:0").map(drop));
            refused(std::net::TcpListener::bind("127.0.0.1:0").map(drop));
            let parent = rustix::process::getppid().unwrap();
            refused(rustix::process::test_kill_process(parent).map_err(Into::into));
            rustix::process::test_kill_process(rustix::process::getpid()).unwrap();
        });
        assert_eq!(std::fs::read(&outside).unwrap(), b"x");
    }

    #[test]
    fn a_client_reaches_its_port_and_nothing_else() {
        if Ruleset::default().handle_access(AccessFs::Execute).and_then(Ruleset::create).is_err() {
            return linger_testing::skip("Landlock", "this kernel has none");
        }
        let [own, other] = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [own_at, other_at] = [&own, &other].map(|listener| listener.local_addr().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _local = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let inside = std::thread::spawn(move || {
            give_up_all_capabilities().unwrap();
            assert_eq!(confine_client(own_at.port()), Confinement { files: true, calls: true });
            std::net::TcpStream::connect(own_at).unwrap();
            std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            // The C library reads what it needs for a name.
            let names = std::net::ToSocketAddrs::to_socket_addrs("localhost:1").unwrap();
            assert!(names.count() > 0);
            let refused = |result: io::Result<()>| {
                let error = result.unwrap_err();
                assert!(matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)), "{error}");
            };
            refused(std::net::TcpStream::connect(other_at).map(drop));
            refused(std::net::TcpListener::bind("127.0.0.1:0").map(drop));
            refused(std::os::unix::net::UnixStream::connect(&path).map(drop));
            for path in ["/etc/passwd", "/proc/self/status", "/proc/1/comm"] {
                refused(std::fs::read(path).map(drop));
            }
            refused(std::fs::write(path.with_file_name("new"), "x"));
            refused(std::process::Command::new("/bin/true").status().map(drop));
        });
        inside.join().unwrap();
    }

    #[test]
    fn a_proc_that_hides_processes_is_told() {
        let proc = |options: &str| format!("24 29 0:22 / /proc rw,nosuid shared:13 - proc proc rw{options}");
        for hides in [",hidepid=2", ",gid=4,hidepid=invisible", ",hidepid=ptraceable,subset=pid"] {
            assert!(is_hidden(&proc(hides)), "{hides}");
        }
        for shows in ["", ",gid=4", ",hidepid=0", ",hidepid=off"] {
            assert!(!is_hidden(&proc(shows)), "{shows}");
        }
        assert!(!is_hidden("24 29 0:22 / /srv/proc rw - proc proc rw,hidepid=2"), "another one");
        assert!(!is_hidden("") && !is_hidden("24 29 0:22 / /proc rw shared:13"));
    }
}
