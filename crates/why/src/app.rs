//! What the payload says about requests and responses: HTTP/1, TLS records, FastCGI records, SSH, the lines of mail and FTP,
//! and the frames of HTTP/2 in clear and of WebSocket.
//!
//! One side's bytes are followed while they are in order and in the capture. After a gap nothing is known.

mod frames;
mod sniff;

use linger_packet::Segment;

use crate::claim::Farewell;
use sniff::{HTTP2_PREFACE, head_length, says_goodbye, sniff, switches_to_web_socket};

/// The protocol of a stream, with the facts that only this protocol has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Unseen,
    /// HTTP/1, with the number of messages begun, and what the last one is.
    Http {
        message: HttpMessage,
        messages: u16,
    },
    /// TLS, with the type and length of the last record.
    Tls {
        record: u8,
        length: u16,
    },
    /// FastCGI, with whether END_REQUEST and the end of STDIN were seen.
    FastCgi {
        ended: bool,
        stdin_ended: bool,
    },
    Ssh,
    /// Commands or replies in lines (SMTP, FTP, POP3, IMAP), with whether the last one said goodbye.
    Lines {
        farewell: bool,
    },
    /// HTTP/2 in clear, with whether GOAWAY was sent and nothing but control frames after it.
    Http2 {
        goaway: bool,
    },
    /// WebSocket, with whether the last frame is a close frame.
    WebSocket {
        close: bool,
    },
    Other,
    /// The capture has cut the first bytes off.
    Cut,
}

/// The messages of HTTP/1 that decide what follows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HttpMessage {
    #[default]
    Plain,
    /// A HEAD request: its response has no body.
    Head,
    /// A CONNECT request: what follows a response of success is another protocol (RFC 9110 section 9.3.6).
    Connect,
}

/// Where the current message or record ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Extent {
    /// Bytes were missed, or are no protocol that is known here.
    #[default]
    Lost,
    /// At this sequence number.
    Known(u32),
    /// After the last chunk.
    Chunked,
    /// At the FIN.
    UntilClose,
}

/// The longest message whose end is followed.
const LONGEST: u64 = (1 << 31) - (1 << 20);

/// The facts about one side's stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct App {
    pub(crate) protocol: Protocol,
    extent: Extent,
    /// The sequence number at which the farewell begins, if the stream ends with one.
    farewell_at: u32,
}

/// Lengths of a TLS record that holds HTTP/2's GOAWAY without debug data (17 bytes): TLS 1.3, and with ChaCha20 or AES-GCM in
/// TLS 1.2.
const GOAWAY_RECORDS: [u16; 3] = [34, 33, 41];
/// An alert takes 2 bytes. TLS 1.3 hides the type of its record, and adds 1 byte for it and 8 or 16 for the tag.
const LONGEST_ALERT: u16 = 19;

impl App {
    /// Takes a segment that begins where the last one ended.
    #[inline]
    pub(crate) fn in_order(&mut self, segment: &Segment<'_>, peer: &Self) {
        if self.protocol == Protocol::Unseen {
            self.protocol = sniff(segment.payload);
            if self.protocol == Protocol::Other
                && matches!(peer.protocol, Protocol::Lines { .. })
                && segment.payload.ends_with(b"\r\n")
            {
                self.protocol = Protocol::Lines { farewell: false };
            }
            if self.protocol == Protocol::Other && segment.payload.len() < segment.payload_len as usize {
                self.protocol = Protocol::Cut;
            }
            let preface = matches!(self.protocol, Protocol::Http2 { .. });
            let skipped = if preface { HTTP2_PREFACE.len() as u32 } else { 0 };
            self.extent = Extent::Known(segment.seq.wrapping_add(skipped));
        }
        if let Protocol::Lines { .. } = self.protocol {
            return self.lines(segment);
        }
        let Extent::Known(end) = self.extent else {
            return self.open_end(segment);
        };
        self.extent = match self.protocol {
            Protocol::Http { .. } if matches!(peer.protocol, Protocol::WebSocket { .. }) => {
                self.protocol = Protocol::WebSocket { close: false };
                self.web_socket(end, segment)
            }
            Protocol::Http { message: HttpMessage::Connect, .. } if peer.has_become_tunnel() => {
                self.protocol = Protocol::Other;
                self.extent = Extent::Lost;
                return self.open_end(segment);
            }
            Protocol::Http { .. } => self.http(end, segment, peer),
            Protocol::Tls { .. } => self.tls(end, segment),
            Protocol::FastCgi { .. } => self.fastcgi(end, segment),
            Protocol::Http2 { .. } => self.http2(end, segment),
            Protocol::WebSocket { .. } => self.web_socket(end, segment),
            Protocol::Other if matches!(peer.protocol, Protocol::Http2 { .. }) => {
                self.protocol = Protocol::Http2 { goaway: false };
                self.http2(end, segment)
            }
            Protocol::Unseen | Protocol::Ssh | Protocol::Lines { .. } | Protocol::Other | Protocol::Cut => {
                Extent::Lost
            }
        };
    }

    /// Bytes of a message whose end is not known: a last chunk, or the records with which many protocols begin TLS.
    fn open_end(&mut self, segment: &Segment<'_>) {
        let may_be_tls = matches!(self.protocol, Protocol::Other | Protocol::Tls { .. });
        if may_be_tls && matches!(sniff(segment.payload), Protocol::Tls { .. }) {
            self.protocol = Protocol::Tls { record: 0, length: 0 };
            self.extent = self.tls(segment.seq, segment);
        } else {
            self.last_chunk(segment);
        }
    }

    /// The same after bytes that are missing: TLS goes on where a segment begins with a record.
    pub(crate) fn after_gap(&mut self, segment: &Segment<'_>) {
        self.gap();
        if matches!(self.protocol, Protocol::Tls { .. })
            && matches!(sniff(segment.payload), Protocol::Tls { .. })
        {
            self.protocol = Protocol::Tls { record: 0, length: 0 };
            self.extent = self.tls(segment.seq, segment);
        }
    }

    /// Bytes are missing: from here on nothing is known, unless the end is a FIN.
    pub(crate) fn gap(&mut self) {
        if self.protocol == Protocol::Unseen {
            self.protocol = Protocol::Other;
        }
        if self.extent != Extent::UntilClose {
            self.extent = Extent::Lost;
        }
    }

    /// Whether the bytes are still followed.
    pub(crate) fn is_followed(&self) -> bool {
        self.extent != Extent::Lost
    }

    /// How many bytes of a message or record are missing after sequence number `at`: `Some(0)` if the message is whole, `None`
    /// if the number cannot be known.
    pub(crate) fn missing_after(&self, at: u32) -> Option<u32> {
        let Extent::Known(end) = self.extent else { return None };
        let missing = end.wrapping_sub(at);
        Some(if missing < 1 << 31 { missing } else { 0 })
    }

    /// Whether the current message ends only with a FIN or with a last chunk.
    pub(crate) fn open_ended(&self) -> bool {
        matches!(self.extent, Extent::Chunked | Extent::UntilClose)
    }

    /// Whether the open end is a FIN.
    pub(crate) fn until_close(&self) -> bool {
        self.extent == Extent::UntilClose
    }

    pub(crate) fn is_http(&self) -> bool {
        matches!(self.protocol, Protocol::Http { .. })
    }

    /// Whether the server of a CONNECT request speaks another protocol by now.
    fn has_become_tunnel(&self) -> bool {
        !self.is_http() && self.protocol != Protocol::Unseen
    }

    /// HTTP messages begun.
    pub(crate) fn messages(&self) -> u16 {
        if let Protocol::Http { messages, .. } = self.protocol { messages } else { 0 }
    }

    /// FastCGI, and END_REQUEST was seen.
    pub(crate) fn fastcgi_ended(&self) -> bool {
        matches!(self.protocol, Protocol::FastCgi { ended: true, .. })
    }

    /// The farewell with which the stream ends, if `at` is not before it: then nothing but a farewell lies beyond `at`, and
    /// nobody has to read it.
    pub(crate) fn farewell_from(&self, at: u32) -> Option<Farewell> {
        let inside = at.wrapping_sub(self.farewell_at) < 1 << 31;
        self.farewell().filter(|_| inside)
    }

    /// Whether the stream ends with a TLS record of GOAWAY's size that begins at or before `at`: a farewell, if the other side
    /// has said its own.
    pub(crate) fn ends_with_goaway_size(&self, at: u32) -> bool {
        let inside = at.wrapping_sub(self.farewell_at) < 1 << 31;
        let size =
            matches!(self.protocol, Protocol::Tls { record: 23, length } if GOAWAY_RECORDS.contains(&length));
        self.is_followed() && inside && size
    }

    /// The farewell with which the stream ends.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        match self.protocol {
            _ if !self.is_followed() => None,
            Protocol::Lines { farewell: true } => Some(Farewell::Line),
            Protocol::Tls { record: 21, .. } => Some(Farewell::TlsAlert),
            // For an encrypted record only the length tells.
            Protocol::Tls { record: 23, length: ..=LONGEST_ALERT } => Some(Farewell::TlsAlert),
            Protocol::Http2 { goaway: true } => Some(Farewell::GoAway),
            Protocol::WebSocket { close: true } => Some(Farewell::WebSocketClose),
            _ => None,
        }
    }

    /// Lines, until STARTTLS or its like makes TLS records of them.
    fn lines(&mut self, segment: &Segment<'_>) {
        if let protocol @ Protocol::Tls { .. } = sniff(segment.payload) {
            self.protocol = protocol;
            self.extent = self.tls(segment.seq, segment);
        } else if !segment.payload.is_empty() {
            let farewell = says_goodbye(segment.payload);
            if farewell && self.farewell().is_none() {
                self.farewell_at = segment.seq;
            }
            self.protocol = Protocol::Lines { farewell };
            self.extent = Extent::Known(segment.seq.wrapping_add(segment.payload_len));
        }
    }

    /// Looks whether a chunked body ends with this segment.
    fn last_chunk(&mut self, segment: &Segment<'_>) {
        if self.extent == Extent::Chunked && segment.payload.ends_with(b"0\r\n\r\n") {
            self.extent = Extent::Known(segment.seq.wrapping_add(segment.payload_len));
        }
    }

    /// Heads that begin in a segment, the first of them at `end`.
    fn http(&mut self, mut end: u32, segment: &Segment<'_>, peer: &Self) -> Extent {
        // A segment may end one message and begin others.
        for _ in 0..32 {
            let inside = end.wrapping_sub(segment.seq);
            if inside >= segment.payload_len {
                break;
            }
            let Some(rest) = segment.payload.get(inside as usize..).filter(|rest| !rest.is_empty()) else {
                return Extent::Lost;
            };
            self.extent = self.head(end, rest, peer);
            self.last_chunk(segment);
            if let (Protocol::WebSocket { .. }, Extent::Known(next)) = (self.protocol, self.extent) {
                return self.web_socket(next, segment);
            }
            match self.extent {
                Extent::Known(next) => end = next,
                other => return other,
            }
        }
        Extent::Known(end)
    }

    /// Reads the head at the start of `bytes`, whose offset in the stream is `at`. Returns where the message ends.
    fn head(&mut self, at: u32, bytes: &[u8], peer: &Self) -> Extent {
        if !matches!(sniff(bytes), Protocol::Http { .. }) {
            return Extent::Lost;
        }
        let Some(length) = head_length(bytes) else { return Extent::Lost };
        let messages = self.messages().saturating_add(1);
        let message = match bytes {
            [b'H', b'E', b'A', b'D', b' ', ..] => HttpMessage::Head,
            [b'C', b'O', b'N', b'N', b'E', b'C', b'T', b' ', ..] => HttpMessage::Connect,
            _ => HttpMessage::Plain,
        };
        self.protocol = Protocol::Http { message, messages };
        let end = at.wrapping_add(length as u32);
        let mut lines = bytes[..length].split(|&byte| byte == b'\n');
        let first = lines.next().unwrap_or(&[]);
        let response = first.starts_with(b"HTTP/");
        // RFC 9112 section 6.3: responses that have no body whatever their fields say.
        let status = first.get(9..12).unwrap_or(&[]);
        let empty = status.starts_with(b"1") || status == b"204" || status == b"304";
        if response && status == b"101" && switches_to_web_socket(&bytes[..length]) {
            self.protocol = Protocol::WebSocket { close: false };
            return Extent::Known(end);
        }
        let asked =
            if let Protocol::Http { message, .. } = peer.protocol { message } else { HttpMessage::Plain };
        if response && (empty || asked == HttpMessage::Head) {
            return Extent::Known(end);
        }
        if response && asked == HttpMessage::Connect && status.starts_with(b"2") {
            self.protocol = Protocol::Other;
            return Extent::Lost;
        }
        let mut content_length = None;
        for line in lines {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                content_length = std::str::from_utf8(value).ok().and_then(|value| value.parse::<u64>().ok());
            } else if name.eq_ignore_ascii_case(b"transfer-encoding")
                && value.to_ascii_lowercase().ends_with(b"chunked")
            {
                return Extent::Chunked;
            }
        }
        match content_length {
            // Sequence numbers can express distances below 2 GiB only, the head included.
            Some(length) if length < LONGEST => Extent::Known(end.wrapping_add(length as u32)),
            Some(_) => Extent::Lost,
            None if response => Extent::UntilClose,
            None => Extent::Known(end),
        }
    }
}
