//! What is packed into the two words of the table: what an fd is, and what its connection is.

use super::shares::Share;
use crate::Count;

/// Which epolls watch an fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epolls {
    /// No registration was seen.
    Unknown,
    /// This one alone.
    One(i32),
    /// More than one.
    Many,
}

/// An fd that is a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// Where the table has the connection.
    pub(super) connection: usize,
    pub(super) epolls: Epolls,
    /// A fork is under way that takes this fd along.
    pub(super) forking: bool,
}

/// One fd's word.
///
/// | bits | |
/// |---|---|
/// | 0 | the fd is a connection; all other bits but the last 24 are zero where it is not |
/// | 1 | a fork is under way |
/// | 2..22 | the epoll plus one; 0: unknown; all ones: many |
/// | 22..40 | the index of the connection |
/// | 40..64 | generation: changes whenever another connection takes the place |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u64);

impl Slot {
    const OPEN: u64 = 1;
    const FORKING: u64 = 1 << 1;
    const EPOLL_SHIFT: u32 = 2;
    const EPOLL_MANY: u64 = (1 << 20) - 1;
    const CONNECTION_SHIFT: u32 = 22;
    const CONNECTION: u64 = (1 << 18) - 1;
    const GENERATION_SHIFT: u32 = 40;

    pub(super) const fn is_open(self) -> bool {
        self.0 & Self::OPEN != 0
    }

    pub(super) fn open(self) -> Option<Open> {
        let epolls = match (self.0 >> Self::EPOLL_SHIFT) & Self::EPOLL_MANY {
            0 => Epolls::Unknown,
            Self::EPOLL_MANY => Epolls::Many,
            epoll => Epolls::One((epoll - 1) as i32),
        };
        self.is_open().then_some(Open {
            connection: ((self.0 >> Self::CONNECTION_SHIFT) & Self::CONNECTION) as usize,
            epolls,
            forking: self.0 & Self::FORKING != 0,
        })
    }

    /// The same generation with other contents.
    pub(super) fn with(self, open: Open) -> Self {
        let epolls = match open.epolls {
            Epolls::Unknown => 0,
            // Greater numbers than fit are treated as many: all known epolls are gone through.
            Epolls::One(epoll) => {
                u64::try_from(epoll).map_or(Self::EPOLL_MANY, |epoll| (epoll + 1).min(Self::EPOLL_MANY))
            }
            Epolls::Many => Self::EPOLL_MANY,
        };
        debug_assert!(open.connection as u64 <= Self::CONNECTION);
        Self(
            self.generation() << Self::GENERATION_SHIFT
                | (open.connection as u64) << Self::CONNECTION_SHIFT
                | epolls << Self::EPOLL_SHIFT
                | if open.forking { Self::FORKING } else { 0 }
                | Self::OPEN,
        )
    }

    /// What stands there when the fd is closed.
    pub(super) const fn closed(self) -> Self {
        Self(self.generation() << Self::GENERATION_SHIFT)
    }

    /// The next generation.
    pub(super) fn next(self) -> Self {
        Self(self.generation().wrapping_add(1) << Self::GENERATION_SHIFT)
    }

    const fn generation(self) -> u64 {
        self.0 >> Self::GENERATION_SHIFT
    }
}

/// Who ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Whoever of the program's processes closes it last.
    Ours,
    /// The supervisor: `shutdown` has handed it over.
    Handed,
    /// Another process, to which it was passed. Here it is closed plainly.
    Given,
}

/// What an `execve` under way means for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Exec {
    /// No `execve` is under way.
    None,
    /// The next program inherits an fd of it.
    Survives,
    /// All fds of it are closed.
    Closes,
    /// It is closed, and another process still holds it.
    LeftToOthers,
    /// It is closed, and counted for this reason.
    Announced(Count),
}

/// One connection's word.
///
/// | bits | |
/// |---|---|
/// | 0..20 | fds of this process; 0: the place is free, and all bits are zero |
/// | 20 | the supervisor holds it since it was accepted |
/// | 21..23 | [`Phase`] |
/// | 23 | the fork under way has been counted in its share |
/// | 24..28 | [`Exec`]: 0 to 3, or 4 plus the count |
/// | 28..60 | its [`Share`]; 0: none |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) fds: u32,
    pub(super) held: bool,
    pub(super) phase: Phase,
    pub(super) joined: bool,
    pub(super) exec: Exec,
    pub(super) share: Option<Share>,
}

impl Record {
    /// A connection with one fd.
    pub(super) const fn new(held: bool) -> Self {
        Self { fds: 1, held, phase: Phase::Ours, joined: false, exec: Exec::None, share: None }
    }

    /// Whether the supervisor holds it for this process now. What an `execve` under way does not end, it has let go of,
    /// and takes again should the call fail.
    pub(super) const fn is_held(&self) -> bool {
        self.held && !matches!(self.exec, Exec::Survives | Exec::LeftToOthers)
    }

    /// The same word with no fds and no mark of a fork: in between only, while fds are counted.
    pub(super) const fn without_fds(word: u64) -> u64 {
        word & !(0xf_ffff | 1 << 23)
    }

    /// `None` where the place is free.
    pub(super) fn unpack(word: u64) -> Option<Self> {
        let fds = word as u32 & 0xf_ffff;
        let phase = match (word >> 21) & 3 {
            0 => Phase::Ours,
            1 => Phase::Handed,
            _ => Phase::Given,
        };
        let exec = match (word >> 24) & 0xf {
            0 => Exec::None,
            1 => Exec::Survives,
            2 => Exec::Closes,
            3 => Exec::LeftToOthers,
            count => Exec::Announced(COUNTS[count as usize - 4]),
        };
        let share = Share::unpack((word >> 28) as u32);
        let (held, joined) = (word >> 20 & 1 != 0, word >> 23 & 1 != 0);
        (fds > 0).then_some(Self { fds, held, phase, joined, exec, share })
    }

    pub(super) fn pack(self) -> u64 {
        if self.fds == 0 {
            return 0;
        }
        debug_assert!(self.fds <= 0xf_ffff);
        let exec = match self.exec {
            Exec::None => 0,
            Exec::Survives => 1,
            Exec::Closes => 2,
            Exec::LeftToOthers => 3,
            Exec::Announced(count) => 4 + count as u64,
        };
        u64::from(self.fds)
            | u64::from(self.held) << 20
            | (self.phase as u64) << 21
            | u64::from(self.joined) << 23
            | exec << 24
            | u64::from(self.share.map_or(0, Share::pack)) << 28
    }
}

/// The counts by their numbers; the last places are never packed.
const COUNTS: [Count; 12] = {
    let mut counts = [Count::Seen; 12];
    let all = Count::EACH;
    let mut at = 0;
    while at < all.len() {
        counts[all[at] as usize] = all[at];
        at += 1;
    }
    counts
};
