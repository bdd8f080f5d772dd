//! Messages of HTTP/1: heads, and where bodies end (RFC 9112).

use std::fmt;

use linger_packet::Segment;

use super::sniff::{field, head_length, lines, sniff, switches_to};
use super::{App, Extent, LONGEST, Protocol};

/// A response, or a request by its method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum HttpMessage {
    #[default]
    Response,
    Get,
    Post,
    /// Its response has no body.
    Head,
    Put,
    Delete,
    Options,
    Patch,
    /// What follows a response of success is another protocol (RFC 9110 section 9.3.6).
    Connect,
    Trace,
    /// A response with which the connection ends (RFC 9112 section 9.3).
    LastResponse,
}

impl HttpMessage {
    pub(super) const METHODS: [(&'static str, Self); 9] = [
        ("GET", Self::Get),
        ("POST", Self::Post),
        ("HEAD", Self::Head),
        ("PUT", Self::Put),
        ("DELETE", Self::Delete),
        ("OPTIONS", Self::Options),
        ("PATCH", Self::Patch),
        ("CONNECT", Self::Connect),
        ("TRACE", Self::Trace),
    ];

    /// The message that begins with these bytes.
    fn of(bytes: &[u8]) -> Self {
        let of = |(name, _): &&(&'static str, Self)| {
            bytes.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' '))
        };
        Self::METHODS.iter().find(of).map_or(Self::Response, |(_, method)| *method)
    }

    /// The method's name; none for a response.
    pub(crate) fn method(self) -> Option<&'static str> {
        Self::METHODS.iter().find(|(_, method)| *method == self).map(|(name, _)| *name)
    }
}

impl fmt::Display for HttpMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method().unwrap_or("response"))
    }
}

/// What the fields of a head say of the body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyLength {
    None,
    Length(u64),
    Chunked,
    /// Lengths that contradict each other, or that are no number (RFC 9112 section 6.3): receivers differ on them.
    Unclear,
}

/// The fields of a head that tell where the message and the connection end.
struct Fields {
    body: BodyLength,
    close: bool,
    keep_alive: bool,
}

impl Fields {
    fn of<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut fields = Self { body: BodyLength::None, close: false, keep_alive: false };
        for (name, value) in lines.filter_map(field) {
            let mut values = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
            if name.eq_ignore_ascii_case(b"content-length") {
                values.for_each(|value| fields.take_length(value));
            } else if name.eq_ignore_ascii_case(b"transfer-encoding")
                && value.trim_ascii().to_ascii_lowercase().ends_with(b"chunked")
            {
                fields.body = BodyLength::Chunked;
            } else if name.eq_ignore_ascii_case(b"connection") {
                fields.close |= values.clone().any(|value| value.eq_ignore_ascii_case(b"close"));
                fields.keep_alive |= values.any(|value| value.eq_ignore_ascii_case(b"keep-alive"));
            }
        }
        fields
    }

    /// Takes a Content-Length. A repeated one must have the same value.
    fn take_length(&mut self, value: &[u8]) {
        let digits =
            std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let length = digits.and_then(|digits| digits.parse().ok());
        self.body = match (self.body, length) {
            (BodyLength::Chunked, _) => BodyLength::Chunked,
            (BodyLength::None, Some(length)) => BodyLength::Length(length),
            (BodyLength::Length(known), Some(length)) if known == length => self.body,
            _ => BodyLength::Unclear,
        };
    }
}

fn is_captured(segment: &Segment<'_>) -> bool {
    segment.payload.len() == segment.payload_len as usize
}

/// The extent after a further segment of a head that began in an earlier one. The fields of such a head are not read: once it
/// has ended, nothing is known.
pub(super) fn rest_of_head(segment: &Segment<'_>) -> Extent {
    // The empty line may lie on both sides of the segment's beginning.
    let ends = segment.payload.starts_with(b"\n")
        || segment.payload.starts_with(b"\r\n")
        || head_length(segment.payload).is_some();
    if is_captured(segment) && !ends { Extent::Head } else { Extent::Lost }
}

/// The longest size line of a chunk, its extensions included, that is followed.
const SIZE_LINE: usize = 80;

impl App {
    /// Heads that begin in a segment, the first of them at `end`.
    pub(super) fn http(&mut self, mut end: u32, segment: &Segment<'_>, peer: &Self) -> Extent {
        // A segment may end one message and begin others. Each has a head, and no byte is read twice, so the loop ends after a
        // time that grows with the segment's length alone.
        loop {
            let inside = end.wrapping_sub(segment.seq);
            if inside >= segment.payload_len {
                return Extent::Known(end);
            }
            let Some(rest) = segment.payload.get(inside as usize..).filter(|rest| !rest.is_empty()) else {
                return Extent::Lost;
            };
            self.extent = self.head(end, rest, segment, peer);
            if let Extent::Chunk(at) = self.extent {
                self.extent = self.chunks(at, segment);
            }
            self.last_chunk(segment);
            match (self.protocol, self.extent) {
                (Protocol::WebSocket { .. }, Extent::Known(next)) => return self.web_socket(next, segment),
                (Protocol::Http2 { .. }, Extent::Known(next)) => return self.http2(next, segment),
                _ => {}
            }
            match self.extent {
                Extent::Known(next) => end = next,
                other => return other,
            }
        }
    }

    /// Reads the head at `at`, where `bytes` of a segment begin. Returns where the message ends.
    fn head(&mut self, at: u32, bytes: &[u8], segment: &Segment<'_>, peer: &Self) -> Extent {
        if !matches!(sniff(bytes), Protocol::Http { .. }) {
            return Extent::Lost;
        }
        let Some(length) = head_length(bytes) else {
            return if is_captured(segment) { Extent::Head } else { Extent::Lost };
        };
        let message = HttpMessage::of(bytes);
        let end = at.wrapping_add(length as u32);
        let mut lines = lines(&bytes[..length]);
        let first = lines.next().unwrap_or(&[]);
        let response = first.starts_with(b"HTTP/");
        let status = first.get(9..12).filter(|_| response).unwrap_or(&[]);
        let fields = Fields::of(lines);
        // Interim responses announce another one (RFC 9110 section 15.2).
        let interim = status.starts_with(b"1") && status != b"101";
        let messages = self.messages().saturating_add(u16::from(!interim));
        let number = std::str::from_utf8(status).ok().and_then(|status| status.parse().ok()).unwrap_or(0);
        let heads = if let Protocol::Http { heads, .. } = self.protocol { heads << 1 } else { 0 };
        let heads = heads | u16::from(message == HttpMessage::Head);
        let old = first.starts_with(b"HTTP/1.0");
        let last = response && !interim && (fields.close || old && !fields.keep_alive);
        let message = if last { HttpMessage::LastResponse } else { message };
        self.protocol = Protocol::Http { message, messages, status: number, heads };
        self.farewell_at = at;
        // RFC 9112 section 6.3: responses that have no body whatever their fields say.
        let empty = status.starts_with(b"1") || status == b"204" || status == b"304";
        if let Some(protocol) = switches_to(&bytes[..length]).filter(|_| response && status == b"101") {
            self.protocol = protocol;
            return Extent::Known(end);
        }
        if response && (empty || peer.asked_for_head(messages)) {
            return Extent::Known(end);
        }
        let asked = match peer.protocol {
            Protocol::Http { message, .. } => message,
            _ => HttpMessage::Response,
        };
        if response && asked == HttpMessage::Connect && status.starts_with(b"2") {
            self.protocol = Protocol::Other;
            return Extent::Lost;
        }
        match fields.body {
            BodyLength::Chunked => Extent::Chunk(end),
            BodyLength::Length(length) => Extent::of(end, length, segment),
            BodyLength::Unclear => Extent::Lost,
            BodyLength::None if response => Extent::UntilClose,
            BodyLength::None => Extent::Known(end),
        }
    }

    /// Whether the request of this number, counted from 1, is HEAD. Clients may send further requests before its response.
    fn asked_for_head(&self, number: u16) -> bool {
        let Protocol::Http { messages, heads, .. } = self.protocol else { return false };
        let behind = u32::from(messages.saturating_sub(number));
        heads.checked_shr(behind).is_some_and(|heads| heads & 1 == 1)
    }

    /// Chunks that begin in a segment, the size line of the first of them at `at` (RFC 9112 section 7.1). Returns the end of the
    /// body if the last chunk is among them. After a size line that spans two segments the chunks are not followed further.
    pub(super) fn chunks(&self, mut at: u32, segment: &Segment<'_>) -> Extent {
        // The shortest chunk has six bytes, so the loop ends.
        loop {
            let inside = at.wrapping_sub(segment.seq);
            if inside >= segment.payload_len {
                return Extent::Chunk(at);
            }
            let rest = segment.payload.get(inside as usize..).unwrap_or(&[]);
            let Some(line) = rest.iter().take(SIZE_LINE).position(|&byte| byte == b'\n') else {
                return Extent::Chunked;
            };
            let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let size = std::str::from_utf8(&rest[..digits]).ok();
            match size.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
                Some(0) => return trailer(at, rest, line),
                Some(size) if u64::from(size) < LONGEST => {
                    at = at.wrapping_add(line as u32 + 1).wrapping_add(size).wrapping_add(2);
                }
                _ => return Extent::Lost,
            }
        }
    }

    /// Looks whether a chunked body that is not followed ends with this segment.
    pub(super) fn last_chunk(&mut self, segment: &Segment<'_>) {
        if self.extent == Extent::Chunked && segment.payload.ends_with(b"0\r\n\r\n") {
            self.extent = Extent::Known(segment.seq.wrapping_add(segment.payload_len));
        }
    }
}

/// The end of a chunked body whose last size line is the first of `rest`, which begins at `at`: after the first empty line.
fn trailer(at: u32, rest: &[u8], line: usize) -> Extent {
    let fields = &rest[line + 1..];
    let length = if fields.starts_with(b"\r\n") { Some(2) } else { head_length(fields) };
    length.map_or(Extent::Chunked, |length| Extent::Known(at.wrapping_add((line + 1 + length) as u32)))
}
