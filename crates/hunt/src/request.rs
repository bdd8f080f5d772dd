//! Where a client's request ends. No I/O: bytes in, and how much of the body they were.

/// A request, as far as it came.
#[derive(Debug, Default)]
pub(crate) struct RequestFraming {
    /// The head, as far as it came; empty once it is whole.
    head: Vec<u8>,
    body: RequestBody,
    /// Bytes of the body that came, without the framing of chunks.
    pub(crate) received: u64,
    /// Whether the client waits to be told to go on (`Expect: 100-continue`, RFC 9110 section 10.1.1).
    pub(crate) awaits_continue: bool,
    /// Whether it is no HTTP.
    pub(crate) is_wrong: bool,
}

/// What is known of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum RequestBody {
    /// Nothing: the head has not come whole.
    #[default]
    Unknown,
    /// So many bytes are announced.
    Length(u64),
    /// Chunks; of the one that has begun so many bytes are left, with its line end.
    Chunks { left: u64, is_last: bool },
    /// All of it came.
    Whole,
    /// No HTTP: bytes until the client ends, or until as many as are expected.
    Raw(Option<u64>),
}

/// The longest head or chunk's head.
const LONGEST_HEAD: usize = 64 << 10;
/// The most header fields.
const MOST_FIELDS: usize = 100;

impl RequestFraming {
    /// A request that is no HTTP, of so many bytes where that is known.
    pub(crate) fn raw(bytes: Option<u64>) -> Self {
        Self { body: RequestBody::Raw(bytes), ..Self::default() }
    }

    /// Whether all of it came.
    pub(crate) fn is_whole(&self) -> bool {
        match self.body {
            RequestBody::Whole => true,
            RequestBody::Raw(Some(bytes)) => self.received >= bytes,
            _ => false,
        }
    }

    /// Whether its head came whole.
    pub(crate) fn has_head(&self) -> bool {
        self.body != RequestBody::Unknown
    }

    /// Whether nothing of it came.
    pub(crate) fn is_untouched(&self) -> bool {
        self.head.is_empty()
            && self.received == 0
            && matches!(self.body, RequestBody::Unknown | RequestBody::Raw(_))
    }

    /// The length of the body that is announced; `None` for chunks, and if the head did not come whole.
    pub(crate) fn announced(&self) -> Option<u64> {
        match self.body {
            RequestBody::Length(left) => Some(self.received + left),
            RequestBody::Whole => Some(self.received),
            RequestBody::Raw(bytes) => bytes,
            RequestBody::Unknown | RequestBody::Chunks { .. } => None,
        }
    }

    /// The client has ended its direction: what has no length is whole then.
    pub(crate) fn end(&mut self) {
        if self.body == RequestBody::Raw(None) {
            self.body = RequestBody::Whole;
        }
    }

    /// Takes bytes in. Returns how many belong to this request: fewer than all if it is whole before.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() && !self.is_wrong {
            let taken = match self.body {
                RequestBody::Whole => break,
                RequestBody::Raw(_) => {
                    self.received += rest.len() as u64;
                    rest.len()
                }
                RequestBody::Unknown => self.feed_head(rest),
                RequestBody::Length(left) => {
                    let taken = take(left, rest);
                    self.received += taken as u64;
                    self.body = length(left - taken as u64);
                    taken
                }
                RequestBody::Chunks { left: 0, is_last } => self.feed_chunk_head(rest, is_last),
                RequestBody::Chunks { left, is_last } => {
                    let taken = take(left, rest);
                    // The last two bytes are the line end behind the chunk.
                    let data = left.saturating_sub(2).min(taken as u64);
                    self.received += data;
                    self.body = RequestBody::Chunks { left: left - taken as u64, is_last };
                    taken
                }
            };
            rest = &rest[taken..];
        }
        bytes.len() - rest.len()
    }

    /// Adds bytes to the head until it is whole. Returns how many it took.
    fn feed_head(&mut self, bytes: &[u8]) -> usize {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(&self.head) {
            Ok(httparse::Status::Complete(length)) => {
                let (body, awaits_continue) = body_of(&request);
                (self.body, self.awaits_continue) = (body, awaits_continue);
                self.head.clear();
                length.saturating_sub(before)
            }
            Ok(httparse::Status::Partial) if self.head.len() <= LONGEST_HEAD => bytes.len(),
            _ => {
                self.is_wrong = true;
                bytes.len()
            }
        }
    }

    /// Adds bytes to the head of a chunk, or to the fields behind the last one.
    fn feed_chunk_head(&mut self, bytes: &[u8], is_last: bool) -> usize {
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        if is_last {
            let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
            return match httparse::parse_headers(&self.head, &mut fields) {
                Ok(httparse::Status::Complete((length, _))) => {
                    self.body = RequestBody::Whole;
                    self.head.clear();
                    length.saturating_sub(before)
                }
                Ok(httparse::Status::Partial) if self.head.len() <= LONGEST_HEAD => bytes.len(),
                _ => self.wrong(bytes),
            };
        }
        match httparse::parse_chunk_size(&self.head) {
            Ok(httparse::Status::Complete((length, 0))) => {
                self.body = RequestBody::Chunks { left: 0, is_last: true };
                self.head.clear();
                length.saturating_sub(before)
            }
            Ok(httparse::Status::Complete((length, size))) => {
                self.body = RequestBody::Chunks { left: size.saturating_add(2), is_last: false };
                self.head.clear();
                length.saturating_sub(before)
            }
            Ok(httparse::Status::Partial) if self.head.len() <= LONGEST_HEAD => bytes.len(),
            _ => self.wrong(bytes),
        }
    }

    fn wrong(&mut self, bytes: &[u8]) -> usize {
        self.is_wrong = true;
        bytes.len()
    }
}

fn take(left: u64, bytes: &[u8]) -> usize {
    bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))
}

fn length(left: u64) -> RequestBody {
    if left == 0 { RequestBody::Whole } else { RequestBody::Length(left) }
}

fn body_of(request: &httparse::Request<'_, '_>) -> (RequestBody, bool) {
    let field = |name: &str| {
        let of_it = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        of_it.map(|field| String::from_utf8_lossy(field.value).trim().to_ascii_lowercase())
    };
    let awaits_continue = field("expect").is_some_and(|expect| expect == "100-continue");
    let body = if field("transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
        RequestBody::Chunks { left: 0, is_last: false }
    } else {
        length(field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0))
    };
    (body, awaits_continue)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes in pieces of each size come to the same.
    fn fed(text: &[u8]) -> (RequestFraming, usize) {
        let mut results: Vec<(RequestFraming, usize)> = [1, 2, 3, 7, text.len()]
            .into_iter()
            .map(|size| {
                let (mut framing, mut taken) = (RequestFraming::default(), 0);
                for piece in text.chunks(size) {
                    let of_it = framing.feed(piece);
                    taken += of_it;
                    if of_it < piece.len() {
                        break;
                    }
                }
                (framing, taken)
            })
            .collect();
        let (last, taken) = results.pop().unwrap();
        for (framing, other) in results {
            assert_eq!(
                (framing.body, framing.received, framing.is_wrong, other),
                (last.body, last.received, last.is_wrong, taken)
            );
        }
        (last, taken)
    }

    #[test]
    fn a_body_ends_where_its_length_or_its_last_chunk_says() {
        let length =
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n12345GET";
        let (framing, taken) = fed(length);
        assert_eq!((framing.is_whole(), framing.received, length.len() - taken), (true, 5, 3));
        assert!(framing.awaits_continue);
        let chunks = b"POST / HTTP/1.1\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\nT: 1\r\n\r\nGET";
        let (framing, taken) = fed(chunks);
        assert_eq!((framing.is_whole(), framing.received, chunks.len() - taken), (true, 13, 3));
        let (framing, taken) = fed(b"GET / HTTP/1.1\r\n\r\nGET / HT");
        assert_eq!((framing.is_whole(), framing.received, taken), (true, 0, 18), "pipelined");
    }

    #[test]
    fn what_is_cut_is_not_whole() {
        for (cut, received, announced) in [
            (&b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n1234"[..], 4, Some(5)),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", 2, None),
            (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", 3, None),
            (b"POST / HTTP/1.1\r\nContent-", 0, None),
        ] {
            let (framing, taken) = fed(cut);
            assert_eq!((framing.is_whole(), framing.received, taken), (false, received, cut.len()));
            assert_eq!(framing.announced(), announced);
        }
        let mut tls = RequestFraming::default();
        tls.feed(b"\x16\x03\x01\x02\x00\x01");
        assert!(tls.is_wrong && !tls.is_whole() && !tls.has_head(), "it is no HTTP");
    }

    #[test]
    fn bytes_that_are_no_http_end_with_the_client_or_when_all_have_come() {
        let mut raw = RequestFraming::raw(None);
        assert!(raw.is_untouched());
        assert_eq!((raw.feed(b"abc"), raw.is_whole()), (3, false));
        raw.end();
        assert!(raw.is_whole());
        let mut known = RequestFraming::raw(Some(4));
        known.feed(b"abc");
        known.end();
        assert!(!known.is_whole(), "one is missing");
        known.feed(b"d");
        assert!(known.is_whole());
    }
}
