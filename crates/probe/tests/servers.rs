//! Probes real servers, each in a private network, and checks the known answers.

mod reloaded;
mod websocket;

use std::collections::BTreeMap;

use linger_probe::{Check, CheckAnswer, ProbeConfig, ProbeReport, Witnessed, probe};
use linger_testing::servers::{SERVERS, available};
use linger_testing::{sandboxed, skip};
use linger_why::{Cause, Confidence};

/// Probes one server of the matrix; `None` where it is not installed.
fn ask(name: &str, only: &[Check]) -> Option<ProbeReport> {
    ask_often(name, only, ProbeConfig::default().repeat)
}

fn ask_often(name: &str, only: &[Check], repeat: u32) -> Option<ProbeReport> {
    let server = SERVERS.iter().find(|server| server.name == name).expect("a server of the matrix");
    let subject = available((server.start)())?;
    let mut config = ProbeConfig::default();
    (config.only, config.repeat) = (only.to_vec(), repeat);
    Some(probe(&subject.url.parse().unwrap(), &config, |_| {}).unwrap())
}

const LOSSES: [Check; 7] = [
    Check::LargeResponse,
    Check::UnreadBody,
    Check::TrailingBytes,
    Check::LateByte,
    Check::Pipelined,
    Check::HalfClose,
    Check::UploadInProgress,
];

/// Probes a server as often as the environment requests; once in a normal test run.
fn answers(name: &str, only: &[Check]) -> Option<BTreeMap<Check, CheckAnswer>> {
    let report = ask(name, only)?;
    for finding in &report.findings {
        eprintln!(
            "{name}: {}: {}: {} {:?}",
            finding.check, finding.answer, finding.sentence, finding.counters
        );
    }
    Some(report.findings.iter().map(|finding| (finding.check, finding.answer)).collect())
}

/// A server that keeps every response, whatever the client does.
fn keeps(name: &'static str) {
    keeps_in(name, &LOSSES);
}

fn keeps_in(name: &'static str, checks: &'static [Check]) {
    sandboxed(|| {
        let Some(answers) = answers(name, checks) else { return };
        for (check, answer) in answers {
            assert_eq!(answer, CheckAnswer::Keeps, "{name}: {check}");
        }
    });
}

/// A server that loses responses in `checks`.
fn loses(name: &'static str, checks: &'static [Check]) {
    sandboxed(|| {
        let Some(answers) = answers(name, checks) else { return };
        for (check, answer) in answers {
            assert_eq!(answer, CheckAnswer::Loses, "{name}: {check}");
        }
    });
}

#[test]
fn nginx_always_keeps() {
    keeps("nginx, lingering_close always");
}

#[test]
fn httpd_event_keeps() {
    keeps("httpd, event");
}

#[test]
fn httpd_prefork_keeps() {
    keeps("httpd, prefork");
}

#[test]
fn lighttpd_keeps() {
    keeps("lighttpd");
}

#[test]
fn axum_with_linger_keeps() {
    // hyper treats a half-closed client as gone and sends no response. The close has no part in that.
    let [Check::LargeResponse, rest @ .., Check::HalfClose, Check::UploadInProgress] = &LOSSES else {
        panic!()
    };
    keeps_in("axum with linger", rest);
    keeps_in("axum with linger", &[Check::UploadInProgress, Check::LargeResponse]);
}

#[test]
fn nginx_off_loses() {
    // nginx reads a body that it refuses. Other bytes lead to a reset.
    loses("nginx, lingering_close off", &[Check::Pipelined, Check::LateByte]);
}

#[test]
fn python_http_server_loses() {
    loses("Python http.server", &[Check::UnreadBody, Check::LateByte]);
}

/// Python's server refuses an upload with one segment. The connection is always reset; whether the segment arrives
/// before is chance.
#[test]
fn python_http_server_resets_an_upload() {
    sandboxed(|| {
        let Some(answers) = answers("Python http.server", &[Check::UploadInProgress]) else { return };
        for (check, answer) in answers {
            assert!(matches!(answer, CheckAnswer::Loses | CheckAnswer::AtRisk), "{check}: {answer:?}");
        }
    });
}

#[test]
fn node_loses_early_replies() {
    loses("Node", &[Check::UploadInProgress, Check::UnreadBody]);
}

#[test]
fn uwsgi_http_socket_loses() {
    loses("uWSGI, HTTP socket", &[Check::UnreadBody, Check::UploadInProgress]);
}

#[test]
fn gunicorn_loses_above_its_cap() {
    loses("gunicorn, sync", &[Check::UnreadBody, Check::UploadInProgress]);
}

#[test]
fn bare_axum_loses() {
    loses("axum", &[Check::UnreadBody, Check::UploadInProgress]);
}

#[test]
fn a_loss_has_a_cause_and_a_process() {
    sandboxed(|| {
        let Some(report) = ask("Python http.server", &[Check::UnreadBody, Check::LargeResponse]) else {
            return;
        };
        if let Some(why) = &report.unwatched {
            return skip("live tracepoints", why);
        }
        let resets = &report.of(Check::UnreadBody).unwrap().resets;
        let cause = resets.iter().find(|seen| seen.cause == Cause::ClosedWithUnreadData);
        let seen = cause.unwrap_or_else(|| panic!("{resets:?}"));
        assert_eq!(seen.confidence, Confidence::Certain);
        assert!(
            seen.process.as_ref().is_some_and(|process| process.name.raw().starts_with(b"python")),
            "{seen:?}"
        );
        assert!(seen.unread_bytes > Some(0) && seen.unsent_bytes > Some(0), "{seen:?}");
        let resets = &report.of(Check::LargeResponse).unwrap().resets;
        assert!(resets.is_empty(), "nothing was unread: {resets:?}");
    });
}

/// The gateway says 502 in order. Who has reset is its application.
#[test]
fn behind_a_gateway_it_is_the_application_that_is_named() {
    sandboxed(|| {
        let name = "uWSGI, uwsgi socket behind nginx";
        let Some(report) = ask(name, &[Check::UnreadBody, Check::LargeResponse]) else { return };
        if let Some(why) = &report.unwatched {
            return skip("live tracepoints", why);
        }
        let unread = report.of(Check::UnreadBody).unwrap();
        assert_eq!((unread.answer, unread.status), (CheckAnswer::Loses, Some(502)), "{unread:?}");
        let named = |resets: &[Witnessed]| {
            resets.iter().any(|seen| {
                seen.process.as_ref().is_some_and(|process| process.name.raw().starts_with(b"uwsgi"))
            })
        };
        assert!(named(&unread.behind) && !named(&unread.resets), "{unread:?}");
        // One field away: nothing was lost, and nobody is blamed.
        assert!(report.of(Check::LargeResponse).unwrap().behind.is_empty());
    });
}

/// Over HTTP/2 hyper resets the stream of an upload that it does not read, with NO_ERROR and behind the whole response. The same
/// program loses over HTTP/1.1, see `bare_axum_loses`.
#[test]
fn axum_keeps_over_http2_with_and_without_linger() {
    sandboxed(|| {
        for name in ["axum", "axum with linger"] {
            let server = SERVERS.iter().find(|server| server.name == name).expect("a server of the matrix");
            let Some(subject) = available((server.start)()) else { return };
            let mut config = ProbeConfig::default();
            config.http2 = true;
            let report = probe(&subject.url.parse().unwrap(), &config, |_| {}).unwrap();
            assert_eq!((report.protocol, report.findings.len()), ("HTTP/2", 4), "{name}");
            for found in &report.findings {
                assert_eq!(found.answer, CheckAnswer::Keeps, "{name}: {}: {}", found.check, found.sentence);
            }
        }
    });
}

/// Each has an idle limit, and all but one leave a client no time to know. A loss at the moment of the close is chance.
#[test]
fn idle_limits_of_kept_connections() {
    sandboxed(|| {
        std::thread::scope(|scope| {
            for (name, seconds, announced) in [
                ("Node", 4.9..6.5, Some(5)),
                ("httpd, event", 4.9..6.5, Some(5)),
                ("gunicorn, gthread", 1.9..3.5, None),
                ("uvicorn", 4.9..6.5, None),
            ] {
                scope.spawn(move || {
                    let Some(report) = ask(name, &[Check::KeepAlive]) else { return };
                    let found = &report.findings[0];
                    eprintln!("{name}: {}: {} {:?}", found.answer, found.sentence, found.idle_limit);
                    let idle = found.idle_limit.unwrap_or_else(|| panic!("{name}: {}", found.sentence));
                    assert!(seconds.contains(&idle.seconds), "{name}: {idle:?}");
                    assert_eq!(idle.announced_seconds, announced, "{name}");
                    assert!(idle.answered > 0 && idle.crossed > 0, "{name}: {idle:?}");
                    // What is announced with a margin is obeyed.
                    let has_margin = announced.is_some_and(|seconds| idle.seconds >= seconds as f64 + 0.5);
                    let expected = if has_margin { CheckAnswer::Keeps } else { CheckAnswer::AtRisk };
                    assert!(found.answer == expected || idle.lost > 0, "{name}: {found:?}");
                });
            }
        });
    });
}

/// Asks each question with a known answer a hundred times; none may differ. A server takes about a minute, mostly waiting.
///
/// `cargo test -p linger-probe --test servers a_hundred_times -- --ignored`. To ask only one server, append `::` and
/// its name. Run it on an idle machine, and on a loaded one.
mod a_hundred_times {
    use super::*;

    const ALL: [Check; 8] = [
        Check::LargeResponse,
        Check::UnreadBody,
        Check::TrailingBytes,
        Check::LateByte,
        Check::Pipelined,
        Check::HalfClose,
        Check::UploadInProgress,
        Check::Stall,
    ];

    /// Number of parallel parts of the hundred, each with a server of its own, since some questions wait for seconds.
    fn parts(check: Check) -> u32 {
        if matches!(check, Check::UnreadBody | Check::Stall) { 5 } else { 2 }
    }

    /// Every check except those of `loses`, `resets` and `races` must keep. Checks in `resets` always end in a reset, before or
    /// after the response has arrived. Checks in `races` depend on a race within the server and are not asked.
    fn asked(name: &'static str, checks: &[Check], loses: &[Check], resets: &[Check], races: &[Check]) {
        // `None` if the server is not installed.
        let ask = |check: Check| -> Option<Result<u32, String>> {
            let expected = match check {
                check if resets.contains(&check) => CheckAnswer::AtRisk,
                check if loses.contains(&check) => CheckAnswer::Loses,
                _ => CheckAnswer::Keeps,
            };
            let report = ask_often(name, &[check], 100 / parts(check))?;
            let found = &report.findings[0];
            let (answer, times, trials) = (found.answer, found.with_this_answer, found.trials);
            // A server that loses may by chance have read everything, which keeps its response and is not a wrong answer. A server
            // that keeps must never lose.
            let enough = if expected == CheckAnswer::Loses { trials * 9 / 10 } else { trials };
            let right = match answer {
                CheckAnswer::Loses if resets.contains(&check) => true,
                CheckAnswer::AtRisk if resets.contains(&check) => times == trials,
                answer => answer == expected && times >= enough,
            };
            let wrong = || format!("{check}: {answer} {times} of {trials}: {}", found.sentence);
            Some(right.then_some(trials).ok_or_else(wrong))
        };
        sandboxed(|| {
            std::thread::scope(|scope| {
                let checks = checks.iter().filter(|check| !races.contains(check));
                let threads: Vec<_> = checks
                    .flat_map(|&check| std::iter::repeat_n(check, parts(check) as usize))
                    .map(|check| (check, scope.spawn(move || ask(check))))
                    .collect();
                let mut asked: BTreeMap<Check, u32> = BTreeMap::new();
                let mut wrong = Vec::new();
                for (check, thread) in threads {
                    match thread.join().unwrap() {
                        Some(Ok(trials)) => *asked.entry(check).or_default() += trials,
                        Some(Err(answer)) => wrong.push(answer),
                        None => return,
                    }
                }
                eprintln!("{name}: as expected {asked:?}, otherwise {}", wrong.len());
                assert!(wrong.is_empty(), "{name}: {}", wrong.join("\n"));
                assert!(asked.values().all(|trials| *trials >= 100), "{asked:?}");
            });
        });
    }

    /// One test for each server: which questions are asked, which lose, and which depend on chance.
    macro_rules! servers {
        ($($name:ident: $server:literal, $asked:expr, loses $loses:expr, $(resets $resets:expr,)? races $races:expr;)*) => {$(
            #[test]
            #[ignore = "about a minute: cargo test -p linger-probe --test servers a_hundred_times -- --ignored"]
            fn $name() {
                let resets: &[Check] = &[$($resets)?];
                asked($server, &$asked, &$loses, resets, &$races);
            }
        )*};
    }

    servers! {
        nginx_always: "nginx, lingering_close always", ALL, loses [], races [];
        nginx_off: "nginx, lingering_close off", [Check::LateByte, Check::Pipelined],
            loses [Check::LateByte, Check::Pipelined], races [];
        httpd_event: "httpd, event", ALL, loses [], races [];
        httpd_prefork: "httpd, prefork", ALL, loses [], races [];
        lighttpd: "lighttpd", ALL, loses [], races [];
        // Whether hyper answers a half-closed client depends on what it reads first.
        axum_with_linger: "axum with linger", ALL, loses [], races [Check::HalfClose];
        actix_web: "actix-web", ALL, loses [Check::LateByte], races [];
        linger_fastcgi: "linger-fastcgi", ALL, loses [], races [];
        python_http_server: "Python http.server", [Check::LateByte, Check::UploadInProgress],
            loses [Check::LateByte], resets Check::UploadInProgress, races [];
        node: "Node", [Check::UploadInProgress], loses [Check::UploadInProgress], races [];
        uwsgi_http_socket: "uWSGI, HTTP socket", [Check::UploadInProgress],
            loses [Check::UploadInProgress], races [];
        gunicorn: "gunicorn, sync", [Check::UploadInProgress], loses [Check::UploadInProgress], races [];
        bare_axum: "axum", [Check::UploadInProgress], loses [Check::UploadInProgress], races [];
    }
}
