//! The messages between the preloaded library and the supervisor.
//!
//! One `SOCK_SEQPACKET` connection for each process, to an abstract unix address, which is reachable after `chroot` and
//! after a change of user. Every message has [`Message::SIZE`] bytes; most carry one fd (`SCM_RIGHTS`). The hang-up of the
//! connection tells the supervisor that the process has exited or called `execve`.
//! Only `core` is used here: the file is compiled into the library too.

pub use linger_custody::{Count, Origin};

/// The environment variable that configures the library: the settings as text.
///
/// `name=HEX;token=HEX;filters=NUMBER;hold=1;outgoing=1;ports=80,443;exclude=22`, in any order, all but the first two
/// optional. `filters` is the number of seccomp filters that the program starts with.
pub const VARIABLE: &str = "LINGER_RUN";

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum MessageKind {
    /// The first message of every connection, with the token that keeps strangers out.
    Hello = 1,
    /// A socket whose last known fd in this process is about to be closed. If nobody else has it, half-close it, drain it
    /// and close it. Carries no fd if the supervisor holds one already.
    Close = 2,
    /// A socket for which the program has called `shutdown(SHUT_RDWR)`: the library has half-closed it, and the program still
    /// has it open. Drain it, and at the end shut down both directions.
    Shutdown = 3,
    /// A socket that is closed by the process's exit or by its next `execve`: treat it as with `Close`, but only when this
    /// connection to the supervisor hangs up. Carries no fd if the supervisor holds one already.
    Last = 4,
    /// Sent at `accept`: hold this socket, and end it when this connection to the supervisor hangs up, unless it is also held
    /// for another process.
    Hold = 5,
    /// Carries no fd: drop the socket that is held or announced under this cookie, without ending it.
    Release = 6,
    /// Carries no fd: closes of the program that stayed plain. The field `unread` has their number, the field `cookie`
    /// the number of the [`Count`].
    Counted = 7,
    /// Takes one close back that was sent as `Counted`: an `execve` has failed.
    Uncounted = 8,
}

impl MessageKind {
    /// The kind with a number; `None` if there is none.
    pub fn of(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Close,
            3 => Self::Shutdown,
            4 => Self::Last,
            5 => Self::Hold,
            6 => Self::Release,
            7 => Self::Counted,
            8 => Self::Uncounted,
            _ => return None,
        })
    }
}

/// A message, in host byte order since it never leaves the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// A [`MessageKind`], as its number.
    pub kind: u32,
    /// Received bytes that the program had not read.
    pub unread: u32,
    /// The socket's cookie (`SO_COOKIE`), which the kernel never reuses.
    pub cookie: u64,
    /// For `Hello`: the token. For a socket that the process closes, or that is held for the process: a [`Nomination`].
    pub rest: [u8; 16],
}

/// Which process closes a socket, or has it held, and by which fd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Nomination {
    /// Where it was accepted.
    pub origin: Origin,
    /// The process's own pid, in its own namespace.
    pub process: i32,
    /// The process's fd of the socket.
    pub fd: i32,
}

impl Message {
    /// Bytes of a message.
    pub const SIZE: usize = 32;

    /// A message about a socket.
    pub const fn about(kind: MessageKind, cookie: u64, unread: u32) -> Self {
        Self { kind: kind as u32, unread, cookie, rest: [0; 16] }
    }

    /// The same message, with a [`Nomination`].
    pub fn by(mut self, process: i32, fd: i32, origin: Origin) -> Self {
        self.rest[..8].copy_from_slice(&origin.word().to_ne_bytes());
        self.rest[8..12].copy_from_slice(&process.to_ne_bytes());
        self.rest[12..].copy_from_slice(&fd.to_ne_bytes());
        self
    }

    /// The [`Nomination`] in the message.
    pub const fn nomination(&self) -> Nomination {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = self.rest;
        Nomination {
            origin: Origin::from_word(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
            process: i32::from_ne_bytes([i, j, k, l]),
            fd: i32::from_ne_bytes([m, n, o, p]),
        }
    }

    /// The first message.
    pub const fn hello(token: [u8; 16]) -> Self {
        Self { kind: MessageKind::Hello as u32, unread: 0, cookie: 0, rest: token }
    }

    /// Encodes the message.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.unread.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.rest);
        bytes
    }

    /// Decodes a message.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let [a, b, c, d, e, f, g, h, cookie @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *bytes;
        let mut rest = [0; 16];
        rest.copy_from_slice(&bytes[16..]);
        Self {
            kind: u32::from_ne_bytes([a, b, c, d]),
            unread: u32::from_ne_bytes([e, f, g, h]),
            cookie: u64::from_ne_bytes(cookie),
            rest,
        }
    }
}

/// Number of different counts: the variants of [`Count`].
pub const COUNTS: usize = Count::ALL;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_way() {
        let origin = Origin::new(1_234, 77_000);
        let close = Message::about(MessageKind::Close, 5, 6).by(1_235, 900, origin);
        assert_eq!(close.nomination(), Nomination { origin, process: 1_235, fd: 900 });
        for message in [Message::about(MessageKind::Hold, u64::MAX - 1, 77), Message::hello([9; 16]), close] {
            assert_eq!(Message::from_bytes(&message.to_bytes()), message);
            assert!(MessageKind::of(message.kind).is_some());
        }
        assert_eq!(MessageKind::of(0), None);
    }
}
