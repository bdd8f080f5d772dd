use crate::Count;

/// The state of a socket when its last fd is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Socket {
    /// `SO_LINGER` is set with a time of 0: the program wants a reset.
    pub aborts: bool,
    /// The peer has sent its FIN (`POLLRDHUP`).
    pub peer_finished: bool,
    /// Reset, or closed by both sides (`POLLHUP` or `POLLERR`).
    pub over: bool,
    /// Received bytes that nobody has read (`FIONREAD`).
    pub unread: u32,
}

/// How a connection ends when its last holder closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// A plain close loses nothing that the program did not want to lose, for this reason.
    Plain(Count),
    /// Everything that the peer will ever send has arrived: discard it, then ask [`after_discarding`].
    Discard,
    /// More may come, and would make the kernel reset the connection: end it with a lingering close.
    Linger,
}

/// The result of discarding the unread bytes of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Discarded {
    /// The end of the peer's stream was reached.
    ToTheEnd,
    /// The socket does not discard (`recv` with `MSG_TRUNC` and no buffer is TCP's alone), or would block.
    Unable,
    /// The socket reported an error: the connection is over.
    Failed,
}

/// What a socket says of itself after its half-close.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "plain facts, of which a driver fills in each")]
pub struct HalfClosed {
    /// The kernel has no connection any more (`TCP_CLOSE`).
    pub closed: bool,
    /// The connection has ended with an error (`POLLERR`).
    pub failed: bool,
    /// Received bytes that nobody has read (`FIONREAD`).
    pub unread: u32,
}

/// Decides how to end a connection that its last holder closes.
///
/// The kernel resets a connection that is closed with unread bytes, or to which bytes come later (`tcp_close` and
/// `tcp_rcv_state_process` in Linux). Neither can happen once the peer's FIN is there and nothing is unread.
pub const fn fate(socket: &Socket) -> Fate {
    if socket.aborts {
        Fate::Plain(Count::Aborted)
    } else if !socket.peer_finished {
        if socket.over { Fate::Plain(Count::Gone) } else { Fate::Linger }
    } else if socket.unread == 0 {
        Fate::Plain(Count::Finished)
    } else {
        Fate::Discard
    }
}

/// How to end a connection after [`Fate::Discard`].
pub const fn after_discarding(discarded: Discarded) -> Fate {
    match discarded {
        Discarded::ToTheEnd => Fate::Plain(Count::Drained),
        Discarded::Unable => Fate::Linger,
        Discarded::Failed => Fate::Plain(Count::Gone),
    }
}

/// Whether a half-closed connection is over, so that a plain close loses nothing and there is nothing to report.
///
/// The kernel ends it in order when both FINs have arrived and its own is acknowledged, with all that was sent before
/// (`tcp_time_wait` and `tcp_done` in Linux). A reset and a timeout end it as well, with an error.
pub const fn is_over(socket: &HalfClosed) -> bool {
    socket.closed && !socket.failed && socket.unread == 0
}
