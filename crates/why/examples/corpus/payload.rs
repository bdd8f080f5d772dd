//! What the bytes of a side say, read once more and independently of `app.rs`: on whole streams, not packet by packet.

use linger_why::{Farewell, Framed};

use crate::trace::Sent;

/// HTTP/1 messages of one side.
#[derive(Debug, Default)]
pub(crate) struct Http {
    pub(crate) messages: u32,
    pub(crate) chunked: bool,
    pub(crate) until_close: bool,
    /// The first line of its last message, in lower case.
    pub(crate) last: String,
    /// Which requests are HEAD.
    heads: Vec<bool>,
    /// Where its heads begin.
    pub(crate) starts: Vec<u32>,
    /// The last message's head has begun and not ended.
    pub(crate) in_head: bool,
    /// The last response says that the connection ends with it.
    pub(crate) last_of_all: bool,
    /// The first sequence number, and the offset of the end of the last message, where its head says so.
    start: u32,
    end: Option<u64>,
}

impl Http {
    pub(crate) fn of(side: &Sent<'_>, requests: bool) -> Self {
        Self::read(side, requests, &[])
    }

    /// The responses of a server to these requests.
    pub(crate) fn answers(server: &Sent<'_>, client: &Sent<'_>) -> Self {
        Self::read(server, false, &Self::of(client, true).heads)
    }

    /// `heads`: which responses have no body, since they answer HEAD.
    fn read(side: &Sent<'_>, requests: bool, heads: &[bool]) -> Self {
        let (start, bytes) = side.stream();
        let mut http = Self { start, ..Self::default() };
        let mut at = 0usize;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let Some(head) = head_end(rest) else {
                http.in_head = rest.starts_with(b"HTTP/1.");
                break;
            };
            let text = String::from_utf8_lossy(&rest[..head]).to_lowercase();
            let response = text.starts_with("http/1.");
            if response == requests || requests && !text.lines().next().unwrap_or("").contains(" http/1.") {
                if requests && !response && http.messages == 0 {
                    http.messages = 1;
                }
                break;
            }
            let interim = response && text.get(9..10) == Some("1") && text.get(9..12) != Some("101");
            let head_only = response && heads.get(http.messages as usize) == Some(&true);
            http.messages += u32::from(!interim);
            http.heads.push(text.starts_with("head "));
            http.last = text.lines().next().unwrap_or("").to_owned();
            http.starts.push(start.wrapping_add(at as u32));
            let field = |name: &str| {
                text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
            };
            let status = text.get(9..12).unwrap_or("");
            let options = field("connection").unwrap_or("");
            let has = |option: &str| options.split(',').any(|one| one.trim() == option);
            http.last_of_all =
                response && !interim && (has("close") || text.starts_with("http/1.0") && !has("keep-alive"));
            // Two lengths are one if they are the same.
            let mut lengths: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("content-length:"))
                .flat_map(|values| values.split(',').map(str::trim))
                .collect();
            lengths.dedup();
            let bodiless =
                head_only || response && (status.starts_with('1') || status == "204" || status == "304");
            (http.chunked, http.until_close) = (false, false);
            if !bodiless && field("transfer-encoding").is_some_and(|value| value.ends_with("chunked")) {
                match chunks(&rest[head..]) {
                    Some(length) => at += head + length,
                    None => {
                        http.chunked = true;
                        http.end = None;
                        return http;
                    }
                }
            } else if let (false, [length]) = (bodiless, &*lengths) {
                let Ok(length) = length.parse::<usize>() else {
                    http.end = None;
                    return http;
                };
                at += head + length;
            } else if !bodiless && lengths.len() > 1 {
                http.end = None;
                return http;
            } else if response && !bodiless {
                http.until_close = true;
                http.end = None;
                return http;
            } else {
                at += head;
            }
            http.end = Some(at as u64);
        }
        http
    }

    /// How many bytes of the last message lie beyond `at`.
    pub(crate) fn missing_from(&self, at: u32) -> Option<u64> {
        let at = i64::from(at.wrapping_sub(self.start) as i32);
        Some((self.end? as i64 - at).max(0) as u64)
    }
}

/// The length of a chunked body that is whole.
fn chunks(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let line = bytes.get(at..)?.windows(2).position(|two| two == b"\r\n")?;
        let text = std::str::from_utf8(&bytes[at..at + line]).ok()?;
        let size = usize::from_str_radix(text.split(';').next()?.trim(), 16).ok()?;
        at += line + 2;
        if size == 0 {
            return bytes.get(at..at + 2).map(|_| at + 2);
        }
        at += size + 2;
    }
}

/// The type and length of FastCGI records.
pub(crate) fn fastcgi(bytes: &[u8]) -> impl Iterator<Item = (u8, u16)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = bytes.get(at..at + 8)?;
        let length = u16::from_be_bytes([header[4], header[5]]);
        at += 8 + usize::from(length) + usize::from(header[6]);
        Some((header[1], length))
    })
}

/// TLS records: type, length, and the offset after the record.
fn tls(bytes: &[u8]) -> impl Iterator<Item = (u8, u16, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let header = bytes.get(at..at + 5)?;
        if !(20..=24).contains(&header[0]) || header[1] != 3 {
            return None;
        }
        let length = u16::from_be_bytes([header[3], header[4]]);
        at += 5 + usize::from(length);
        Some((header[0], length, at))
    })
}

/// The part of a side's stream that is TLS to its end, and the sequence number where it begins: from the first packet after the
/// last gap that begins with a record, such that records follow each other from there on.
pub(crate) fn tls_part(side: &Sent<'_>) -> Option<(u32, Vec<u8>)> {
    let (start, bytes) = side.last_stream();
    let packets = side.before.iter().filter(|seen| seen.len > 0);
    let offsets = packets.map(|seen| seen.data_end().wrapping_sub(seen.len).wrapping_sub(start) as usize);
    let mut parts = offsets.filter_map(|offset| bytes.get(offset..).map(|part| (offset, part)));
    let (offset, part) = parts.find(|(_, part)| {
        let end = tls(part).last().map_or(0, |(.., end)| end);
        matches!(part, [20..=23, 3, 0..=4, ..]) && end >= part.len()
    })?;
    Some((start.wrapping_add(offset as u32), part.to_vec()))
}

/// The sequence number after the last frame of HTTP/2 or WebSocket that begins in a server's stream.
pub(crate) fn frames_end(server: &Sent<'_>, protocol: Framed) -> Option<u32> {
    let (start, bytes) = server.stream();
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let mut at = match protocol {
        Framed::Http2 => 0,
        _ => head_end(&bytes).filter(|_| bytes.starts_with(b"HTTP/1.1 101"))?,
    };
    while at < bytes.len() {
        at += match protocol {
            Framed::Http2 => 9 + number(bytes.get(at..at + 3)?),
            _ => match bytes.get(at + 1)? & 0x7f {
                126 => 4 + number(bytes.get(at + 2..at + 4)?),
                127 => 10 + number(bytes.get(at + 2..at + 10)?),
                length => 2 + usize::from(length),
            },
        };
    }
    Some(start.wrapping_add(at as u32))
}

/// The sequence number after the last TLS record that begins in a side's stream.
pub(crate) fn tls_end(side: &Sent<'_>) -> Option<u32> {
    tls_last(side).map(|(_, end)| end)
}

/// The first sequence number of that record, and the one after it.
pub(crate) fn tls_last(side: &Sent<'_>) -> Option<(u32, u32)> {
    let (start, part) = tls_part(side)?;
    let (_, length, end) = tls(&part).last()?;
    let at = |offset: usize| start.wrapping_add(offset as u32);
    Some((at(end - usize::from(length) - 5), at(end)))
}

/// The alert with which a side's stream ends, in clear.
pub(crate) fn last_alert(side: &Sent<'_>) -> Option<u8> {
    let (_, part) = tls_part(side)?;
    let (kind, length, end) = tls(&part).last()?;
    if (kind, length) == (21, 2) { part.get(end - 1).copied() } else { None }
}

fn goodbye(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_uppercase();
    let last = text.trim_end().lines().last().unwrap_or("").to_owned();
    last == "QUIT" || last.ends_with(" LOGOUT") || last.starts_with("221 ")
}

/// Whether these bytes are a farewell and nothing else.
pub(crate) fn is_farewell(bytes: &[u8], which: Farewell) -> Result<(), String> {
    let right = match which {
        Farewell::Line => goodbye(bytes),
        Farewell::TlsAlert => {
            let records: Vec<_> = tls(bytes).collect();
            let small = |&(kind, length, _): &(u8, u16, usize)| kind == 21 || kind == 23 && length <= 41;
            records.last().is_some_and(|&(.., end)| end == bytes.len()) && records.iter().all(small)
        }
        Farewell::GoAway => bytes.get(3) == Some(&7) && bytes.get(13..17) == Some(&[0; 4]),
        Farewell::WebSocketClose => bytes.first().is_some_and(|first| first & 0x0f == 8),
        _ => false,
    };
    if right { Ok(()) } else { Err(format!("{} bytes of something else", bytes.len())) }
}

/// Whether a side's stream ends with a farewell.
pub(crate) fn ends_with_farewell(side: &Sent<'_>, which: Farewell) -> Result<(), String> {
    let (_, bytes) = side.last_stream();
    let last = side.last_said().map_or(&[][..], |seen| &seen.payload);
    let right = match which {
        Farewell::Line => goodbye(last),
        Farewell::TlsAlert => tls_part(side)
            .and_then(|(_, part)| tls(&part).last())
            .is_some_and(|(kind, length, _)| kind == 21 || kind == 23 && length <= 19),
        Farewell::GoAway => bytes.windows(4).any(|four| four[3] == 7),
        Farewell::WebSocketClose => bytes.windows(2).any(|two| two[0] & 0x0f == 8),
        _ => false,
    };
    if right { Ok(()) } else { Err("the last bytes are something else".into()) }
}

/// Where a head ends: after its first empty line. Lines end with LF, before which a CR may stand.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
    let mut length = lines.next()?.len();
    for line in lines {
        length += line.len();
        if matches!(line, b"\n" | b"\r\n") {
            return Some(length);
        }
    }
    None
}
