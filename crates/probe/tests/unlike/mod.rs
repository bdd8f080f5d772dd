//! Servers that answer the same request with something else each time, or not at all, and ends that look like others.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use linger_probe::{Check, CheckAnswer, CheckFinding, ConnectionEnd, Doubt, ProbeReport, Unlike};
use linger_testing::sandboxed;

use crate::common::{BODY, ask, close_well, config, head, respond, serve};

const SAME_REQUEST: [Check; 3] = [Check::LargeResponse, Check::LateByte, Check::HalfClose];

fn has_body(head: &[u8]) -> bool {
    head.windows(14).any(|name| name == b"Content-Length")
}

fn is_undecided(report: &ProbeReport, unlike: Unlike) {
    for finding in &report.findings {
        let found = (finding.answer, finding.unlike, finding.verdict);
        assert_eq!(found, (CheckAnswer::CannotTell, Some(unlike), None), "{finding:#?}");
    }
    assert_eq!(report.overall(), CheckAnswer::CannotTell);
}

fn is_kept(report: &ProbeReport) {
    for finding in &report.findings {
        assert_eq!((finding.answer, finding.unlike), (CheckAnswer::Keeps, None), "{finding:#?}");
    }
    assert_eq!(report.overall(), CheckAnswer::Keeps);
}

#[test]
fn another_page_for_the_same_request_tells_nothing() {
    sandboxed(|| {
        for (status, number) in [("302 Found", 302), ("404 Not Found", 404), ("206 Partial Content", 206)] {
            let url = serve(move |stream, number, _| match number % 2 {
                0 => respond(stream, "200 OK", "", BODY),
                _ => respond(stream, status, "", 5),
            });
            let report = ask(&url, &config(&SAME_REQUEST)).unwrap();
            is_undecided(&report, Unlike::Status);
            let doubt = Doubt::OtherStatus { status: number, check: Check::LargeResponse };
            assert_eq!(report.doubt(), Some(doubt));
            assert_eq!(report.findings[0].with_this_answer, 1, "{:#?}", report.findings[0]);
            // One field away: a request with a body may be refused, and one with bytes behind it.
            let url = serve(move |stream, _, head| match has_body(head) {
                false => respond(stream, "200 OK", "", BODY),
                true => respond(stream, status, "", 5),
            });
            let only = [Check::UnreadBody, Check::LargeResponse, Check::Pipelined];
            is_kept(&ask(&url, &config(&only)).unwrap());
        }
    });
}

#[test]
fn a_page_that_has_shrunk_tells_nothing() {
    sandboxed(|| {
        let shrinks = |later: usize| {
            let url = serve(move |stream, number, _| {
                respond(stream, "200 OK", "", if number == 0 { BODY } else { later });
            });
            ask(&url, &config(&[Check::UnreadBody, Check::LateByte, Check::LargeResponse])).unwrap()
        };
        let report = shrinks(60_000);
        is_undecided(&report, Unlike::Length);
        assert_eq!(report.doubt(), Some(Doubt::OtherLength { bytes: 60_000, check: Check::LargeResponse }));
        assert!(report.findings[0].sentence.contains("where the plain response has 300000"), "{report:#?}");
        // One field away: a page of another length each time, each long enough.
        is_kept(&shrinks(70_000));
    });
}

/// Resets the connection as soon as the request's head has come.
fn aborts(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Answers the requests for which `answers` is true; resets the others before a byte of a response.
fn answers_some(answers: impl Fn(u64, &[u8]) -> bool + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answers = Arc::new(answers);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (mut stream, answers) = (stream.unwrap(), answers.clone());
            thread::spawn(move || {
                let head = head(&mut stream);
                if answers(number as u64, &head) {
                    respond(&mut stream, "200 OK", "", BODY);
                    close_well(&mut stream);
                } else {
                    aborts(&stream);
                }
            });
        }
    });
    url
}

#[test]
fn a_server_that_answers_nobody_any_more_loses_nothing_by_a_question() {
    sandboxed(|| {
        let only = [Check::UnreadBody, Check::TrailingBytes];
        // Stops after the plain request and three of the eight trials.
        let report = ask(&answers_some(|number, _| number < 4), &config(&only)).unwrap();
        is_undecided(&report, Unlike::NoAnswer);
        assert_eq!(report.doubt(), Some(Doubt::NoAnswer(Check::UnreadBody)));
        let sentence = &report.findings[0].sentence;
        assert!(sentence.contains("so did a plain request's after it"), "{sentence}");
        let every_second = ask(&answers_some(|number, _| number % 2 == 0), &config(&only)).unwrap();
        is_undecided(&every_second, Unlike::NoAnswer);
        // One field away: only who sends a body gets no answer.
        let report = ask(&answers_some(|_, head| !has_body(head)), &config(&only)).unwrap();
        let found = |check| {
            let finding = report.of(check).unwrap();
            (finding.answer, finding.unlike)
        };
        assert_eq!(found(Check::UnreadBody), (CheckAnswer::Loses, None), "{report:#?}");
        assert_eq!(found(Check::TrailingBytes), (CheckAnswer::Keeps, None), "{report:#?}");
    });
}

#[test]
fn a_server_that_has_ended_is_not_said_to_keep() {
    sandboxed(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        thread::spawn(move || {
            // The plain request and two trials; then nobody listens.
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().unwrap();
                head(&mut stream);
                respond(&mut stream, "200 OK", "", BODY);
                close_well(&mut stream);
            }
        });
        let report = ask(&url, &config(&[Check::LargeResponse, Check::HalfClose, Check::LateByte])).unwrap();
        assert_eq!(report.findings[0].answer, CheckAnswer::Keeps);
        let doubt = Some(Doubt::NoAnswer(Check::LateByte));
        assert_eq!((report.overall(), report.doubt()), (CheckAnswer::CannotTell, doubt), "{report:#?}");
    });
}

#[test]
fn a_byte_that_comes_after_the_last_look_for_bytes_is_seen() {
    sandboxed(|| {
        /// Reads what has come once the response is written, and then closes; or reads on.
        fn looks_once(reads_on: bool) -> CheckFinding {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/", listener.local_addr().unwrap());
            thread::spawn(move || {
                for (number, stream) in listener.incoming().enumerate() {
                    let mut stream = stream.unwrap();
                    thread::spawn(move || {
                        head(&mut stream);
                        respond(&mut stream, "200 OK", "", BODY);
                        if reads_on || number == 0 {
                            close_well(&mut stream);
                            return;
                        }
                        let _ = stream.shutdown(Shutdown::Write);
                        let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
                        while let Ok(1..) = stream.read(&mut [0; 4096]) {}
                    });
                }
            });
            let mut asks = config(&[Check::LateByte]);
            // Longer than the server looks.
            asks.delay = Duration::from_millis(300);
            ask(&url, &asks).unwrap().findings.remove(0)
        }
        let found = looks_once(false);
        assert_eq!(found.answer, CheckAnswer::Loses, "{found:#?}");
        assert_eq!(found.forms.len(), 2, "{found:#?}");
        let kept = looks_once(true);
        assert_eq!((kept.answer, kept.trials), (CheckAnswer::Keeps, 4), "{kept:#?}");
    });
}

/// Answers each client over TLS, and ends with close_notify or without. Returns the URL.
fn over_tls(fields: &'static str, ends_tls: bool) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, config) = (stream.unwrap(), config.clone());
            thread::spawn(move || {
                let mut session = rustls::ServerConnection::new(config).unwrap();
                let mut tls = rustls::Stream::new(&mut session, &mut stream);
                let mut seen = Vec::new();
                while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
                    let mut buffer = [0; 4096];
                    match tls.read(&mut buffer) {
                        Ok(got @ 1..) => seen.extend_from_slice(&buffer[..got]),
                        _ => return,
                    }
                }
                let _ = tls.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\n").as_bytes());
                let _ = tls.write_all(&[b'r'; 100_000]).and_then(|()| tls.flush());
                if ends_tls {
                    session.send_close_notify();
                    while session.wants_write() && session.write_tls(&mut stream).is_ok() {}
                }
                close_well(&mut stream);
            });
        }
    });
    url
}

#[test]
fn an_end_of_tls_that_is_missing_is_a_risk_where_nothing_else_shows_the_end() {
    sandboxed(|| {
        let only = config(&[Check::LargeResponse, Check::TrailingBytes]);
        let report = ask(&over_tls("Connection: close\r\n", false), &only).unwrap();
        for finding in &report.findings {
            let found = (finding.answer, finding.ended);
            assert_eq!(found, (CheckAnswer::AtRisk, Some(ConnectionEnd::Closed)), "{finding:#?}");
            assert!(finding.sentence.contains("close_notify"), "{}", finding.sentence);
        }
        // One field away each: with that end, and with a length.
        is_kept(&ask(&over_tls("Connection: close\r\n", true), &only).unwrap());
        let length = "Connection: close\r\nContent-Length: 100000\r\n";
        is_kept(&ask(&over_tls(length, false), &only).unwrap());
    });
}

#[test]
fn nothing_is_on_its_way_over_a_unix_socket() {
    sandboxed(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let _ = stream.read(&mut [0; 4096]);
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&[b'r'; BODY]));
                });
            }
        });
        let url = format!("http://unix:{}:/", path.display());
        let report = ask(&url, &config(&[Check::UnreadBody, Check::LargeResponse])).unwrap();
        let unread = report.of(Check::UnreadBody).unwrap();
        assert_eq!((unread.answer, unread.got), (CheckAnswer::AtRisk, BODY as u64), "{unread:#?}");
        assert!(unread.sentence.contains("as they do over a unix socket"), "{}", unread.sentence);
        // TCP's counters tell nothing of it.
        assert!(report.findings.iter().all(|finding| finding.counters.is_empty()), "{report:#?}");
        assert_eq!(report.of(Check::LargeResponse).unwrap().answer, CheckAnswer::Keeps);
    });
}

#[test]
fn a_refusal_without_framing_is_no_short_page() {
    sandboxed(|| {
        // bjoern's answer to bytes behind a request; and, one field away, the plain page's status.
        for (status, answer) in
            [("400 Bad Request", CheckAnswer::Keeps), ("200 OK", CheckAnswer::LosesSilently)]
        {
            let url = serve(move |stream, _, head| {
                let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
                let is_plain = head
                    .windows(4)
                    .position(|four| four == b"\r\n\r\n")
                    .is_some_and(|at| at + 4 == head.len())
                    && !stream.read(&mut [0; 8]).is_ok_and(|got| got > 0);
                let _ = stream.set_read_timeout(None);
                if is_plain {
                    respond(stream, "200 OK", "", BODY);
                } else {
                    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes());
                }
            });
            let report = ask(&url, &config(&[Check::TrailingBytes])).unwrap();
            assert_eq!(report.findings[0].answer, answer, "{status}: {}", report.findings[0].sentence);
        }
    });
}
