//! What the payload says about requests and responses: HTTP/1, TLS records, FastCGI records, SSH.
//!
//! One side's bytes are followed as long as they come in order and were captured; at the first gap it says
//! that it no longer knows.

use linger_packet::Segment;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Unseen,
    Http,
    Tls,
    FastCgi,
    Ssh,
    Other,
}

/// What is known of one side's stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct App {
    pub(crate) protocol: Protocol,
    bits: u8,
    /// The type of the last record (TLS, FastCGI).
    pub(crate) record: u8,
    /// Messages (HTTP) or records begun.
    pub(crate) messages: u16,
    /// The length of the last record.
    pub(crate) record_len: u16,
    /// The sequence number at which the message or record ends that is under way.
    end: u32,
}

const KNOWN_END: u8 = 1;
const CHUNKED: u8 = 2;
const LOST: u8 = 4;
const HEAD_METHOD: u8 = 8;
const FASTCGI_ENDED: u8 = 16;
const FASTCGI_STDIN_ENDED: u8 = 32;
const TLS_ALERT: u8 = 64;
const UNTIL_CLOSE: u8 = 128;

impl App {
    /// Takes a segment that begins where the last one ended.
    pub(crate) fn in_order(&mut self, segment: &Segment<'_>, peer: &Self) {
        if self.bits & LOST != 0 {
            return;
        }
        if self.protocol == Protocol::Unseen {
            self.protocol = sniff(segment.payload);
            self.end = segment.seq;
            self.bits |= KNOWN_END;
        }
        match self.protocol {
            Protocol::Http => self.http(segment, peer),
            Protocol::Tls => self.records(segment, 5),
            Protocol::FastCgi => self.records(segment, 8),
            Protocol::Unseen | Protocol::Ssh | Protocol::Other => self.bits |= LOST,
        }
    }

    /// A gap: from here on nothing is known.
    pub(crate) fn gap(&mut self) {
        self.bits |= LOST;
    }

    /// Whether the bytes are still followed.
    pub(crate) fn is_followed(&self) -> bool {
        self.bits & LOST == 0 && !matches!(self.protocol, Protocol::Unseen | Protocol::Other | Protocol::Ssh)
    }

    /// How many bytes of a message or record are missing after sequence number `at`: `Some(0)` where the
    /// message is whole, `None` where that cannot be known.
    pub(crate) fn missing_after(&self, at: u32) -> Option<u32> {
        if !self.is_followed() || self.bits & KNOWN_END == 0 {
            return None;
        }
        let missing = self.end.wrapping_sub(at);
        Some(if missing < 1 << 31 { missing } else { 0 })
    }

    /// Whether a message is under way whose end only a FIN or a last chunk would tell.
    pub(crate) fn open_ended(&self) -> bool {
        self.is_followed() && self.bits & KNOWN_END == 0
    }

    /// Whether the open end is a FIN.
    pub(crate) fn until_close(&self) -> bool {
        self.bits & UNTIL_CLOSE != 0
    }

    pub(crate) fn fastcgi_ended(&self) -> bool {
        self.bits & FASTCGI_ENDED != 0
    }

    pub(crate) fn fastcgi_stdin_ended(&self) -> bool {
        self.bits & FASTCGI_STDIN_ENDED != 0
    }

    /// Whether the last record is an alert: in the clear, or, as far as its length tells, encrypted (TLS 1.3
    /// hides the type; an alert is 2 bytes, its type 1, a tag of 8 or 16).
    pub(crate) fn ends_with_alert(&self) -> bool {
        self.protocol == Protocol::Tls
            && (self.bits & TLS_ALERT != 0 || self.record == 23 && self.record_len <= 19)
    }

    fn http(&mut self, segment: &Segment<'_>, peer: &Self) {
        let end_of_segment = segment.seq.wrapping_add(segment.payload_len);
        if self.bits & KNOWN_END == 0 {
            if self.bits & CHUNKED != 0 && segment.payload.ends_with(b"0\r\n\r\n") {
                self.end = end_of_segment;
                self.bits |= KNOWN_END;
            }
            return;
        }
        // A segment may end one message and begin others.
        for _ in 0..32 {
            let inside = self.end.wrapping_sub(segment.seq);
            if inside >= segment.payload_len || self.bits & KNOWN_END == 0 {
                return;
            }
            let Some(rest) = segment.payload.get(inside as usize..).filter(|rest| !rest.is_empty()) else {
                self.bits |= LOST;
                return;
            };
            if !self.head(rest, peer) {
                self.bits |= LOST;
                return;
            }
            if self.bits & CHUNKED != 0 && segment.payload.ends_with(b"0\r\n\r\n") {
                self.end = end_of_segment;
                self.bits |= KNOWN_END;
            }
        }
    }

    /// Reads the head that `bytes` begin with; false where it is none or not whole.
    fn head(&mut self, bytes: &[u8], peer: &Self) -> bool {
        if sniff(bytes) != Protocol::Http {
            return false;
        }
        let Some(length) = head_length(bytes) else { return false };
        self.messages = self.messages.saturating_add(1);
        self.bits &= !(CHUNKED | HEAD_METHOD | UNTIL_CLOSE);
        self.bits |= KNOWN_END;
        self.end = self.end.wrapping_add(length as u32);
        let response = bytes.starts_with(b"HTTP/");
        if bytes.starts_with(b"HEAD ") {
            self.bits |= HEAD_METHOD;
        }
        let mut lines = bytes[..length].split(|&byte| byte == b'\n');
        let first = lines.next().unwrap_or(&[]);
        // RFC 9112 section 6.3: responses that have no body whatever their fields say.
        let status = first.get(9..12).unwrap_or(&[]);
        if response
            && (status.starts_with(b"1")
                || status == b"204"
                || status == b"304"
                || peer.bits & HEAD_METHOD != 0)
        {
            return true;
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
                self.bits |= CHUNKED;
            }
        }
        match content_length {
            _ if self.bits & CHUNKED != 0 => self.bits &= !KNOWN_END,
            // Sequence numbers tell no more than 2 GiB apart.
            Some(length) if length < 1 << 31 => self.end = self.end.wrapping_add(length as u32),
            Some(_) => self.bits |= LOST,
            None if response => {
                self.bits &= !KNOWN_END;
                self.bits |= UNTIL_CLOSE;
            }
            None => {}
        }
        true
    }

    fn records(&mut self, segment: &Segment<'_>, header: usize) {
        // The shortest record is its header, so that this ends.
        loop {
            let inside = self.end.wrapping_sub(segment.seq);
            if inside >= segment.payload_len {
                return;
            }
            let Some(bytes) = segment.payload.get(inside as usize..).filter(|rest| rest.len() >= header)
            else {
                self.bits |= LOST;
                return;
            };
            let length = if header == 5 {
                usize::from(u16::from_be_bytes([bytes[3], bytes[4]]))
            } else {
                usize::from(u16::from_be_bytes([bytes[4], bytes[5]])) + usize::from(bytes[6])
            };
            let (kind, plausible) = if header == 5 {
                (bytes[0], (20..=24).contains(&bytes[0]) && bytes[1] == 3 && length <= 16_384 + 256)
            } else {
                (bytes[1], bytes[0] == 1 && (1..=11).contains(&bytes[1]))
            };
            if !plausible {
                self.bits |= LOST;
                return;
            }
            match (header, kind) {
                (5, 21) => self.bits |= TLS_ALERT,
                (8, 3) => self.bits |= FASTCGI_ENDED,
                (8, 5) if length == 0 => self.bits |= FASTCGI_STDIN_ENDED,
                _ => {}
            }
            self.record = kind;
            self.record_len = length.min(usize::from(u16::MAX)) as u16;
            self.messages = self.messages.saturating_add(1);
            self.end = self.end.wrapping_add((header + length) as u32);
        }
    }
}

/// How long the head is that `bytes` begin with: up to its empty line.
fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut last = 3;
    loop {
        // As far on as the byte there allows (Horspool): most of a head is neither of the two.
        last += match bytes.get(last)? {
            b'\n' if bytes[..last].ends_with(b"\r\n\r") => return Some(last + 1),
            b'\n' => 2,
            b'\r' => 1,
            _ => 4,
        };
    }
}

/// What a stream that begins with these bytes is.
fn sniff(bytes: &[u8]) -> Protocol {
    const METHODS: [&[u8]; 9] =
        [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];
    match bytes {
        [] => Protocol::Unseen,
        [0x16, 3, 0..=4, ..] => Protocol::Tls,
        // BEGIN_REQUEST from a gateway; STDOUT, STDERR or END_REQUEST from a responder.
        [1, 1, _, _, 0, 8, _, 0, ..] | [1, 3 | 6 | 7, 0, 1, ..] => Protocol::FastCgi,
        _ if bytes.starts_with(b"HTTP/1.") => Protocol::Http,
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) => Protocol::Http,
        _ if bytes.starts_with(b"SSH-") => Protocol::Ssh,
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
