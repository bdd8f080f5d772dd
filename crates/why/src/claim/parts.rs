//! What a sentence names: the ends of a connection, the packet that a reset answers, last words, alerts.

use std::fmt;

/// One end of a connection, as a sentence names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Party {
    /// Whether it sent the reset.
    pub is_resetter: bool,
    /// Whether it opened the connection, if that is known.
    pub is_client: Option<bool>,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.is_client, self.is_resetter) {
            (Some(true), _) => "the client",
            (Some(false), _) => "the server",
            (None, true) => "the sender of the reset",
            (None, false) => "the other side",
        })
    }
}

/// What kind of packet a reset answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// A SYN-ACK.
    SynAck,
    /// A packet without payload.
    Acknowledgement,
    /// A FIN without payload.
    Fin,
    /// Payload.
    Data {
        /// Bytes of it.
        bytes: u32,
        /// Whether the packet has a FIN too.
        fin: bool,
    },
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SynAck => f.write_str("the SYN-ACK"),
            Self::Acknowledgement => f.write_str("an acknowledgement"),
            Self::Fin => f.write_str("a FIN"),
            Self::Data { bytes, fin: false } => write!(f, "{bytes} bytes of data"),
            Self::Data { bytes, fin: true } => write!(f, "{bytes} bytes of data with FIN"),
        }
    }
}

/// A kind of packet that is sent again and again while nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repeated {
    /// The same bytes.
    Retransmissions,
    /// Probes of a closed window.
    WindowProbes,
}

/// The last words of a side that has nothing more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Farewell {
    /// A line: QUIT, LOGOUT, the reply 221.
    Line,
    /// A TLS alert, or a record of an alert's size.
    TlsAlert,
    /// HTTP/2's GOAWAY.
    GoAway,
    /// WebSocket's close frame.
    WebSocketClose,
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "a goodbye",
            Self::TlsAlert => "a TLS alert",
            Self::GoAway => "HTTP/2's GOAWAY",
            Self::WebSocketClose => "WebSocket's close frame",
        })
    }
}

/// The name of a TLS alert (RFC 8446 section 6, and IANA's registry).
pub(crate) fn alert_name(description: u8) -> &'static str {
    match description {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        100 => "no_renegotiation",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => "of an unknown kind",
    }
}

/// A protocol of frames, each of which says how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Framed {
    /// HTTP/2 in clear.
    Http2,
    /// WebSocket.
    WebSocket,
}

impl fmt::Display for Framed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http2 => "HTTP/2",
            Self::WebSocket => "WebSocket",
        })
    }
}
