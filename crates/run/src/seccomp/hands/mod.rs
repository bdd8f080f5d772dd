//! Everything the supervisor does with the program's fds: copies them (`pidfd_getfd`), keeps them, removes them from the
//! program's epolls, half-closes them and hands them over to the closer.

mod accept;
mod copied;
mod epolls;
mod lent;
mod parted;
mod thread;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use linger_custody::world::{Cookie, Kept, Pid, Tid};
use linger_custody::{Discarded, Socket};
use linger_preload::protocol::{Message, MessageKind};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown};

use super::eyes::{self, OpenBefore};
use crate::kernel::{least_of_own, open_thread, own_thread};
use copied::Copied;
use epolls::AllEpolls;
use parted::Parted;
use thread::{Threads, has_ended};

pub(super) use accept::{Accepted, Accepting};
pub(super) use lent::Lent;
pub(super) use parted::Partings;
pub(super) use thread::Thread;

/// An fd of the program, and the supervisor's copy of it.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) copy: OwnedFd,
    pub(super) thread: Rc<Thread>,
    pub(super) fd: RawFd,
    pub(super) before: Option<OpenBefore>,
}

/// A kept copy: while it is open, the kernel does not end the connection.
#[derive(Debug)]
struct KeptFd {
    copy: OwnedFd,
    /// The program's fd that it was copied from; `None` if it was held since `accept`.
    from: Option<(Rc<Thread>, RawFd)>,
    cookie: Cookie,
    before: Option<OpenBefore>,
    /// When the program's fd was looked at last; `None` once it need not be watched any more.
    watched: Option<Duration>,
}

/// Whether the program's fd still refers to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fd {
    Closed,
    Open,
    /// It can no longer be determined.
    Lost,
}

/// All handles that this thread has of the program.
#[derive(Debug)]
pub(super) struct Hands {
    /// This thread's id.
    own: u32,
    least: RawFd,
    intake: OwnedFd,
    threads: Threads,
    /// Processes whose end is watched, by pidfd.
    watched: HashMap<u32, OwnedFd>,
    epolls: AllEpolls,
    /// Connections that an epoll may have under another fd than the one that is closed last.
    copied: Copied,
    kept: BTreeMap<Kept, KeptFd>,
    /// With [`Options::hold`](crate::Options::hold): a copy of every accepted connection.
    held: HashMap<Cookie, OwnedFd>,
    /// Half-closed connections that are soon handed over.
    parted: VecDeque<Parted>,
    /// Where fds cannot be copied.
    lent: Option<Lent>,
}

impl Hands {
    pub(super) fn new(intake: OwnedFd, lent: Option<Lent>) -> Self {
        let least = least_of_own();
        Self {
            own: own_thread(),
            least,
            intake,
            threads: Threads::new(least, lent.clone()),
            watched: HashMap::new(),
            epolls: AllEpolls::new(least),
            copied: Copied::default(),
            kept: BTreeMap::new(),
            held: HashMap::new(),
            parted: VecDeque::new(),
            lent,
        }
    }

    /// The calling thread; `None` if `still` says that the call is gone.
    pub(super) fn thread(&mut self, thread: u32, still: impl FnOnce() -> bool) -> Option<Rc<Thread>> {
        self.threads.of(thread, eyes::process_of, still)
    }

    /// A thread that has called before. It may have ended since: then copying an fd of it fails with `ESRCH`.
    pub(super) fn known(&self, thread: u32) -> Option<Rc<Thread>> {
        let known = self.threads.known(thread)?;
        self.watched.contains_key(&known.process).then_some(known)
    }

    /// The first thread of a process; `None` if `still` says that the call is gone.
    pub(super) fn first_thread(&self, process: u32, still: impl FnOnce() -> bool) -> Option<Rc<Thread>> {
        self.threads.first_of(process, still)
    }

    /// Filters `threads` to those that may be within one of these system calls.
    pub(super) fn within(&self, threads: Vec<Tid>, calls: &[i64]) -> Vec<Tid> {
        let may_be = |tid: &Tid| !self.threads.has_ended(tid.0) && eyes::may_be_in(tid.0, calls);
        threads.into_iter().filter(may_be).collect()
    }

    /// Begins to watch for the end of a process. False if it cannot be watched.
    pub(super) fn watch(&mut self, Pid(process): Pid) -> bool {
        let handle = open_thread(process).map_err(drop);
        let handle =
            handle.and_then(|handle| rustix::io::fcntl_dupfd_cloexec(&handle, self.least).map_err(drop));
        handle.map(|handle| self.watched.insert(process, handle)).is_ok()
    }

    /// Whether a process is watched and has not ended.
    pub(super) fn watches(&self, process: u32) -> bool {
        self.watched.get(&process).is_some_and(|handle| !has_ended(handle))
    }

    /// The pidfds of the watched processes; each is readable once its process has ended.
    pub(super) fn ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.watched.values().map(AsFd::as_fd)
    }

    /// The watched processes.
    pub(super) fn watched(&self) -> impl Iterator<Item = u32> {
        self.watched.keys().copied()
    }

    /// Removes and returns the watched processes that have ended.
    pub(super) fn ended(&mut self) -> Vec<Pid> {
        let ended = self.watched.iter().filter(|(_, handle)| has_ended(handle));
        let ended: Vec<Pid> = ended.map(|(process, _)| Pid(*process)).collect();
        for Pid(process) in &ended {
            self.watched.remove(process);
            self.epolls.forget(*process);
        }
        ended
    }

    pub(super) fn keep(&mut self, kept: Kept, cookie: Cookie, taken: Taken, now: Duration) {
        let Taken { copy, thread, fd, before } = taken;
        self.kept.insert(kept, KeptFd { copy, from: Some((thread, fd)), cookie, before, watched: Some(now) });
    }

    pub(super) fn keep_held(&mut self, kept: Kept, cookie: Cookie) {
        if let Some(copy) = self.unhold(cookie) {
            self.kept.insert(kept, KeptFd { copy, from: None, cookie, before: None, watched: None });
        }
    }

    pub(super) fn drop_kept(&mut self, kept: Kept) {
        self.kept.remove(&kept);
    }

    pub(super) fn hold(&mut self, cookie: Cookie, copy: OwnedFd) {
        if let (Some(lent), Some(another)) = (&self.lent, self.move_up(&copy)) {
            lent.connection(another);
        }
        self.held.insert(cookie, copy);
    }

    pub(super) fn release(&mut self, cookie: Cookie) {
        self.unhold(cookie);
    }

    fn unhold(&mut self, cookie: Cookie) -> Option<OwnedFd> {
        let copy = self.held.remove(&cookie)?;
        if let Some(lent) = &self.lent {
            lent.forget(&copy);
        }
        Some(copy)
    }

    /// What was made in the program's place; `None` where its fds can be copied.
    pub(super) fn lent(&self) -> Option<&Lent> {
        self.lent.as_ref()
    }

    /// Moves an fd above the numbers that the program's fds can have (see [`unwatch`](Self::unwatch)).
    pub(super) fn move_up(&self, fd: &OwnedFd) -> Option<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(fd, self.least).ok()
    }

    /// The kept connections whose program fd is still watched, and was looked at last no later than at `before`.
    pub(super) fn called(&self, before: Duration) -> Vec<Kept> {
        let called = |one: &KeptFd| one.watched.is_some_and(|since| since <= before);
        self.kept.iter().filter(|(_, one)| called(one)).map(|(kept, _)| *kept).collect()
    }

    /// Number of kept connections whose program fd is still watched.
    pub(super) fn calls(&self) -> usize {
        self.kept.values().filter(|one| one.watched.is_some()).count()
    }

    /// Checks whether the program's fds still refer to kept connections, and stops watching those that do not.
    pub(super) fn look_at(&mut self, called: &[Kept], now: Duration) -> Vec<(Kept, Fd)> {
        let another: Vec<bool> = called.iter().map(|kept| self.names_another(*kept)).collect();
        // Asked after the comparison: if the thread lives now, its id was its own then. Most connections have the same
        // thread.
        let mut asked: Option<(*const Thread, bool)> = None;
        let mut lives = |thread: &Rc<Thread>| match asked {
            Some((other, lives)) if other == Rc::as_ptr(thread) => lives,
            _ => asked.insert((Rc::as_ptr(thread), !thread.has_ended())).1,
        };
        let mut look = |(kept, another): (&Kept, bool)| {
            let Some(one) = self.kept.get_mut(kept) else { return (*kept, Fd::Lost) };
            let is_closed = another && one.from.as_ref().is_some_and(|(thread, _)| lives(thread));
            let state = if is_closed { Fd::Closed } else { one.state() };
            one.watched = (state == Fd::Open).then_some(now);
            (*kept, state)
        };
        called.iter().zip(another).map(&mut look).collect()
    }

    /// Whether a program's fd is seen to be of another file than the kept one. False if the thread has no such fd.
    fn names_another(&self, kept: Kept) -> bool {
        let one = self.kept.get(&kept);
        one.is_some_and(|KeptFd { copy, from, .. }| {
            from.as_ref().is_some_and(|(thread, fd)| thread.has_another(self.own, copy, *fd))
        })
    }

    pub(super) fn socket(&self, kept: Kept) -> Socket {
        let Some(KeptFd { copy, before, .. }) = self.kept.get(&kept) else { return Socket::default() };
        before.map_or_else(|| eyes::socket(copy.as_fd()), |before| before.socket_now(copy.as_fd()))
    }

    /// Discards what is unread of a connection whose peer has sent its FIN.
    pub(super) fn discard(&self, kept: Kept) -> Discarded {
        let Some(one) = self.kept.get(&kept) else { return Discarded::Unable };
        eyes::discard(&one.copy)
    }

    pub(super) fn epolls_changed(&mut self, process: u32) {
        self.epolls.changed(process);
    }

    pub(super) fn note_epoll_close(&mut self, process: u32, fd: RawFd) {
        self.epolls.closing(process, fd);
    }

    pub(super) fn forget_epolls(&mut self, process: u32) {
        self.epolls.forget(process);
    }

    pub(super) fn has_epolls(&self, process: u32) -> bool {
        self.epolls.any(process)
    }

    /// Notes that the program is about to get another fd of a connection.
    pub(super) fn copies(&mut self, cookie: Cookie) {
        self.copied.insert(cookie);
    }

    /// Forgets a connection that is over.
    pub(super) fn forget(&mut self, cookie: Cookie) {
        self.copied.remove(cookie);
    }

    /// Removes a kept connection from the program's epolls. Normally the kernel does it when the last fd is closed; the copy
    /// here prevents that, and the program would get events of a closed connection. False if it was not possible.
    ///
    /// The key of an epoll entry is the file and the fd, so for `epoll_ctl` the copy must have the same fd number in this
    /// thread's own fd table. Of a connection that was copied, the program may have added another fd and closed it since.
    pub(super) fn unwatch(&mut self, kept: Kept) -> bool {
        let Some(KeptFd { from: Some((thread, fd)), cookie, .. }) = self.kept.get(&kept) else { return true };
        let (thread, fd, cookie) = (Rc::clone(thread), *fd, *cookie);
        let list = || {
            let lister = if thread.has_ended() { thread.process } else { thread.thread };
            eyes::open(lister).filter(|(_, open)| *open == eyes::Open::Epoll).map(|(fd, _)| fd).collect()
        };
        let Some(epolls) = self.epolls.of(&thread, list) else { return false };
        let epolls: Vec<&OwnedFd> = epolls.collect();
        if epolls.is_empty() {
            return true;
        }
        let mut fds = vec![fd];
        if self.copied.contains(cookie) {
            let Some(one) = self.kept.get(&kept) else { return false };
            let Some(others) = copied::registered(&epolls, &one.copy) else { return false };
            let is_open = |other| eyes::names(thread.process, other, one.copy.as_fd()) == Some(true);
            fds.extend(copied::strays(others, fd, is_open));
        }
        let (kept_here, parted_here) = (&mut self.kept, &mut self.parted);
        fds.into_iter().all(|fd| {
            let Some(at_fd) = place_at(fd, kept, kept_here, parted_here, self.least) else { return false };
            let Some(named) = at_fd.as_ref().or_else(|| Some(&kept_here.get(&kept)?.copy)) else {
                return false;
            };
            for epoll in &epolls {
                // ENOENT is expected: many programs remove an fd before they close it.
                let _ = rustix::event::epoll::delete(epoll, named);
            }
            true
        })
    }

    /// Half-closes the connection of a `shutdown`, and hands it over. True if both succeeded.
    pub(super) fn hand_over_shutdown(&self, cookie: Cookie, unread: u32, copy: BorrowedFd<'_>) -> bool {
        rustix::net::shutdown(copy, Shutdown::Write).is_ok()
            && self.send(Message::about(MessageKind::Shutdown, cookie.0, unread), copy)
    }

    /// Hands over an accepted connection that the program did not receive.
    pub(super) fn hand_over_lost(&self, connection: BorrowedFd<'_>) {
        let cookie = rustix::net::sockopt::socket_cookie(connection).unwrap_or(0);
        self.send(Message::about(MessageKind::Close, cookie, 0), connection);
    }

    fn send(&self, message: Message, fd: BorrowedFd<'_>) -> bool {
        let fds = [fd];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        for _ in 0..100 {
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let bytes = message.to_bytes();
            let bytes = [IoSlice::new(&bytes)];
            match rustix::net::sendmsg(&self.intake, &bytes, &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                // ETOOMANYREFS: too many fds of this user are in flight (unix(7)). The number falls as they are received, but the
                // kernel gives no event for it, so wait a little and try again.
                Err(Errno::TOOMANYREFS) => std::thread::sleep(Duration::from_millis(1)),
                Err(_) => return false,
            }
        }
        false
    }
}

/// Puts a kept connection at this number in the calling thread's table. Returns the copy, or `Some(None)` if the
/// connection was there already; `None` if it cannot be put there.
fn place_at(
    fd: RawFd,
    kept: Kept,
    all_kept: &mut BTreeMap<Kept, KeptFd>,
    parted: &mut VecDeque<Parted>,
    least: RawFd,
) -> Option<Option<OwnedFd>> {
    if fd >= least {
        return None;
    }
    if all_kept.get(&kept)?.copy.as_raw_fd() == fd {
        return Some(None);
    }
    let kept_here = all_kept.values_mut().map(|one| &mut one.copy);
    let parted_here = parted.iter_mut().map(|one| &mut one.copy);
    if let Some(there) = kept_here.chain(parted_here).find(|there| there.as_raw_fd() == fd) {
        *there = rustix::io::fcntl_dupfd_cloexec(&*there, least).ok()?;
    }
    let copy = rustix::io::fcntl_dupfd_cloexec(&all_kept.get(&kept)?.copy, fd).ok()?;
    (copy.as_raw_fd() == fd).then_some(Some(copy))
}

impl KeptFd {
    fn state(&self) -> Fd {
        let Some((thread, fd)) = &self.from else { return Fd::Closed };
        if thread.is_lent_to() {
            return match eyes::names(thread.process, *fd, self.copy.as_fd()) {
                Some(true) => Fd::Open,
                Some(false) => Fd::Closed,
                None => Fd::Lost,
            };
        }
        match thread.take(*fd) {
            Err(Errno::BADF) => Fd::Closed,
            // The thread is exiting. The end of its process is seen through the pidfd.
            Err(Errno::SRCH) => match eyes::names(thread.process, *fd, self.copy.as_fd()) {
                Some(true) => Fd::Open,
                Some(false) => Fd::Closed,
                None => Fd::Lost,
            },
            Ok(copy) if !eyes::is(&copy, self.cookie) => Fd::Closed,
            Ok(_) | Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Fd::Open,
            Err(_) => Fd::Lost,
        }
    }
}
