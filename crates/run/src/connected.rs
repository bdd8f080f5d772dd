//! A process of the program that is connected to the supervisor, and the messages that it sends.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use linger_custody::world::{Pid, ProcessFd};
use linger_custody::{Count, Origin};
use linger_preload::protocol::{COUNTS, Message, MessageKind, Nomination};
use rustix::io::Errno;
use rustix::net::sockopt::{socket_cookie, socket_peercred};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::ender::Ender;
use crate::prover::Nominee;
use crate::shares::{Passed, Share, Shares};
use crate::socket;

#[cfg(test)]
mod tests;

/// A process of the program that is connected.
#[derive(Debug)]
pub(crate) struct ConnectedProcess {
    pub(crate) connection: OwnedFd,
    /// Whether it has sent the token.
    pub(crate) known: bool,
    /// The supervisor's own pid: its seccomp thread connects as well.
    own: u32,
    /// The process that connected (`SO_PEERCRED`); 0 if it is in a pid namespace of which nothing is known.
    peer: u32,
    /// The user as which it connected.
    pub(crate) user: u32,
    /// Sockets to be ended when this process's connection hangs up, by cookie.
    waiting: HashMap<u64, HeldFd>,
    /// The closes that it has reported with `Counted`. It may take back no more than these.
    counted: [u64; COUNTS],
    claims: Claims,
    _share: Share,
}

/// A socket that is ended when the process that sent it ends.
#[derive(Debug)]
pub(crate) struct HeldFd {
    passed: Passed,
    by: ProcessFd,
    origin: Origin,
    unread: u32,
    /// Whether the process has announced its exit or `execve`. If not, a hang-up means that it was killed.
    last: bool,
}

/// The sender of a message, as the kernel names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    pid: u32,
    pub(crate) user: u32,
}

pub(crate) enum Received {
    /// A message, the fd that it carries, and its sender.
    Message(Message, Option<OwnedFd>, Sender),
    Nothing,
    End,
}

impl ConnectedProcess {
    /// Takes a new connection; `None` if its user already has its share of connections.
    pub(crate) fn new(connection: OwnedFd, shares: &Shares) -> Option<Self> {
        let peer = crate::kernel::peer_process(connection.as_fd()).unwrap_or(0);
        let user = socket_peercred(&connection).ok()?.uid.as_raw();
        let share = shares.take(user)?;
        let (waiting, counted, claims) = (HashMap::new(), [0; COUNTS], Claims::new(Instant::now()));
        let own = std::process::id();
        Some(Self { connection, known: false, own, peer, user, waiting, counted, claims, _share: share })
    }

    /// Whether a connection is to be ended when this process ends.
    pub(crate) fn waits_for(&self, cookie: u64) -> bool {
        self.waiting.contains_key(&cookie)
    }

    /// The next message. Of several fds the last counts; the others are disposed of.
    pub(crate) fn receive(&self, ender: &Ender) -> Received {
        receive(&self.connection, |fd| ender.dispose(fd))
    }

    /// The connections that are to be ended because the process has ended.
    pub(crate) fn has_ended(self) -> impl Iterator<Item = Nominee> {
        self.waiting.into_iter().map(|(cookie, held)| {
            let HeldFd { passed, by, origin, unread, last } = held;
            tracing::info!(cookie, last, "nominated: its process has ended");
            Nominee { passed, cookie, by, origin, unread, closed: false }
        })
    }

    /// Carries out a message. `fd` is what came with it. What is to be proved is passed to `nominate`.
    pub(crate) fn obey(
        &mut self,
        message: &Message,
        fd: Option<OwnedFd>,
        by: Sender,
        shares: &Shares,
        nominate: impl FnOnce(Nominee),
        ender: &Ender,
    ) {
        let kind = MessageKind::of(message.kind);
        if fd.is_none() && matches!(kind, Some(MessageKind::Counted | MessageKind::Uncounted)) {
            return self.count(kind == Some(MessageKind::Counted), message, ender);
        }
        // Without credentials: sent between `accept` and `SO_PASSCRED`, most likely by the process that connected.
        let user = if by.pid == 0 { self.user } else { by.user };
        // For a held connection the fd arrived with the `Hold` message.
        let held = self.waiting.remove(&message.cookie).map(|held| held.passed);
        let fd = match fd {
            // Most peers close as soon as they have the response. A plain close then loses nothing, whoever else has
            // the connection. So neither a proof nor a look at the cookie is needed.
            Some(fd) if held.is_none() && is_finished(kind, message, by.pid == self.own, &fd) => {
                ender.count(Count::Finished, self.claims.grant(1, Instant::now()));
                return ender.dispose(fd);
            }
            fd => fd,
        };
        let new = match fd {
            Some(fd) => match accept(fd, message.cookie, user, shares, ender) {
                Some(passed) => Some(passed),
                None => return missed(kind, message, ender),
            },
            None => None,
        };
        let cookie = message.cookie;
        let by_supervisor = by.pid == self.own;
        let (name, origin) = self.origin(message, by);
        let passed = match (held, new) {
            (Some(held), Some(new)) => {
                ender.let_go(new);
                Some(held)
            }
            (held, new) => held.or(new),
        };
        match (kind, passed) {
            (Some(MessageKind::Close), Some(passed)) if by_supervisor => ender.end_proved(passed),
            (Some(MessageKind::Close), Some(passed)) => {
                let unread = message.unread;
                nominate(Nominee { passed, cookie, by: name, origin, unread, closed: true });
            }
            // No fd arrived, because this process had none free, and none is held for this cookie.
            (kind, None) => missed(kind, message, ender),
            (Some(MessageKind::Shutdown), Some(passed)) => {
                ender.end_and_shut_down(passed, cookie, message.unread);
            }
            (Some(kind @ (MessageKind::Last | MessageKind::Hold)), Some(passed)) => {
                let last = kind == MessageKind::Last;
                let held = HeldFd { passed, by: name, origin, unread: message.unread, last };
                self.waiting.insert(cookie, held);
            }
            (_, Some(passed)) => ender.let_go(passed),
        }
    }

    /// The fd that was closed, with its process, and the connection's origin.
    fn origin(&self, message: &Message, by: Sender) -> (ProcessFd, Origin) {
        let Nomination { origin, process, fd, .. } = message.nomination();
        // A process in another pid namespace reports a pid that means nothing here.
        let origin = if i64::from(process) == i64::from(by.pid) { origin } else { Origin::UNKNOWN };
        let pid = if by.pid == 0 { self.peer } else { by.pid };
        (ProcessFd { pid: Pid(pid), fd }, origin)
    }

    fn count(&mut self, more: bool, message: &Message, ender: &Ender) {
        let Some(count) = Count::EACH.into_iter().find(|count| *count as u64 == message.cookie) else {
            return;
        };
        let Some(own) = self.counted.get_mut(count as usize).filter(|_| is_told(count)) else { return };
        if more {
            let number = self.claims.grant(message.unread, Instant::now());
            *own += number;
            ender.count(count, number);
        } else if *own > 0 {
            *own -= 1;
            ender.uncount(count);
        }
    }
}

/// Whether a process has closed a connection with nothing unread, and the peer has sent its FIN since, but no data.
fn is_finished(kind: Option<MessageKind>, message: &Message, by_supervisor: bool, fd: &OwnedFd) -> bool {
    // What the supervisor sends itself is counted already.
    kind == Some(MessageKind::Close)
        && message.unread == 0
        && !by_supervisor
        && socket::has_finished(fd.as_fd())
}

/// Counts a close whose connection was not received. A `Hold` is not counted: its close is still to come.
fn missed(kind: Option<MessageKind>, message: &Message, ender: &Ender) {
    if let Some(MessageKind::Close | MessageKind::Shutdown | MessageKind::Last) = kind {
        ender.missed(message.unread);
    }
}

/// Whether a process may report this count. The supervisor sees the other outcomes itself.
fn is_told(count: Count) -> bool {
    matches!(count, Count::Finished | Count::Aborted | Count::Gone | Count::Refused | Count::Unread)
}

/// Limits the closes that a process may report: it is believed no more than it can have made in the time.
#[derive(Debug)]
struct Claims {
    left: u64,
    since: Instant,
}

/// More than a process can make, because a close takes the kernel microseconds.
const CLOSES_A_MILLISECOND: u64 = 500;

/// Closes that a process may report at once: those from before it connected, or from a time when the supervisor did not
/// read.
const BEFORE: u64 = 1 << 16;

impl Claims {
    fn new(now: Instant) -> Self {
        Self { left: BEFORE, since: now }
    }

    /// How many of those that a process claims may be true.
    fn grant(&mut self, claimed: u32, now: Instant) -> u64 {
        let milliseconds = now.duration_since(self.since).as_millis() as u64;
        if milliseconds > 0 {
            self.left = self.left.saturating_add(milliseconds.saturating_mul(CLOSES_A_MILLISECOND));
            self.since = now;
        }
        let granted = u64::from(claimed).min(self.left);
        self.left -= granted;
        granted
    }
}

/// Takes the fd of a message about the connection with this cookie; `None` if the connection is not to be touched.
fn accept(fd: OwnedFd, cookie: u64, user: u32, shares: &Shares, ender: &Ender) -> Option<Passed> {
    // Compared with the socket's own cookie: before the message was sent, another thread may have opened another
    // connection at that fd.
    let is_meant = socket_cookie(&fd).is_ok_and(|own| own == cookie);
    let share = if is_meant { shares.take(user) } else { None };
    match share {
        Some(share) => Some(Passed { fd, share }),
        None => {
            tracing::debug!(cookie, user, is_meant, "an fd is left as it is");
            ender.dispose(fd);
            None
        }
    }
}

fn receive(connection: &OwnedFd, mut dispose: impl FnMut(OwnedFd)) -> Received {
    let mut bytes = [0; Message::SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match rustix::net::recvmsg(connection, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let (mut fd, mut by) = (None, Sender { pid: 0, user: u32::MAX });
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(fds) => {
                for passed in fds {
                    fd.replace(passed).into_iter().for_each(&mut dispose);
                }
            }
            RecvAncillaryMessage::ScmCredentials(sender) => {
                by.pid = sender.pid.as_raw_nonzero().get().cast_unsigned();
                by.user = sender.uid.as_raw();
            }
            _ => {}
        }
    }
    match got {
        Ok(received) if received.bytes == Message::SIZE => {
            Received::Message(Message::from_bytes(&bytes), fd, by)
        }
        Err(Errno::AGAIN) => Received::Nothing,
        // The library only sends messages of this length; anything else comes from a stranger.
        Ok(_) | Err(_) => Received::End,
    }
}
