//! What sentences about HTTP/2 name: streams, what became of them, error codes (RFC 9113).

use std::fmt;

/// Streams that a sentence names; of many the first four, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamList {
    /// The first ones.
    pub ids: Vec<u32>,
    /// All of them.
    pub count: u32,
}

impl StreamList {
    const NAMED: usize = 4;

    pub(crate) fn add(&mut self, id: u32) {
        if self.ids.len() < Self::NAMED {
            self.ids.push(id);
        }
        self.count = self.count.saturating_add(1);
    }

    pub(crate) fn with(mut self, id: u32) -> Self {
        self.add(id);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The word for one of them, or for several.
    pub(super) fn number(&self, one: &'static str, several: &'static str) -> &'static str {
        if self.count == 1 { one } else { several }
    }
}

impl fmt::Display for StreamList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number("stream ", "streams "))?;
        let more = self.count.saturating_sub(self.ids.len() as u32);
        for (at, id) in self.ids.iter().enumerate() {
            let separator = match at {
                0 => "",
                _ if at + 1 == self.ids.len() && more == 0 => " and ",
                _ => ", ",
            };
            write!(f, "{separator}{id}")?;
        }
        if more > 0 { write!(f, " and {more} more") } else { Ok(()) }
    }
}

/// What became of streams that a client has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamFate {
    /// The whole request was sent, and the server has sent nothing on the stream. The last stream of the server's GOAWAY, if there
    /// is one: these streams are not above it.
    Unanswered {
        /// That last stream.
        last: Option<u32>,
    },
    /// The same of a request that was not sent to its end.
    Unfinished {
        /// That last stream.
        last: Option<u32>,
    },
    /// The response has begun, and END_STREAM was not sent.
    Cut,
    /// END_STREAM of the response was sent, and the client has not acknowledged it.
    Undelivered,
    /// The response was sent to its END_STREAM before the request was.
    Uploading,
    /// The streams are above the last one of the server's GOAWAY, and the server has sent nothing on them.
    Above {
        /// That last stream.
        last: u32,
    },
    /// Requests that the server's FIN does not acknowledge.
    Crossed,
}

/// The greatest stream, which a GOAWAY names that announces another one (RFC 9113 section 6.8).
pub(crate) const GREATEST_STREAM: u32 = u32::MAX >> 1;

/// An error code of HTTP/2 with its name (RFC 9113 section 7).
pub(super) struct Http2Error(pub(super) u32);

impl fmt::Display for Http2Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "NO_ERROR",
            1 => "PROTOCOL_ERROR",
            2 => "INTERNAL_ERROR",
            3 => "FLOW_CONTROL_ERROR",
            4 => "SETTINGS_TIMEOUT",
            5 => "STREAM_CLOSED",
            6 => "FRAME_SIZE_ERROR",
            7 => "REFUSED_STREAM",
            8 => "CANCEL",
            9 => "COMPRESSION_ERROR",
            10 => "CONNECT_ERROR",
            11 => "ENHANCE_YOUR_CALM",
            12 => "INADEQUATE_SECURITY",
            13 => "HTTP_1_1_REQUIRED",
            _ => return write!(f, "error {:#x}", self.0),
        };
        write!(f, "{name} ({})", self.0)
    }
}
