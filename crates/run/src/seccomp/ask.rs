//! The notification fd: receives the program's system calls and answers them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, RawFd};

use crate::kernel::{Listener, Notification, kills_only, read_memory};

/// A system call of the program, with the arguments that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Close(RawFd),
    /// From the first fd to the last, both included.
    CloseRange(u32, u32),
    Copy(RawFd),
    /// dup2, dup3: `new` becomes a second fd of `old`; the previous file at `new` is closed.
    Replace {
        old: RawFd,
        new: RawFd,
    },
    Shutdown {
        fd: RawFd,
        how: i32,
    },
    /// Makes a process with a copy of the fd table.
    Fork,
    Exec,
    Exit,
    /// sendmsg, sendmmsg: `count` messages, with their headers at an address in the caller's memory.
    Send {
        socket: RawFd,
        headers: u64,
        count: u64,
    },
    Listen {
        fd: RawFd,
        backlog: i32,
    },
    Accept(RawFd),
    EpollCreate,
    Socket,
    Connect(RawFd),
    /// io_uring_register: the ring may get copies of any of the process's files.
    Register,
    Other,
}

/// Most messages of one `sendmmsg` (`UIO_MAXIOV`).
const MESSAGES: u64 = 1_024;

impl Call {
    /// Decodes a notified call. `flags_of_clone3` reads the flags of `clone3` from the caller's memory.
    fn of(call: i64, arguments: &[u64; 6], flags_of_clone3: impl FnOnce(u64) -> Option<u64>) -> Self {
        let [a, b, c, ..] = *arguments;
        let fd = a as RawFd;
        match call {
            libc::SYS_close => Self::Close(fd),
            libc::SYS_close_range => Self::CloseRange(a as u32, b as u32),
            libc::SYS_dup | libc::SYS_fcntl => Self::Copy(fd),
            libc::SYS_dup3 => Self::Replace { old: fd, new: b as RawFd },
            #[cfg(target_arch = "x86_64")]
            libc::SYS_dup2 => Self::Replace { old: fd, new: b as RawFd },
            libc::SYS_shutdown => Self::Shutdown { fd, how: b as i32 },
            libc::SYS_clone => Self::Fork,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_fork | libc::SYS_vfork => Self::Fork,
            libc::SYS_clone3 => match flags_of_clone3(a) {
                Some(flags) if flags & libc::CLONE_FILES as u64 != 0 => Self::Other,
                _ => Self::Fork,
            },
            libc::SYS_execve | libc::SYS_execveat => Self::Exec,
            libc::SYS_exit_group => Self::Exit,
            libc::SYS_sendmsg => Self::Send { socket: fd, headers: b, count: 1 },
            libc::SYS_sendmmsg => Self::Send { socket: fd, headers: b, count: c.min(MESSAGES) },
            libc::SYS_listen => Self::Listen { fd, backlog: b as i32 },
            libc::SYS_accept | libc::SYS_accept4 => Self::Accept(fd),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_create => Self::EpollCreate,
            libc::SYS_epoll_create1 => Self::EpollCreate,
            libc::SYS_socket => Self::Socket,
            libc::SYS_connect => Self::Connect(fd),
            libc::SYS_io_uring_register => Self::Register,
            _ => Self::Other,
        }
    }
}

/// The notification fd.
#[derive(Debug)]
pub(super) struct Ask {
    listener: Listener,
    only_death_ends_calls: bool,
}

impl AsFd for Ask {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Ask {
    pub(super) fn new(listener: Listener) -> Self {
        Self { listener, only_death_ends_calls: kills_only() }
    }

    /// The next notification with its decoded call; `None` if it was withdrawn (its thread was killed).
    pub(super) fn next(&self) -> io::Result<Option<(Notification, Call)>> {
        let Some(notification) = self.listener.next()? else { return Ok(None) };
        let flags = |address| {
            // `struct clone_args` begins with the flags.
            let mut flags = [0; 8];
            read_memory(notification.thread, address, &mut flags).ok().map(|()| u64::from_ne_bytes(flags))
        };
        Ok(Some((notification, Call::of(notification.call, &notification.arguments, flags))))
    }

    /// Continues the call. If it was interrupted meanwhile, it is notified again, or its thread is gone.
    pub(super) fn go_on(&self, id: u64) {
        self.listener.go_on(id);
    }

    /// Answers the call with a result, or with an errno.
    pub(super) fn result(&self, id: u64, result: Result<i64, i32>) {
        self.listener.result(id, result);
    }

    /// Installs a new fd in the caller, and returns its number, here and as the call's result.
    pub(super) fn give(&self, id: u64, fd: BorrowedFd<'_>, close_on_exec: bool) -> io::Result<RawFd> {
        self.listener.give(id, fd, close_on_exec)
    }

    /// Readable once the guard has continued calls.
    pub(super) fn news(&self) -> BorrowedFd<'_> {
        self.listener.news()
    }

    /// How many calls the guard has continued, of which nothing is known. Makes [`news`](Self::news) unreadable.
    pub(super) fn unheard(&self) -> u64 {
        self.listener.forget_news();
        self.counted()
    }

    /// The same number; leaves [`news`](Self::news) as it is.
    pub(super) fn counted(&self) -> u64 {
        self.listener.unheard()
    }

    /// Whether a signal that a thread survives ends no call that was received (Linux 5.19).
    pub(super) fn only_death_ends_calls(&self) -> bool {
        self.only_death_ends_calls
    }

    /// Whether the call still waits for its answer. Thread ids are reused: only if the call still waits has everything
    /// that was read under its thread id (memory, `/proc`) come from the thread that made it.
    pub(super) fn waits(&self, id: u64) -> bool {
        self.listener.waits(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(number: i64, arguments: [u64; 3], clone3: Option<u64>) -> Call {
        let [a, b, c] = arguments;
        Call::of(number, &[a, b, c, 0, 0, 0], |_| clone3)
    }

    #[test]
    fn a_thread_that_shares_its_fds_is_no_fork() {
        let thread = libc::CLONE_FILES as u64 | libc::CLONE_VM as u64;
        assert_eq!(call(libc::SYS_clone3, [8, 0, 0], Some(thread)), Call::Other);
        assert_eq!(call(libc::SYS_clone3, [8, 0, 0], Some(libc::CLONE_VM as u64)), Call::Fork);
        // Flags that cannot be read may be those of a fork.
        assert_eq!(call(libc::SYS_clone3, [8, 0, 0], None), Call::Fork);
        assert_eq!(call(libc::SYS_clone, [0, 0, 0], None), Call::Fork);
    }

    #[test]
    fn arguments_are_the_calls() {
        assert_eq!(call(libc::SYS_close, [7, 1, 2], None), Call::Close(7));
        assert_eq!(call(libc::SYS_close, [u64::from(u32::MAX), 0, 0], None), Call::Close(-1));
        assert_eq!(call(libc::SYS_dup3, [7, 9, 0], None), Call::Replace { old: 7, new: 9 });
        assert_eq!(call(libc::SYS_shutdown, [7, 2, 0], None), Call::Shutdown { fd: 7, how: 2 });
        assert_eq!(call(libc::SYS_io_uring_register, [7, 2, 0], None), Call::Register);
        assert_eq!(call(libc::SYS_close_range, [3, u64::MAX, 0], None), Call::CloseRange(3, u32::MAX));
        assert_eq!(call(libc::SYS_sendmsg, [5, 6, 7], None), Call::Send { socket: 5, headers: 6, count: 1 });
        assert_eq!(
            call(libc::SYS_sendmmsg, [5, 6, 9_999], None),
            Call::Send { socket: 5, headers: 6, count: 1_024 }
        );
        assert_eq!(call(libc::SYS_read, [5, 6, 7], None), Call::Other);
    }
}
