//! Errors in received bytes, and their position.

use crate::record_type::RecordType;

/// The peer broke the protocol or a limit; the connection cannot be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("FastCGI: {fault}, at byte {offset} of what the peer sent")]
#[non_exhaustive]
pub struct ProtocolError {
    /// The place of the error, counted in bytes from the beginning of the connection (for [`Params::parse`], from the
    /// beginning of the pairs).
    ///
    /// [`Params::parse`]: crate::Params::parse
    pub offset: u64,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The first byte of a record is not 1.
    #[error("the protocol version is {0}, and only 1 is known (is the peer speaking FastCGI?)")]
    Version(u8),
    /// A record of fixed size has another one.
    #[error("a {kind:?} record of {length} bytes, where it must have 8")]
    Size {
        /// The record's type.
        kind: RecordType,
        /// The record's content length.
        length: u16,
    },
    /// BEGIN_REQUEST for an id whose request has not ended, or with id 0.
    #[error("BEGIN_REQUEST for id {0}, which is in use or reserved")]
    BeginTwice(u16),
    /// A record that belongs to a request has an id that the peer was never asked about.
    #[error("a {kind:?} record for request {id}, which was not sent")]
    ForeignId {
        /// The record's type.
        kind: RecordType,
        /// The record's request id.
        id: u16,
    },
    /// A record that only the other side may send.
    #[error("a {0:?} record, which this side does not take")]
    WrongSide(RecordType),
    /// The name-value pairs are longer than [`Limits::params_bytes`](crate::Limits::params_bytes).
    #[error("more than {0} bytes of name-value pairs")]
    ParamsTooLong(usize),
    /// There are more pairs than [`Limits::params_count`](crate::Limits::params_count).
    #[error("more than {0} name-value pairs")]
    TooManyParams(usize),
    /// A pair's lengths reach past the end of the pairs.
    #[error("a name-value pair that reaches past the end of the pairs")]
    ParamCut,
}

impl ProtocolError {
    pub(crate) fn new(offset: u64, fault: Fault) -> Self {
        Self { offset, fault }
    }
}

impl From<ProtocolError> for std::io::Error {
    fn from(error: ProtocolError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}
