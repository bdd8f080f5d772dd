//! The questions, by name.

use std::fmt;
use std::str::FromStr;

/// A question to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// Does the response arrive when the server leaves the request's body unread?
    UnreadBody,
    /// Does the response arrive when 8 bytes follow a complete request? (FastCGI: the empty STDIN record in a packet of its
    /// own.)
    TrailingBytes,
    /// Does the response arrive when it is larger than the client's window, and is read late?
    LargeResponse,
    /// Does the response arrive when the server refuses an upload that the client is still sending?
    UploadInProgress,
    /// Does the response arrive when the request's body comes in chunks, and the server leaves it unread or refuses it?
    ChunkedUpload,
    /// Does the response arrive when the client asks first whether its body is wanted (`Expect: 100-continue`)?
    ExpectContinue,
    /// Does the response arrive when another request follows the one after which the server closes?
    Pipelined,
    /// Does the response arrive when the server receives another byte after it has begun to answer?
    LateByte,
    /// Does the response arrive when the client half-closes first?
    HalfClose,
    /// Does the server wait for the client while the client waits for it?
    Stall,
    /// Does a request arrive that meets the server's limit of idle time on a kept connection?
    KeepAlive,
    /// Does a WebSocket end with the server's Close frame, and its refusal arrive?
    #[serde(rename = "websocket")]
    WebSocket,
    /// How long does the server hold a connection whose client does not close? Are others served meanwhile?
    IdleOpen,
    /// Is the total time bounded when the client sends a byte just before each idle bound?
    Drip,
    /// Is the number of discarded bytes limited?
    EndlessUpload,
    /// Are connections of a burst reset or ignored before the first byte?
    Backlog,
    /// Are requests kept that are made while the server reloads, or stops? Asked only with
    /// [`ProbeConfig::reload`](crate::ProbeConfig::reload).
    Reload,
}

impl Check {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 17] = [
        Self::LargeResponse,
        Self::UnreadBody,
        Self::TrailingBytes,
        Self::LateByte,
        Self::Pipelined,
        Self::HalfClose,
        Self::UploadInProgress,
        Self::ChunkedUpload,
        Self::ExpectContinue,
        Self::Stall,
        Self::KeepAlive,
        Self::WebSocket,
        Self::IdleOpen,
        Self::Drip,
        Self::EndlessUpload,
        Self::Backlog,
        // The last: it may not come back.
        Self::Reload,
    ];

    /// The question's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnreadBody => "unread-body",
            Self::TrailingBytes => "trailing-bytes",
            Self::LargeResponse => "large-response",
            Self::UploadInProgress => "upload-in-progress",
            Self::ChunkedUpload => "chunked-upload",
            Self::ExpectContinue => "expect-continue",
            Self::Pipelined => "pipelined",
            Self::LateByte => "late-byte",
            Self::HalfClose => "half-close",
            Self::Stall => "stall",
            Self::KeepAlive => "keep-alive",
            Self::WebSocket => "websocket",
            Self::IdleOpen => "idle-open",
            Self::Drip => "drip",
            Self::EndlessUpload => "endless-upload",
            Self::Backlog => "backlog",
            Self::Reload => "reload",
        }
    }

    /// What is asked, in a sentence.
    pub fn question(self) -> &'static str {
        match self {
            Self::UnreadBody => "Does the response arrive when the server leaves the request's body unread?",
            Self::TrailingBytes => "Does the response arrive when 8 bytes follow a complete request?",
            Self::LargeResponse => {
                "Does the response arrive when it is larger than the client's window, and is read late?"
            }
            Self::UploadInProgress => {
                "Does the response arrive when the server refuses an upload that the client is still sending?"
            }
            Self::ChunkedUpload => {
                "Does the response arrive when the request's body comes in chunks, and the server leaves it unread or refuses it?"
            }
            Self::ExpectContinue => {
                "Does the response arrive when the client asks first whether its body is wanted (Expect: 100-continue)?"
            }
            Self::Pipelined => {
                "Does the response arrive when another request follows the one after which the server closes?"
            }
            Self::LateByte => {
                "Does the response arrive when the server receives another byte after it has begun to answer?"
            }
            Self::HalfClose => "Does the response arrive when the client half-closes first?",
            Self::Stall => "Does the server wait for the client while the client waits for it?",
            Self::KeepAlive => {
                "Does a request arrive that meets the server's limit of idle time on a kept connection?"
            }
            Self::WebSocket => {
                "Does a WebSocket end with the server's Close frame, and does its refusal arrive?"
            }
            Self::IdleOpen => {
                "How long does the server hold a connection whose client does not close? Are others served meanwhile?"
            }
            Self::Drip => {
                "Is the total time bounded when the client sends a byte just before each idle bound?"
            }
            Self::EndlessUpload => "Is the number of discarded bytes limited?",
            Self::Backlog => "Are connections of a burst reset or ignored before the first byte?",
            Self::Reload => "Are requests kept that are made while the server reloads, or stops?",
        }
    }

    /// Whether only a hostile client would behave like this. Such a question needs
    /// [`ProbeConfig::hostile`](crate::ProbeConfig::hostile).
    pub fn is_hostile(self) -> bool {
        matches!(self, Self::Drip | Self::EndlessUpload | Self::Backlog)
    }

    /// Whether the answer is told beside the verdict on losing, and is no part of it: a server may take a half-closed
    /// client for one that has left, which is no matter of how it closes.
    pub fn is_aside(self) -> bool {
        matches!(self, Self::HalfClose)
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Check {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|check| check.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|check| check.name()).collect();
            format!("no check is called `{text}`; there are {}", names.join(", "))
        })
    }
}
