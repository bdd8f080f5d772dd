//! Connections that are passed on in messages.

use std::os::fd::AsFd;
use std::rc::Rc;

use linger_host::seccomp::{Question, read_memory};

use super::message;
use super::thread::Thread;
use super::watch::Watcher;

impl Watcher {
    /// A message is about to be sent, which may carry descriptors to whoever reads it.
    pub(super) fn sending(&mut self, question: &Question, thread: &Rc<Thread>, address: u64, messages: u64) {
        /// `struct msghdr` and, of the same form with a length behind it, `struct mmsghdr`.
        const MMSGHDR: u64 = 64;
        for place in 0..messages {
            let mut header = [0; size_of::<libc::msghdr>()];
            if read_memory(question.thread, address + place * MMSGHDR, &mut header).is_err() {
                return;
            }
            for number in message::passed(question.thread, &header) {
                if let Some(fd) = thread.take(number)
                    && let Some(cookie) = self.wanted.cookie(fd.as_fd())
                {
                    self.share(cookie, fd);
                    let givers = self.given.entry(cookie).or_default();
                    if !givers.contains(&thread.process) {
                        givers.push(thread.process);
                    }
                }
            }
        }
    }
}
