/// Which process accepted a connection, and when, packed into one word: it fits a table without locks, and a message.
///
/// A process that was made before the accept cannot have inherited the connection (`fork(2)` copies the table of fds as it
/// is at that moment). So the time of the accept and the start times of processes tell which of them may have the connection.
///
/// | bits | |
/// |---|---|
/// | 0..42 | milliseconds of `CLOCK_BOOTTIME`, which is also what `/proc/PID/stat` gives as a process's start; 0: unknown |
/// | 42..64 | the pid, in the process's own namespace (below 2^22, which is `PID_MAX_LIMIT`) |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin(u64);

impl Origin {
    /// Not known: the connection is an outgoing one, or came from another process, or a value did not fit.
    pub const UNKNOWN: Self = Self(0);

    const TIME_BITS: u32 = 42;
    const TIME: u64 = (1 << Self::TIME_BITS) - 1;
    const PROCESS: u64 = (1 << (64 - Self::TIME_BITS)) - 1;

    /// An accept by `process`. Unknown where a value does not fit.
    pub const fn new(process: i32, accepted_ms: u64) -> Self {
        let pid = process as u64;
        if process <= 0 || pid > Self::PROCESS || accepted_ms > Self::TIME {
            return Self::UNKNOWN;
        }
        Self(pid << Self::TIME_BITS | accepted_ms)
    }

    /// The origin that [`word`](Self::word) has packed.
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// Packs the origin into a word of a table, or of a message.
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Who accepted the connection, and when (`CLOCK_BOOTTIME`); `None` where that is not known.
    pub const fn known(self) -> Option<(i32, u64)> {
        let accepted_ms = self.0 & Self::TIME;
        if accepted_ms == 0 { None } else { Some(((self.0 >> Self::TIME_BITS) as i32, accepted_ms)) }
    }
}
