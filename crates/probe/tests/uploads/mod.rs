//! Bodies in chunks, and bodies that are asked about first.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use linger_probe::{Check, CheckAnswer, CheckFinding, LeftOut};
use linger_testing::sandboxed;

use crate::common::{BODY, ask, close_well, config, head, quiet, respond, serve};

fn says(head: &[u8], words: &str) -> bool {
    head.windows(words.len()).any(|part| part == words.as_bytes())
}

/// What a server does with a body.
#[derive(Clone, Copy)]
enum Body {
    /// Answers and closes, whatever comes.
    Ignores,
    /// Answers, and reads on until the client closes.
    Drains,
    /// Reads it, having asked for it where the client wants to be asked, and answers then.
    Reads { asks: bool },
}

/// Reads the rest of a body, behind what came with the head.
fn rest(stream: &mut TcpStream, head: &[u8]) {
    let end = head.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let mut body = head[end..].to_vec();
    let length = String::from_utf8_lossy(&head[..end]).into_owned();
    let length =
        length.split("Content-Length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok());
    let length: usize = length.unwrap_or(0);
    let is_over = |body: &[u8]| match says(head, "chunked") {
        true => body.ends_with(b"\r\n0\r\n\r\n"),
        false => body.len() >= length,
    };
    let mut buffer = vec![0; 65_536];
    while !is_over(&body) {
        match stream.read(&mut buffer) {
            Ok(got @ 1..) => body.extend_from_slice(&buffer[..got]),
            _ => return,
        }
    }
}

/// Answers plain requests well, and such with a body in its own way. Returns the URL, and the heads that have come.
fn with_bodies(does: Body) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let heard = heads.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, heard) = (stream.unwrap(), heard.clone());
            thread::spawn(move || {
                let head = head(&mut stream);
                heard.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                let has_body = says(&head, "Content-Length") || says(&head, "chunked");
                if let Body::Reads { asks } = does {
                    if asks && says(&head, "100-continue") {
                        let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    rest(&mut stream, &head);
                }
                respond(&mut stream, "200 OK", "", BODY);
                if !has_body || !matches!(does, Body::Ignores) {
                    close_well(&mut stream);
                }
            });
        }
    });
    (url, heads)
}

fn found(does: Body, check: Check) -> (CheckFinding, Vec<String>) {
    let (url, heads) = with_bodies(does);
    let mut asks = config(&[check]);
    asks.repeat = 1;
    let finding = ask(&url, &asks).unwrap().findings.remove(0);
    let heads = heads.lock().unwrap()[1..].to_vec();
    (finding, heads)
}

#[test]
fn a_body_in_chunks_that_is_left_unread_costs_the_response() {
    sandboxed(|| {
        let (lost, heads) = found(Body::Ignores, Check::ChunkedUpload);
        assert!(matches!(lost.answer, CheckAnswer::Loses | CheckAnswer::AtRisk), "{lost:#?}");
        assert_eq!((lost.trials, lost.forms.len()), (2, 2), "{lost:#?}");
        for head in &heads {
            assert!(
                head.starts_with("POST ") && head.contains("\r\nTransfer-Encoding: chunked\r\n"),
                "{head}"
            );
            assert!(!head.contains("Content-Length"), "{head}");
        }
        // One field away each: it reads on, and it reads first.
        let (kept, _) = found(Body::Drains, Check::ChunkedUpload);
        assert_eq!((kept.answer, kept.with_this_answer), (CheckAnswer::Keeps, 2), "{kept:#?}");
        let (kept, _) = found(Body::Reads { asks: false }, Check::ChunkedUpload);
        assert_eq!((kept.answer, kept.with_this_answer), (CheckAnswer::Keeps, 2), "{kept:#?}");
    });
}

#[test]
fn a_client_that_asks_first_is_asked_for_the_body_or_keeps_it() {
    sandboxed(|| {
        let (asked, heads) = found(Body::Reads { asks: true }, Check::ExpectContinue);
        assert_eq!((asked.answer, asked.with_this_answer), (CheckAnswer::Keeps, 2), "{asked:#?}");
        assert!(heads.iter().all(|head| head.contains("\r\nExpect: 100-continue\r\n")), "{heads:?}");
        // It does not ask, and gets the body all the same: no fault of a close.
        let (silent, _) = found(Body::Reads { asks: false }, Check::ExpectContinue);
        assert_eq!((silent.answer, silent.with_this_answer), (CheckAnswer::Keeps, 2), "{silent:#?}");
        // An answer without the body loses nothing of a client that keeps it, and something of one that does not.
        let (lost, _) = found(Body::Ignores, Check::ExpectContinue);
        assert!(matches!(lost.answer, CheckAnswer::Loses | CheckAnswer::AtRisk), "{lost:#?}");
        assert_eq!((lost.trials, lost.with_this_answer), (2, 1), "{lost:#?}");
        assert_eq!(lost.form.as_deref(), Some("a client that sends its body at once"));
        let (kept, _) = found(Body::Drains, Check::ExpectContinue);
        assert_eq!((kept.answer, kept.with_this_answer), (CheckAnswer::Keeps, 2), "{kept:#?}");
    });
}

#[test]
fn what_the_server_said_to_the_question_is_told() {
    sandboxed(|| {
        for (does, words) in [
            (Body::Reads { asks: true }, "it asked for the body (100 Continue)"),
            (Body::Reads { asks: false }, "no 100 Continue came in"),
            (Body::Drains, "it answered without the body, which the client kept"),
        ] {
            let (url, _) = with_bodies(does);
            let mut asks = config(&[Check::ExpectContinue]);
            asks.repeat = 1;
            let sentence = ask(&url, &asks).unwrap().findings.remove(0).sentence;
            assert!(sentence.contains(words), "{words}: {sentence}");
        }
        // 417 refuses the question itself (RFC 9110 section 15.5.18), and is a response like any other.
        let url = serve(|stream, _, head| match says(head, "Expect") {
            true => respond(stream, "417 Expectation Failed", "", 5),
            false => respond(stream, "200 OK", "", BODY),
        });
        let refused = ask(&url, &config(&[Check::ExpectContinue])).unwrap().findings.remove(0);
        assert_eq!((refused.answer, refused.status), (CheckAnswer::Keeps, Some(417)), "{refused:#?}");
    });
}

#[test]
fn neither_is_asked_of_a_server_that_others_use() {
    sandboxed(|| {
        let (url, heads) = with_bodies(Body::Drains);
        let report = ask(&url, &quiet(&[Check::ChunkedUpload, Check::ExpectContinue])).unwrap();
        for finding in &report.findings {
            let left_out = (finding.answer, finding.left_out);
            assert_eq!(left_out, (CheckAnswer::CannotTell, Some(LeftOut::Active)), "{finding:#?}");
        }
        assert_eq!(heads.lock().unwrap().len(), 1, "the plain request alone");
    });
}

/// Answers as soon as half of the body has come. Then closes with that half unread, or reads on.
fn answers_half(reads_on: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut came = [0; 64];
                // A part of the head alone is read of a request with a body: the rest is unread at the close.
                let is_post = stream.read(&mut came).is_ok_and(|_| came.starts_with(b"POST"));
                if !is_post || reads_on {
                    respond(&mut stream, "200 OK", "", BODY);
                    close_well(&mut stream);
                    return;
                }
                respond(&mut stream, "200 OK", "", BODY);
                // The client has all of it by then.
                thread::sleep(Duration::from_millis(100));
            });
        }
    });
    url
}

#[test]
fn a_reset_behind_the_answer_to_half_of_a_request_is_at_risk() {
    sandboxed(|| {
        let mut config = config(&[Check::Stall]);
        config.repeat = 3;
        let found = ask(&answers_half(false), &config).unwrap().findings.remove(0);
        assert_eq!((found.answer, found.with_this_answer), (CheckAnswer::AtRisk, 3), "{found:#?}");
        assert!(found.counters.get("TCPAbortOnClose").is_some_and(|count| *count > 0), "{found:#?}");
        // One field away: the same answer, and a close that reads on.
        let found = ask(&answers_half(true), &config).unwrap().findings.remove(0);
        assert_eq!((found.answer, found.with_this_answer), (CheckAnswer::Keeps, 3), "{found:#?}");
        assert!(found.counters.is_empty(), "{found:#?}");
    });
}
