//! Records and frames, each with its length: TLS, HTTP/2, WebSocket, FastCGI.

use linger_packet::Segment;

use super::{App, Extent, GOAWAY_RECORDS, LONGEST_ALERT, Protocol};

impl App {
    /// TLS records that begin in a segment, the first of them at `end`.
    pub(super) fn tls(&mut self, end: u32, segment: &Segment<'_>) -> Extent {
        records(end, segment, |at, &[record, major, _, high, low]: &[u8; 5], body| {
            let length = u16::from_be_bytes([high, low]);
            if !(20..=24).contains(&record) || major != 3 || length > 16_384 + 256 {
                return None;
            }
            // A farewell is an alert. If a record of GOAWAY's size stands directly before the alert, it begins there.
            let alert = record == 21 || record == 23 && length <= LONGEST_ALERT;
            let goaway = matches!(self.protocol, Protocol::Tls { record: 23, length, .. } if GOAWAY_RECORDS.contains(&length));
            if self.farewell().is_none() && !(alert && goaway) {
                self.farewell_at = at;
            }
            // Level and description (RFC 8446 section 6). An encrypted alert is longer.
            let in_clear = record == 21 && length == 2;
            let alert = body.get(1).copied().filter(|_| in_clear);
            self.protocol = Protocol::Tls { record, length, alert };
            Some(u32::from(length))
        })
    }

    /// HTTP/2 frames that begin in a segment, the first of them at `end` (RFC 9113 section 4.1).
    pub(super) fn http2(&mut self, end: u32, segment: &Segment<'_>) -> Extent {
        records(end, segment, |at, &[high, middle, low, kind, _, _, _, _, _]: &[u8; 9], body| {
            // After GOAWAY, streams that were open go on; SETTINGS, PING and WINDOW_UPDATE say nothing new.
            let goaway = match kind {
                // With an error it is no farewell, but the reason for an end (section 6.8).
                7 => body.get(4..8) == Some(&[0; 4]),
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

    /// WebSocket frames that begin in a segment, the first of them at `end` (RFC 6455 section 5.2). A frame with a length
    /// of 64 bits is not followed.
    pub(super) fn web_socket(&mut self, mut end: u32, segment: &Segment<'_>) -> Extent {
        loop {
            let inside = end.wrapping_sub(segment.seq);
            if inside >= segment.payload_len {
                return Extent::Known(end);
            }
            let bytes = segment.payload.get(inside as usize..).unwrap_or(&[]);
            let Some(&[first, second]) = bytes.first_chunk::<2>() else { return Extent::Lost };
            // The other codes are reserved: this is no frame.
            if !matches!(first & 0x0f, 0..=2 | 8..=10) {
                return Extent::Lost;
            }
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
    pub(super) fn fastcgi(&mut self, end: u32, segment: &Segment<'_>) -> Extent {
        records(end, segment, |_, &[version, record, _, _, high, low, padding, _]: &[u8; 8], _| {
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

/// Walks the records that begin in a segment, the first of them at `end`. `body` takes a header's sequence number, its bytes and
/// those that follow it in the segment, and returns the length of what follows, or `None` if there is no such record.
fn records<const HEADER: usize>(
    mut end: u32,
    segment: &Segment<'_>,
    mut body: impl FnMut(u32, &[u8; HEADER], &[u8]) -> Option<u32>,
) -> Extent {
    // Every record has at least its header, so the loop ends.
    loop {
        let inside = end.wrapping_sub(segment.seq);
        if inside >= segment.payload_len {
            return Extent::Known(end);
        }
        let rest = segment.payload.get(inside as usize..).unwrap_or(&[]);
        let header = rest.split_first_chunk::<HEADER>();
        let Some(length) = header.and_then(|(header, rest)| body(end, header, rest)) else {
            return Extent::Lost;
        };
        end = end.wrapping_add(HEADER as u32).wrapping_add(length);
    }
}
