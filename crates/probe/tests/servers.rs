//! What is known about real servers is found by asking them, each in a private network.

use std::collections::BTreeMap;

use linger_host::testing::{sandboxed, skip};
use linger_peers::SERVERS;
use linger_probe::{Check, Config, Report, Verdict, probe};
use linger_why::{Cause, Confidence};

/// Probes one server of the matrix; `None` where it is not installed.
fn ask(name: &str, only: &[Check]) -> Option<Report> {
    ask_often(name, only, Config::default().repeat)
}

fn ask_often(name: &str, only: &[Check], repeat: u32) -> Option<Report> {
    let server = SERVERS.iter().find(|server| server.name == name).expect("a server of the matrix");
    let subject = match (server.start)() {
        Ok(subject) => subject,
        Err(missing) if missing.is_skip() => {
            skip("foreign peers", &missing.to_string());
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let mut config = Config::default();
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

/// The verdicts of a server as often as the environment wants them, which is once for a plain test run.
fn verdicts(name: &str, only: &[Check]) -> Option<BTreeMap<Check, Verdict>> {
    let report = ask(name, only)?;
    for finding in &report.findings {
        eprintln!(
            "{name}: {}: {}: {} {:?}",
            finding.check, finding.verdict, finding.sentence, finding.counters
        );
    }
    Some(report.findings.iter().map(|finding| (finding.check, finding.verdict)).collect())
}

/// A server that keeps every response, whatever the client does.
fn keeps(name: &'static str) {
    keeps_in(name, &LOSSES);
}

fn keeps_in(name: &'static str, checks: &'static [Check]) {
    sandboxed(|| {
        let Some(verdicts) = verdicts(name, checks) else { return };
        for (check, verdict) in verdicts {
            assert_eq!(verdict, Verdict::Keeps, "{name}: {check}");
        }
    });
}

/// A server that loses responses in `checks`.
fn loses(name: &'static str, checks: &'static [Check]) {
    sandboxed(|| {
        let Some(verdicts) = verdicts(name, checks) else { return };
        for (check, verdict) in verdicts {
            assert_eq!(verdict, Verdict::Loses, "{name}: {check}");
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
    // hyper takes a client that shuts its side for one that has gone, and answers it nothing: not a matter of closing.
    let [Check::LargeResponse, rest @ .., Check::HalfClose, Check::UploadInProgress] = &LOSSES else {
        panic!()
    };
    keeps_in("axum with linger", rest);
    keeps_in("axum with linger", &[Check::UploadInProgress, Check::LargeResponse]);
}

#[test]
fn nginx_off_loses() {
    // A body that it refuses it reads all the same; what it does not expect resets.
    loses("nginx, lingering_close off", &[Check::Pipelined, Check::LateByte]);
}

#[test]
fn python_http_server_loses() {
    loses("Python http.server", &[Check::UnreadBody, Check::UploadInProgress, Check::LateByte]);
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
        assert!(seen.process.as_ref().is_some_and(|process| process.name.starts_with("python")), "{seen:?}");
        assert!(seen.unread_bytes > Some(0) && seen.unsent_bytes > Some(0), "{seen:?}");
        let resets = &report.of(Check::LargeResponse).unwrap().resets;
        assert!(resets.is_empty(), "nothing was unread: {resets:?}");
    });
}

/// A hundred repetitions of each question whose answer is known; about a quarter of an hour.
#[test]
#[ignore = "long: run it by name, on an idle machine and on a loaded one"]
fn no_false_verdict_in_a_hundred_repetitions() {
    sandboxed(|| {
        let keeps = [
            "nginx, lingering_close always",
            "httpd, event",
            "httpd, prefork",
            "lighttpd",
            "axum with linger",
        ];
        let loses: [(&str, &[Check]); 6] = [
            ("nginx, lingering_close off", &[Check::LateByte, Check::Pipelined]),
            ("Python http.server", &[Check::LateByte, Check::UploadInProgress]),
            ("Node", &[Check::UploadInProgress]),
            ("uWSGI, HTTP socket", &[Check::UploadInProgress]),
            ("gunicorn, sync", &[Check::UploadInProgress]),
            ("axum", &[Check::UploadInProgress]),
        ];
        let kept = [
            Check::UnreadBody,
            Check::TrailingBytes,
            Check::LateByte,
            Check::Pipelined,
            Check::UploadInProgress,
        ];
        let cases: Vec<(&str, &[Check], Verdict)> = keeps
            .iter()
            .map(|name| (*name, &kept[..], Verdict::Keeps))
            .chain(loses.iter().map(|(name, checks)| (*name, *checks, Verdict::Loses)))
            .collect();
        let next = std::sync::atomic::AtomicUsize::new(0);
        let wrong = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some((name, checks, expected)) =
                        cases.get(next.fetch_add(1, std::sync::atomic::Ordering::SeqCst))
                    {
                        let Some(report) = ask_often(name, checks, 100) else { continue };
                        for finding in report.findings {
                            eprintln!(
                                "{name}: {}: {} {} of {}",
                                finding.check, finding.verdict, finding.with_this_verdict, finding.trials
                            );
                            if finding.verdict != *expected || finding.with_this_verdict != finding.trials {
                                wrong
                                    .lock()
                                    .unwrap()
                                    .push(format!("{name}: {}: {}", finding.check, finding.sentence));
                            }
                        }
                    }
                });
            }
        });
        let wrong = wrong.into_inner().unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    });
}
