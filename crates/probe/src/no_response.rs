//! Why what came is no response.

use std::fmt;

use linger_untrusted::Untrusted;

/// Why what came is no response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoResponse {
    /// It does not begin as a response does; these are its first bytes.
    OtherProtocol(Untrusted),
    /// It begins as a response does, and its head is malformed; these are its first bytes.
    MalformedHead(Untrusted),
    /// Its head has this many bytes, and no end.
    EndlessHead(usize),
    /// This many interim responses came (1xx), and no other.
    OnlyInterim(usize),
    /// Its body is not in the chunked coding that its head announces, from this many bytes of content on.
    Chunks(u64),
    /// On a WebSocket its frames break the rules of RFC 6455, from this many bytes of payload on.
    Frames(u64),
}

impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherProtocol(opening) => write!(f, "it begins with `{}`", opening.terminal()),
            Self::MalformedHead(opening) => write!(f, "its head is malformed: `{}`", opening.terminal()),
            Self::EndlessHead(bytes) => write!(f, "its head does not end within {bytes} bytes"),
            Self::OnlyInterim(count) => write!(f, "{count} interim responses (1xx) came, and no other"),
            Self::Frames(payload) => {
                write!(f, "its frames on the WebSocket are broken behind {payload} bytes of payload")
            }
            Self::Chunks(content) => {
                write!(f, "its chunked coding is broken behind {content} bytes of the body")
            }
        }
    }
}
