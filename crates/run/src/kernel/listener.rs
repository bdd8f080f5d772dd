//! The notification fd of a seccomp filter: receives notifications and sends answers.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};

use super::unanswered::Unanswered;

/// A system call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notification {
    /// The notification's id, needed for the answer.
    pub(crate) id: u64,
    /// The calling thread's id.
    pub(crate) thread: u32,
    /// The system call number.
    pub(crate) call: i64,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// A seccomp notification fd.
#[derive(Debug)]
pub(crate) struct Listener {
    fd: OwnedFd,
    unanswered: Unanswered,
    /// Readable once the guard has continued calls.
    news: OwnedFd,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Listener {
    /// Wraps an fd returned by `seccomp(2)` with `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
    ///
    /// # Errors
    /// No memory for the table that is shared with the guard.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd, unanswered: Unanswered::new()?, news })
    }

    /// Moves the listener to an fd of `least` or above.
    ///
    /// # Errors
    /// No such fd is free.
    pub(crate) fn move_up(self, least: RawFd) -> io::Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, least)?;
        Ok(Self { fd, news: rustix::io::fcntl_dupfd_cloexec(&self.news, least)?, ..self })
    }

    /// Requests `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` (Linux 6.6): the cheaper wake-up on this processor. Errors are ignored.
    pub(crate) fn wake_here(&self) {
        const SYNC_WAKE_UP: libc::c_ulong = 1;
        // SAFETY: takes a number.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
    }

    /// Waits for the next notification. `None` if it was withdrawn before it could be read.
    ///
    /// # Errors
    /// Those of the ioctl, other than ENOENT.
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

    /// Continues the call (`SECCOMP_USER_NOTIF_FLAG_CONTINUE`). True if it was still waiting.
    pub(crate) fn go_on(&self, id: u64) -> bool {
        self.answer(id, 0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32)
    }

    /// In the guard: continues all calls that were received and wait for an answer.
    pub(super) fn go_on_with_all(&self) {
        for id in self.unanswered.take_all() {
            self.unanswered.goes_unheard();
            self.go_on(id);
        }
    }

    /// In the guard: continues the next call. Waits for one.
    pub(crate) fn go_on_with_next(&self) {
        if let Ok(Some(notification)) = self.next() {
            self.unanswered.goes_unheard();
            self.go_on(notification.id);
        }
    }

    /// Whether no call was received that waits for an answer.
    pub(super) fn is_answered(&self) -> bool {
        self.unanswered.is_empty()
    }

    /// In the guard: wakes the supervisor as soon as it runs again.
    pub(super) fn tell(&self) {
        let one = 1u64.to_ne_bytes();
        // It fails only if the counter is full: it is readable then.
        // SAFETY: reads eight live bytes.
        unsafe { libc::write(self.news.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Readable once the guard has continued calls.
    pub(crate) fn news(&self) -> BorrowedFd<'_> {
        self.news.as_fd()
    }

    /// Makes [`news`](Self::news) unreadable until the guard continues more calls.
    pub(crate) fn forget_news(&self) {
        // `EAGAIN`: it was not readable.
        let _ = rustix::io::read(&self.news, &mut [0; 8]);
    }

    /// How many calls the guard has continued.
    pub(crate) fn unheard(&self) -> u64 {
        self.unanswered.unheard()
    }

    /// Answers the call with a result, or with an errno. True if it was still waiting.
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
        // Forget the id only after the answer. If this process is killed in between, the guard answers again, which is harmless.
        self.unanswered.forget(id);
        sent
    }

    /// Installs a copy of `fd` in the calling process, and returns its number, here and as the call's result.
    ///
    /// # Errors
    /// The thread is gone, or its process has no free fd (`EMFILE`). The call then still waits.
    pub(crate) fn give(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<RawFd> {
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
        Ok(result)
    }

    /// Whether the call still waits for its answer. If so, what was read by its thread id up to now belongs to that thread.
    pub(crate) fn waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads one u64 from a live one.
        unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }
}
