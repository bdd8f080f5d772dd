//! Servers that keep connections, and what becomes of a request that meets their idle limit.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use linger_probe::{Check, CheckAnswer, CheckFinding, ConnectionEnd, LeftOut, ProbeConfig, Verdict};
use linger_testing::sandboxed;

use crate::common::{ask, config, head, quiet, respond, serve};

/// What a server does with an idle connection.
#[derive(Clone, Copy)]
enum Idle {
    /// Closes after this time, having read what came before.
    Closes(Duration),
    /// Does not look for another request: closes when one comes, or after this time.
    ClosesUnread(Duration),
    /// Closes with a reset after this time.
    Resets(Duration),
    Never,
}

/// Serves requests on kept connections, with these fields in each response's head.
fn keeps(fields: &'static str, idle: Idle) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || serves(&mut stream, fields, idle));
        }
    });
    url
}

fn serves(stream: &mut TcpStream, fields: &str, idle: Idle) {
    let limit = match idle {
        Idle::Closes(limit) | Idle::ClosesUnread(limit) | Idle::Resets(limit) => Some(limit),
        Idle::Never => None,
    };
    stream.set_read_timeout(limit).unwrap();
    while !head(stream).is_empty() {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 5\r\n\r\nhello");
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
        if matches!(idle, Idle::ClosesUnread(_)) {
            let _ = stream.peek(&mut [0]);
            return;
        }
        match stream.peek(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            _ => {}
        }
    }
    if matches!(idle, Idle::Closes(_)) {
        // The FIN stands before a reset for what comes at this moment.
        let _ = stream.shutdown(Shutdown::Write);
    } else {
        socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn once() -> ProbeConfig {
    let mut config = config(&[Check::KeepAlive]);
    (config.repeat, config.patience) = (1, Duration::from_secs(4));
    config
}

fn found(fields: &'static str, idle: Idle) -> CheckFinding {
    ask(&keeps(fields, idle), &once()).unwrap().findings.remove(0)
}

/// Long enough for half of it to be in time on a busy machine.
const LIMIT: Duration = Duration::from_secs(1);

#[test]
fn a_limit_that_is_not_announced_in_time_is_a_risk() {
    sandboxed(|| {
        let silent = found("", Idle::Closes(LIMIT));
        assert_eq!(
            (silent.answer, silent.verdict),
            (CheckAnswer::AtRisk, Some(Verdict::AtRisk)),
            "{silent:#?}"
        );
        assert!(
            silent.sentence.contains("and announces no limit: a request that crosses"),
            "{}",
            silent.sentence
        );
        // It had closed before, and says so first.
        assert_eq!((silent.ended, silent.got), (Some(ConnectionEnd::ClosedThenReset), 0));
        let idle = silent.idle_limit.unwrap();
        // The server's clock begins when it has sent the response, and this one when it was read.
        assert!(idle.seconds > LIMIT.as_secs_f64() / 2.0 && idle.announced_seconds.is_none(), "{idle:?}");
        assert!(idle.answered > 0 && idle.crossed > 0 && idle.lost == 0, "{idle:?}");
        assert_eq!((silent.trials, silent.with_this_answer), (8, idle.crossed));
        let longer = found("Keep-Alive: timeout=5\r\n", Idle::Closes(LIMIT));
        assert_eq!(longer.answer, CheckAnswer::AtRisk, "{longer:#?}");
        assert!(longer.sentence.contains("announces 5 s, which is longer"), "{}", longer.sentence);
        // One field away: it closes long after it has said.
        let kept = found("Keep-Alive: timeout=0\r\n", Idle::Closes(LIMIT));
        assert_eq!((kept.answer, kept.verdict), (CheckAnswer::Keeps, Some(Verdict::Kept)), "{kept:#?}");
        assert_eq!(kept.idle_limit.unwrap().announced_seconds, Some(0));
        assert_eq!((kept.trials, kept.with_this_answer), (8, 8));
    });
}

#[test]
fn a_server_that_closes_over_a_request_loses_it() {
    sandboxed(|| {
        let lost = found("Keep-Alive: timeout=0\r\n", Idle::ClosesUnread(LIMIT));
        assert_eq!((lost.answer, lost.verdict), (CheckAnswer::Loses, Some(Verdict::Lost)), "{lost:#?}");
        // No FIN stood before it: the request was there, unread, when the server closed.
        assert_eq!(lost.ended, Some(ConnectionEnd::Reset), "{lost:#?}");
        assert!(lost.idle_limit.unwrap().lost > 0 && !lost.is_aside(), "{lost:#?}");
        // One field away: where each end is a reset, that proves nothing about the order.
        let reset = found("", Idle::Resets(LIMIT));
        assert_eq!((reset.answer, reset.is_aside()), (CheckAnswer::AtRisk, true), "{reset:#?}");
        assert!(reset.sentence.contains("s by a reset and announces no limit"), "{}", reset.sentence);
    });
}

#[test]
fn what_meets_no_end_is_not_called_kept() {
    sandboxed(|| {
        let says = |finding: CheckFinding, words: &str| {
            assert_eq!((finding.answer, finding.trials), (CheckAnswer::CannotTell, 0), "{finding:#?}");
            assert!(finding.sentence.contains(words) && finding.idle_limit.is_none(), "{}", finding.sentence);
        };
        let mut impatient = once();
        impatient.patience = Duration::from_secs(1);
        let asked = |url: &str, config: &ProbeConfig| ask(url, config).unwrap().findings.remove(0);
        let never = asked(&keeps("Keep-Alive: timeout=75\r\n", Idle::Never), &impatient);
        says(never, "still holds an idle connection after 1.0 s, and announces 75 s: a longer --patience");
        let closes = serve(|stream, _, _| respond(stream, "200 OK", "", 5));
        says(asked(&closes, &impatient), "ends each connection with its response");
        // And without a word about it.
        says(found("", Idle::Closes(Duration::from_millis(1))), "ends each connection with its response");
        // Of a server that others use, no idle connection is held.
        let url = keeps("", Idle::Closes(LIMIT));
        let quiet = asked(&url, &quiet(&[Check::KeepAlive]));
        assert_eq!((quiet.answer, quiet.left_out), (CheckAnswer::CannotTell, Some(LeftOut::Active)));
    });
}

#[test]
fn a_risk_at_the_idle_limit_is_told_beside_the_verdict() {
    sandboxed(|| {
        let url = keeps("", Idle::Closes(LIMIT));
        let mut both = once();
        both.only = vec![Check::KeepAlive, Check::TrailingBytes];
        let report = ask(&url, &both).unwrap();
        assert_eq!(report.of(Check::KeepAlive).unwrap().answer, CheckAnswer::AtRisk);
        let trailing = report.of(Check::TrailingBytes).unwrap().answer;
        assert_eq!(report.overall(), trailing, "{report:#?}");
        // Who asks for nothing else wants to know it.
        assert_eq!(ask(&url, &once()).unwrap().overall(), CheckAnswer::AtRisk);
    });
}
