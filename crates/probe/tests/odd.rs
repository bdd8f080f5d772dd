//! Correct servers that behave oddly: none of them may be said to lose responses, and the probe says what it cannot
//! tell.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use linger_probe::{Check, CheckAnswer, ProbeConfig, ProbeError, ProbeReport, QUIET, probe, will_ask};
use linger_testing::sandboxed;

const BODY: usize = 300_000;

/// Reads a request's head. Returns it with what came with it.
fn head(stream: &mut TcpStream) -> Vec<u8> {
    let (mut seen, mut buffer) = (Vec::new(), [0; 65_536]);
    while !seen.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(got) if got > 0 => seen.extend_from_slice(&buffer[..got]),
            _ => break,
        }
    }
    seen
}

/// A close that loses nothing: FIN, then everything is read until the client closes.
fn close_well(stream: &mut TcpStream) -> u64 {
    let _ = stream.shutdown(Shutdown::Write);
    let (mut buffer, mut all) = (vec![0; 65_536], 0);
    while let Ok(got @ 1..) = stream.read(&mut buffer) {
        all += got as u64;
    }
    all
}

/// Serves every connection in a thread of its own, with its number and its request's head. Returns the URL.
fn serve(answer: impl Fn(&mut TcpStream, u64, &[u8]) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (mut stream, answer) = (stream.unwrap(), answer.clone());
            thread::spawn(move || {
                let head = head(&mut stream);
                answer(&mut stream, number as u64, &head);
                close_well(&mut stream);
            });
        }
    });
    url
}

fn respond(stream: &mut TcpStream, status: &str, more: &str, body: usize) {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {body}\r\nConnection: close\r\n{more}\r\n");
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'r'; body]));
}

fn config(only: &[Check]) -> ProbeConfig {
    let mut config = ProbeConfig::default();
    (config.only, config.watch, config.delay) = (only.to_vec(), false, Duration::from_millis(50));
    config
}

fn ask(url: &str, config: &ProbeConfig) -> Result<ProbeReport, ProbeError> {
    probe(&url.parse().unwrap(), config, |_| {})
}

fn answer(url: &str, check: Check) -> (CheckAnswer, String) {
    let report = ask(url, &config(&[check])).unwrap();
    let finding = report.of(check).unwrap();
    (finding.answer, finding.sentence.clone())
}

#[test]
fn a_page_whose_length_varies_is_no_loss_and_a_cut_one_is() {
    sandboxed(|| {
        // The plain requests are numbers 0 to 2. The first trial gets less than each of them.
        let url = serve(|stream, number, _| {
            let length = [100_100, 99_900, 100_000, 99_500, 99_000][(number as usize).min(4)];
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(&vec![b'r'; length]);
        });
        let (answer_, sentence) = answer(&url, Check::LargeResponse);
        assert_eq!(answer_, CheckAnswer::CannotTell, "{sentence}");
        // One field away: of equal length each time, until a trial gets half of it.
        let url = serve(|stream, number, _| {
            let length = if number < 3 { 100_000 } else { 50_000 };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(&vec![b'r'; if number > 4 { 100_000 } else { length }]);
        });
        let mut once = config(&[Check::LargeResponse]);
        once.repeat = 1;
        let report = ask(&url, &once).unwrap();
        assert_eq!(report.findings[0].answer, CheckAnswer::CannotTell, "its own repetition had 50,000 once");
        let url = serve(|stream, number, _| {
            let length = if number == 3 { 50_000 } else { 100_000 };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(&vec![b'r'; length]);
        });
        let report = ask(&url, &once).unwrap();
        assert_eq!(report.findings[0].answer, CheckAnswer::LosesSilently, "{}", report.findings[0].sentence);
    });
}

#[test]
fn another_status_than_the_plain_one_is_not_called_kept() {
    sandboxed(|| {
        let gateway = serve(|stream, _, head| {
            let has_body =
                head.starts_with(b"POST") || head.windows(14).any(|name| name == b"Content-Length");
            match has_body {
                true => respond(stream, "503 Service Unavailable", "", 5),
                false => respond(stream, "200 OK", "", BODY),
            }
        });
        let report = ask(&gateway, &config(&[Check::LargeResponse, Check::UnreadBody])).unwrap();
        assert_eq!(report.of(Check::LargeResponse).unwrap().answer, CheckAnswer::Keeps);
        let unread = report.of(Check::UnreadBody).unwrap();
        assert_eq!(
            (unread.answer, unread.status),
            (CheckAnswer::CannotTell, Some(503)),
            "{}",
            unread.sentence
        );
        assert!(unread.sentence.contains("it answered 503 instead of 200"), "{}", unread.sentence);
        assert_eq!(report.overall(), CheckAnswer::CannotTell);
        // A limit that comes after a few connections: those before do not make up for those after.
        let limited = serve(|stream, number, _| match number {
            0..4 => respond(stream, "200 OK", "", BODY),
            _ => respond(stream, "429 Too Many Requests", "", 5),
        });
        let (answer_, sentence) = answer(&limited, Check::UnreadBody);
        assert_eq!(answer_, CheckAnswer::CannotTell, "{sentence}");
        // One field away: a refusal of the body is an early response like any other.
        let refusing = serve(|stream, _, head| match head.starts_with(b"POST") {
            true => respond(stream, "413 Content Too Large", "", 5),
            false => respond(stream, "200 OK", "", BODY),
        });
        assert_eq!(answer(&refusing, Check::UnreadBody).0, CheckAnswer::Keeps);
    });
}

#[test]
fn the_plain_response_is_told_by_its_status() {
    sandboxed(|| {
        for (status, more, length) in [
            ("301 Moved Permanently", "Location: https://example.org/\r\n", 0),
            ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"x\"\r\n", 5),
        ] {
            let url = serve(move |stream, _, _| respond(stream, status, more, length));
            let report = ask(&url, &config(&[Check::TrailingBytes])).unwrap();
            assert_eq!(report.status.unwrap().to_string(), status[..3]);
            assert_eq!(report.location.is_some(), more.starts_with("Location"));
        }
    });
}

#[test]
fn what_has_no_end_or_is_no_http_is_said_and_not_waited_for() {
    sandboxed(|| {
        let events = serve(|stream, _, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while stream.write_all(b"6\r\nevent\n\r\n").is_ok() {
                thread::sleep(Duration::from_millis(100));
            }
        });
        let mut impatient = config(&[]);
        (impatient.longest, impatient.patience) = (Duration::from_millis(500), Duration::from_millis(300));
        assert!(matches!(ask(&events, &impatient), Err(ProbeError::TooLong { .. })));
        let large = serve(|stream, _, _| {
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 400000000\r\nConnection: close\r\n\r\n");
            while stream.write_all(&[b'z'; 65_536]).is_ok() {}
        });
        let Err(ProbeError::TooLong { bytes, .. }) = ask(&large, &config(&[])) else {
            panic!("400 MB are too long")
        };
        assert_eq!(bytes, 400_000_000);
        let silent = serve(|_, _, _| thread::sleep(Duration::from_secs(1)));
        assert!(matches!(ask(&silent, &impatient), Err(ProbeError::Silent { bytes: 0, .. })));
        let stuck = serve(|stream, _, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi");
            thread::sleep(Duration::from_secs(1));
        });
        assert!(matches!(ask(&stuck, &impatient), Err(ProbeError::Silent { bytes: 2, .. })));
        for (opening, word) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], "SSH-2.0-OpenSSH_9.2"),
            (&b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64"[..], "HTTP/2"),
            (&b"\x15\x03\x01\x00\x02\x02\x46"[..], "https://"),
        ] {
            let url = serve(move |stream, _, _| {
                let _ = stream.write_all(opening);
            });
            let error = ask(&url, &config(&[])).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    });
}

#[test]
fn a_quiet_probe_keeps_to_its_budget() {
    sandboxed(|| {
        // One thread: it serves nobody else until a connection has ended, so that a second one at a time would be seen.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (heard, received) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
        let (methods, all) = (heard.clone(), received.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = head(&mut stream);
                methods.lock().unwrap().push(String::from_utf8_lossy(&head[..4]).into_owned());
                respond(&mut stream, "200 OK", "", 100_000);
                all.fetch_add(head.len() as u64 + close_well(&mut stream), SeqCst);
            }
        });
        let mut quiet = config(&[]);
        quiet.active = Some(false);
        let report = ask(&url, &quiet).unwrap();
        let heard = heard.lock().unwrap();
        assert!(heard.iter().all(|method| method == "GET "), "{heard:?}");
        assert_eq!(heard.len() as u64, report.connections);
        assert!(
            received.load(SeqCst) <= report.sent_bytes && report.sent_bytes <= QUIET,
            "{}",
            report.sent_bytes
        );
        assert!(
            report.received_bytes <= QUIET && report.received_bytes > 100_000,
            "{}",
            report.received_bytes
        );
        for finding in report.findings.iter().filter(|finding| finding.left_out.is_none()) {
            assert_eq!(finding.answer, CheckAnswer::Keeps, "{}: {}", finding.check, finding.sentence);
        }
        let left_out = |check| report.of(check).unwrap().left_out;
        assert!(left_out(Check::Stall).is_some() && left_out(Check::LargeResponse).is_none(), "{report:#?}");
        // What was announced holds: no check made more connections than it said.
        let announced: u64 = will_ask(&url.parse().unwrap(), &quiet)
            .unwrap()
            .iter()
            .filter_map(|(_, cost)| cost.map(|cost| cost.connections))
            .sum();
        assert!(report.connections <= announced + 3, "{} of {announced}", report.connections);
    });
}

#[test]
fn every_address_of_a_name_is_tried() {
    sandboxed(|| {
        // Nobody listens on ::1, which `localhost` names first on most systems.
        let url = serve(|stream, _, _| respond(stream, "200 OK", "", 70_000));
        let url = url.replace("127.0.0.1", "localhost");
        assert_eq!(answer(&url, Check::LargeResponse).0, CheckAnswer::Keeps);
    });
}

/// Asks a server on loopback as if others used it, too.
fn quiet(only: &[Check]) -> ProbeConfig {
    let mut quiet = config(only);
    quiet.active = Some(false);
    quiet
}

#[test]
fn a_quiet_probe_reads_no_more_than_it_said_whatever_comes() {
    sandboxed(|| {
        let endless = serve(|stream, _, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b'e'; 65_536]).is_ok() {}
        });
        let read = |config: &ProbeConfig| match ask(&endless, config).unwrap_err() {
            ProbeError::TooLong { bytes, most, .. } => (bytes, most),
            error => panic!("{error}"),
        };
        let (bytes, most) = read(&quiet(&[]));
        assert!(bytes <= QUIET && most == QUIET, "{bytes} of {most}");
        // Of a server on this host more is read.
        assert!(read(&config(&[])).0 > QUIET);

        // The plain response is short, and each later one would be more than the budget.
        let grows = serve(|stream, number, _| {
            respond(stream, "200 OK", "", if number == 0 { 70_000 } else { 4 << 20 });
        });
        let report = ask(&grows, &quiet(&[Check::LargeResponse])).unwrap();
        assert!(report.received_bytes <= QUIET, "{}", report.received_bytes);
        let finding = report.of(Check::LargeResponse).unwrap();
        assert_eq!(finding.answer, CheckAnswer::CannotTell, "{}", finding.sentence);
        let report = ask(&grows, &config(&[Check::LargeResponse])).unwrap();
        assert_eq!(report.of(Check::LargeResponse).unwrap().answer, CheckAnswer::Keeps);
    });
}

#[test]
fn a_payload_counts_for_what_a_quiet_probe_sends() {
    sandboxed(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let _ = stream.write_all(&[b'r'; 70_000]);
                    close_well(&mut stream);
                });
            }
        });
        let mut quiet = quiet(&[Check::LargeResponse]);
        quiet.payload = vec![b'p'; 400_000];
        let report = ask(&url, &quiet).unwrap();
        assert!(report.sent_bytes <= QUIET && report.connections == 2, "{report:#?}");
        let costs = will_ask(&url.parse().unwrap(), &quiet).unwrap();
        assert!(costs.iter().all(|(_, cost)| cost.is_some_and(|cost| cost.sent >= 400_000)), "{costs:?}");
        quiet.payload = vec![b'p'; QUIET as usize];
        let error = ask(&url, &quiet).unwrap_err();
        assert!(matches!(error, ProbeError::LongPayload { most: QUIET, .. }), "{error}");
        quiet.active = Some(true);
        assert!(ask(&url, &quiet).is_ok());
    });
}
