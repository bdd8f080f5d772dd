//! Responses at the edge of HTTP and beyond: what is allowed is no fault of a server, and what no client can use is said to be that.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::common::{BODY, ask, close_well, config, respond, serve};
use linger_probe::{Check, CheckAnswer, NoResponse, ProbeError};
use linger_testing::sandboxed;

const CHECKS: [Check; 3] = [Check::LargeResponse, Check::UnreadBody, Check::Stall];

/// A server that answers each request with these bytes.
fn answering(bytes: Vec<u8>) -> String {
    serve(move |stream, _, _| drop(stream.write_all(&bytes)))
}

fn refused(url: &str) -> (Option<NoResponse>, String) {
    let error = ask(url, &config(&CHECKS)).unwrap_err();
    let text = error.to_string();
    match error {
        ProbeError::NoResponse { why, .. } => (Some(why), text),
        _ => (None, text),
    }
}

fn whole(head: &str) -> Vec<u8> {
    let mut bytes = format!("{head}Content-Length: {BODY}\r\nConnection: close\r\n\r\n").into_bytes();
    bytes.resize(bytes.len() + BODY, b'r');
    bytes
}

#[track_caller]
fn is_kept(what: &str, bytes: Vec<u8>) {
    let report = ask(&answering(bytes), &config(&CHECKS)).unwrap_or_else(|error| panic!("{what}: {error}"));
    for finding in &report.findings {
        assert_eq!(finding.answer, CheckAnswer::Keeps, "{what}: {:?}: {}", finding.check, finding.sentence);
    }
}

#[test]
fn what_http_allows_is_a_response() {
    sandboxed(|| {
        let fields = |count: usize, length: usize| {
            let value = "v".repeat(length);
            (0..count).map(|number| format!("X-{number}: {value}\r\n")).collect::<String>()
        };
        is_kept("100 KB of head", whole(&format!("HTTP/1.1 200 OK\r\n{}", fields(100, 1000))));
        is_kept("2,000 fields", whole(&format!("HTTP/1.1 200 OK\r\n{}", fields(2000, 2))));
        let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(200);
        is_kept("400 interim responses", whole(&format!("{early}HTTP/1.1 200 OK\r\n")));
        is_kept("controls in the reason phrase", whole("HTTP/1.1 200 \x1b]0;x\x07\x1b[31m\r\n"));
        let mut chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nConnection: close\r\n\r\n"
                .to_vec();
        for _ in 0..300 {
            chunked.extend_from_slice(b"3E8;name=\"a;b\" ; x\r\n");
            chunked.resize(chunked.len() + 1000, b'r');
            chunked.extend_from_slice(b"\r\n");
        }
        is_kept(
            "chunks with extensions and trailers",
            [&chunked[..], b"000;last\r\nX: y\r\nZ: w\r\n\r\n"].concat(),
        );
    });
}

/// Writes until the client has gone.
fn flood(stream: &mut TcpStream, first: &[u8], again: &[u8]) {
    let piece = again.repeat((16 << 10) / again.len());
    let written: io::Result<()> = stream.write_all(first).and_then(|()| {
        loop {
            stream.write_all(&piece)?;
        }
    });
    drop(written);
}

#[test]
fn a_head_without_end_is_said_to_be_that() {
    sandboxed(|| {
        let (why, text) = refused(&serve(|stream, _, _| flood(stream, b"HTTP/1.1 200 OK\r\n", b"X: y\r\n")));
        assert!(matches!(why, Some(NoResponse::EndlessHead(512_000..))), "{text}");
        assert!(text.contains("its head does not end within"), "{text}");
        let (why, text) = refused(&serve(|stream, _, _| flood(stream, b"HTTP/1.1 200 OK\r\nX: ", b"y")));
        assert!(matches!(why, Some(NoResponse::EndlessHead(512_000..))), "{text}");
        let (why, text) =
            refused(&serve(|stream, _, _| flood(stream, b"", b"HTTP/1.1 100 Continue\r\n\r\n")));
        assert_eq!(why, Some(NoResponse::OnlyInterim(1001)), "{text}");
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        let (why, text) = refused(&answering(format!("{head}zz\r\n").into_bytes()));
        assert_eq!(why, Some(NoResponse::Chunks(3)), "{text}");
        let (why, text) = refused(&answering(b"HTTP/1.1 2OO OK\r\nContent-Length: 2\r\n\r\nhi".to_vec()));
        assert!(matches!(why, Some(NoResponse::MalformedHead(_))), "{text}");
        assert!(text.contains("its head is malformed: `HTTP/1.1 2OO OK"), "{text}");
        // One field away: what is no HTTP at all.
        let (why, text) = refused(&serve(|stream, _, _| flood(stream, b"", b"220 mail ready\r\n")));
        assert_eq!(why, None);
        assert!(text.contains("another protocol: it begins with `220 mail"), "{text}");
    });
}

#[test]
fn what_is_no_response_in_a_trial_decides_nothing() {
    sandboxed(|| {
        for garbage in [
            &b"no response at all\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ] {
            let url = serve(move |stream, number, _| match number {
                0 => respond(stream, "200 OK", "", BODY),
                _ => drop(stream.write_all(garbage)),
            });
            let report = ask(&url, &config(&CHECKS)).unwrap();
            for finding in &report.findings {
                let sentence = &finding.sentence;
                assert_eq!(finding.answer, CheckAnswer::CannotTell, "{:?}: {sentence}", finding.check);
                assert!(sentence.contains("what came is no response: "), "{sentence}");
            }
        }
    });
}

#[test]
fn a_length_that_is_always_wrong_is_told_from_a_cut() {
    sandboxed(|| {
        let short = |plain: usize| {
            serve(move |stream, number, _| {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\nConnection: close\r\n\r\n");
                let length = if number == 0 { plain } else { BODY - 1 };
                let _ =
                    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'r'; length]));
            })
        };
        for (plain, is_said) in [(BODY - 1, true), (BODY, false)] {
            let report = ask(&short(plain), &config(&[Check::LargeResponse])).unwrap();
            let finding = &report.findings[0];
            assert_eq!(finding.answer, CheckAnswer::LosesSilently, "{}", finding.sentence);
            assert_eq!(finding.sentence.contains("was short as well"), is_said, "{}", finding.sentence);
        }
    });
}

#[test]
fn a_web_server_asked_in_fastcgi_speaks_another_protocol() {
    sandboxed(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("fcgi://{}/x", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // A record is no line of HTTP, so its first bytes are answered.
            let _ = stream.read(&mut [0; 100]).unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
            close_well(&mut stream);
        });
        let (why, text) = refused(&url);
        assert_eq!(why, None);
        assert!(text.contains("another protocol: it begins with `HTTP/1.1 400"), "{text}");
    });
}

#[test]
fn what_follows_a_complete_response_without_end_is_read_to_a_bound() {
    sandboxed(|| {
        let floods = |announced: usize| {
            serve(move |stream, _, _| {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {announced}\r\n\r\n");
                flood(stream, &[head.as_bytes(), &[b'r'; 70_000]].concat(), b"r");
            })
        };
        let mut asks = config(&[Check::LargeResponse]);
        asks.most = 1 << 20;
        let report = ask(&floods(70_000), &asks).unwrap();
        let finding = &report.findings[0];
        assert_eq!(finding.answer, CheckAnswer::Keeps, "{finding:#?}");
        assert!(report.received_bytes < 10 << 20, "{}", report.received_bytes);
        // One field away: all of it belongs to the response.
        let error = ask(&floods(1 << 30), &asks).unwrap_err();
        assert!(matches!(error, ProbeError::TooLong { bytes: 0x4000_0000, .. }), "{error}");
    });
}

#[test]
fn a_response_that_drips_is_told_by_what_has_come() {
    sandboxed(|| {
        let url = serve(|stream, _, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n");
            while stream.write_all(b"r").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        });
        let mut asks = config(&CHECKS);
        (asks.longest, asks.patience) = (Duration::from_millis(300), Duration::from_millis(500));
        match ask(&url, &asks).unwrap_err() {
            ProbeError::TooLong { bytes, .. } => assert!(bytes < 900, "{bytes}"),
            error => panic!("{error}"),
        }
    });
}
