//! Correct servers that behave oddly: none of them may be said to lose responses, and the probe says what it cannot
//! tell.

mod common;
mod in_time;
mod kept;
mod malformed;
mod routes;
mod told;
mod unlike;
mod upgraded;
mod uploads;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{BODY, ask, config, respond, serve};
use linger_probe::{Check, CheckAnswer, Doubt, ProbeError};
use linger_testing::sandboxed;

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
fn a_page_that_had_one_length_by_chance_is_no_loss() {
    sandboxed(|| {
        let page = |short: usize| {
            serve(move |stream, number, _| {
                let length = if number == 3 { short } else { 100_000 };
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(&vec![b'r'; length]);
            })
        };
        let mut once = config(&[Check::LargeResponse]);
        once.repeat = 1;
        assert_eq!(ask(&page(99_999), &once).unwrap().findings[0].answer, CheckAnswer::CannotTell);
        assert_eq!(ask(&page(90_000), &once).unwrap().findings[0].answer, CheckAnswer::LosesSilently);
        // One field away: the user knows the length.
        once.expect = Some(100_000);
        assert_eq!(ask(&page(99_999), &once).unwrap().findings[0].answer, CheckAnswer::LosesSilently);
    });
}

#[test]
fn half_of_an_upload_answered_with_another_status_is_not_called_kept() {
    sandboxed(|| {
        let stall = |status: &'static str| {
            let url = serve(move |stream, _, head| match head.starts_with(b"POST") {
                true => respond(stream, status, "", 5),
                false => respond(stream, "200 OK", "", BODY),
            });
            let report = ask(&url, &config(&[Check::Stall])).unwrap();
            (report.findings[0].answer, report.overall())
        };
        let unknown = (CheckAnswer::CannotTell, CheckAnswer::CannotTell);
        assert_eq!(stall("503 Service Unavailable"), unknown);
        assert_eq!(stall("502 Bad Gateway"), (CheckAnswer::Loses, CheckAnswer::Loses));
        assert_eq!(stall("413 Content Too Large"), (CheckAnswer::Keeps, CheckAnswer::Keeps));
    });
}

#[test]
fn a_server_is_not_said_to_keep_what_was_never_its_page() {
    sandboxed(|| {
        let overall = |status: &'static str, length| {
            let url = serve(move |stream, _, _| respond(stream, status, "Location: /x\r\n", length));
            let report = ask(&url, &config(&[Check::TrailingBytes])).unwrap();
            assert_eq!(
                report.findings[0].answer,
                CheckAnswer::Keeps,
                "the response itself arrived: {status}"
            );
            (report.overall(), report.doubt())
        };
        for (status, number) in [("301 Moved", 301), ("401 Unauthorized", 401), ("503 Busy", 503)] {
            let doubt = Some(Doubt::PlainStatus(number));
            assert_eq!(overall(status, 300), (CheckAnswer::CannotTell, doubt), "{status}");
        }
        assert_eq!(overall("204 No Content", 0), (CheckAnswer::CannotTell, Some(Doubt::Empty)));
        assert_eq!(overall("200 OK", 300), (CheckAnswer::Keeps, None));
    });
}

#[test]
fn a_half_closed_client_without_an_answer_is_told_beside_the_verdict() {
    sandboxed(|| {
        // Says nothing to a client that has half-closed, as hyper does.
        let url = serve(|stream, _, _| {
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let left = matches!(std::io::Read::read(stream, &mut [0; 16]), Ok(0));
            if !left {
                respond(stream, "200 OK", "", 70_000);
            }
        });
        let report = ask(&url, &config(&[Check::TrailingBytes, Check::HalfClose])).unwrap();
        assert_eq!(report.of(Check::HalfClose).unwrap().answer, CheckAnswer::LosesSilently);
        assert_eq!(report.overall(), CheckAnswer::Keeps);
        // Who asks for nothing else wants to know it.
        let report = ask(&url, &config(&[Check::HalfClose])).unwrap();
        assert_eq!(report.overall(), CheckAnswer::LosesSilently);
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
fn every_address_of_a_name_is_tried() {
    sandboxed(|| {
        // Nobody listens on ::1, which `localhost` names first on most systems.
        let url = serve(|stream, _, _| respond(stream, "200 OK", "", 70_000));
        let url = url.replace("127.0.0.1", "localhost");
        assert_eq!(answer(&url, Check::LargeResponse).0, CheckAnswer::Keeps);
    });
}

#[test]
fn what_the_user_adds_is_in_every_request_once() {
    sandboxed(|| {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let heard = heads.clone();
        let url = serve(move |stream, _, head| {
            let end = head.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
            let head = String::from_utf8(head[..end].to_vec()).unwrap();
            let known = head.contains("\r\nAuthorization: Bearer x\r\n") || head.ends_with("Bearer x");
            let asked = known && head.starts_with("PUT ") && head.contains("\r\nHost: app.example\r\n");
            heard.lock().unwrap().push(head);
            respond(stream, if asked { "200 OK" } else { "401 Unauthorized" }, "", 70_000);
        });
        let port: u16 = url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
        let asked = [Check::UnreadBody, Check::Pipelined, Check::UploadInProgress, Check::Stall];
        let mut config = config(&asked);
        config.headers =
            vec!["Authorization: Bearer x".parse().unwrap(), "accept: text/html".parse().unwrap()];
        config.method = Some("PUT".parse().unwrap());
        config.connect_to = vec![format!("127.0.0.1:{port}").parse().unwrap()];
        let report = ask("http://app.example/", &config).unwrap();
        assert_eq!((report.status, report.overall()), (Some(200), CheckAnswer::Keeps), "{report:#?}");
        let heads = std::mem::take(&mut *heads.lock().unwrap());
        assert!(heads.len() as u64 == report.connections && heads.len() > 8, "{}", heads.len());
        for head in &heads {
            assert_eq!(head.matches("ccept: ").count(), 1, "{head}");
            assert_eq!(head.matches("Content-Length: ").count(), 1, "{head}");
        }
        // One field away: without the header.
        config.headers.clear();
        assert_eq!(ask("http://app.example/", &config).unwrap().status, Some(401));
        // And of a server that others use: nothing is sent.
        config.active = Some(false);
        assert!(matches!(ask("http://app.example/", &config), Err(ProbeError::NotSafe(_))));
    });
}
