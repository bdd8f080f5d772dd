//! What drivers and the world say to each other.

use std::collections::BTreeMap;
use std::time::Duration;
use std::vec::Vec;

use crate::{Count, Discarded, Socket};

/// The kernel's identity of a socket (`SO_COOKIE`), never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie(pub u64);

/// The inode of a socket, as `/proc/PID/fd` shows it; given again after the socket is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode(pub u64);

/// A process of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pid(pub u32);

/// A thread of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tid(pub u32);

/// An fd of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessFd {
    /// The process whose fd it is.
    pub pid: Pid,
    /// The fd.
    pub fd: i32,
}

/// Who makes a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The process.
    pub pid: Pid,
    /// Its thread.
    pub tid: Tid,
}

/// A connection that the driver has found at an fd, with what its socket said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The fd in the caller's process.
    pub fd: i32,
    /// Which connection.
    pub cookie: Cookie,
    /// Its inode.
    pub inode: Inode,
    /// What the socket says of itself.
    pub socket: Socket,
}

/// A socket that a process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The fd.
    pub fd: i32,
    /// The socket's inode.
    pub inode: Inode,
    /// Which connection; `None` where it is none, or where [`World::shares`](super::World::shares) knows the inode.
    pub cookie: Option<Cookie>,
}

/// What is about to close an fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `close`, `close_range`: the call cannot fail.
    Close,
    /// `dup2`, `dup3`: the call may fail, and the program go on with the connection.
    Replace,
    /// `exit_group`: while other processes have the connection, the exit is not counted as a close of it.
    Exit,
    /// `execve`: closes what is marked close-on-exec, if it succeeds.
    Exec,
}

/// What a process is about to do with an fd that cannot be looked at: it may be a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It copies an fd.
    Copies,
    /// It closes an fd.
    Closes,
    /// It sends a message, which may carry fds.
    Sends,
}

/// What happened, or is about to.
///
/// An event is reported before its call is made. The driver continues the call once [`World::next`](super::World::next)
/// returns `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for their types, and the variants say what they mean")]
pub enum Event<'a> {
    /// A thread makes a call, so its call before that is over. Told first for each call.
    Calls(Tid),
    /// A process makes its first call, with these sockets open: it got them from its parent.
    Appeared { caller: Caller, open: &'a [Open], hidden: bool },
    /// A process is about to become two; `alone` if it has one thread.
    Fork { caller: Caller, open: &'a [Open], hidden: bool, alone: bool },
    /// An fd is about to be copied.
    Copy { caller: Caller, seen: Seen },
    /// A connection is about to be sent in a message (`SCM_RIGHTS`); `abroad` if the receiver is no process of the program.
    Send { caller: Caller, seen: Seen, abroad: bool },
    /// An fd is about to be closed, or may be.
    Close { caller: Caller, seen: Seen, way: Way },
    /// `shutdown` of both sides.
    Shutdown(Seen),
    /// The process does not let its fds be looked at (`ptrace(2)` access is refused), and does this.
    Hidden { pid: Pid, does: Unseen },
    /// Calls went ahead without the driver's answer: another process answered them while the driver was stopped. The
    /// driver repeats this event for as long as one of these calls may still be under way.
    Unnotified,
    /// All calls without a notification are over, and no fd was in flight after that. The census shows what is open now. If
    /// some process cannot be looked at ([`Census::hidden`]), neither is certain, and the event changes nothing.
    CaughtUp(&'a Census),
    /// A connection was accepted in the program's place and given to it; the driver holds an fd of its own.
    Accepted { cookie: Cookie, inode: Inode, pid: Pid },
    /// The fd of a kept connection does not name it any more.
    Closed(Kept),
    /// The fd of a kept connection still names it, or that cannot be told yet.
    StillOpen(Kept),
    /// Whether the fd of a kept connection still names it will never be known: the process cannot be looked at.
    Lost(Kept),
    /// A process has ended.
    Died(Pid),
    /// No process of the program can make a call any more.
    Ended,
    /// Time has passed.
    Tick,
}

/// The number of an fd that the driver keeps of a connection: until it is dropped the connection cannot end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kept(pub(super) u64);

/// What a driver is to do. After [`Ask`](Self::Ask) it must [`answer`](super::World::answer) before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for their types, and the variants say what they mean")]
pub enum Action {
    /// Find this out, and answer.
    Ask(Ask),
    /// Keep the fd of the event that is being told, and watch whether the program's fd still names the connection.
    Keep(Kept),
    /// The fd that has been held since the accept is no longer held: keep it under this identity.
    KeepHeld(Kept, Cookie),
    /// Close a kept fd: nothing more is to be done with it.
    Drop(Kept),
    /// Close the fd that has been held since the connection was accepted.
    Release(Cookie),
    /// Tell when this process dies ([`Event::Died`]); at once if it cannot be watched.
    Watch(Pid),
    /// Tell the operator that this process cannot be looked at: what it closes ends plainly.
    Hidden(Pid),
    /// Answer `shutdown` with success instead of making the call.
    Pretend,
    /// Count `reason`, and [`Count::Seen`] unless it is [`Count::Unread`]. `holder` is another process with the
    /// connection; without a `cookie`, the process that cannot be looked at and closes something.
    Count { cookie: Option<Cookie>, reason: Count, holder: Option<Pid> },
}

/// What must be found out, or done with an answer, before a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for their types, and the variants say what they mean")]
pub enum Ask {
    /// Which of these fds names the socket: [`Answer::ProcessFd`].
    Which { inode: Inode, names: Vec<ProcessFd> },
    /// First find which of these threads may be in a call that copies fds, then take a census: [`Answer::Census`].
    Census { copying: Vec<Tid> },
    /// First find which of these threads may be in a call that copies or sends; then whether any fd is in flight to
    /// the program; then take a census: [`Answer::Flights`].
    Flights { copying: Vec<Tid>, sending: Vec<Tid> },
    /// Ask a kept socket for its state: [`Answer::Socket`].
    Socket(Kept),
    /// Discard unread bytes: [`Answer::Discarded`].
    Discard(Kept),
    /// Remove the kept fd from the program's epolls, which would go on to report it: [`Answer::Done`].
    Unwatch(Kept),
    /// Hand the connection over to the closer, then half-close it: [`Answer::Done`].
    HandOver { kept: Kept, cookie: Cookie, unread: u32 },
    /// Half-close the connection of a `shutdown`, and hand it over; the program keeps its fd: [`Answer::Done`].
    HandOverShutdown { cookie: Cookie, unread: u32 },
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named for their types, and the variants say what they mean")]
pub enum Answer {
    /// The first of the fds that names the socket.
    ProcessFd(Option<ProcessFd>),
    /// The threads that may be in a call that copies, and the census.
    Census { copying: Vec<Tid>, census: Census },
    /// The threads that may be in a call that copies or sends, whether no fd is in flight (`quiet`), the census, and how
    /// long the answer took.
    Flights { copying: Vec<Tid>, sending: Vec<Tid>, quiet: bool, census: Census, took: Duration },
    /// The socket's state.
    Socket(Socket),
    /// The result.
    Discarded(Discarded),
    /// Whether it was done.
    Done(bool),
    /// [`Ask::Discard`], [`Ask::Unwatch`] or [`Ask::HandOver`] was not done: calls were made that the world has not been told
    /// of, so that another process may have the connection by now.
    Unsure,
}

/// A census: which process has which socket open, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// By inode.
    pub names: BTreeMap<Inode, Vec<ProcessFd>>,
    /// Some process did not let its fds be looked at: it may have any connection.
    pub hidden: bool,
}

impl Census {
    /// The fds of a socket.
    pub fn names(&self, inode: Inode) -> &[ProcessFd] {
        self.names.get(&inode).map_or(&[], Vec::as_slice)
    }

    /// A process that has the socket.
    pub fn holder(&self, inode: Inode) -> Option<Pid> {
        self.names(inode).first().map(|name| name.pid)
    }
}
