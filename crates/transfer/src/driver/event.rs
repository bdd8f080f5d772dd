//! What a session tells its program.

/// Something the peer did.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// It opened a stream.
    Opened {
        /// The stream.
        stream: u16,
        /// What it opened it for; at most 64 KiB.
        request: Vec<u8>,
    },
    /// A message, whole.
    Message {
        /// Its stream.
        stream: u16,
        /// At most 64 KiB.
        bytes: Vec<u8>,
    },
    /// Data has begun to arrive: take it with [`Session::read_data`](super::Session::read_data); what is not taken is dropped.
    Data {
        /// Its stream.
        stream: u16,
        /// Bytes to take, at most 1 MiB.
        length: usize,
    },
    /// Nothing more will come on the stream.
    Finished {
        /// The stream.
        stream: u16,
    },
    /// The peer cancelled the stream, in both directions.
    Cancelled {
        /// The stream.
        stream: u16,
        /// Its reason, as text.
        reason: String,
    },
    /// The peer's last frame: it has what it wanted, or says why not.
    Bye {
        /// 0 if all is well.
        code: u16,
        /// Its reason, as text.
        reason: String,
    },
}
