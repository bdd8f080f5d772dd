//! The guard: a process that answers notifications once the supervisor has died, and while it is stopped.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use super::listener::Listener;

impl Listener {
    /// Starts a process that takes over once the pipe `alive` hangs up. It continues every call, first those that already
    /// wait for an answer.
    ///
    /// Without it, all notified calls of the program would fail with `ENOSYS` after the supervisor's death, even its exit.
    /// The guard ends when the last process with the filter has ended. It blocks all signals, and `wait` does not report it
    /// (it is a `__WCLONE` child).
    ///
    /// # Errors
    /// No process can be made.
    pub(crate) fn guard(&self, alive: BorrowedFd<'_>) -> io::Result<()> {
        let nothing = 0usize;
        // SAFETY: a fork that sends no SIGCHLD. The child makes system calls only and never returns.
        match unsafe { libc::syscall(libc::SYS_clone, nothing, nothing, nothing, nothing, nothing) } {
            -1 => Err(io::Error::last_os_error()),
            0 => self.stand_in(alive.as_raw_fd()),
            _ => Ok(()),
        }
    }

    fn stand_in(&self, alive: RawFd) -> ! {
        let listener = self.as_fd().as_raw_fd();
        let mut own = [alive as u32, listener as u32, self.news().as_raw_fd() as u32];
        own.sort_unstable();
        let mut first = 0;
        for fd in own.into_iter().chain([u32::MAX]) {
            if first < fd {
                // SAFETY: nothing in this process uses any other fd; the write end of `alive` must go.
                unsafe { libc::close_range(first, fd - 1, 0) };
            }
            first = fd.saturating_add(1);
        }
        // SAFETY: an empty set of signals is a valid value, which is filled next.
        let mut all: libc::sigset_t = unsafe { zeroed() };
        // SAFETY: fills a live set.
        unsafe { libc::sigfillset(&raw mut all) };
        // SAFETY: reads a live set; null is "do not tell the old one".
        unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut()) };
        // SAFETY: reads a string that ends in a zero.
        unsafe { libc::prctl(libc::PR_SET_NAME, c"linger-guard".as_ptr()) };
        self.stand_by(alive);
        self.go_on_with_all();
        while wait(&mut [(listener, libc::POLLIN)], -1)[0] & libc::POLLHUP == 0 {
            self.go_on_with_next();
        }
        // SAFETY: ends this process without running the supervisor's exit handlers.
        unsafe { libc::_exit(0) }
    }

    /// Waits for the supervisor's death. While a notification waits, and only then, it also checks from time to time
    /// whether the supervisor is stopped. If so, it continues the calls that wait.
    fn stand_by(&self, alive: RawFd) {
        let listener = self.as_fd().as_raw_fd();
        // SAFETY: takes nothing, changes nothing.
        let supervisor = unsafe { libc::getppid() };
        loop {
            let [end, asked] = wait(&mut [(alive, 0), (listener, libc::POLLIN)], -1);
            if end & libc::POLLHUP != 0 {
                return;
            }
            if asked & libc::POLLHUP != 0 {
                // No process has the filter any more. Only the supervisor's death is left to wait for.
                wait(&mut [(alive, 0)], -1);
                return;
            }
            let mut idle = 0;
            while idle < IDLE {
                if wait(&mut [(alive, 0)], TICK_MS)[0] & libc::POLLHUP != 0 {
                    return;
                }
                let mut asked = wait(&mut [(listener, libc::POLLIN)], 0)[0];
                idle = if asked == 0 && self.is_answered() { idle + 1 } else { 0 };
                if idle > 0 || !is_stopped(supervisor) {
                    continue;
                }
                self.tell();
                self.go_on_with_all();
                while asked & libc::POLLIN != 0 && is_stopped(supervisor) {
                    self.go_on_with_next();
                    [asked] = wait(&mut [(listener, libc::POLLIN)], TICK_MS);
                }
            }
        }
    }
}

/// How often the guard checks whether the supervisor is stopped, while a notification waits. A call is continued after
/// two checks at the latest.
const TICK_MS: i32 = 40;

/// After this many checks without a waiting notification the checks stop, until one waits again.
const IDLE: u32 = 3;

/// Polls descriptors. Makes system calls only.
fn wait<const N: usize>(fds: &mut [(RawFd, i16); N], milliseconds: i32) -> [i16; N] {
    let mut all = fds.map(|(fd, events)| libc::pollfd { fd, events, revents: 0 });
    // SAFETY: as many live pollfds.
    unsafe { libc::poll(all.as_mut_ptr(), N as libc::nfds_t, milliseconds) };
    all.map(|one| one.revents)
}

/// Whether a process is stopped by a signal or a debugger (`T` and `t` in proc_pid_stat(5)). Makes system calls only.
fn is_stopped(process: i32) -> bool {
    // "/proc/", the digits from the end, "/stat", and a zero.
    let mut path = *b"/proc/0000000000/stat\0";
    let mut left = process;
    for place in (6..16).rev() {
        path[place] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    let first = 6 + path[6..15].iter().take_while(|digit| **digit == b'0').count();
    path.copy_within(first.., 6);
    // SAFETY: a string that ends in a zero, which the copy has moved along.
    let file = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return false;
    }
    let mut text = [0u8; 256];
    // SAFETY: writes at most as many bytes as the live array has.
    let read = unsafe { libc::read(file, text.as_mut_ptr().cast(), text.len()) };
    // SAFETY: opened above.
    unsafe { libc::close(file) };
    let text = text.get(..usize::try_from(read).unwrap_or(0)).unwrap_or_default();
    // The name, in parentheses, may have any character, but no more than 64 of them.
    let name = text.iter().rposition(|byte| *byte == b')').unwrap_or(text.len());
    matches!(text.get(name + 2), Some(b'T' | b't'))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

    use super::*;

    #[test]
    fn a_stopped_process_is_seen_and_a_running_one_is_not() {
        let _turn = crate::turns::makes_processes();
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (pid, raw) = (Pid::from_child(&child), child.id() as i32);
        assert!(!is_stopped(raw) && !is_stopped(std::process::id() as i32));
        kill_process(pid, Signal::STOP).unwrap();
        waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
        assert!(is_stopped(raw));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_stopped(raw));
    }
}
