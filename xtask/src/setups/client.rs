//! The client: honest requests, and uploads that the server answers before it has read them.
//!
//! The receive buffer is small and the client reads late, so that most of the answer is still in the server's send queue
//! when the server closes. What the kernel does then is read from its counters: the namespace is this server's alone.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use linger_netns::Counters;
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};

use super::table::Asking;

/// Bytes of each response.
const LARGE: usize = 300_000;

/// Bytes of an upload by HTTP.
const UPLOAD: usize = 4_000_000;
/// Bytes that are sent to a raw server: few enough for the server's receive window.
const SENT_RAW: usize = 60_000;

/// How long the client waits after its request before it starts to read.
const PAUSE: Duration = Duration::from_millis(400);

/// The timeout of a read and of a write. After a complete response, a read waits only a second for the connection's end.
const PATIENCE: Duration = Duration::from_secs(8);

/// How the uploads of one series ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct UploadCounts {
    /// Responses cut short, or not there at all.
    pub(super) lost: u32,
    /// Complete responses of connections that were reset.
    pub(super) at_risk: u32,
    /// Complete responses without a reset.
    pub(super) kept: u32,
}

impl UploadCounts {
    pub(super) fn total(self) -> u32 {
        self.lost + self.at_risk + self.kept
    }
}

/// What one connection got.
struct Got {
    bytes: Vec<u8>,
    /// Whether the server's FIN was seen.
    ended: bool,
}

fn open(port: u16, receive_buffer: Option<usize>) -> anyhow::Result<TcpStream> {
    let own = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    if let Some(size) = receive_buffer {
        sockopt::set_socket_recv_buffer_size(&own, size)?;
    }
    connect(&own, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).context("connect")?;
    let stream = TcpStream::from(own);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads until the end or an error; after `complete` is true, a second in which nothing arrives also ends it.
fn read_all(stream: &TcpStream, complete: impl Fn(&[u8]) -> bool) -> Got {
    let mut stream = stream;
    let mut got = Got { bytes: Vec::new(), ended: false };
    let mut buffer = vec![0; 1 << 16];
    let mut patience = PATIENCE;
    loop {
        if patience == PATIENCE && complete(&got.bytes) {
            patience = Duration::from_secs(1);
            let _ = stream.set_read_timeout(Some(patience));
        }
        match stream.read(&mut buffer) {
            Ok(0) => {
                got.ended = true;
                return got;
            }
            Ok(count) => got.bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return got,
        }
    }
}

/// The end of the head of a response.
fn head(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// The value of a field of the head, in lower case.
fn field(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_ascii_lowercase())
    })
}

/// The body of a complete response and the bytes behind it; `None` while it is not complete.
fn response(bytes: &[u8], ended: bool) -> Option<(Vec<u8>, &[u8])> {
    let at = head(bytes)?;
    let text = String::from_utf8_lossy(&bytes[..at]);
    if text.starts_with("HTTP/1.1 100") {
        return response(&bytes[at..], ended);
    }
    let mut rest = &bytes[at..];
    if field(&text, "transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        let mut body = Vec::new();
        loop {
            let line = rest.windows(2).position(|two| two == b"\r\n")?;
            let size = std::str::from_utf8(&rest[..line]).ok()?.split(';').next()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let chunk = rest.get(line + 2..line + 2 + size)?;
            body.extend_from_slice(chunk);
            rest = rest.get(line + 2 + size + 2..)?;
            if size == 0 {
                return Some((body, rest));
            }
        }
    }
    match field(&text, "content-length").and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => Some((rest.get(..length)?.to_vec(), &rest[length..])),
        None => ended.then(|| (rest.to_vec(), &rest[rest.len()..])),
    }
}

fn is_large(body: &[u8]) -> bool {
    body.len() == LARGE && body.iter().all(|byte| *byte == b'r')
}

/// Sends honest requests. Returns what a session has printed, or, as the error, what is wrong with the answers.
pub(super) fn honest(ask: &Asking, port: u16, shell: &dyn Fn(&str) -> Command) -> Result<String, String> {
    match ask {
        Asking::Http { path, .. } => {
            for closing in ["Connection: close\r\n", ""] {
                let asked = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{closing}\r\n");
                get(port, asked.as_bytes(), if closing.is_empty() { 2 } else { 1 })?;
            }
            Ok(String::new())
        }
        Asking::Raw => {
            let stream = open(port, None).map_err(|error| format!("{error:#}"))?;
            let got = read_all(&stream, |_| false);
            let right = is_large(&got.bytes) && got.ended;
            if right { Ok(String::new()) } else { Err(format!("{} bytes", got.bytes.len())) }
        }
        Asking::Session { run, expect } => {
            let output = shell(run).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if output.status.success() && said.contains(expect.as_str()) {
                return Ok(said);
            }
            Err(format!("{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)))
        }
    }
}

/// Sends a request `count` times on one connection; a server that closes after the first has answered rightly, too.
fn get(port: u16, asked: &[u8], count: u32) -> Result<(), String> {
    let stream = open(port, None).map_err(|error| format!("{error:#}"))?;
    let mut behind = Vec::new();
    for round in 0..count {
        if (&stream).write_all(asked).is_err() && round > 0 {
            return Ok(());
        }
        // Read until this response is complete, and no further.
        let mut bytes = std::mem::take(&mut behind);
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = (&stream).read(&mut buffer);
            let count = read.as_ref().copied().unwrap_or(0);
            bytes.extend_from_slice(&buffer[..count]);
            if let Some((body, rest)) = response(&bytes, matches!(read, Ok(0))) {
                if !is_large(&body) {
                    return Err(format!("a body of {} bytes", body.len()));
                }
                behind = rest.to_vec();
                break;
            }
            if count == 0 {
                let closed = round > 0 && bytes.is_empty();
                return if closed { Ok(()) } else { Err(format!("{} bytes, then {read:?}", bytes.len())) };
            }
        }
    }
    Ok(())
}

/// Makes `count` uploads that are read late, one after the other.
pub(super) fn uploads(ask: &Asking, port: u16, count: u32) -> anyhow::Result<UploadCounts> {
    let mut tally = UploadCounts::default();
    for _ in 0..count {
        let before = Counters::read()?;
        let complete = upload(ask, port)?;
        let grown = Counters::read()?.since(&before);
        let resets = ["OutRsts", "TCPAbortOnData", "TCPAbortOnClose"].iter().any(|name| grown.of(name) > 0);
        *(match (complete, resets) {
            (false, _) => &mut tally.lost,
            (true, true) => &mut tally.at_risk,
            (true, false) => &mut tally.kept,
        }) += 1;
    }
    Ok(tally)
}

/// Makes one upload. Returns whether its answer was complete.
fn upload(ask: &Asking, port: u16) -> anyhow::Result<bool> {
    let (request, body) = match ask {
        Asking::Http { path, .. } => {
            let fields = "Connection: close\r\nContent-Type: application/octet-stream";
            let length = format!("Host: 127.0.0.1:{port}\r\nContent-Length: {UPLOAD}");
            (format!("POST {path} HTTP/1.1\r\n{fields}\r\n{length}\r\n\r\n"), UPLOAD)
        }
        Asking::Raw | Asking::Session { .. } => (String::new(), SENT_RAW),
    };
    let stream = open(port, Some(8 << 10))?;
    (&stream).write_all(request.as_bytes())?;
    let complete = |bytes: &[u8], ended: bool| match ask {
        Asking::Http { answers_uploads, .. } => {
            response(bytes, ended).is_some_and(|(body, _)| !answers_uploads || is_large(&body))
        }
        Asking::Raw | Asking::Session { .. } => is_large(bytes) && ended,
    };
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            // An error is expected here: the server may close while this sends, which is the case under test.
            let _ = (&stream).write_all(&vec![b'u'; body]);
        });
        thread::sleep(PAUSE);
        let got = read_all(&stream, |bytes| complete(bytes, false));
        let is_complete = complete(&got.bytes, got.ended);
        // The reading is over, and the sender may still be sending. A byte that reaches a closed socket is answered
        // by a reset, which is what "at risk" means, so the reset has to come before the counters are read. Nothing tells
        // that no reset will come, hence the bound of 100 ms.
        let until = Instant::now() + Duration::from_millis(100);
        while !sender.is_finished() && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
        // The counters are read before the client's own close could add to them: it only half-closes here.
        let _ = stream.shutdown(Shutdown::Write);
        Ok(is_complete)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_complete_by_its_own_length() {
        let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab";
        assert!(response(cut, true).is_none(), "an end before the last byte");
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP";
        assert_eq!(response(whole, false), Some((b"abc".to_vec(), &b"HTTP"[..])));
        let until_end = b"HTTP/1.0 200 OK\r\n\r\nab";
        assert!(response(until_end, false).is_none() && response(until_end, true).is_some());
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
        assert_eq!(response(chunked, false), Some((b"ab".to_vec(), &b""[..])));
        assert!(response(&chunked[..chunked.len() - 5], true).is_none(), "no last chunk");
    }
}
