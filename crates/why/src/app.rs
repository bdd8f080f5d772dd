//! What the payload says about requests and responses: HTTP/1, TLS records, FastCGI records, SSH, the lines of mail and FTP,
//! and the frames of HTTP/2 in clear and of WebSocket.
//!
//! One side's bytes are followed while they are in order and in the capture. After a gap nothing is known, with two
//! exceptions: TLS is followed again from a segment that begins with a record, and a response without a length still
//! ends at the FIN.

mod frames;
mod http;
mod sniff;

use linger_packet::Segment;

use crate::claim::{Farewell, Framed};
pub(crate) use http::HttpMessage;
pub(crate) use sniff::{HTTP2_PREFACE, field, head_length, lines};
use sniff::{goodbye, sniff};

/// The protocol of a stream, with the facts that only this protocol has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Unseen,
    /// HTTP/1, with the number of messages begun (interim responses are not counted: 1xx except 101), what the last one is, and
    /// its status if it is a response. `heads`: which of the last 16 requests are HEAD, the latest in the lowest bit.
    Http {
        message: HttpMessage,
        messages: u16,
        status: u16,
        heads: u16,
    },
    /// TLS, with the type and length of the last record, and the description of the alert in it if that is in clear.
    Tls {
        record: u8,
        length: u16,
        alert: Option<u8>,
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
    /// HTTP/2 in clear, with whether GOAWAY without an error was sent and nothing but control frames after it.
    Http2 {
        goaway: bool,
    },
    /// WebSocket, with whether the last frame is a close frame.
    WebSocket {
        close: bool,
    },
    Other,
    /// The snap length has cut the first segment, and what is left of it shows no protocol.
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
    /// `laps` times [`LAP`] after the sequence number `end`: too far for one sequence number to express.
    Far { end: u32, laps: u16 },
    /// The head of the message has begun, and its last segment does not end it.
    Head,
    /// The size line of the next chunk begins at this sequence number.
    Chunk(u32),
    /// After the last chunk. Where the chunks begin is not known any more.
    Chunked,
    /// At the FIN.
    UntilClose,
}

/// The longest distance that one sequence number expresses, in bytes. Numbers tell before from after up to 2 GiB; this is
/// 1 MiB less.
const LONGEST: u64 = (1 << 31) - (1 << 20);
/// A longer distance is followed in steps of this many bytes.
const LAP: u64 = 1 << 30;

impl Extent {
    /// The end of `length` bytes that begin at `at`. `segment` is the latest that was seen.
    fn of(at: u32, length: u64, segment: &Segment<'_>) -> Self {
        if length < LONGEST {
            return Self::Known(at.wrapping_add(length as u32));
        }
        let first = length % LAP;
        u16::try_from(length / LAP).map_or(Self::Lost, |laps| {
            Self::Far { end: at.wrapping_add(first as u32), laps }.seen_to(segment)
        })
    }

    /// This extent after `segment` was seen: while the segment reaches `end`, `end` moves on by a lap.
    fn seen_to(self, segment: &Segment<'_>) -> Self {
        let Self::Far { mut end, mut laps } = self else { return self };
        let to = segment.seq.wrapping_add(segment.payload_len);
        while laps > 0 && to.wrapping_sub(end) < 1 << 31 {
            end = end.wrapping_add(LAP as u32);
            laps -= 1;
        }
        if laps == 0 { Self::Known(end) } else { Self::Far { end, laps } }
    }
}

/// The facts about one side's stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct App {
    pub(crate) protocol: Protocol,
    extent: Extent,
    /// The sequence number at which the farewell begins, if the stream ends with one. Of HTTP/1: where the last message begins.
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
        // Most segments lie within a message or a record, and say nothing new.
        if !self.is_inside(segment) {
            self.take(segment, peer);
        }
    }

    /// Whether a segment ends before the message or record in which it begins, or with it.
    #[inline]
    fn is_inside(&self, segment: &Segment<'_>) -> bool {
        matches!(self.extent, Extent::Known(end) if end.wrapping_sub(segment.seq) >= segment.payload_len)
            && self.has_ends()
    }

    fn take(&mut self, segment: &Segment<'_>, peer: &Self) {
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
            let preface = segment.payload.starts_with(HTTP2_PREFACE);
            let skipped = if preface { HTTP2_PREFACE.len() as u32 } else { 0 };
            self.extent = Extent::Known(segment.seq.wrapping_add(skipped));
        }
        if let Protocol::Lines { .. } = self.protocol {
            return self.lines(segment);
        }
        let end = match self.extent {
            Extent::Known(end) => end,
            Extent::Chunk(at) => match self.chunks(at, segment) {
                Extent::Known(end) => end,
                other => {
                    self.extent = other;
                    return self.last_chunk(segment);
                }
            },
            Extent::Far { .. } => {
                self.extent = self.extent.seen_to(segment);
                return;
            }
            Extent::Head => {
                self.extent = http::rest_of_head(segment);
                return;
            }
            _ => return self.open_end(segment),
        };
        self.extent = match self.protocol {
            Protocol::Http { .. } if matches!(peer.protocol, Protocol::WebSocket { .. }) => {
                self.protocol = Protocol::WebSocket { close: false };
                self.web_socket(end, segment)
            }
            Protocol::Http { .. } if peer.is_http2() && begins_with_preface(end, segment) => {
                self.protocol = Protocol::Http2 { goaway: false };
                self.http2(end.wrapping_add(HTTP2_PREFACE.len() as u32), segment)
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
            // A server's first frame is SETTINGS (RFC 9113 section 3.4).
            Protocol::Other
                if matches!(peer.protocol, Protocol::Http2 { .. }) && segment.payload.get(3) == Some(&4) =>
            {
                self.protocol = Protocol::Http2 { goaway: false };
                self.http2(end, segment)
            }
            Protocol::Unseen | Protocol::Ssh | Protocol::Lines { .. } | Protocol::Other | Protocol::Cut => {
                Extent::Lost
            }
        };
    }

    /// Takes a segment of a stream whose next end is not known. It may end a chunked body, or begin TLS, to which many
    /// protocols switch.
    fn open_end(&mut self, segment: &Segment<'_>) {
        let may_be_tls = matches!(self.protocol, Protocol::Other | Protocol::Tls { .. });
        if may_be_tls && matches!(sniff(segment.payload), Protocol::Tls { .. }) {
            self.protocol = Protocol::Tls { record: 0, length: 0, alert: None };
            self.extent = self.tls(segment.seq, segment);
        } else {
            self.last_chunk(segment);
        }
    }

    /// Takes the first segment after missing bytes. TLS is followed again if the segment begins with a record.
    pub(crate) fn after_gap(&mut self, segment: &Segment<'_>) {
        self.gap();
        if matches!(self.protocol, Protocol::Tls { .. })
            && matches!(sniff(segment.payload), Protocol::Tls { .. })
        {
            self.protocol = Protocol::Tls { record: 0, length: 0, alert: None };
            self.extent = self.tls(segment.seq, segment);
        }
    }

    /// Notes that bytes are missing: the end of the message is lost, unless it is the FIN.
    pub(crate) fn gap(&mut self) {
        if self.protocol == Protocol::Unseen {
            self.protocol = Protocol::Other;
        }
        if self.extent != Extent::UntilClose {
            self.extent = Extent::Lost;
        }
    }

    /// Whether a message or record ends at `seq`, and nothing after it was seen.
    pub(crate) fn ends_at(&self, seq: u32) -> bool {
        self.extent == Extent::Known(seq)
    }

    /// Whether the bytes are still followed.
    pub(crate) fn is_followed(&self) -> bool {
        self.extent != Extent::Lost
    }

    /// How many bytes of a message or record are missing after sequence number `at`: `Some(0)` if the message is whole, `None`
    /// if the number cannot be known.
    pub(crate) fn missing_after(&self, at: u32) -> Option<u64> {
        let (end, laps) = match self.extent {
            Extent::Known(end) => (end, 0),
            Extent::Far { end, laps } => (end, laps),
            _ => return None,
        };
        let missing = end.wrapping_sub(at);
        Some(u64::from(if missing < 1 << 31 { missing } else { 0 }) + u64::from(laps) * LAP)
    }

    /// Whether the current message ends only with a FIN or with a last chunk.
    pub(crate) fn open_ended(&self) -> bool {
        matches!(self.extent, Extent::Chunk(_) | Extent::Chunked | Extent::UntilClose)
    }

    /// Whether chunks are followed, and the last one has not come.
    pub(crate) fn in_chunks(&self) -> bool {
        matches!(self.extent, Extent::Chunk(_))
    }

    /// Whether the head of a message has begun and not ended.
    pub(crate) fn in_head(&self) -> bool {
        self.extent == Extent::Head
    }

    /// Whether the last response says that the connection ends with it.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self.protocol, Protocol::Http { message: HttpMessage::LastResponse, .. })
    }

    /// HTTP/1: the sequence number at which the last message begins.
    pub(crate) fn message_at(&self) -> Option<u32> {
        (self.messages() > 0).then_some(self.farewell_at)
    }

    /// The alert with which the stream ends, if it is in clear.
    pub(crate) fn alert(&self) -> Option<u8> {
        if let Protocol::Tls { record: 21, alert, .. } = self.protocol { alert } else { None }
    }

    /// Whether the current message ends only with the FIN.
    pub(crate) fn until_close(&self) -> bool {
        self.extent == Extent::UntilClose
    }

    pub(crate) fn is_http(&self) -> bool {
        matches!(self.protocol, Protocol::Http { .. })
    }

    /// Whether it speaks HTTP/2 in clear.
    #[inline]
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.protocol, Protocol::Http2 { .. })
    }

    /// Whether the server of a CONNECT request speaks another protocol by now.
    fn has_become_tunnel(&self) -> bool {
        !self.is_http() && self.protocol != Protocol::Unseen
    }

    /// Whether the protocol says where its messages end.
    #[inline]
    pub(crate) fn has_ends(&self) -> bool {
        match self.protocol {
            Protocol::Http { .. }
            | Protocol::Tls { .. }
            | Protocol::FastCgi { .. }
            | Protocol::Http2 { .. }
            | Protocol::WebSocket { .. } => true,
            Protocol::Unseen | Protocol::Ssh | Protocol::Lines { .. } | Protocol::Other | Protocol::Cut => {
                false
            }
        }
    }

    /// The protocol, if it consists of frames.
    pub(crate) fn framed(&self) -> Option<Framed> {
        match self.protocol {
            Protocol::Http2 { .. } => Some(Framed::Http2),
            Protocol::WebSocket { .. } => Some(Framed::WebSocket),
            _ => None,
        }
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
        let size = matches!(self.protocol, Protocol::Tls { record: 23, length, .. } if GOAWAY_RECORDS.contains(&length));
        self.is_followed() && inside && size
    }

    /// The farewell with which the stream ends.
    pub(crate) fn farewell(&self) -> Option<Farewell> {
        match self.protocol {
            _ if !self.is_followed() => None,
            Protocol::Lines { farewell: true } => Some(Farewell::Line),
            Protocol::Tls { record: 21, .. } => Some(Farewell::TlsAlert),
            // For an encrypted record only the length tells.
            Protocol::Tls { record: 23, length: ..=LONGEST_ALERT, .. } => Some(Farewell::TlsAlert),
            Protocol::Http2 { goaway: true } => Some(Farewell::GoAway),
            Protocol::WebSocket { close: true } => Some(Farewell::WebSocketClose),
            _ => None,
        }
    }

    /// Takes a segment of lines, which turn into TLS records after STARTTLS and its like.
    fn lines(&mut self, segment: &Segment<'_>) {
        if let protocol @ Protocol::Tls { .. } = sniff(segment.payload) {
            self.protocol = protocol;
            self.extent = self.tls(segment.seq, segment);
        } else if !segment.payload.is_empty() {
            let farewell = goodbye(segment.payload);
            if let Some(begin) = farewell.filter(|_| self.farewell().is_none()) {
                // What stands before it in the same segment is none.
                self.farewell_at = segment.seq.wrapping_add(begin as u32);
            }
            self.protocol = Protocol::Lines { farewell: farewell.is_some() };
            self.extent = Extent::Known(segment.seq.wrapping_add(segment.payload_len));
        }
    }
}

/// Whether HTTP/2's preface stands at the sequence number `at` of a segment.
fn begins_with_preface(at: u32, segment: &Segment<'_>) -> bool {
    segment
        .payload
        .get(at.wrapping_sub(segment.seq) as usize..)
        .is_some_and(|rest| rest.starts_with(HTTP2_PREFACE))
}

#[cfg(test)]
mod tests {
    use linger_packet::{Flags, LinkType};

    use super::*;

    /// A raw IPv4 frame with a segment of so many bytes.
    fn frame(seq: u32, bytes: usize) -> Vec<u8> {
        let mut frame = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        frame[2..4].copy_from_slice(&(40 + bytes as u16).to_be_bytes());
        frame.extend([0, 80, 0, 81]);
        frame.extend(seq.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0x50, Flags::ACK.0, 0, 0, 0, 0, 0, 0]);
        frame.resize(40 + bytes, b'x');
        frame
    }

    #[test]
    fn a_long_body_ends_after_all_its_laps() {
        let see = |extent: Extent, seq: u32| {
            let frame = frame(seq, 1_000);
            extent.seen_to(&Segment::from_frame(LinkType::RAW, &frame, frame.len()).unwrap())
        };
        let first = frame(500, 1_000);
        let first = Segment::from_frame(LinkType::RAW, &first, first.len()).unwrap();
        // Three laps and ten bytes from 600 on, beyond the end of the circle.
        let body = 3 * LAP + 10;
        let mut extent = Extent::of(600, body, &first);
        let app = |extent| App { protocol: Protocol::Other, extent, farewell_at: 0 };
        for sent in
            [900, LAP - 1_000, LAP, 2 * LAP - 990, 2 * LAP, 3 * LAP - 2_000, body - 1_001, body - 1_000]
        {
            let at = 600_u32.wrapping_add(sent as u32);
            extent = see(extent, at);
            let end = at.wrapping_add(1_000);
            assert_eq!(app(extent).missing_after(end), Some(body - sent - 1_000), "{sent}");
        }
        assert_eq!(extent, Extent::Known(600_u32.wrapping_add(body as u32)));
        assert_eq!(Extent::of(600, LAP << 16, &first), Extent::Lost);
    }
}
