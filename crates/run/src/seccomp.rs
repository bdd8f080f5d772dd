//! Supervision by seccomp notifications (`seccomp_unotify(2)`), for programs that no library can be preloaded into.
//!
//! The process that becomes the program installs a seccomp filter before `execve`. For a call that may close a
//! connection, a thread of the supervisor first keeps a copy of the fd, then continues the call. When the program's fd
//! is gone and there is no other holder, the thread half-closes the connection and hands it over. So a mistake can
//! delay an end, but never end a connection in use.
//!
//! Four parts with separate state: `ask` (the notification fd), custody's [`World`](linger_custody::world::World) (the
//! decisions, without I/O), `eyes` (`/proc` and socket options), `hands` (pidfds, kept fds, epolls). `drive` is the thread:
//! it feeds events to the world and carries out its actions.

mod ask;
mod drive;
mod eyes;
mod hands;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::kernel::{
    Filter, FilterRefusal, Handshake, LaunchRefused, Rule, When, apart, before_exec, copy_own, may_copy_fds,
    may_supervise, something,
};
use linger_custody::Count;
use linger_preload::protocol::{COUNTS, Message};
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Rlimit;

use crate::{Options, Place, Refusal, RunError};
use drive::Driver;
use eyes::{Kin, Wanted};
use hands::Partings;

/// The system calls of which the supervisor is notified: those that close or shut down a connection, those that can give
/// another fd, another process or a ring a hold on it (`dup`, `sendmsg`, `fork`, `execve`, `io_uring_register`), and those that create listeners and
/// epolls. All other calls run at full speed.
const RULES: &[Rule] = &[
    Rule { call: libc::SYS_close, when: When::Always },
    // A half-close alone loses nothing. A shutdown of the read side alone cannot be made in the program's place.
    Rule { call: libc::SYS_shutdown, when: When::Is(1, &[libc::SHUT_RDWR as u32]) },
    Rule { call: libc::SYS_sendmsg, when: When::Always },
    Rule { call: libc::SYS_sendmmsg, when: When::Always },
    Rule { call: libc::SYS_fcntl, when: When::Is(1, &[libc::F_DUPFD as u32, libc::F_DUPFD_CLOEXEC as u32]) },
    Rule { call: libc::SYS_dup, when: When::Always },
    #[cfg(target_arch = "x86_64")]
    Rule { call: libc::SYS_dup2, when: When::Always },
    Rule { call: libc::SYS_dup3, when: When::Always },
    Rule { call: libc::SYS_close_range, when: When::Lacks(2, libc::CLOSE_RANGE_CLOEXEC) },
    Rule { call: libc::SYS_clone, when: When::Lacks(0, libc::CLONE_FILES as u32) },
    Rule { call: libc::SYS_clone3, when: When::Always },
    #[cfg(target_arch = "x86_64")]
    Rule { call: libc::SYS_fork, when: When::Always },
    #[cfg(target_arch = "x86_64")]
    Rule { call: libc::SYS_vfork, when: When::Always },
    Rule { call: libc::SYS_execve, when: When::Always },
    Rule { call: libc::SYS_execveat, when: When::Always },
    Rule { call: libc::SYS_exit_group, when: When::Always },
    Rule { call: libc::SYS_listen, when: When::Always },
    #[cfg(target_arch = "x86_64")]
    Rule { call: libc::SYS_epoll_create, when: When::Always },
    Rule { call: libc::SYS_epoll_create1, when: When::Always },
    Rule { call: libc::SYS_io_uring_register, when: When::Is(1, &REGISTERS_FILES) },
];

/// `IORING_REGISTER_FILES`, `..._FILES_UPDATE`, `..._FILES2` and `..._FILES_UPDATE2`, and each with
/// `IORING_REGISTER_USE_REGISTERED_RING`.
const REGISTERS_FILES: [u32; 8] = [2, 6, 13, 14, 1 << 31 | 2, 1 << 31 | 6, 1 << 31 | 13, 1 << 31 | 14];

/// The calls notified in addition with [`Options::hold`](crate::Options::hold).
const HOLD_RULES: &[Rule] = &[
    Rule { call: libc::SYS_accept, when: When::Always },
    Rule { call: libc::SYS_accept4, when: When::Always },
];

/// The calls notified in addition where the program's fds cannot be copied: its sockets and epolls are made in its place.
const LEND_RULES: &[Rule] = &[
    Rule { call: libc::SYS_socket, when: When::Always },
    // The supervisor's copy of a socket that connects is closed: it will not listen.
    Rule { call: libc::SYS_connect, when: When::Always },
];

/// Counts of the seccomp thread.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// In the order of [`Count`].
    closes: [AtomicU64; COUNTS],
    looks: AtomicU64,
    /// Calls of `listen`.
    pub(crate) listens: AtomicU64,
    /// Half-closed connections that the peer closed before they could be handed over.
    pub(crate) peer_closed: AtomicU64,
    pub(crate) bytes_acknowledged: AtomicU64,
}

impl Counts {
    /// Adds what became of half-closed connections. All were counted as handed over; the refused ones are moved.
    fn part(&self, Partings { peer_closed, refused, bytes_acknowledged }: Partings) {
        self.peer_closed.fetch_add(peer_closed, Relaxed);
        self.bytes_acknowledged.fetch_add(bytes_acknowledged, Relaxed);
        self.closes[Count::Handed as usize].fetch_sub(refused, Relaxed);
        self.closes[Count::Refused as usize].fetch_add(refused, Relaxed);
    }

    fn add(&self, what: Count) {
        self.closes[what as usize].fetch_add(1, Relaxed);
    }

    fn look(&self) {
        self.looks.fetch_add(1, Relaxed);
    }

    pub(crate) fn all(&self) -> [u64; COUNTS] {
        std::array::from_fn(|place| self.closes[place].load(Relaxed))
    }

    /// Number of searches through all fds of the program.
    pub(crate) fn looks(&self) -> u64 {
        self.looks.load(Relaxed)
    }
}

const PREPARING: &str = "cannot prepare to be asked about the program's calls";

/// What supervision by seccomp needs, prepared before the program and its supervisor are separate processes.
#[derive(Debug)]
pub(crate) struct Watch {
    handshake: OwnedFd,
    wanted: Wanted,
    /// Where the program's fds cannot be copied: copies of the listeners that it inherits.
    lent: Option<Vec<OwnedFd>>,
    /// The pid of the process that becomes the program and the number of its seccomp filters, if it is not a child of this one.
    beside: Option<(u32, u32)>,
    refusal: FilterRefusal,
}

/// What another process needs to take a watch over, but for its fd.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WatchWords {
    wanted: Wanted,
    /// An address in the process that becomes the program, which the supervisor reads to find out whether it may.
    something: u64,
}

impl Watch {
    /// Prepares a command: it will install the filter and set its limit of fds to `limit`. `filters` are those of this process.
    pub(crate) fn new(
        command: &mut Command,
        options: &Options,
        limit: Rlimit,
        place: Place,
        filters: u32,
    ) -> Result<Self, RunError> {
        let lends = !may_copy_fds();
        tracing::info!(lends, "whether sockets are made in the program's place: pidfd_getfd is refused");
        let mut rules = RULES.to_vec();
        rules.extend(HOLD_RULES.iter().filter(|_| options.hold || lends));
        rules.extend(LEND_RULES.iter().filter(|_| lends));
        let (handshake, refusal) =
            before_exec(command, Filter::new(&rules), limit, lends).map_err(RunError::system(PREPARING))?;
        let own = own_sockets();
        let all: Vec<&OwnedFd> = own.iter().map(|one| &one.copy).collect();
        let kept = |one: &&OwnSocket| place == Place::Child || one.number == STDERR;
        let kept: Vec<&OwnedFd> = own.iter().filter(kept).map(|one| &one.copy).collect();
        let wanted = Wanted::new(options, &all, &kept);
        // The supervisor makes the program's sockets in its place. Those that the program inherits exist already: they
        // are copied here.
        let listens = |one: &OwnSocket| socket_acceptconn(&one.copy).is_ok_and(|listens| listens);
        let inherited = own.into_iter().filter(|one| one.inherited && listens(one)).map(|one| one.copy);
        Ok(Self {
            handshake: handshake.into_fd(),
            wanted,
            lent: lends.then(|| inherited.collect()),
            beside: (place == Place::Itself).then(|| (std::process::id(), filters)),
            refusal,
        })
    }

    /// The fd and the words for another process.
    pub(crate) fn lend(&self) -> serde_json::Result<(BorrowedFd<'_>, serde_json::Value)> {
        let words = serde_json::json!({ "wanted": self.wanted, "something": something() });
        Ok((self.handshake.as_fd(), words))
    }

    /// A watch of another process, which becomes the program and has so many `filters`. It is no child of this one.
    ///
    /// # Errors
    /// A system call on that process is refused.
    pub(crate) fn borrowed(
        handshake: OwnedFd,
        WatchWords { wanted, something }: WatchWords,
        process: u32,
        filters: u32,
    ) -> std::io::Result<Self> {
        match may_supervise(process, something) {
            Ok(()) => {}
            Err(LaunchRefused::Call(_, error)) => return Err(error),
            Err(_) => return Err(std::io::ErrorKind::NotFound.into()),
        }
        let refusal = FilterRefusal::default();
        Ok(Self { handshake, wanted, lent: None, beside: Some((process, filters)), refusal })
    }

    /// In the process that becomes the program: leaves the watch to the supervisor. The result tells later whether the
    /// filter was refused.
    pub(crate) fn leave(self) -> FilterRefusal {
        self.refusal
    }

    /// Starts the thread. Drop the command after starting it.
    pub(crate) fn begin(self, name: &str, token: [u8; 16], counts: Arc<Counts>) -> Result<Seccomp, RunError> {
        let Self { handshake, wanted, lent, beside, .. } = self;
        let intake = connect(name, token).map_err(RunError::system(PREPARING))?;
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let (guard_waits, alive) = pipe().map_err(RunError::system(PREPARING))?;
        let (ended, runs) = pipe().map_err(RunError::system(PREPARING))?;
        let (tell, started) = mpsc::channel();
        let (refuse, refusals) = mpsc::channel();
        let (lends, inherited) = (lent.is_some(), lent.unwrap_or_default());
        let task = move |fds: Vec<OwnedFd>| {
            let mut fds = fds.into_iter();
            let (Some(handshake), Some(intake), Some(guard_waits), Some(alive), Some(runs)) =
                (fds.next(), fds.next(), fds.next(), fds.next(), fds.next())
            else {
                return;
            };
            let handshake = Handshake::from_fd(handshake);
            let begun =
                handshake.listener(beside.map(|(process, _)| process)).and_then(|(listener, child)| {
                    let least = crate::kernel::least_of_own();
                    let listener = listener.move_up(least).map_err(LaunchRefused::Means)?;
                    listener.guard(guard_waits.as_fd()).map_err(LaunchRefused::Means)?;
                    drop(guard_waits);
                    listener.wake_here();
                    Ok((listener, child))
                });
            match begun {
                Ok((listener, child)) => {
                    let lends = lends.then(|| fds.collect());
                    match Driver::new(listener, intake, Kin::new(beside), wanted, counts, refuse, lends) {
                        Ok(driver) => {
                            let _ = tell.send(Ok(()));
                            let _ = child.go();
                            driver.run();
                        }
                        Err(error) => {
                            let _ = tell.send(Err(LaunchRefused::Means(error.into())));
                        }
                    }
                }
                Err(refused) => {
                    let _ = tell.send(Err(refused));
                }
            }
            // The guard and the main thread see the ends of these pipes, however this thread ends.
            drop((alive, runs));
        };
        let fds = [handshake, intake, guard_waits, alive, runs].into_iter().chain(inherited).collect();
        let thread = apart("linger-watch", fds, task);
        Ok(Seccomp { thread: thread.map_err(RunError::system(PREPARING))?, started, refusals, ended })
    }
}

/// The fd of stderr.
const STDERR: RawFd = 2;

/// The thread that receives the notifications. It is ready before the command is started.
#[derive(Debug)]
pub(crate) struct Seccomp {
    thread: JoinHandle<Option<()>>,
    started: mpsc::Receiver<Result<(), LaunchRefused>>,
    refusals: mpsc::Receiver<Refusal>,
    ended: OwnedFd,
}

impl Seccomp {
    /// Returns an error if the filter was not installed, or the program cannot be supervised by it. Call it after the attempt
    /// to start the command.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        match self.started.recv() {
            Ok(Ok(())) | Err(_) | Ok(Err(LaunchRefused::NotStarted)) => Ok(()),
            Ok(Err(LaunchRefused::Filter(source))) => Err(filter_refused(source)),
            Ok(Err(LaunchRefused::Call(call, source))) => {
                let remedy = call_remedy(&source);
                Err(RunError::DescriptorsRefused { call, source, remedy })
            }
            Ok(Err(LaunchRefused::Means(source))) => Err(RunError::System { what: PREPARING, source }),
        }
    }

    /// The next process whose fds could not be copied. The thread sends SIGCHLD when there is one.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refusals.try_recv().ok()
    }

    /// Readable once the last process of the program has ended.
    pub(crate) fn ended(&self) -> &OwnedFd {
        &self.ended
    }

    /// Waits until the last process of the program has ended and its connections are handed over.
    pub(crate) fn finish(self) {
        // If the thread has panicked, the guard process has answered the calls since; the counts show what was missed.
        let _ = self.thread.join();
    }
}

/// The filter was refused with this error.
pub(crate) fn filter_refused(source: std::io::Error) -> RunError {
    let remedy = filter_remedy(&source);
    RunError::SeccompRefused { source, remedy }
}

/// The remedy for a filter that is refused.
fn filter_remedy(refused: &std::io::Error) -> &'static str {
    match refused.raw_os_error() {
        Some(libc::EBUSY) => {
            "another supervisor around this process is asked about its calls already, and the kernel allows one: run \
             outside of it"
        }
        Some(libc::EINVAL) => "the kernel needs CONFIG_SECCOMP_FILTER and version 5.9",
        _ => {
            "the profile of a container, or systemd's SystemCallFilter=, does not permit seccomp(2) with \
             SECCOMP_FILTER_FLAG_NEW_LISTENER: run with --security-opt seccomp=unconfined, or with a profile that \
             permits it"
        }
    }
}

/// The remedy for a refused system call on the program's process.
fn call_remedy(refused: &std::io::Error) -> &'static str {
    match refused.raw_os_error() {
        Some(libc::ENOSYS) => {
            "the kernel needs version 5.6; on a newer one the profile of a container does not permit the call: run with \
             --security-opt seccomp=unconfined, or with a profile that permits it"
        }
        _ => {
            "it needs the right to trace its own children: a seccomp profile that permits the call (Docker's own does \
             with --cap-add SYS_PTRACE), kernel.yama.ptrace_scope below 2 or CAP_SYS_PTRACE, and no security profile \
             that forbids ptrace"
        }
    }
}

/// Connects to the intake, as the preloaded library does.
fn connect(name: &str, token: [u8; 16]) -> std::io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    rustix::io::write(&socket, &Message::hello(token).to_bytes())?;
    Ok(socket)
}

/// A socket of this process.
struct OwnSocket {
    number: RawFd,
    copy: OwnedFd,
    /// Whether the program inherits it.
    inherited: bool,
}

fn own_sockets() -> Vec<OwnSocket> {
    let sockets = eyes::open(std::process::id()).filter(|(_, open)| matches!(open, eyes::Open::Socket(_)));
    let copied = sockets.filter_map(|(number, _)| {
        copy_own(number).map(|(copy, inherited)| OwnSocket { number, copy, inherited })
    });
    copied.collect()
}
