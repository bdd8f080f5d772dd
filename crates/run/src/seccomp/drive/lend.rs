//! Makes sockets and epolls in the program's place, where its fds cannot be copied.

use std::os::fd::{AsFd, RawFd};

use super::super::ask::Call;
use super::super::hands::Thread;
use super::Driver;
use crate::kernel::{Notification, make_socket};

impl Driver {
    /// Makes a stream socket for the program. Returns whether the call was answered.
    pub(super) fn lend_socket(&mut self, notification: &Notification) -> bool {
        let Some(lent) = self.hands.lent() else { return false };
        let Notification { id, thread, arguments: [domain, kind, protocol, ..], .. } = *notification;
        let (domain, kind) = (domain as i32, kind as i32);
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let may_listen = matches!(domain, libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX);
        // A socket belongs to the network namespace of the thread that makes it.
        if !may_listen || kind & !flags != libc::SOCK_STREAM || !is_in_own_network(thread) {
            return false;
        }
        // An error is the program's own: it makes the call itself.
        let Ok(socket) = make_socket(domain, kind, protocol as i32) else { return false };
        let Some(copy) = self.hands.move_up(&socket) else { return false };
        if self.ask.give(id, socket.as_fd(), kind & libc::SOCK_CLOEXEC != 0).is_err() {
            return false;
        }
        lent.socket(copy);
        true
    }

    /// Makes an epoll for the program. Returns whether the call was answered.
    pub(super) fn lend_epoll(&mut self, notification: &Notification, process: u32) -> bool {
        let Some(lent) = self.hands.lent() else { return false };
        let Notification { id, call, arguments: [argument, ..], .. } = *notification;
        // The argument of the older call is a size.
        let flags = if call == libc::SYS_epoll_create1 { argument as i32 } else { 0 };
        if flags & !libc::EPOLL_CLOEXEC != 0 || (call != libc::SYS_epoll_create1 && (argument as i32) <= 0) {
            return false;
        }
        let Ok(epoll) = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC) else {
            return false;
        };
        let Some(copy) = self.hands.move_up(&epoll) else { return false };
        match self.ask.give(id, epoll.as_fd(), flags & libc::EPOLL_CLOEXEC != 0) {
            Ok(fd) => lent.epoll(process, fd, copy),
            Err(_) => return false,
        }
        true
    }

    /// Closes the copies of fds that the program is about to close: a listener must not outlive its last fd
    /// in the program.
    pub(super) fn take_back(&mut self, call: Call, thread: &Thread) {
        let Some(lent) = self.hands.lent().cloned() else { return };
        let process = thread.process;
        lent.refresh();
        let closes = |one: RawFd| match call {
            Call::Close(fd) | Call::Replace { new: fd, .. } => one == fd,
            Call::CloseRange(first, last) => (first..=last).contains(&one.cast_unsigned()),
            Call::Exit => true,
            _ => false,
        };
        if lent.has_epoll(process, closes) {
            // What has been closed by now has to be removed from the epoll while there is a copy of it.
            self.look_at = self.started;
            self.look(&self.hands.called(self.now));
        }
        match call {
            Call::Close(_) | Call::Replace { .. } | Call::CloseRange(..) | Call::Exit => {
                lent.closing(process, closes);
            }
            Call::Connect(fd) => {
                if let Ok(copy) = thread.take(fd) {
                    lent.forget(&copy);
                }
            }
            Call::Exec => lent.executing(),
            _ => {}
        }
    }
}

/// Whether a thread is in this thread's network namespace.
fn is_in_own_network(thread: u32) -> bool {
    let network = |of: &str| std::fs::read_link(format!("/proc/{of}/ns/net")).ok();
    let own = network("thread-self");
    own.is_some() && network(&thread.to_string()) == own
}
