//! Which protocol a stream begins with, and where the head of a message ends.

use super::{HttpMessage, Protocol};

/// The lines of a head, each without its line feed.
pub(crate) fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let (line, after) = match memchr::memchr(b'\n', bytes) {
            Some(end) => (&bytes[..end], Some(&bytes[end + 1..])),
            None => (bytes, None),
        };
        rest = after;
        Some(line)
    })
}

/// The name and the value of the field in a line, if there is one. White space around the value is kept.
pub(crate) fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line)?;
    Some((&line[..colon], &line[colon + 1..]))
}

/// The protocol to which the head of a 101 response switches, if it is one that is known here.
pub(super) fn switches_to(head: &[u8]) -> Option<Protocol> {
    let upgrades = lines(head).filter_map(field).filter(|(name, _)| name.eq_ignore_ascii_case(b"upgrade"));
    upgrades.map(|(_, value)| value.trim_ascii()).find_map(|value| match value {
        _ if value.eq_ignore_ascii_case(b"websocket") => Some(Protocol::WebSocket { close: false }),
        // RFC 7540 section 3.2.
        _ if value.eq_ignore_ascii_case(b"h2c") => Some(Protocol::Http2 { goaway: false }),
        _ => None,
    })
}

/// The length of the message head at the start of `bytes`, its empty line included. A line may end with a line feed alone
/// (RFC 9112 section 2.2).
pub(crate) fn head_length(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let line = from + memchr::memchr(b'\n', bytes.get(from..)?)? + 1;
        match bytes.get(line..)? {
            [b'\n', ..] => return Some(line + 1),
            [b'\r', b'\n', ..] => return Some(line + 2),
            _ => from = line,
        }
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

/// Where the last line begins, if it ends the conversation: `QUIT` (SMTP, FTP, POP3), `LOGOUT` after a tag (IMAP), or the reply
/// 221 (SMTP, FTP), after which RFC 5321 section 3.8 has the server close.
pub(super) fn goodbye(bytes: &[u8]) -> Option<usize> {
    let lines = bytes.strip_suffix(b"\r\n")?;
    let last = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or(lines);
    let command = last.rsplit(|byte| *byte == b' ').next().unwrap_or(last);
    let is_one = last.eq_ignore_ascii_case(b"QUIT")
        || command.len() < last.len() && command.eq_ignore_ascii_case(b"LOGOUT")
        || last.starts_with(b"221 ");
    is_one.then_some(lines.len() - last.len())
}

/// Whether the first line, as far as it is here, can be that of a request: other protocols have a CONNECT too.
fn is_request_line(bytes: &[u8]) -> bool {
    match bytes.iter().position(|&byte| byte == b'\n') {
        Some(end) => bytes[..end].windows(8).any(|eight| eight == b" HTTP/1."),
        None => true,
    }
}

/// RFC 9113 section 3.4: what a client sends before its first frame.
pub(crate) const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HTTP: Protocol = Protocol::Http { message: HttpMessage::Response, messages: 0, status: 0, heads: 0 };

/// The protocol of a stream that begins with these bytes.
pub(super) fn sniff(bytes: &[u8]) -> Protocol {
    const METHODS: [&[u8]; 9] =
        [b"GET ", b"POST ", b"HEAD ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];
    match bytes {
        [0x14..=0x17, 3, 0..=4, high, ..] if *high <= 0x41 => {
            Protocol::Tls { record: 0, length: 0, alert: None }
        }
        // BEGIN_REQUEST from a gateway; STDOUT, STDERR or END_REQUEST from a responder.
        [1, 1, _, _, 0, 8, _, 0, ..] | [1, 3 | 6 | 7, 0, 1, ..] => {
            Protocol::FastCgi { ended: false, stdin_ended: false }
        }
        _ if bytes.starts_with(b"HTTP/1.") => HTTP,
        _ if METHODS.iter().any(|method| bytes.starts_with(method)) && is_request_line(bytes) => HTTP,
        _ if bytes.starts_with(b"SSH-") => Protocol::Ssh,
        // A server may send its SETTINGS before it has the preface: on stream 0, no acknowledgement, settings of 6 bytes each.
        [0, 0, length, 4, 0, 0, 0, 0, 0, ..] if length.is_multiple_of(6) => Protocol::Http2 { goaway: false },
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
            let end = |empty: &str| text.find(empty).map(|at| at + empty.len());
            let simple = end("\n\n").into_iter().chain(end("\n\r\n")).min();
            proptest::prop_assert_eq!(head_length(text.as_bytes()), simple);
        }
    }
}
