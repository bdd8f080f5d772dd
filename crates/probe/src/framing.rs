//! Finds the end of a response from its own framing.

use linger_fastcgi::replies::{Replies, Reply};
use linger_untrusted::Untrusted;

use crate::no_response::NoResponse;
use crate::websocket::frames::ServerFrames;

/// Largest head, in bytes. Clients take as much or less: hyper some 400 KB, curl 300 KB, browsers 256 KB, Python 64 KB a line.
const MOST_HEAD: usize = 512 << 10;
/// Most fields of a head: as many as fit into it, each with a name and a line end.
const MOST_FIELDS: usize = MOST_HEAD / 4;
/// Most interim responses (1xx) before the response. curl takes as many as come.
const MOST_INTERIM: usize = 1000;
/// How much is shown of what is no response, in bytes.
const OPENING: usize = 40;

/// Parses a response as it arrives.
#[derive(Debug)]
#[non_exhaustive]
pub struct Framing {
    kind: FramingKind,
    /// Bytes of the body so far.
    pub got: u64,
    /// The length of the body, once it is known.
    pub expected: Option<u64>,
    /// Whether the end of the response was seen.
    pub complete: bool,
    /// The status line's number, once it is known; `None` where the protocol has none.
    pub status: Option<u16>,
    /// The header field `Server`.
    pub server: Option<Untrusted>,
    /// The header field `Location`.
    pub location: Option<Untrusted>,
    /// The time for which the server keeps an idle connection, as its header field Keep-Alive has it, in seconds.
    pub keep_alive: Option<u64>,
    /// Whether the response says that its connection ends with it (RFC 9112 section 9.3).
    pub is_last: bool,
    /// Why what came cannot be parsed. Its bytes are then only counted.
    pub wrong: Option<NoResponse>,
    interim: usize,
    /// Whether the server has asked for the request's body (100 Continue).
    pub(crate) is_continued: bool,
    /// Whether the request has asked for a WebSocket: 101 is then the last response on its connection.
    may_switch: bool,
    /// The header field Sec-WebSocket-Accept.
    pub(crate) websocket_accept: Option<String>,
    /// Whether `Upgrade` and `Connection` say that the protocol is a WebSocket's from here on.
    pub(crate) is_upgrade: bool,
}

#[derive(Debug)]
enum FramingKind {
    Head(Vec<u8>),
    Length(u64),
    Chunked(Chunks),
    Close,
    Fcgi(Box<Replies>),
    WebSocket(Box<ServerFrames>),
}

impl Framing {
    fn new(kind: FramingKind) -> Self {
        Self {
            kind,
            got: 0,
            expected: None,
            complete: false,
            status: None,
            server: None,
            location: None,
            keep_alive: None,
            is_last: false,
            wrong: None,
            interim: 0,
            is_continued: false,
            may_switch: false,
            websocket_accept: None,
            is_upgrade: false,
        }
    }

    /// The framing of an HTTP/1.x response.
    pub fn http() -> Self {
        Self::new(FramingKind::Head(Vec::new()))
    }

    pub(crate) fn fcgi() -> Self {
        Self::new(FramingKind::Fcgi(Box::new(Replies::new(1))))
    }

    /// Bytes that only the end of the connection ends.
    pub fn none() -> Self {
        Self::new(FramingKind::Close)
    }

    /// What marks the end of the response; `close` also as long as nothing is known of it.
    pub fn name(&self) -> &'static str {
        match self.kind {
            FramingKind::Head(_) | FramingKind::Close => "close",
            FramingKind::Length(_) => "content-length",
            FramingKind::Chunked(_) => "chunked",
            FramingKind::Fcgi(_) => "end-request",
            FramingKind::WebSocket(_) => "close-frame",
        }
    }

    /// Takes 101 for an agreement to a WebSocket: its end is the Close frame.
    pub(crate) fn asks_for_websocket(&mut self) {
        self.may_switch = true;
    }

    /// What came on the WebSocket, if the server has agreed to one.
    pub(crate) fn websocket(&self) -> Option<&ServerFrames> {
        match &self.kind {
            FramingKind::WebSocket(frames) => Some(frames),
            _ => None,
        }
    }

    /// Whether only the end of the connection marks the end of the response.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.kind, FramingKind::Close | FramingKind::Head(_))
    }

    /// Parses bytes as they come. Returns how many of them belong to this response: of pipelined responses, the next one
    /// begins behind them.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let came = bytes.len();
        let mut bytes = bytes;
        let mut head = Vec::new();
        if let FramingKind::Head(kept) = &mut self.kind {
            kept.extend_from_slice(bytes);
            head = std::mem::take(kept);
            match self.parse_head(&head) {
                Parsed::Head(length) => bytes = &head[length..],
                Parsed::Partial(interim) => {
                    head.drain(..interim);
                    self.kind = FramingKind::Head(head);
                    return came;
                }
                Parsed::Wrong(wrong) => {
                    self.wrong = Some(wrong);
                    self.kind = FramingKind::Close;
                    self.got += head.len() as u64;
                    return came;
                }
            }
        }
        let _ = &head;
        match &mut self.kind {
            FramingKind::Head(_) => bytes = &[],
            FramingKind::Close => {
                self.got += bytes.len() as u64;
                bytes = &[];
            }
            FramingKind::Length(length) => {
                let taken = (*length - self.got).min(bytes.len() as u64);
                self.got += taken;
                self.complete = self.got == *length;
                bytes = &bytes[taken as usize..];
            }
            FramingKind::Chunked(chunks) => {
                self.got += chunks.feed(&mut bytes);
                self.complete = chunks.state == ChunkState::Done;
                if chunks.state == ChunkState::Broken && self.wrong.is_none() {
                    self.wrong = Some(NoResponse::Chunks(self.got));
                }
            }
            FramingKind::WebSocket(frames) => {
                self.got += frames.feed(&mut bytes);
                self.complete = frames.is_closed();
                if frames.is_broken() && self.wrong.is_none() {
                    self.wrong = Some(NoResponse::Frames(self.got));
                }
            }
            FramingKind::Fcgi(replies) => loop {
                let before = bytes;
                let reply = match replies.next(&mut bytes) {
                    Ok(Some(reply)) => reply,
                    Ok(None) => break,
                    Err(_) => {
                        let opening = before[..before.len().min(OPENING)].into();
                        self.wrong.get_or_insert(NoResponse::OtherProtocol(opening));
                        bytes = &[];
                        break;
                    }
                };
                match reply {
                    Reply::Stdout(content) => self.got += content.len() as u64,
                    Reply::End(_) => self.complete = true,
                    _ => {}
                }
                if self.complete {
                    break;
                }
            },
        }
        if self.complete {
            self.expected = Some(self.got);
        }
        came - bytes.len()
    }

    fn note_upgrade(&mut self, field: impl Fn(&str) -> Option<String>) {
        self.websocket_accept = field("sec-websocket-accept");
        self.is_upgrade = is_upgrade(field("upgrade"), field("connection"));
    }

    /// Parses the head. Skips interim responses (1xx).
    fn parse_head(&mut self, bytes: &[u8]) -> Parsed {
        let mut from = 0;
        let mut headers = vec![httparse::EMPTY_HEADER; 128];
        loop {
            let room = headers.len();
            let mut response = httparse::Response::new(&mut headers);
            // Clients such as curl skip a malformed header line and still use Content-Length. So it is skipped here too.
            let mut lenient = httparse::ParserConfig::default();
            lenient.ignore_invalid_headers_in_responses(true);
            let length = match lenient.parse_response(&mut response, &bytes[from..]) {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) if bytes.len() - from > MOST_HEAD => {
                    return Parsed::Wrong(NoResponse::EndlessHead(bytes.len() - from));
                }
                Ok(httparse::Status::Partial) => return Parsed::Partial(from),
                Err(httparse::Error::TooManyHeaders) if room < MOST_FIELDS => {
                    headers = vec![httparse::EMPTY_HEADER; room * 4];
                    continue;
                }
                // A reason phrase is for people, and clients show it as it comes, or not at all.
                Err(httparse::Error::Status) if !bytes[from..].contains(&b'\n') => {
                    return Parsed::Partial(from);
                }
                Err(httparse::Error::Status) if plain_reason(&bytes[from..]).is_some() => {
                    let mut plainer = bytes[..from].to_vec();
                    plainer.extend(plain_reason(&bytes[from..]).unwrap_or_default());
                    return self.parse_head(&plainer);
                }
                Err(_) => {
                    let opening = &bytes[from..];
                    let shown = opening[..opening.len().min(OPENING)].into();
                    let is_http = opening.starts_with(b"HTTP/1.");
                    return Parsed::Wrong(match is_http {
                        true => NoResponse::MalformedHead(shown),
                        false => NoResponse::OtherProtocol(shown),
                    });
                }
            };
            from += length;
            let status = response.code.unwrap_or(0);
            let is_switch = status == 101 && self.may_switch;
            if (100..200).contains(&status) && !is_switch {
                self.interim += 1;
                self.is_continued |= status == 100;
                if self.interim > MOST_INTERIM {
                    return Parsed::Wrong(NoResponse::OnlyInterim(self.interim));
                }
                continue;
            }
            self.status = Some(status);
            let find = |name: &str| {
                let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                header.map(|header| String::from_utf8_lossy(header.value).into_owned())
            };
            let raw = |name: &str| {
                let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
                header.map(|header| header.value.into())
            };
            (self.server, self.location) = (raw("server"), raw("location"));
            self.note_upgrade(find);
            self.keep_alive = find("keep-alive").and_then(|value| timeout(&value));
            let connection = find("connection").unwrap_or_default().to_ascii_lowercase();
            let says = |word: &str| connection.split(',').any(|token| token.trim() == word);
            self.is_last = says("close") || (response.version == Some(0) && !says("keep-alive"));
            let chunked =
                find("transfer-encoding").is_some_and(|value| value.to_ascii_lowercase().contains("chunked"));
            let length = find("content-length").and_then(|value| value.trim().parse().ok());
            self.kind = match (chunked, length) {
                _ if is_switch => FramingKind::WebSocket(Box::default()),
                _ if status == 204 || status == 304 => FramingKind::Length(0),
                (true, _) => FramingKind::Chunked(Chunks::default()),
                (false, Some(length)) => FramingKind::Length(length),
                (false, None) => FramingKind::Close,
            };
            if let FramingKind::Length(length) = self.kind {
                self.expected = Some(length);
            }
            return Parsed::Head(from);
        }
    }
}

/// The same bytes with a reason phrase of printable characters; `None` if it is so already, or has not come whole.
fn plain_reason(response: &[u8]) -> Option<Vec<u8>> {
    // `HTTP/1.1 200 ` stands before it (RFC 9112 section 4).
    const BEFORE: usize = 13;
    let end = response.iter().position(|byte| *byte == b'\n')?;
    let is_odd = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r');
    let mut plain = response.to_vec();
    let reason = plain.get_mut(BEFORE..end).filter(|reason| reason.iter().any(is_odd))?;
    reason.iter_mut().filter(|byte| is_odd(byte)).for_each(|byte| *byte = b'?');
    Some(plain)
}

/// What the beginning of a response is.
enum Parsed {
    /// A head, which ends here.
    Head(usize),
    /// The beginning of one, behind interim responses that end here.
    Partial(usize),
    Wrong(NoResponse),
}

/// `timeout=5, max=100` (RFC 2068 section 19.7.1.1, which is all that describes it).
fn timeout(value: &str) -> Option<u64> {
    let mut parameters = value.split(',').filter_map(|parameter| parameter.split_once('='));
    let (_, seconds) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().parse().ok()
}

/// Parses the chunked coding (RFC 9112 section 7.1) for its end and the length of its content.
#[derive(Debug, Default)]
struct Chunks {
    state: ChunkState,
    left: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    Extension,
    Data,
    DataEnd,
    /// At the start of a trailer line.
    Trailer,
    TrailerLine,
    Done,
    Broken,
}

impl Chunks {
    /// Parses bytes up to the end of the coding. Returns how many of them are content, and leaves what follows in `bytes`.
    fn feed(&mut self, bytes: &mut &[u8]) -> u64 {
        let mut content = 0;
        while let Some((byte, rest)) = bytes.split_first() {
            if self.state == ChunkState::Done {
                break;
            }
            if self.state == ChunkState::Data {
                let taken = self.left.min(bytes.len() as u64);
                self.left -= taken;
                content += taken;
                *bytes = &bytes[taken as usize..];
                if self.left == 0 {
                    self.state = ChunkState::DataEnd;
                }
                continue;
            }
            *bytes = rest;
            self.state = match (self.state, byte) {
                (ChunkState::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                    let digit = u64::from((*byte as char).to_digit(16).unwrap_or(0));
                    match self.left.checked_mul(16).and_then(|left| left.checked_add(digit)) {
                        Some(left) => {
                            self.left = left;
                            ChunkState::Size
                        }
                        None => ChunkState::Broken,
                    }
                }
                (ChunkState::Size | ChunkState::Extension, b'\n') if self.left == 0 => ChunkState::Trailer,
                (ChunkState::Size | ChunkState::Extension, b'\n') => ChunkState::Data,
                (ChunkState::Size, b'\r' | b';' | b' ' | b'\t') | (ChunkState::Extension, _) => {
                    ChunkState::Extension
                }
                (ChunkState::Size, _) => ChunkState::Broken,
                (ChunkState::DataEnd, b'\n') => ChunkState::Size,
                (ChunkState::DataEnd, b'\r') => ChunkState::DataEnd,
                (ChunkState::DataEnd, _) => ChunkState::Broken,
                (ChunkState::Trailer, b'\n') => ChunkState::Done,
                (ChunkState::Trailer, b'\r') => ChunkState::Trailer,
                (ChunkState::TrailerLine, b'\n') => ChunkState::Trailer,
                (ChunkState::Trailer | ChunkState::TrailerLine, _) => ChunkState::TrailerLine,
                (ChunkState::Done | ChunkState::Broken, _) => return content,
                (ChunkState::Data, _) => ChunkState::Broken,
            };
        }
        content
    }
}

/// Whether these two fields make a WebSocket of the connection: without them a client fails it (RFC 6455 section 4.1).
fn is_upgrade(upgrade: Option<String>, connection: Option<String>) -> bool {
    let has = |value: Option<String>, word: &str| {
        value.is_some_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case(word)))
    };
    has(upgrade, "websocket") && has(connection, "upgrade")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at_any_split(response: &[u8]) -> Vec<(u64, Option<u64>, bool)> {
        (1..=response.len())
            .map(|size| {
                let mut framing = Framing::http();
                for piece in response.chunks(size) {
                    framing.feed(piece);
                }
                (framing.got, framing.expected, framing.complete)
            })
            .collect()
    }

    #[test]
    fn the_end_is_found_at_any_split() {
        let plain = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert!(at_any_split(plain).iter().all(|seen| *seen == (5, Some(5), true)));
        let cut = &plain[..plain.len() - 1];
        assert!(at_any_split(cut).iter().all(|seen| *seen == (4, Some(5), false)));
        // A line that is no header hides nothing.
        for odd in ["X: a\x07b", "Server: a\x1b[31m", "no colon", "a b: c", ": x"] {
            let response = format!("HTTP/1.1 200 OK\r\n{odd}\r\nContent-Length: 5\r\n\r\nhell");
            assert!(
                at_any_split(response.as_bytes()).iter().all(|seen| *seen == (4, Some(5), false)),
                "{odd:?}"
            );
        }
        for odd in ["\x1b[31mpwn\x07", "\x1b", "\u{fc}", ""] {
            let response = format!("HTTP/1.1 200 {odd}\r\nContent-Length: 5\r\n\r\nhell");
            assert!(
                at_any_split(response.as_bytes()).iter().all(|seen| *seen == (4, Some(5), false)),
                "{odd:?}"
            );
        }
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nT: x\r\n\r\n";
        assert!(at_any_split(chunked).iter().all(|seen| *seen == (15, Some(15), true)));
        let cut = &chunked[..chunked.len() - 1];
        assert!(at_any_split(cut).iter().all(|seen| *seen == (15, None, false)));
        let close = b"HTTP/1.0 200 OK\r\n\r\nhello";
        assert!(at_any_split(close).iter().all(|seen| *seen == (5, None, false)));
    }

    #[test]
    fn what_follows_a_response_is_left_to_the_next() {
        let length: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let chunked: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        let empty: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
        for response in [length, chunked, empty] {
            let two = [response, length].concat();
            for split in 1..two.len() {
                let mut framing = Framing::http();
                let first = framing.feed(&two[..split]);
                let second = if framing.complete { 0 } else { framing.feed(&two[split..]) };
                assert_eq!(first + second, response.len(), "split at {split}");
            }
        }
        let unframed = b"HTTP/1.0 200 OK\r\n\r\nhello, and all that comes";
        assert_eq!(Framing::http().feed(unframed), unframed.len());
    }

    #[test]
    fn the_head_says_how_long_the_connection_is_kept() {
        for (version, head, announced, is_last) in [
            (1, "", None, false),
            (1, "Keep-Alive: timeout=5, max=100\r\n", Some(5), false),
            (1, "keep-alive: max=100, Timeout = 72 \r\n", Some(72), false),
            (1, "Keep-Alive: timeout=5s\r\n", None, false),
            (1, "Keep-Alive: 5\r\n", None, false),
            (1, "Connection: x, Close\r\n", None, true),
            (1, "Connection: closed\r\n", None, false),
            (0, "", None, true),
            (0, "Connection: Keep-Alive\r\n", None, false),
        ] {
            let mut framing = Framing::http();
            framing.feed(format!("HTTP/1.{version} 200 OK\r\n{head}Content-Length: 0\r\n\r\n").as_bytes());
            assert_eq!((framing.keep_alive, framing.is_last), (announced, is_last), "{version} {head}");
        }
    }

    proptest! {
        #[test]
        fn noise_does_not_panic(noise in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut framing = Framing::http();
            framing.feed(&noise);
            let mut framing = Framing::http();
            framing.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            framing.feed(&noise);
            Framing::fcgi().feed(&noise);
        }
    }
}
