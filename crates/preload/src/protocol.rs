//! The messages between the preloaded library and the supervisor.
//!
//! One `SOCK_SEQPACKET` connection for each process, to an abstract unix address, which is reachable after `chroot` and
//! after a change of user. Every message has [`Message::SIZE`] bytes; most carry one fd (`SCM_RIGHTS`). The hang-up of the
//! connection tells the supervisor that the process has exited or called `execve`.
//! Only `core` is used here: the file is compiled into the library too.

pub use linger_custody::Count;

/// The environment variable that configures the library: the settings as text.
///
/// `name=HEX;token=HEX;counts=PATH;hold=1;outgoing=1;ports=80,443;exclude=22`, in any order, the last four optional.
pub const VARIABLE: &str = "LINGER_RUN";

/// The kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum MessageKind {
    /// The first message of every connection, with the token that keeps strangers out.
    Hello = 1,
    /// A socket that the program closes and has half-closed: drain and close it now.
    Close = 2,
    /// As `Close`, but the program still has the socket open: at the end, shut down both directions.
    Shutdown = 3,
    /// A socket that is closed by the process's exit or by the next `execve`: end it when this connection hangs up. Carries no
    /// fd if the socket is held.
    Last = 4,
    /// Sent at `accept`: hold this socket, and end it when this connection hangs up, unless it is also held for another
    /// process.
    Hold = 5,
    /// Carries no fd: drop the socket that is held or announced under this cookie, without ending it.
    Release = 6,
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
    /// For `Hello`; otherwise zero.
    pub token: [u8; 16],
}

impl Message {
    /// Bytes of a message.
    pub const SIZE: usize = 32;

    /// A message about a socket.
    pub const fn about(kind: MessageKind, cookie: u64, unread: u32) -> Self {
        Self { kind: kind as u32, unread, cookie, token: [0; 16] }
    }

    /// The first message.
    pub const fn hello(token: [u8; 16]) -> Self {
        Self { kind: MessageKind::Hello as u32, unread: 0, cookie: 0, token }
    }

    /// Encodes the message.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&self.kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.unread.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.to_ne_bytes());
        bytes[16..].copy_from_slice(&self.token);
        bytes
    }

    /// Decodes a message.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let [a, b, c, d, e, f, g, h, cookie @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *bytes;
        let mut token = [0; 16];
        token.copy_from_slice(&bytes[16..]);
        Self {
            kind: u32::from_ne_bytes([a, b, c, d]),
            unread: u32::from_ne_bytes([e, f, g, h]),
            cookie: u64::from_ne_bytes(cookie),
            token,
        }
    }
}

/// Number of counts.
pub const COUNTS: usize = Count::ALL;

/// Size in bytes of the file of counts that every process maps: a `u64` for each [`Count`], in their order.
pub const COUNTS_SIZE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_way() {
        for message in [Message::about(MessageKind::Hold, u64::MAX - 1, 77), Message::hello([9; 16])] {
            assert_eq!(Message::from_bytes(&message.to_bytes()), message);
            assert!(MessageKind::of(message.kind).is_some());
        }
        assert_eq!(MessageKind::of(0), None);
    }
}
