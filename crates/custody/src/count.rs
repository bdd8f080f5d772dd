/// The results of the closes of a program's connections.
///
/// Every close of a connection is counted as [`Seen`](Self::Seen) and under exactly one reason;
/// [`Unread`](Self::Unread) is counted in addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(usize)]
#[non_exhaustive]
pub enum Count {
    /// Closes of a process's last fd of a connection, by whatever call: the sum of all below but `Unread`.
    Seen = 0,
    /// Handed over to the closer, which ends the connection with a lingering close.
    Handed = 1,
    /// The peer had sent its FIN and nothing was unread: a plain close loses nothing.
    Finished = 2,
    /// The peer had sent its FIN; the unread bytes were discarded, then the connection was closed plainly.
    Drained = 3,
    /// Another process of the program still holds the connection.
    Shared = 4,
    /// The program asked for a reset (`SO_LINGER` with a time of 0).
    Aborted = 5,
    /// The connection was over already: reset, or closed by both sides.
    Gone = 6,
    /// Closed plainly: the closer did not take the connection, or it could not be proved that no process has it.
    Refused = 7,
    /// Had unread bytes: at a plain close the kernel sends a reset and throws away what it has not sent.
    Unread = 8,
}

impl Count {
    /// The number of counts.
    pub const ALL: usize = 9;

    /// All counts, in the order of their discriminants.
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
