//! The two packed words of the table: the state of an fd, and the state of its connection.

use core::num::NonZeroU32;

use super::field::Field;
use crate::Count;

/// Which epolls watch an fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epolls {
    /// No registration was seen.
    Unknown,
    /// Only the epoll with this fd.
    One(i32),
    /// More than one.
    Many,
}

/// An fd that is a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenFd {
    /// The index of the connection in the table.
    pub(super) connection: usize,
    pub(super) epolls: Epolls,
    /// A registration in an epoll was seen, and not its removal.
    pub(super) registered: bool,
}

/// One fd's word.
///
/// | bits | |
/// |---|---|
/// | 0 | the fd is a connection; if it is not, all other bits but the generation are zero |
/// | 1 | a registration in an epoll was seen, and not its removal |
/// | 2..22 | the fd of the epoll plus one; 0: unknown; all ones: many |
/// | 22..40 | the index of the connection |
/// | 40..64 | generation: counts up whenever a connection is entered at this fd, so that a reused fd is noticed |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u64);

impl Slot {
    const OPEN: Field = Field::new(0, 1);
    const REGISTERED: Field = Field::new(1, 1);
    const EPOLL: Field = Field::new(2, 20);
    const CONNECTION: Field = Field::new(22, 18);
    const GENERATION: Field = Field::new(40, 24);

    pub(super) const fn is_open(self) -> bool {
        Self::OPEN.of(self.0) == 1
    }

    pub(super) fn open(self) -> Option<OpenFd> {
        const MANY: u64 = Slot::EPOLL.most();
        let epolls = match Self::EPOLL.of(self.0) {
            0 => Epolls::Unknown,
            MANY => Epolls::Many,
            epoll => Epolls::One(epoll as i32 - 1),
        };
        let connection = Self::CONNECTION.of(self.0) as usize;
        let registered = Self::REGISTERED.of(self.0) == 1;
        self.is_open().then_some(OpenFd { connection, epolls, registered })
    }

    /// The same generation with other contents.
    pub(super) fn with(self, open: OpenFd) -> Self {
        let epolls = match open.epolls {
            Epolls::Unknown => 0,
            // An epoll whose fd does not fit counts as many: all known epolls are then searched.
            Epolls::One(epoll) => (epoll as u64 + 1).min(Self::EPOLL.most()),
            Epolls::Many => Self::EPOLL.most(),
        };
        let opened = Self::OPEN.put(1)
            + Self::REGISTERED.put(open.registered.into())
            + Self::EPOLL.put(epolls)
            + Self::CONNECTION.put(open.connection as u64);
        Self(self.closed().0 + opened)
    }

    /// The word after the fd is closed.
    pub(super) const fn closed(self) -> Self {
        Self(Self::GENERATION.put(Self::GENERATION.of(self.0)))
    }

    /// The next generation.
    pub(super) const fn next(self) -> Self {
        Self(Self::GENERATION.put(Self::GENERATION.of(self.0) + 1))
    }
}

/// Who ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Whichever process of the program closes the connection last. This process reports when it has closed its own last fd.
    Ours,
    /// The supervisor: a `shutdown` has handed the connection over.
    Handed,
    /// Another process, to which the connection was passed. This process closes it plainly.
    Given,
}

/// What an `execve` under way means for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Exec {
    /// No `execve` is under way.
    None,
    /// The next program inherits an fd of the connection.
    Survives,
    /// The `execve` closes all fds of the connection.
    Closes,
    /// Its close is about to be announced to the supervisor: a close by another thread does not end it.
    Claimed,
    /// Its close was announced, and counted for this reason.
    Announced(Count),
}

/// The state of one connection, packed into one integer.
///
/// | bits | |
/// |---|---|
/// | 0..20 | number of fds that this process has; 0: the place is free, and all bits are zero |
/// | 20 | the supervisor has held an fd of it since the accept, in case this process is killed; in [`Phase::Ours`] only |
/// | 21..23 | [`Phase`] |
/// | 23 | this process received it in an `SCM_RIGHTS` message, so by whom and when it was accepted is not known |
/// | 24..28 | [`Exec`]: 0 to 3 for the variants without data; `Announced(count)` is 4 + the number of the [`Count`] |
/// | 28 | an fd of it that an epoll watched was closed while this process had another: no call can remove that registration |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) fds: u32,
    pub(super) held: bool,
    pub(super) phase: Phase,
    pub(super) received: bool,
    pub(super) exec: Exec,
    pub(super) stray: bool,
}

impl Record {
    const FDS: Field = Field::new(0, 20);
    const HELD: Field = Field::new(20, 1);
    const PHASE: Field = Field::new(21, 2);
    const RECEIVED: Field = Field::new(23, 1);
    const EXEC: Field = Field::new(24, 4);
    const STRAY: Field = Field::new(28, 1);

    /// A connection with one fd.
    pub(super) const fn new(held: bool) -> Self {
        Self { fds: 1, held, phase: Phase::Ours, received: false, exec: Exec::None, stray: false }
    }

    /// Whether the supervisor holds an fd of the connection for this process now. If an `execve` is under way that does
    /// not end the connection, the supervisor has been told to drop its fd; it takes one again if the call fails.
    pub(super) const fn is_held(&self) -> bool {
        self.held && !matches!(self.exec, Exec::Survives)
    }

    /// The same word with no fds and no `execve` under way. Used only while fds are counted anew.
    pub(super) const fn without_fds(word: u64) -> u64 {
        word - Self::FDS.put(Self::FDS.of(word)) - Self::EXEC.put(Self::EXEC.of(word))
    }

    /// `None` where the place is free.
    pub(super) fn unpack(word: u64) -> Option<Self> {
        let fds = NonZeroU32::new(Self::FDS.of(word) as u32)?.get();
        let phase = match Self::PHASE.of(word) {
            0 => Phase::Ours,
            1 => Phase::Handed,
            _ => Phase::Given,
        };
        let exec = match Self::EXEC.of(word) {
            0 => Exec::None,
            1 => Exec::Survives,
            2 => Exec::Closes,
            3 => Exec::Claimed,
            count => Exec::Announced(COUNTS[count as usize - 4]),
        };
        let [held, received, stray] = [Self::HELD, Self::RECEIVED, Self::STRAY].map(|bit| bit.of(word) == 1);
        Some(Self { fds, held, phase, received, exec, stray })
    }

    pub(super) fn pack(self) -> u64 {
        if self.fds == 0 {
            return 0;
        }
        debug_assert!(!self.held || self.phase == Phase::Ours, "nothing is held of what another ends");
        let exec = match self.exec {
            Exec::None => 0,
            Exec::Survives => 1,
            Exec::Closes => 2,
            Exec::Claimed => 3,
            Exec::Announced(count) => 4 + count as u64,
        };
        Self::FDS.put(self.fds.into())
            + Self::HELD.put(self.held.into())
            + Self::PHASE.put(self.phase as u64)
            + Self::RECEIVED.put(self.received.into())
            + Self::EXEC.put(exec)
            + Self::STRAY.put(self.stray.into())
    }
}

/// The counts by their numbers, as many as the field can name; `pack` never writes the last three.
const COUNTS: [Count; 12] = {
    let [a, b, c, d, e, f, g, h, i] = Count::EACH;
    [a, b, c, d, e, f, g, h, i, Count::Seen, Count::Seen, Count::Seen]
};
