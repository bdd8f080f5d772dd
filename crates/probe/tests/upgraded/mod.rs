//! Servers that speak WebSocket, end it well or not, or refuse it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use data_encoding::BASE64;
use linger_probe::{Check, CheckAnswer, CheckFinding, ConnectionEnd, LeftOut, Verdict};
use linger_testing::sandboxed;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::common::{BODY, ask, close_well, config, head, quiet, respond};

const CLOSED: &[u8] = b"\x88\x02\x03\xe8";
const TOO_BIG: &[u8] = b"\x88\x02\x03\xf1";

/// Answers plain requests with a page, and hands over each connection that is to become a WebSocket, with what came behind
/// its request. The connection is closed when it returns.
fn websockets(serve: impl Fn(&mut TcpStream, Vec<u8>) + Send + Copy + 'static, accept: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let seen = head(&mut stream);
                let at = seen.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(0);
                let text = String::from_utf8_lossy(&seen[..at]).into_owned();
                let Some(key) = text.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")) else {
                    respond(&mut stream, "200 OK", "", BODY);
                    close_well(&mut stream);
                    return;
                };
                let is_asked = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"];
                assert!(is_asked.iter().all(|field| text.contains(field)), "{text}");
                if accept {
                    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
                    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes());
                    let agreed = format!(
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                         Sec-WebSocket-Accept: {}\r\n\r\n",
                        BASE64.encode(digest.as_ref())
                    );
                    stream.write_all(agreed.as_bytes()).unwrap();
                }
                serve(&mut stream, seen[at + 4..].to_vec());
            });
        }
    });
    url
}

/// Reads one frame of a client, exactly. Returns whether it is a Close frame; `None` at the end of the stream.
fn frame(stream: &mut TcpStream) -> Option<(bool, u64)> {
    let mut two = [0; 2];
    stream.read_exact(&mut two).ok()?;
    assert!(two[1] & 0x80 != 0, "a client masks its frames");
    let length = match two[1] & 0x7f {
        126 => {
            let mut more = [0; 2];
            stream.read_exact(&mut more).ok()?;
            u64::from(u16::from_be_bytes(more))
        }
        127 => {
            let mut more = [0; 8];
            stream.read_exact(&mut more).ok()?;
            u64::from_be_bytes(more)
        }
        short => u64::from(short),
    };
    Some((two[0] & 0x0f == 8, length))
}

/// Reads the rest of a frame: its mask and its payload.
fn skip(stream: &mut TcpStream, length: u64) {
    let _ = std::io::copy(&mut Read::by_ref(stream).take(length + 4), &mut std::io::sink());
}

/// Reads to the client's Close frame. Returns whether it came.
fn to_the_close(stream: &mut TcpStream) -> bool {
    while let Some((is_close, length)) = frame(stream) {
        skip(stream, length);
        if is_close {
            return true;
        }
    }
    false
}

fn found(serve: impl Fn(&mut TcpStream, Vec<u8>) + Send + Copy + 'static) -> CheckFinding {
    let mut config = config(&[Check::WebSocket]);
    config.patience = std::time::Duration::from_secs(3);
    ask(&websockets(serve, true), &config).unwrap().findings.remove(0)
}

#[test]
fn a_close_frame_that_comes_back_and_an_orderly_end_are_kept() {
    sandboxed(|| {
        let kept = found(|stream, _| {
            if to_the_close(stream) {
                let _ = stream.write_all(CLOSED);
            }
            close_well(stream);
        });
        assert_eq!((kept.answer, kept.verdict), (CheckAnswer::Keeps, Some(Verdict::Kept)), "{kept:#?}");
        assert_eq!((kept.trials, kept.with_this_answer, kept.forms.len()), (6, 6, 3));
        assert_eq!((kept.status, kept.ended), (Some(101), Some(ConnectionEnd::Closed)));
        assert!(kept.sentence.contains("(1000)"), "{}", kept.sentence);
        // One field away: without its Close frame.
        let silent = found(|stream, _| {
            to_the_close(stream);
            close_well(stream);
        });
        assert_eq!((silent.answer, silent.verdict), (CheckAnswer::LosesSilently, Some(Verdict::Lost)));
        assert!(silent.sentence.contains("told 1006"), "{}", silent.sentence);
        // One field away: the client is left to close.
        let open = found(|stream, _| {
            if to_the_close(stream) {
                let _ = stream.write_all(CLOSED);
            }
            let _ = stream.read(&mut [0]);
        });
        assert_eq!(open.answer, CheckAnswer::Stalls, "{open:#?}");
    });
}

/// It takes one message at most, says that it closes, and closes with the others unread.
#[test]
fn frames_that_are_left_unread_at_the_close_reset_the_connection() {
    sandboxed(|| {
        let wrong = found(|stream, _| {
            if let Some((_, length)) = frame(stream) {
                skip(stream, length);
                let _ = stream.write_all(CLOSED);
                // Until another one has come; after the last one none does.
                let _ = stream.set_read_timeout(Some(std::time::Duration::from_millis(500)));
                let _ = stream.peek(&mut [0]);
            }
        });
        assert!(matches!(wrong.answer, CheckAnswer::AtRisk | CheckAnswer::Loses), "{wrong:#?}");
        assert!(wrong.ended.is_some_and(|ended| ended != ConnectionEnd::Closed), "{wrong:#?}");
        assert_eq!(wrong.form.as_deref().map(|form| form.starts_with("one that")), Some(true), "{wrong:#?}");
    });
}

/// The commonest complaint: 1006 in place of 1009.
#[test]
fn a_message_that_is_too_long_is_told_so_or_not() {
    sandboxed(|| {
        const LIMIT: u64 = 1 << 20;
        let refuses = |stream: &mut TcpStream| {
            while let Some((is_close, length)) = frame(stream) {
                if length > LIMIT {
                    let _ = stream.write_all(TOO_BIG);
                    return;
                }
                skip(stream, length);
                if is_close {
                    let _ = stream.write_all(CLOSED);
                    return;
                }
            }
        };
        let well = found(move |stream, _| {
            refuses(stream);
            close_well(stream);
        });
        assert_eq!(well.answer, CheckAnswer::Keeps, "{well:#?}");
        // One field away: it does not read what it does not want.
        let reset = found(move |stream, _| refuses(stream));
        assert!(matches!(reset.answer, CheckAnswer::AtRisk | CheckAnswer::Loses), "{reset:#?}");
        assert_eq!(reset.form.as_deref(), Some("one that sends a message longer than servers take"));
    });
}

#[test]
fn a_refusal_arrives_or_not_and_says_nothing_of_websockets() {
    sandboxed(|| {
        let refused = |serve: fn(&mut TcpStream, Vec<u8>)| {
            let report = ask(&websockets(serve, false), &config(&[Check::WebSocket])).unwrap();
            (report.doubt(), report.findings.into_iter().next().unwrap())
        };
        let (doubt, kept) = refused(|stream, _| {
            respond(stream, "404 Not Found", "", BODY);
            close_well(stream);
        });
        assert_eq!((kept.answer, kept.verdict), (CheckAnswer::CannotTell, None), "{kept:#?}");
        assert!(
            kept.sentence.starts_with("it answered 404, and speaks no WebSocket here"),
            "{}",
            kept.sentence
        );
        assert_eq!((doubt, kept.unlike), (None, None));
        // One field away: the client's first frame is left unread.
        let (_, lost) = refused(|stream, more| {
            respond(stream, "404 Not Found", "", BODY);
            if more.is_empty() {
                let _ = stream.peek(&mut [0]);
            }
            socket2::SockRef::from(&*stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        });
        assert_eq!((lost.answer, lost.status), (CheckAnswer::Loses, Some(404)), "{lost:#?}");
        let (_, whole) = refused(|stream, _| {
            respond(stream, "200 OK", "", BODY);
            close_well(stream);
        });
        assert!(whole.sentence.starts_with("it answered 200"), "{}", whole.sentence);
    });
}

#[test]
fn what_cannot_be_asked_is_not_called_kept() {
    sandboxed(|| {
        let url = websockets(
            |stream, _| {
                close_well(stream);
            },
            true,
        );
        let left = ask(&url, &quiet(&[Check::WebSocket])).unwrap().findings.remove(0);
        assert_eq!((left.answer, left.left_out), (CheckAnswer::CannotTell, Some(LeftOut::Active)));
        // It agrees to another client's key, or to no WebSocket: a client gives up at both.
        let key = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA";
        for (said, why) in [
            (key, "Sec-WebSocket-Accept"),
            ("Upgrade: websocket\r\nConnection: close", "without `Upgrade: websocket`"),
        ] {
            let wrong = agreed(said);
            assert_eq!(wrong.answer, CheckAnswer::CannotTell, "{wrong:#?}");
            assert!(wrong.sentence.contains(why), "{}", wrong.sentence);
        }
    });
}

/// What is found of a server that answers 101 with these fields, and nothing behind.
fn agreed(fields: &'static str) -> CheckFinding {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let seen = String::from_utf8_lossy(&head(&mut stream)).into_owned();
                if seen.contains("Sec-WebSocket-Key") {
                    let _ = write!(stream, "HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n");
                } else {
                    respond(&mut stream, "200 OK", "", BODY);
                }
                close_well(&mut stream);
            });
        }
    });
    ask(&url, &config(&[Check::WebSocket])).unwrap().findings.remove(0)
}

/// A Close frame that says what none may say is not one: a client is told 1006, or 1002, in its place.
#[test]
fn a_close_frame_that_none_may_send_is_not_called_kept() {
    sandboxed(|| {
        let wrong = found(|stream, _| {
            if to_the_close(stream) {
                // 1006.
                let _ = stream.write_all(b"\x88\x02\x03\xee");
            }
            close_well(stream);
        });
        assert_eq!((wrong.answer, wrong.verdict), (CheckAnswer::CannotTell, None), "{wrong:#?}");
        assert!(wrong.sentence.contains("a client gives up there"), "{}", wrong.sentence);
    });
}
