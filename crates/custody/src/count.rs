/// The results of the closes of a program's connections.
///
/// Every end is counted as [`Seen`](Self::Seen) and under exactly one reason. [`Unread`](Self::Unread) is counted in
/// addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
#[non_exhaustive]
pub enum Count {
    /// Connections whose last fd in a process was closed, however: the sum of all below but `Unread`.
    Seen = 0,
    /// Handed over to the closer, which ends it with a lingering close.
    Handed = 1,
    /// The peer had sent its FIN and nothing was unread: a plain close loses nothing.
    Finished = 2,
    /// The peer had sent its FIN; what was unread was discarded, then the connection closed plainly.
    Drained = 3,
    /// Another process of the program still holds the connection.
    Shared = 4,
    /// The program asked for a reset (`SO_LINGER` with a time of 0).
    Aborted = 5,
    /// The connection was over already: reset, or closed by both sides.
    Gone = 6,
    /// Nobody could take it, or nobody could prove that it was the last holder's: closed plainly.
    Refused = 7,
    /// Had unread bytes, so that a plain close would have sent a reset and thrown away what was unsent.
    Unread = 8,
}

impl Count {
    /// How many there are.
    pub const ALL: usize = 9;

    /// Each of them, in the order of their numbers.
    pub const EACH: [Self; Self::ALL] = [
        Self::Seen,
        Self::Handed,
        Self::Finished,
        Self::Drained,
        Self::Shared,
        Self::Aborted,
        Self::Gone,
        Self::Refused,
        Self::Unread,
    ];
}
