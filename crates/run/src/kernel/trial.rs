//! Finds the system calls that a seccomp filter around this process forbids: a container's profile, or systemd's
//! `SystemCallFilter=`.
//!
//! Such a filter may kill a process for a call that it does not permit, and this process is the service. So child
//! processes try the calls first, with arguments for which they have no effect.

use std::fs::File;
use std::io::{self, Read};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// A system call that is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    pub(crate) name: &'static str,
    call: i64,
    arguments: [i64; 4],
    /// Whether older kernels lack the call, so that ENOSYS is not a refusal: the C library then uses another call.
    may_lack: bool,
}

impl Trial {
    const fn new(name: &'static str, call: i64, arguments: [i64; 4]) -> Self {
        Self { name, call, arguments, may_lack: false }
    }

    const fn of_newer_kernels(name: &'static str, call: i64, arguments: [i64; 4]) -> Self {
        Self { name, call, arguments, may_lack: true }
    }

    /// Makes the call. Returns false if its error is not one that the arguments cause.
    fn is_permitted(&self) -> bool {
        let [a, b, c, d] = self.arguments;
        // SAFETY: no call of the lists below follows a pointer that it is given here, or changes more than the calling process,
        // which is a child that ends.
        let result = unsafe { libc::syscall(self.call, a, b, c, d) };
        let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        result >= 0 || EXPLAINED.contains(&error) || self.may_lack && error == libc::ENOSYS
    }
}

/// The errors that the kernel returns for these arguments. A filter can return any error; most return EPERM or ENOSYS.
const EXPLAINED: [i32; 8] = [
    libc::EBADF,
    libc::EINVAL,
    libc::EFAULT,
    libc::ESRCH,
    libc::ECHILD,
    libc::EAFNOSUPPORT,
    libc::ENOENT,
    libc::EOPNOTSUPP,
];

/// A number that no fd, process, address family or set of flags has.
const NONE: i64 = -1;

/// The calls that both ways of supervision need: in the process that starts the program, in the supervisor and in the
/// preloaded library. Calls that any program with a thread and a child makes (`clone`, `wait4`, `exit`, `mmap`, and
/// those of the languages' runtimes) are not tried.
pub(crate) const ALWAYS: &[Trial] = &[
    Trial::new("accept4", libc::SYS_accept4, [NONE, 0, 0, 0]),
    Trial::new("bind", libc::SYS_bind, [NONE, 0, 0, 0]),
    Trial::new("connect", libc::SYS_connect, [NONE, 0, 0, 0]),
    Trial::new("epoll_create1", libc::SYS_epoll_create1, [NONE, 0, 0, 0]),
    Trial::new("epoll_ctl", libc::SYS_epoll_ctl, [NONE, 0, 0, 0]),
    Trial::new("epoll_pwait", libc::SYS_epoll_pwait, [NONE, 0, 0, 0]),
    Trial::new("eventfd2", libc::SYS_eventfd2, [0, NONE, 0, 0]),
    Trial::new("fcntl", libc::SYS_fcntl, [NONE, 0, 0, 0]),
    Trial::new("fstatfs", libc::SYS_fstatfs, [NONE, 0, 0, 0]),
    Trial::new("getdents64", libc::SYS_getdents64, [NONE, 0, 0, 0]),
    Trial::new("getrandom", libc::SYS_getrandom, [0, 0, NONE, 0]),
    Trial::new("getsockname", libc::SYS_getsockname, [NONE, 0, 0, 0]),
    Trial::new("getsockopt", libc::SYS_getsockopt, [NONE, 0, 0, 0]),
    Trial::new("ioctl", libc::SYS_ioctl, [NONE, 0, 0, 0]),
    // No process has the number i32::MIN.
    Trial::new("kill", libc::SYS_kill, [i32::MIN as i64, 0, 0, 0]),
    Trial::new("listen", libc::SYS_listen, [NONE, 0, 0, 0]),
    Trial::new("ppoll", libc::SYS_ppoll, [0, u32::MAX as i64, 0, 0]),
    Trial::new("prctl", libc::SYS_prctl, [NONE, 0, 0, 0]),
    Trial::new("prlimit64", libc::SYS_prlimit64, [0, NONE, 0, 0]),
    Trial::new("recvfrom", libc::SYS_recvfrom, [NONE, 0, 0, 0]),
    Trial::new("recvmsg", libc::SYS_recvmsg, [NONE, 0, 0, 0]),
    Trial::new("sendmsg", libc::SYS_sendmsg, [NONE, 0, 0, 0]),
    Trial::new("sendto", libc::SYS_sendto, [NONE, 0, 0, 0]),
    Trial::new("setsockopt", libc::SYS_setsockopt, [NONE, 0, 0, 0]),
    Trial::new("shutdown", libc::SYS_shutdown, [NONE, 0, 0, 0]),
    Trial::new("signalfd4", libc::SYS_signalfd4, [NONE, 0, 0, 0]),
    Trial::new("socketpair", libc::SYS_socketpair, [NONE, NONE, NONE, 0]),
    Trial::new("timerfd_create", libc::SYS_timerfd_create, [NONE, 0, 0, 0]),
    Trial::new("timerfd_settime", libc::SYS_timerfd_settime, [NONE, 0, 0, 0]),
    Trial::new("unlinkat", libc::SYS_unlinkat, [NONE, 0, 0, 0]),
    Trial::new("chdir", libc::SYS_chdir, [0, 0, 0, 0]),
    Trial::new("close", libc::SYS_close, [NONE, 0, 0, 0]),
    Trial::new("dup3", libc::SYS_dup3, [NONE, NONE, 0, 0]),
    Trial::new("fstat", libc::SYS_fstat, [NONE, 0, 0, 0]),
    Trial::new("futex", libc::SYS_futex, [0, (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as i64, 0, 0]),
    Trial::new("geteuid", libc::SYS_geteuid, [0, 0, 0, 0]),
    Trial::new("getpid", libc::SYS_getpid, [0, 0, 0, 0]),
    Trial::new("getppid", libc::SYS_getppid, [0, 0, 0, 0]),
    Trial::new("getxattr", libc::SYS_getxattr, [0, 0, 0, 0]),
    Trial::new("lseek", libc::SYS_lseek, [NONE, 0, 0, 0]),
    Trial::new("madvise", libc::SYS_madvise, [1, 0, 0, 0]),
    Trial::new("openat", libc::SYS_openat, [NONE, 0, 0, 0]),
    Trial::new("pipe2", libc::SYS_pipe2, [0, NONE, 0, 0]),
    Trial::new("rt_sigaction", libc::SYS_rt_sigaction, [NONE, 0, 0, 8]),
    Trial::new("rt_sigprocmask", libc::SYS_rt_sigprocmask, [NONE, 0, 0, 8]),
    Trial::new("sched_getscheduler", libc::SYS_sched_getscheduler, [NONE, 0, 0, 0]),
    // Changes only the child that tries it.
    Trial::new("setsid", libc::SYS_setsid, [0, 0, 0, 0]),
    Trial::new("statfs", libc::SYS_statfs, [0, 0, 0, 0]),
    Trial::of_newer_kernels("clone3", libc::SYS_clone3, [0, 0, 0, 0]),
    Trial::of_newer_kernels("statx", libc::SYS_statx, [NONE, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    Trial::new("chmod", libc::SYS_chmod, [0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    Trial::new("dup2", libc::SYS_dup2, [NONE, NONE, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    Trial::new("mkdir", libc::SYS_mkdir, [0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    Trial::new("open", libc::SYS_open, [0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    Trial::new("readlink", libc::SYS_readlink, [0, 0, 0, 0]),
    #[cfg(not(target_arch = "x86_64"))]
    Trial::new("fchmodat", libc::SYS_fchmodat, [NONE, 0, 0, 0]),
    #[cfg(not(target_arch = "x86_64"))]
    Trial::new("mkdirat", libc::SYS_mkdirat, [NONE, 0, 0, 0]),
    #[cfg(not(target_arch = "x86_64"))]
    Trial::new("readlinkat", libc::SYS_readlinkat, [NONE, 0, 0, 0]),
];

/// The calls that supervision by seccomp needs in addition.
pub(crate) const SECCOMP: &[Trial] = &[
    Trial::new("close_range", libc::SYS_close_range, [1, 0, 0, 0]),
    Trial::new("pidfd_open", libc::SYS_pidfd_open, [NONE, 0, 0, 0]),
    Trial::new("seccomp", libc::SYS_seccomp, [NONE, 0, 0, 0]),
];

/// Copies an fd of another process. There is a way without it.
pub(crate) const PIDFD_GETFD: Trial = Trial::new("pidfd_getfd", libc::SYS_pidfd_getfd, [NONE, NONE, NONE, 0]);

/// Compares fds of two processes. There is a way without it.
pub(super) const KCMP: Trial = Trial::new("kcmp", libc::SYS_kcmp, [NONE, NONE, 0, 0]);

/// Opens a pidfd. Without it the supervisor stays the program's parent.
pub(super) const PIDFD_OPEN: Trial = Trial::new("pidfd_open", libc::SYS_pidfd_open, [NONE, 0, 0, 0]);

/// Read and write another process's memory. There is a way without them.
pub(super) const MEMORY: &[Trial] = &[
    Trial::new("process_vm_readv", libc::SYS_process_vm_readv, [NONE, 0, 0, 0]),
    Trial::new("process_vm_writev", libc::SYS_process_vm_writev, [NONE, 0, 0, 0]),
];

/// Chooses how a thread gets its processor. There is a way without it.
pub(super) const CHOOSE_CLASS: Trial =
    Trial::new("sched_setscheduler", libc::SYS_sched_setscheduler, [NONE, 0, 0, 0]);

/// The names of the calls that a filter forbids, in the order of `trials`.
///
/// Starts one child, and one more after each call that kills its child. The children send no SIGCHLD when they end.
pub(crate) fn forbidden(trials: &[Trial]) -> Vec<&'static str> {
    static MAY_LIMIT: OnceLock<bool> = OnceLock::new();
    if !is_filtered() {
        return Vec::new();
    }
    let Some(seen) = SharedPage::new() else { return Vec::new() };
    // A killed child leaves no core file, unless the filter kills it for setting that limit as well.
    let may_limit = *MAY_LIMIT.get_or_init(|| ends_by_itself(leave_no_core) == Some(true));
    let mut first = 0;
    while first < trials.len() {
        let made = ends_by_itself(|| {
            if may_limit {
                leave_no_core();
            }
            for (place, trial) in trials.iter().enumerate().skip(first) {
                seen.note(place, TrialResult::Begun);
                let outcome =
                    if trial.is_permitted() { TrialResult::Permitted } else { TrialResult::Forbidden };
                seen.note(place, outcome);
            }
        });
        if made.is_none() {
            // Without a child nothing can be found out: the forbidden calls will fail where they are made.
            return Vec::new();
        }
        // The call that killed the child, if one did.
        let ended = (first..trials.len()).find(|place| seen.is(*place, TrialResult::Begun));
        let Some(ended) = ended else { break };
        first = ended + 1;
    }
    let refused = trials.iter().enumerate().filter(|(place, _)| !seen.is(*place, TrialResult::Permitted));
    refused.map(|(_, trial)| trial.name).collect()
}

/// Whether the calling thread is under a seccomp filter.
pub(super) fn is_filtered() -> bool {
    // Uses only the plainest calls for files, because others may be forbidden.
    let mut status = [0; 4_096];
    let read = File::open("/proc/thread-self/status").and_then(|mut file| file.read(&mut status));
    let status = String::from_utf8_lossy(status.get(..read.unwrap_or(0)).unwrap_or_default());
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_none_or(|mode| mode.trim() != "0")
}

fn leave_no_core() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a live structure.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
}

/// What is known of a call from its trial.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TrialResult {
    Begun = 1,
    Permitted = 2,
    Forbidden = 3,
}

/// A page that a child writes to and its parent reads.
struct SharedPage(*mut u8);

/// The page's length. It is more than the number of trials.
const PAGE: usize = 4_096;

impl SharedPage {
    fn new() -> Option<Self> {
        let (rights, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, wherever the kernel likes.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, rights, kind, -1, 0) };
        (page != libc::MAP_FAILED).then_some(Self(page.cast()))
    }

    fn note(&self, place: usize, outcome: TrialResult) {
        if let Some(cell) = self.cell(place) {
            cell.store(outcome as u8, Relaxed);
        }
    }

    /// Whether this outcome was noted. The parent asks after the child's end.
    fn is(&self, place: usize, outcome: TrialResult) -> bool {
        self.cell(place).is_some_and(|cell| cell.load(Relaxed) == outcome as u8)
    }

    fn cell(&self, place: usize) -> Option<&AtomicU8> {
        // SAFETY: a byte of the page, which is there as long as this value.
        (place < PAGE).then(|| unsafe { AtomicU8::from_ptr(self.0.wrapping_add(place)) })
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody has a reference into it.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}

/// Runs `task`, which may only make system calls, in a child, and waits for the child. Returns whether the child came
/// to its end by itself, or `None` if no child can be started.
fn ends_by_itself(task: impl FnOnce()) -> Option<bool> {
    let nothing = 0usize;
    // SAFETY: a fork that sends no signal at its end. The child makes system calls only and never returns.
    match unsafe { libc::syscall(libc::SYS_clone, nothing, nothing, nothing, nothing, nothing) } {
        -1 => None,
        0 => {
            task();
            // SAFETY: ends this process without running exit handlers.
            unsafe { libc::_exit(0) }
        }
        child => {
            let (child, mut status) = (child as libc::pid_t, 0);
            // SAFETY: writes to a live int. `__WCLONE`: only this call waits for such a child.
            while unsafe { libc::waitpid(child, &raw mut status, libc::__WCLONE) } < 0 {
                if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                    return None;
                }
            }
            Some(status == 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Forbids two calls to the calling thread: the filter kills the process for `ends`, and `fails` returns an error
    /// that no other filter uses.
    fn forbid(ends: i64, fails: i64) {
        let line = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
        let returns = |what: u32| line(libc::BPF_RET | libc::BPF_K, what, 0, 0);
        let is = |call: i64| line(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, call as u32, 0, 1);
        let mut lines = [
            line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
            is(ends),
            returns(libc::SECCOMP_RET_KILL_PROCESS),
            is(fails),
            returns(libc::SECCOMP_RET_ERRNO | libc::EUCLEAN as u32),
            returns(libc::SECCOMP_RET_ALLOW),
        ];
        let filter = libc::sock_fprog { len: lines.len() as u16, filter: lines.as_mut_ptr() };
        rustix::thread::set_no_new_privs(true).unwrap();
        // SAFETY: reads live lines.
        let result =
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) };
        assert_eq!(result, 0);
    }

    #[test]
    fn what_ends_a_process_or_fails_is_named_and_nothing_else() {
        let all = [ALWAYS, SECCOMP].concat();
        // There may be a filter already where the tests run.
        let before = forbidden(&all);
        let named = thread::spawn(move || {
            forbid(libc::SYS_sendmsg, libc::SYS_seccomp);
            forbidden(&all)
        })
        .join()
        .unwrap();
        let new: Vec<_> = named.into_iter().filter(|name| !before.contains(name)).collect();
        assert_eq!(new, ["sendmsg", "seccomp"]);
    }
}
