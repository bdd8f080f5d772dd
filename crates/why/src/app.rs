//! What the payload says about requests and responses: HTTP/1, TLS records, FastCGI records, SSH, the lines of mail and FTP,
//! and the frames of HTTP/2 in clear and of WebSocket.
//!
//! One side's bytes are followed while they are in order and in the capture. After a gap nothing is known.

use linger_packet::Segment;

use crate::claim::Farewell;

/// The protocol of a stream, with the facts that only this protocol has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Unseen,
    /// HTTP/1, with the number of messages begun. `head`: the last message is a HEAD request, whose response has no body.
    Http {
        head: bool,
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
        if self.protocol == Protocol::Other && matches!(sniff(segment.payload), Protocol::Tls { .. }) {
            self.protocol = Protocol::Tls { record: 0, length: 0 };
            self.extent = self.tls(segment.seq, segment);
        } else {
            self.last_chunk(segment);
        }
    }

    /// The same after bytes that are missing: TLS goes on where a segment begins with a record.
    pub(crate) fn after_gap(&mut self, segment: &Segment<'_>) {
        self.gap();
        if matches!(self.protocol, Protocol::Tls { .. }) && matches!(sniff(segment.payload), Protocol::Tls { .. }) {
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
        let size = matches!(self.protocol, Protocol::Tls { record: 23, length } if GOAWAY_RECORDS.contains(&length));
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
        self.protocol = Protocol::Http { head: bytes.starts_with(b"HEAD "), messages };
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
        if response && (empty || matches!(peer.protocol, Protocol::Http { head: true, .. })) {
            return Extent::Known(end);
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

    /// TLS records that begin in a segment, the first of them at `end`.
    fn tls(&mut self, end: u32, segment: &Segment<'_>) -> Extent {
        records(end, segment, |at, &[record, major, _, high, low]: &[u8; 5]| {
            let length = u16::from_be_bytes([high, low]);
            if !(20..=24).contains(&record) || major != 3 || length > 16_384 + 256 {
                return None;
            }
            // A farewell is an alert, and a GOAWAY directly before it.
            let alert = record == 21 || record == 23 && length <= LONGEST_ALERT;
            let goaway = matches!(self.protocol, Protocol::Tls { record: 23, length } if GOAWAY_RECORDS.contains(&length));
            if self.farewell().is_none() && !(alert && goaway) {
                self.farewell_at = at;
            }
            self.protocol = Protocol::Tls { record, length };
            Some(u32::from(length))
        })
    }

    /// HTTP/2 frames that begin in a segment, the first of them at `end` (RFC 9113 section 4.1).
    fn http2(&mut self, end: u32, segment: &Segment<'_>) -> Extent {
        records(end, segment, |at, &[high, middle, low, kind, _, _, _, _, _]: &[u8; 9]| {
            // After GOAWAY, streams that were open go on; SETTINGS, PING and WINDOW_UPDATE say nothing new.
            let goaway = match kind {
                7 => true,
                4 | 6 | 8 => self.farewell().is_some(),
                _ => false,
            };
            if goaway && self.farewell().is_none() {
                self.farewell_at = at;
            }
            self.protocol = Protocol::Http2 { goaway };
            Some(u32::from_be_bytes([0, high, middle, low]))
        })
    }

    /// WebSocket frames that begin in a segment, the first of them at `end` (RFC 6455 section 5.2).
    fn web_socket(&mut self, mut end: u32, segment: &Segment<'_>) -> Extent {
        loop {
            let inside = end.wrapping_sub(segment.seq);
            if inside >= segment.payload_len {
                return Extent::Known(end);
            }
            let bytes = segment.payload.get(inside as usize..).unwrap_or(&[]);
            let Some(&[first, second]) = bytes.first_chunk::<2>() else { return Extent::Lost };
            let (extra, length) = match (second & 0x7f, bytes.get(2..4)) {
                (length @ ..126, _) => (0, u32::from(length)),
                (126, Some(&[high, low])) => (2, u32::from(u16::from_be_bytes([high, low]))),
                _ => return Extent::Lost,
            };
            let close = first & 0x0f == 8;
            if close && self.farewell().is_none() {
                self.farewell_at = end;
            }
            self.protocol = Protocol::WebSocket { close };
            let mask = if second & 0x80 == 0 { 0 } else { 4 };
            end = end.wrapping_add(2 + extra + mask + length);
        }
    }

    /// FastCGI records that begin in a segment, the first of them at `end`.
    fn fastcgi(&mut self, end: u32, segment: &Segment<'_>) -> Extent {
        records(end, segment, |_, &[version, record, _, _, high, low, padding, _]: &[u8; 8]| {
            let length = u32::from(u16::from_be_bytes([high, low]));
            if version != 1 || !(1..=11).contains(&record) {
                return None;
            }
            if let Protocol::FastCgi { ended, stdin_ended } = &mut self.protocol {
                *ended |= record == 3;
                *stdin_ended |= record == 5 && length == 0;
            }
            Some(length + u32::from(padding))
        })
    }
}

/// Walks the records that begin in a segment, the first of them at `end`. `body` takes a header's sequence number and its
/// bytes, and returns the length of what follows, or `None` if there is no such record.
fn records<const HEADER: usize>(
    mut end: u32,
    segment: &Segment<'_>,
    mut body: impl FnMut(u32, &[u8; HEADER]) -> Option<u32>,
) -> Extent {
    // The shortest record is its header, so that this ends.
    loop {
        let inside = end.wrapping_sub(segment.seq);
        if inside >= segment.payload_len {
            return Extent::Known(end);
        }
        let header = segment.payload.get(inside as usize..).and_then(|rest| rest.first_chunk::<HEADER>());
        let Some(length) = header.and_then(|header| body(end, header)) else { return Extent::Lost };
        end = end.wrapping_add(HEADER as u32).wrapping_add(length);
    }
}

/// Whether the head of a 101 response switches to WebSocket.
fn switches_to_web_socket(head: &[u8]) -> bool {
    head.split(|&byte| byte == b'\n').any(|line| {
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { return false };
        line[..colon].eq_ignore_ascii_case(b"upgrade")
            && line[colon + 1..].trim_ascii().eq_ignore_ascii_case(b"websocket")
    })
}

/// The length of the message head at the start of `bytes`, its empty line included.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut last = 3;
    loop {
        // Skips as far as the byte there allows (Horspool's search): most bytes of a head are neither of the two.
        last += match bytes.get(last)? {
            b'\n' if bytes[..last].ends_with(b"\r\n\r") => return Some(last + 1),
            b'\n' => 2,
            b'\r' => 1,
            _ => 4,
        };
    }
}

/// Whether a stream begins as those of mail and FTP do: a server greets, a client says who it is.
fn is_greeting(bytes: &[u8]) -> bool {
    const GREETINGS: [&[u8]; 11] = [
        b"220 ",
        b"220-",
        b"+OK",
        b"* OK",
        b"EHLO ",
        b"HELO ",
        b"LHLO ",
        b"USER ",
        b"CAPA\r\n",
        b"AUTH ",
        b"FEAT\r\n",
    ];
    let starts = |greeting: &&[u8]| {
        bytes.get(..greeting.len()).is_some_and(|bytes| bytes.eq_ignore_ascii_case(greeting))
    };
    bytes.ends_with(b"\r\n") && GREETINGS.iter().any(starts)
}

/// Whether the last line ends the conversation: `QUIT` (SMTP, FTP, POP3), `LOGOUT` after a tag (IMAP), and the reply 221 (SMTP,
/// FTP), after which RFC 5321 section 3.8 has the server close.
fn says_goodbye(bytes: &[u8]) -> bool {
    let Some(lines) = bytes.strip_suffix(b"\r\n") else { return false };
    let last = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or(lines);
    let command = last.rsplit(|byte| *byte == b' ').next().unwrap_or(last);
    last.eq_ignore_ascii_case(b"QUIT")
        || command.len() < last.len() && command.eq_ignore_ascii_case(b"LOGOUT")
        || last.starts_with(b"221 ")
}

/// Whether the first line, as far as it is here, can be that of a request: other protocols have a CONNECT too.
fn is_request_line(bytes: &[u8]) -> bool {
    match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => bytes[..end].windows(8).any(|eight| eight == b" HTTP/1."),
        None => true,
    }
}

/// RFC 9113 section 3.4: what a client sends before its first frame.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol of a stream that begins with these bytes.
fn sniff(bytes: &[u8]) -> Protocol {
    const METHODS: [&[u8]; 9] =
        [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];
    match bytes {
        [0x14..=0x17, 3, 0..=4, high, ..] if *high <= 0x41 => Protocol::Tls { record: 0, length: 0 },
        // BEGIN_REQUEST from a gateway; STDOUT, STDERR or END_REQUEST from a responder.
        [1, 1, _, _, 0, 8, _, 0, ..] | [1, 3 | 6 | 7, 0, 1, ..] => {
            Protocol::FastCgi { ended: false, stdin_ended: false }
        }
        _ if bytes.starts_with(b"HTTP/1.") => Protocol::Http { head: false, messages: 0 },
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) && is_request_line(bytes) => {
            Protocol::Http { head: false, messages: 0 }
        }
        _ if bytes.starts_with(b"SSH-") => Protocol::Ssh,
        _ if bytes.starts_with(HTTP2_PREFACE) => Protocol::Http2 { goaway: false },
        _ if is_greeting(bytes) => Protocol::Lines { farewell: false },
        _ => Protocol::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_head_ends_at_its_first_empty_line(text in "[\r\na]{0,24}") {
            let simple = text.as_bytes().windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
            proptest::prop_assert_eq!(head_length(text.as_bytes()), simple);
        }
    }
}
