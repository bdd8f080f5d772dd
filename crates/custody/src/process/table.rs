//! The table itself: fds, the connections that they are, and the only operations that change either.

use super::word::{Epolls, OpenFd, Phase, Record, Slot};
use crate::Origin;
use crate::sync::{AcqRel, Acquire, AtomicI32, AtomicU64, Published, Relaxed, Release};

/// How many epolls of a process are remembered.
const EPOLLS: usize = if cfg!(loom) { 2 } else { 64 };

/// The connections of one process, by fd.
///
/// Every word is changed by one atomic operation, so that neither a signal handler nor a forked child finds half of a
/// change. (A child may find an fd taken out and not yet counted; [`child`](Self::child) counts anew.) An entry is a hint: a
/// program may close and open fds by bare system calls, which the library does not see. So what a close means is decided
/// with the cookie that the kernel gives for the fd.
///
/// A slot belongs to an fd, and says which connection it is. A connection has a place of its own, because it may have
/// several fds; whoever closes the last one ends it. Fds from `N` on are not tracked: they are closed plainly. `N` is
/// at most 2^18, since a slot has 18 bits for the place.
pub struct Table<const N: usize> {
    /// A [`Slot`] each.
    slots: [AtomicU64; N],
    connections: [ConnectionSlot; N],
    /// Slots and connections from this index on have never been used. Its first value is zero like all others, so that
    /// a static table is in `.bss` and takes no room in the library's file.
    used: AtomicI32,
    /// The process whose fds these are. A child of `vfork` has other fds and the same table.
    process: AtomicI32,
    /// Whether an `execve` is under way.
    pub(super) under_way: AtomicI32,
    /// The fds of epolls, each plus one; 0: none.
    pub(super) epolls: [AtomicI32; EPOLLS],
}

/// A connection's place.
struct ConnectionSlot {
    /// A [`Record`].
    word: AtomicU64,
    /// `SO_COOKIE`.
    cookie: Published,
    /// An [`Origin`].
    origin: Published,
}

impl ConnectionSlot {
    #[cfg(not(loom))]
    const fn new() -> Self {
        Self { word: AtomicU64::new(0), cookie: Published::new(), origin: Published::new() }
    }

    #[cfg(loom)]
    fn new() -> Self {
        Self { word: AtomicU64::new(0), cookie: Published::new(), origin: Published::new() }
    }
}

/// The supervisor is to drop the fd that it holds under this cookie (`MessageKind::Release`), because this process is not
/// to end the connection.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Unhold {
    /// The connection's cookie.
    pub cookie: u64,
}

/// Where a connection was found in the table.
#[derive(Clone, Copy, Debug)]
pub struct FoundAt {
    fd: i32,
    /// The fd's word at that moment. It changes when the fd is closed.
    slot: Slot,
    connection: usize,
}

/// What is known of an fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Entry {
    /// Fds that this process has of the connection.
    pub fds: u32,
    /// The supervisor has held an fd of it since it was accepted.
    pub held: bool,
    /// Who ends it.
    pub phase: Phase,
    /// Where it was accepted.
    pub origin: Origin,
    /// Which epolls watch the fd.
    pub epolls: Epolls,
    /// An epoll has the connection under an fd that is closed.
    pub stray: bool,
}

/// What was known of an fd that is closed, and of its connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    /// The connection's record before the close. It has one fd if this was the last.
    pub(super) record: Record,
    pub(super) cookie: u64,
    pub(super) origin: Origin,
    pub(super) epolls: Epolls,
}

impl Gone {
    pub(super) const fn was_last(&self) -> bool {
        self.record.fds == 1
    }

    pub(super) fn unhold(&self) -> Option<Unhold> {
        self.record.is_held().then_some(Unhold { cookie: self.cookie })
    }
}

impl<const N: usize> Default for Table<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Table<N> {
    /// An empty table, of no process yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            slots: [const { AtomicU64::new(0) }; N],
            connections: [const { ConnectionSlot::new() }; N],
            used: AtomicI32::new(0),
            process: AtomicI32::new(0),
            under_way: AtomicI32::new(0),
            epolls: [const { AtomicI32::new(0) }; EPOLLS],
        }
    }

    /// An empty table, of no process yet.
    #[cfg(loom)]
    pub fn new() -> Self {
        use core::array::from_fn;
        Self {
            slots: from_fn(|_| AtomicU64::new(0)),
            connections: from_fn(|_| ConnectionSlot::new()),
            used: AtomicI32::new(0),
            process: AtomicI32::new(0),
            under_way: AtomicI32::new(0),
            epolls: from_fn(|_| AtomicI32::new(0)),
        }
    }

    /// Whether an fd is a tracked connection. For most calls of a program this check is the only cost.
    #[inline]
    pub fn is_tracked(&self, fd: i32) -> bool {
        self.slot(fd).is_some_and(|slot| Slot(slot.load(Relaxed)).is_open())
    }

    /// Whether an fd is below the table's end.
    pub fn has_room_for(&self, fd: i32) -> bool {
        self.slot(fd).is_some()
    }

    /// The tracked fds from `first` to `last`.
    pub fn fds(&self, first: i32, last: i32) -> impl Iterator<Item = i32> + '_ {
        (first.max(0)..self.used.load(Relaxed).min(last.saturating_add(1))).filter(|fd| self.is_tracked(*fd))
    }

    /// Sets the process whose fds these are.
    pub fn belongs_to(&self, process: i32) {
        self.process.store(process, Relaxed);
    }

    /// The process whose fds these are.
    pub fn process(&self) -> i32 {
        self.process.load(Relaxed)
    }

    /// Whether these are the fds of this process: not so in a child of `vfork`, where nothing is to be done.
    pub fn is_of(&self, process: i32) -> bool {
        self.process.load(Relaxed) == process
    }

    /// The entry of an fd, for observers such as tests.
    pub fn entry(&self, fd: i32) -> Option<Entry> {
        let open = self.open(fd)?;
        let record = self.record(open.connection)?;
        let (Record { fds, phase, stray, .. }, held) = (record, record.is_held());
        let origin = self.origin(open.connection, &record)?;
        Some(Entry { fds, held, phase, origin, epolls: open.epolls, stray })
    }

    /// A copy of the table, as a forked child has it, for simulations. Call [`Table::child`] on the copy.
    pub fn forked(&self) -> Self {
        let copy = Self::new();
        let words = |words: &[AtomicU64; N], to: &[AtomicU64; N]| {
            words.iter().zip(to).for_each(|(word, to)| to.store(word.load(Relaxed), Relaxed));
        };
        words(&self.slots, &copy.slots);
        for (place, to) in self.connections.iter().zip(&copy.connections) {
            to.word.store(place.word.load(Relaxed), Relaxed);
            to.cookie.set(place.cookie.peek());
            to.origin.set(place.origin.peek());
        }
        for (number, to) in
            [(&self.used, &copy.used), (&self.process, &copy.process), (&self.under_way, &copy.under_way)]
        {
            to.store(number.load(Relaxed), Relaxed);
        }
        self.epolls.iter().zip(&copy.epolls).for_each(|(epoll, to)| to.store(epoll.load(Relaxed), Relaxed));
        copy
    }

    fn slot(&self, fd: i32) -> Option<&AtomicU64> {
        self.slots.get(usize::try_from(fd).ok()?)
    }

    /// What is known of an fd.
    ///
    /// Acquire, so that the cookie is seen that was written before the fd was published.
    pub(super) fn open(&self, fd: i32) -> Option<OpenFd> {
        Slot(self.slot(fd)?.load(Acquire)).open()
    }

    /// Changes an open fd's word.
    pub(super) fn change(&self, fd: i32, change: impl Fn(OpenFd) -> OpenFd) {
        let Some(slot) = self.slot(fd) else { return };
        let mut word = Slot(slot.load(Relaxed));
        while let Some(open) = word.open() {
            match slot.compare_exchange(word.0, word.with(change(open)).0, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => word = Slot(now),
            }
        }
    }

    /// Takes an fd out of the table. If two threads do so at once, one of them gets it.
    pub(super) fn take(&self, fd: i32) -> Option<OpenFd> {
        let slot = self.slot(fd)?;
        let mut word = Slot(slot.load(Acquire));
        loop {
            let open = word.open()?;
            match slot.compare_exchange(word.0, word.closed().0, Relaxed, Acquire) {
                Ok(_) => return Some(open),
                Err(now) => word = Slot(now),
            }
        }
    }

    /// Enters an fd of a connection, which must have been counted in the connection's record already. Returns the fd's
    /// previous entry, if there was one: that fd was closed unseen by the library.
    pub(super) fn publish(&self, fd: i32, connection: usize) -> Option<OpenFd> {
        let slot = self.slot(fd)?;
        self.used.fetch_max(fd + 1, Relaxed);
        let mut word = Slot(slot.load(Acquire));
        loop {
            let open = OpenFd { connection, epolls: Epolls::Unknown, registered: false };
            // Release, for those who find the connection here and read its cookie.
            match slot.compare_exchange(word.0, word.next().with(open).0, Release, Acquire) {
                Ok(_) => return word.open(),
                Err(now) => word = Slot(now),
            }
        }
    }

    /// A place for a new connection, with one fd; `None` where all are taken.
    pub(super) fn claim(&self, near: i32, cookie: u64, origin: Origin, held: bool) -> Option<usize> {
        let near = usize::try_from(near).ok()?;
        (0..N).map(|step| (near + step) % N).find(|at| {
            let Some(place) = self.connections.get(*at) else { return false };
            // Acquire, for the Release in `update`: all users of the connection that had this place before have read
            // that connection's cookie before it is overwritten here.
            let free = place.word.load(Relaxed) == 0
                && place.word.compare_exchange(0, Record::new(held).pack(), Acquire, Relaxed).is_ok();
            if free {
                self.used.fetch_max(*at as i32 + 1, Relaxed);
                place.cookie.set(cookie);
                place.origin.set(origin.word());
            }
            free
        })
    }

    /// What is known of a connection.
    pub(super) fn record(&self, connection: usize) -> Option<Record> {
        Record::unpack(self.connections.get(connection)?.word.load(Relaxed))
    }

    /// The cookie of a connection, of which the caller has an fd.
    pub(super) fn cookie(&self, connection: usize) -> Option<u64> {
        Some(self.connections.get(connection)?.cookie.get())
    }

    /// Where a connection was accepted, of which the caller has an fd; unknown once another process has sent it here.
    pub(super) fn origin(&self, connection: usize, record: &Record) -> Option<Origin> {
        let origin = Origin::from_word(self.connections.get(connection)?.origin.get());
        Some(if record.received { Origin::UNKNOWN } else { origin })
    }

    /// Changes the record of a connection that has an fd. Returns the record as it was before; `None` if `change`
    /// declines.
    ///
    /// Release and Acquire: every thread that lets go of an fd reads the cookie first, and the last of them frees the
    /// place. Whoever [claims](Self::claim) it next may overwrite the cookie only after all of these reads.
    pub(super) fn update(
        &self,
        connection: usize,
        change: impl Fn(Record) -> Option<Record>,
    ) -> Option<Record> {
        let word = &self.connections.get(connection)?.word;
        let mut seen = word.load(Relaxed);
        loop {
            let record = Record::unpack(seen)?;
            match word.compare_exchange(seen, change(record)?.pack(), AcqRel, Relaxed) {
                Ok(_) => return Some(record),
                Err(now) => seen = now,
            }
        }
    }

    /// Counts one fd less of a connection, after [`take`](Self::take). The last one frees the connection's place.
    pub(super) fn let_go(&self, fd: OpenFd) -> Option<Gone> {
        let cookie = self.cookie(fd.connection)?;
        let origin = Origin::from_word(self.connections.get(fd.connection)?.origin.get());
        let record = self.update(fd.connection, |record| {
            Some(Record { fds: record.fds - 1, stray: record.stray || fd.registered, ..record })
        })?;
        let origin = if record.received { Origin::UNKNOWN } else { origin };
        Some(Gone { record, cookie, origin, epolls: fd.epolls })
    }

    /// Finds a connection by its cookie, for [`received`](Self::received). Another thread may close the connection meanwhile.
    pub fn find(&self, cookie: u64) -> Option<FoundAt> {
        self.find_from(0, cookie).next()
    }

    fn find_from(&self, first: i32, cookie: u64) -> impl Iterator<Item = FoundAt> + '_ {
        self.fds(first, i32::MAX).filter_map(move |fd| {
            let slot = Slot(self.slot(fd)?.load(Acquire));
            let connection = slot.open()?.connection;
            let is_it = self.connections.get(connection)?.cookie.peek() == cookie;
            is_it.then_some(FoundAt { fd, slot, connection })
        })
    }

    /// Counts one more fd of a connection that was found. If the fd at which it was found has been closed meanwhile, later fds
    /// are searched; `None` if none of them is the connection.
    pub(super) fn hold(&self, found: FoundAt, cookie: u64) -> Option<usize> {
        let others = self.find_from(found.fd, cookie);
        [found].into_iter().chain(others).find_map(|FoundAt { fd, slot, connection }| {
            self.update(connection, |record| Some(Record { fds: record.fds + 1, ..record }))?;
            if self.slot(fd)?.load(Relaxed) == slot.0 {
                // The fd was open all the while, so the place is still its connection's.
                return Some(connection);
            }
            self.update(connection, |record| Some(Record { fds: record.fds - 1, ..record }));
            None
        })
    }

    /// Counts one fd less, which was closed without the library's knowledge. Returns the fd that the supervisor is to drop, if
    /// it holds one and this process has no other.
    pub(super) fn forget(&self, fd: OpenFd) -> Option<Unhold> {
        self.let_go(fd).filter(Gone::was_last)?.unhold()
    }

    /// Counts the fds of each connection anew, and forgets an `execve` under way. To be called in a forked child, which has
    /// one thread: at the fork, other threads of the parent may have changed a slot and not yet the count, or the reverse.
    pub(super) fn recount(&self) {
        let used = usize::try_from(self.used.load(Relaxed)).unwrap_or(0);
        let words = || self.connections.iter().take(used).map(|place| &place.word);
        for word in words() {
            word.store(Record::without_fds(word.load(Relaxed)), Relaxed);
        }
        for open in self.slots.iter().take(used).filter_map(|slot| Slot(slot.load(Relaxed)).open()) {
            if let Some(place) = self.connections.get(open.connection) {
                place.word.fetch_add(1, Relaxed);
            }
        }
        for word in words() {
            word.store(Record::unpack(word.load(Relaxed)).map_or(0, Record::pack), Relaxed);
        }
    }
}
