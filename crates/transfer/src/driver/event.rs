//! The events that a session reports to its program.

use super::PhaseWork;

/// Something the peer did.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The peer opened a stream.
    Opened {
        /// The stream.
        stream: u16,
        /// The request with which the peer opened the stream; at most 64 KiB.
        request: Vec<u8>,
    },
    /// A whole message has arrived.
    Message {
        /// The stream on which it arrived.
        stream: u16,
        /// At most 64 KiB.
        bytes: Vec<u8>,
    },
    /// Data has begun to arrive. Take it with [`Session::read_data`](super::Session::read_data); the next call that
    /// receives drops what was not taken.
    Data {
        /// The stream on which it arrived.
        stream: u16,
        /// Bytes to take, at most 1 MiB.
        length: usize,
    },
    /// The peer will send nothing more on the stream.
    Finished {
        /// The stream.
        stream: u16,
    },
    /// The peer cancelled the stream, in both directions.
    Cancelled {
        /// The stream.
        stream: u16,
        /// The peer's reason, as text.
        reason: String,
    },
    /// The peer reports how far some work is during which it sends nothing else.
    Works(PhaseWork),
    /// The peer's last frame: it is done, or says why it gives up.
    Bye {
        /// 0 if all is well.
        code: u16,
        /// The peer's reason, as text.
        reason: String,
    },
}
