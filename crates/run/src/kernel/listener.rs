//! The listener of a filter: notifications come from it, answers go to it.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::unanswered::Unanswered;

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notification {
    /// For the answer.
    pub(crate) id: u64,
    /// The thread that calls.
    pub(crate) thread: u32,
    /// The call's number.
    pub(crate) call: i64,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// Where the notifications come from.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    unanswered: Unanswered,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    /// Takes a descriptor that `seccomp(2)` has given for a listener.
    ///
    /// # Errors
    /// Where there is no memory to share with the guard.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        Ok(Self { fd, unanswered: Unanswered::new()? })
    }

    /// Moves the listener to a descriptor of this number or above.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn move_up(self, least: RawFd) -> io::Result<Self> {
        Ok(Self { fd: rustix::io::fcntl_dupfd_cloexec(&self.fd, least)?, ..self })
    }

    /// Asks for the cheaper wake-up of whoever was answered, on this processor (Linux 6.6); a hint.
    pub(crate) fn wake_here(&self) {
        const SYNC_WAKE_UP: libc::c_ulong = 1;
        // SAFETY: takes a number.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
    }

    /// The next notification; waits for it. `None` where it was withdrawn.
    ///
    /// # Errors
    /// Those of the request other than that.
    pub(crate) fn next(&self) -> io::Result<Option<Notification>> {
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
        Ok(Some(Notification {
            id: got.id,
            thread: got.pid,
            call: i64::from(got.data.nr),
            arguments: got.data.args,
        }))
    }

    /// Lets the call happen; whether it was still waiting.
    pub(crate) fn go_on(&self, id: u64) -> bool {
        self.answer(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// Lets all calls happen that wait for an answer.
    pub(super) fn go_on_with_all(&self) {
        for id in self.unanswered.take_all() {
            self.go_on(id);
        }
    }

    /// Gives the call a result in the kernel's place, an error as its number.
    pub(crate) fn result(&self, id: u64, result: Result<i64, i32>) -> bool {
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
    pub(crate) fn give(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<()> {
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
    pub(crate) fn waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads one u64 from a live one.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }
}
