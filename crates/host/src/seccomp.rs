//! Being asked before a program's system calls (`seccomp_unotify(2)`): the filter, its listener, and who stands in.
//!
//! Which calls are asked about, and what is answered, is the caller's affair.

mod apart;
mod guard;

use std::io;
use std::mem::{offset_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit};

pub use apart::{apart, least_of_own};
use guard::Unanswered;

/// One system call to be asked about.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The call's number on this architecture (`libc::SYS_...`).
    pub call: i64,
    /// Which of its uses.
    pub when: When,
}

/// Which uses of a call, by the low 32 bits of one argument (counted from 0).
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// All.
    Always,
    /// The argument is one of these.
    Is(u8, &'static [u32]),
    /// The argument is another than this.
    IsNot(u8, u32),
    /// The argument has none of these bits.
    Lacks(u8, u32),
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// A filter: these calls are asked about, everything else is allowed without a question.
#[derive(Clone, Debug)]
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Makes the filter for these rules; calls of another architecture (32-bit) are never asked about.
    pub fn new(rules: &[Rule]) -> Self {
        Self::with(rules, libc::SECCOMP_RET_USER_NOTIF)
    }

    /// A filter under which these calls fail, as under a container's profile.
    #[cfg(feature = "testing")]
    pub(crate) fn refusing(rules: &[Rule], errno: u16) -> Self {
        Self::with(rules, libc::SECCOMP_RET_ERRNO | u32::from(errno))
    }

    fn with(rules: &[Rule], verdict: u32) -> Self {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let line = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
        let load = |offset: usize| line(LOAD, offset as u32, 0, 0);
        // Little endian on both architectures: the low half comes first.
        let argument = |number: u8| load(offset_of!(libc::seccomp_data, args) + 8 * usize::from(number));
        let allow = line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
        let ask = line(RETURN, verdict, 0, 0);
        let mut lines = vec![
            load(offset_of!(libc::seccomp_data, arch)),
            line(EQUAL, ARCHITECTURE, 1, 0),
            allow,
            load(offset_of!(libc::seccomp_data, nr)),
        ];
        for rule in rules {
            let block = match rule.when {
                When::Always => vec![ask],
                When::Is(number, values) => {
                    let mut block = vec![argument(number)];
                    for (place, value) in values.iter().enumerate() {
                        // To the last line, over the tests that follow and the line that allows.
                        block.push(line(EQUAL, *value, (values.len() - place) as u8, 0));
                    }
                    block.extend([allow, ask]);
                    block
                }
                When::IsNot(number, value) => vec![argument(number), line(EQUAL, value, 0, 1), allow, ask],
                When::Lacks(number, bits) => vec![argument(number), line(ANY_BIT, bits, 0, 1), allow, ask],
            };
            lines.push(line(EQUAL, rule.call as u32, 0, block.len() as u8));
            lines.extend(block);
        }
        lines.push(allow);
        Self(lines)
    }

    /// Installs the filter for this thread and all it will start; gives the number of the listener.
    ///
    /// Makes system calls only.
    fn install(&self) -> io::Result<RawFd> {
        // Killable: a signal does not interrupt a call that the supervisor has begun to look at (Linux 5.19).
        let wanted = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        match self.install_with(wanted | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.install_with(wanted),
            other => other,
        }
    }

    /// The same with other flags, without which there is no listener.
    pub(crate) fn install_with(&self, flags: libc::c_ulong) -> io::Result<RawFd> {
        let program = libc::sock_fprog {
            len: self.0.len() as u16,
            // The kernel only reads it.
            filter: self.0.as_ptr().cast_mut(),
        };
        let install = || {
            // SAFETY: the program and the lines that it points to live across the call, which copies them.
            let result = unsafe {
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
            };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
        };
        match install() {
            // Without CAP_SYS_ADMIN a filter is for those only who can gain no rights any more.
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                rustix::thread::set_no_new_privs(true)?;
                install()
            }
            other => other,
        }
    }
}

/// What the child and the thread that will serve it say to each other before the exec.
#[derive(Debug)]
pub struct Handshake(UnixStream);

/// Makes a command install the filter before it becomes the program, and wait there until somebody serves it.
///
/// Its limit of descriptors is set to `descriptors`. The command must not be started before a thread waits in
/// [`Handshake::listener`], and must be dropped after.
///
/// # Errors
/// Where no socket pair can be made.
pub fn before_exec(command: &mut Command, filter: Filter, descriptors: Rlimit) -> io::Result<Handshake> {
    let (ours, theirs) = UnixStream::pair()?;
    let prepare = move || {
        rustix::process::setrlimit(Resource::Nofile, descriptors)?;
        let installed = filter.install();
        let number = match &installed {
            Ok(fd) => *fd,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        let mut told = [0; 8];
        told[..4].copy_from_slice(&rustix::process::getpid().as_raw_nonzero().get().to_ne_bytes());
        told[4..].copy_from_slice(&number.to_ne_bytes());
        rustix::io::write(&theirs, &told)?;
        installed?;
        // From here on this process's closes wait for an answer; what is close-on-exec needs no close.
        let mut go = [0];
        match rustix::io::read(&theirs, &mut go)? {
            0 => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
            _ => Ok(()),
        }
    };
    // SAFETY: `prepare` makes system calls only: no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(prepare) };
    Ok(Handshake(ours))
}

/// Why nobody can be asked.
#[derive(Debug)]
pub enum Refused {
    /// The kernel, or a filter around this process, refuses the filter.
    Filter(io::Error),
    /// A call that looks into the child.
    Call(&'static str, io::Error),
    /// This process's own means: it has no descriptor, or no process, to spare.
    Means(io::Error),
    /// The command never came so far.
    NotStarted,
}

impl Handshake {
    /// Waits for the child, and takes its listener. The child waits on, until the second half is dropped or told to go.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn listener(self) -> Result<(Listener, Waiting), Refused> {
        let mut told = [0; 8];
        if !rustix::io::read(&self.0, &mut told).is_ok_and(|length| length == told.len()) {
            return Err(Refused::NotStarted);
        }
        let [a, b, c, d, e, f, g, h] = told;
        let (pid, number) = (i32::from_ne_bytes([a, b, c, d]), i32::from_ne_bytes([e, f, g, h]));
        if number < 0 {
            return Err(Refused::Filter(io::Error::from_raw_os_error(-number)));
        }
        let child = Pid::from_raw(pid).ok_or(Refused::NotStarted)?;
        match take(child, number) {
            Ok(fd) => Ok((Listener { fd, unanswered: Unanswered::new()? }, Waiting(self.0))),
            Err(refused) => {
                // It cannot even exit, since nobody can be asked.
                let _ = rustix::process::kill_process(child, rustix::process::Signal::KILL);
                Err(refused)
            }
        }
    }

    /// The descriptor, for [`apart`].
    pub fn into_fd(self) -> OwnedFd {
        self.0.into()
    }

    /// The reverse.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

/// Takes a child's descriptor, and tries all that will be done to it later.
fn take(child: Pid, number: RawFd) -> Result<OwnedFd, Refused> {
    let refused = |call: &'static str| move |error: rustix::io::Errno| Refused::Call(call, error.into());
    let process = rustix::process::pidfd_open(child, PidfdFlags::empty()).map_err(refused("pidfd_open"))?;
    let fd = rustix::process::pidfd_getfd(process, number, PidfdGetfdFlags::empty())
        .map_err(refused("pidfd_getfd"))?;
    // The child is a copy of this process as yet: what this one has at an address that one has, too.
    static SOMETHING: u64 = 1;
    let thread = u32::try_from(child.as_raw_nonzero().get()).unwrap_or_default();
    read_memory(thread, (&raw const SOMETHING) as u64, &mut [0; 8])
        .map_err(|error| Refused::Call("process_vm_readv", error))?;
    Ok(fd)
}

/// A child that waits before its exec.
#[derive(Debug)]
pub struct Waiting(UnixStream);

impl Waiting {
    /// Lets the child go on to its exec.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn go(self) -> io::Result<()> {
        rustix::io::write(&self.0, &[1])?;
        Ok(())
    }
}

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// For the answer.
    pub id: u64,
    /// The thread that calls.
    pub thread: u32,
    /// The call's number.
    pub call: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// Where the questions come from.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    unanswered: Unanswered,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    /// Moves the listener to a descriptor of this number or above.
    ///
    /// # Errors
    /// Where there is none.
    pub fn move_up(self, least: RawFd) -> io::Result<Self> {
        Ok(Self { fd: rustix::io::fcntl_dupfd_cloexec(&self.fd, least)?, ..self })
    }

    /// Asks for the cheaper wake-up of whoever was answered, on this processor (Linux 6.6); a hint.
    pub fn wake_here(&self) {
        const SYNC_WAKE_UP: libc::c_ulong = 1;
        // SAFETY: takes a number.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
    }

    /// The next question; waits for it. `None` where it was withdrawn.
    ///
    /// # Errors
    /// Those of the request other than that.
    pub fn next(&self) -> io::Result<Option<Question>> {
        // SAFETY: the kernel wants zeroes, which are a valid value of these integers.
        let mut got: libc::seccomp_notif = unsafe { zeroed() };
        // SAFETY: the kernel writes one seccomp_notif to a live one.
        let result =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut got) };
        if result < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        self.unanswered.note(got.id);
        Ok(Some(Question {
            id: got.id,
            thread: got.pid,
            call: i64::from(got.data.nr),
            arguments: got.data.args,
        }))
    }

    /// Lets the call happen; whether it was still waiting.
    pub fn go_on(&self, id: u64) -> bool {
        self.answer(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Gives the call a result in the kernel's place, an error as its number.
    pub fn result(&self, id: u64, result: Result<i64, i32>) -> bool {
        match result {
            Ok(value) => self.answer(id, value, 0, 0),
            Err(number) => self.answer(id, 0, -number, 0),
        }
    }

    fn answer(&self, id: u64, val: i64, error: i32, flags: u32) -> bool {
        let mut answer = libc::seccomp_notif_resp { id, val, error, flags };
        // SAFETY: the kernel reads one seccomp_notif_resp from a live one.
        let sent =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) == 0 };
        // After that: killed in between, the guard answers once more, which does nothing.
        self.unanswered.forget(id);
        sent
    }

    /// Gives the thread that calls a new descriptor of `fd`, and its number as the call's result.
    ///
    /// # Errors
    /// Where the thread is gone, or its process has no number free (`EMFILE`); then the call still waits.
    pub fn give(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<()> {
        let mut order = libc::seccomp_notif_addfd {
            id,
            flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
            srcfd: fd.as_raw_fd() as u32,
            newfd: 0,
            newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
        };
        // SAFETY: the kernel reads one seccomp_notif_addfd from a live one.
        let result =
            unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut order) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        self.unanswered.forget(id);
        Ok(())
    }

    /// Whether the call still waits: what was looked up by its thread's number until now was of that thread.
    pub fn waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads one u64 from a live one.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }
}

/// A thread of the program, as a descriptor: another that gets its number later is never mistaken for it.
///
/// # Errors
/// `EINVAL` before Linux 6.9, unless it is its process's first thread.
pub fn open_thread(thread: u32) -> io::Result<OwnedFd> {
    /// `PIDFD_THREAD`.
    const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
    let pid = i32::try_from(thread).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    match rustix::process::pidfd_open(pid, THREAD) {
        Err(rustix::io::Errno::INVAL) => Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?),
        other => Ok(other?),
    }
}

/// The process that made the other end of a unix connection, or has it listen (`SO_PEERCRED`).
///
/// `None` for a socket of another kind, or without a peer.
pub fn peer_process(socket: BorrowedFd<'_>) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of_val(&peer) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a live ucred, and the length to a live socklen_t.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    u32::try_from(peer.pid).ok().filter(|pid| result == 0 && *pid != 0)
}

/// Reads another process's memory (`process_vm_readv(2)`), all of `into`.
///
/// # Errors
/// `EFAULT` where it has no such memory, `EPERM`, `ESRCH`.
pub fn read_memory(thread: u32, address: u64, into: &mut [u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: into.len() };
    // SAFETY: writes at most the length of a live slice; the remote address is the kernel's to check.
    let got = unsafe {
        libc::process_vm_readv(thread as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0)
    };
    match usize::try_from(got) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(got) if got == into.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// Writes another process's memory (`process_vm_writev(2)`), all of `from`.
///
/// # Errors
/// As [`read_memory`].
pub fn write_memory(thread: u32, address: u64, from: &[u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: from.as_ptr().cast_mut().cast(), iov_len: from.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: from.len() };
    // SAFETY: reads a live slice of that length; the remote address is the kernel's to check.
    let got = unsafe {
        libc::process_vm_writev(thread as libc::pid_t, &raw const local, 1, &raw const remote, 1, 0)
    };
    match usize::try_from(got) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(got) if got == from.len() => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
    }
}

/// Accepts a connection; with the peer's address as the kernel writes it (`accept4(2)`).
///
/// # Errors
/// Those of the call.
pub fn accept(listener: BorrowedFd<'_>, flags: i32) -> io::Result<(OwnedFd, Vec<u8>)> {
    let mut address = [0u8; size_of::<libc::sockaddr_storage>()];
    let mut length = address.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a live array (which it copies to without regard to
    // alignment), and the length to a live socklen_t.
    let fd =
        unsafe { libc::accept4(listener.as_raw_fd(), address.as_mut_ptr().cast(), &raw mut length, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let length = (length as usize).min(address.len());
    // SAFETY: a new descriptor that nobody else owns.
    Ok((unsafe { OwnedFd::from_raw_fd(fd) }, address[..length].to_vec()))
}
