//! What a probe takes of a server that others use, too.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{ask, close_well, config, head, quiet, respond, serve};
use linger_probe::{AFFORDABLE, Check, CheckAnswer, Doubt, ProbeConfig, ProbeError, QUIET, will_ask};
use linger_testing::sandboxed;

/// The number of connections that the kernel of this namespace has reset because bytes were unread.
fn aborted_on_close() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("TcpExt:")).collect();
    let at = lines[0].split_whitespace().position(|name| name == "TCPAbortOnClose").unwrap();
    lines[1].split_whitespace().nth(at).unwrap().parse().unwrap()
}

/// Answers `length` bytes and closes at once, whatever is unread.
fn closes(length: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                head(&mut stream);
                respond(&mut stream, "200 OK", "", length);
            });
        }
    });
    url
}

#[test]
fn a_server_that_loses_is_found_out_within_the_budget() {
    sandboxed(|| {
        // So long that the budget does not last for every question. Which is asked first decides.
        let report = ask(&closes(300_000), &quiet(&[])).unwrap();
        assert!(aborted_on_close() > 0, "the server lost nothing");
        assert_eq!(report.overall(), CheckAnswer::Loses, "{report:#?}");
        let before = aborted_on_close();
        let good = serve(|stream, _, _| respond(stream, "200 OK", "", 300_000));
        let report = ask(&good, &quiet(&[])).unwrap();
        assert_eq!(aborted_on_close(), before, "the server lost something");
        assert_eq!(report.overall(), CheckAnswer::CannotTell, "it kept what was asked: {report:#?}");
        let Some(Doubt::Unasked(unasked)) = report.doubt() else { panic!("{:?}", report.doubt()) };
        assert!(unasked.contains(&Check::LateByte) && !unasked.contains(&Check::UnreadBody), "{unasked:?}");
        // One field away: what the probe calls affordable is.
        let affordable = serve(|stream, _, _| respond(stream, "200 OK", "", AFFORDABLE as usize));
        let report = ask(&affordable, &quiet(&[])).unwrap();
        assert_eq!((report.overall(), report.doubt()), (CheckAnswer::Keeps, None), "{report:#?}");
        let unframed = serve(|stream, _, _| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(&vec![b'r'; AFFORDABLE as usize]);
        });
        let report = ask(&unframed, &quiet(&[])).unwrap();
        assert_eq!((report.overall(), report.doubt()), (CheckAnswer::Keeps, None), "{report:#?}");
    });
}

/// How long the one worker of a server is busy with each connection, in the middle: with the probe's configuration `asks`.
fn busy(asks: &ProbeConfig, leaves_open: bool) -> Duration {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = times.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let began = Instant::now();
            head(&mut stream);
            // More than the probe's small window and the send buffer take, so that the writing waits for the reader.
            let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, 4096);
            respond(&mut stream, "200 OK", "", 90_000);
            if leaves_open {
                while let Ok(1..) = stream.read(&mut [0; 4096]) {}
            } else {
                close_well(&mut stream);
            }
            seen.lock().unwrap().push(began.elapsed());
        }
    });
    let report = ask(&url, asks).unwrap();
    assert_eq!(report.overall(), CheckAnswer::Keeps, "{report:#?}");
    let mut times = times.lock().unwrap();
    times.sort();
    times[times.len() / 2]
}

#[test]
fn the_one_worker_of_a_server_is_soon_free_again() {
    sandboxed(|| {
        for leaves_open in [false, true] {
            let asked = [Check::UnreadBody, Check::LateByte, Check::LargeResponse];
            let mut active = ProbeConfig::default();
            (active.only, active.watch, active.repeat) = (asked.to_vec(), false, 1);
            let mut quiet = active.clone();
            quiet.active = Some(false);
            let (quiet, active) = (busy(&quiet, leaves_open), busy(&active, leaves_open));
            assert!(quiet * 3 < active, "{quiet:?} instead of {active:?}, open: {leaves_open}");
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
            .costs
            .iter()
            .filter_map(|(_, cost)| cost.map(|cost| cost.connections))
            .sum();
        assert!(report.connections <= announced + 3, "{} of {announced}", report.connections);
    });
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
        let costs = will_ask(&url.parse().unwrap(), &quiet).unwrap().costs;
        assert!(costs.iter().all(|(_, cost)| cost.is_some_and(|cost| cost.sent >= 400_000)), "{costs:?}");
        quiet.payload = vec![b'p'; QUIET as usize];
        let error = ask(&url, &quiet).unwrap_err();
        assert!(matches!(error, ProbeError::LongPayload { most: QUIET, .. }), "{error}");
        quiet.active = Some(true);
        assert!(ask(&url, &quiet).is_ok());
    });
}
