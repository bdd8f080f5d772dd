//! Servers that reload, or stop, while requests are made: other people's, and one that obeys in several ways.

use std::process::Command;
use std::time::Duration;

use linger_probe::{
    Check, CheckAnswer, CheckFinding, ProbeConfig, ReloadBy, ReloadShown, ReloadSignal, Verdict, probe,
};
use linger_testing::sandboxed;
use linger_testing::servers::{Launch, RunningServer, SERVERS, available, program};

/// Asks about one reload.
fn ask(url: &str, by: ReloadBy) -> CheckFinding {
    let mut config = ProbeConfig::default();
    (config.only, config.repeat, config.reload, config.watch) = (vec![Check::Reload], 1, Some(by), false);
    let mut report = probe(&url.parse().unwrap(), &config, |_| {}).unwrap();
    let found = report.findings.remove(0);
    eprintln!("{}: {} {:?}", found.answer, found.sentence, found.reload);
    found
}

fn signal(server: &RunningServer, signal: ReloadSignal) -> ReloadBy {
    ReloadBy::Signal { pid: server.id(), signal }
}

/// The server of `server.py`; `None` without Python.
fn obeys(way: &str) -> Option<(String, RunningServer)> {
    let launch = Launch::new("obedient");
    let python = available(program("python3", "python3"))?;
    let script = launch.file("server.py", include_str!("server.py"));
    let mut command = Command::new(python);
    command.arg(script).arg(launch.port.to_string()).arg(way);
    let server = available(launch.start(command))?;
    Some((format!("http://{}/", server.address), server))
}

/// Asks it, told by this signal.
fn told(way: &str, by: ReloadSignal) -> Option<CheckFinding> {
    let (url, server) = obeys(way)?;
    Some(ask(&url, signal(&server, by)))
}

#[test]
fn a_listener_that_is_handed_over_keeps_all_and_a_cut_loses_what_is_under_way() {
    sandboxed(|| {
        let Some(kept) = told("hands-over", ReloadSignal::Hup) else { return };
        let found = kept.reload.unwrap();
        assert_eq!((kept.answer, kept.verdict), (CheckAnswer::Keeps, Some(Verdict::Kept)), "{kept:#?}");
        assert_eq!(found.shown, Some(ReloadShown::Processes));
        assert!(found.under_way > 0 && found.before.kept > 0 && found.after.kept > 0, "{found:?}");
        assert_eq!((found.during.lost, found.during.refused, found.during.reset), (0, 0, 0));
        assert_eq!(
            (kept.trials, kept.with_this_answer),
            (found.during.all() + found.after.all(), kept.trials)
        );
        // One field away: the old process resets what it has not written.
        let Some(cut) = told("cuts", ReloadSignal::Hup) else { return };
        let found = cut.reload.unwrap();
        assert_eq!((cut.answer, cut.verdict), (CheckAnswer::Loses, Some(Verdict::Lost)), "{cut:#?}");
        assert!(found.during.lost >= found.under_way && found.during.reset > 0, "{found:?}");
        assert_eq!((found.shown, found.before.lost), (Some(ReloadShown::Processes), 0));
        assert!(cut.got > 0 && cut.got < 300_000 && found.after.kept > 0, "{cut:#?}");
        assert_eq!(cut.with_this_answer, found.during.lost + found.after.lost);
    });
}

#[test]
fn a_gap_between_two_sockets_refuses_and_loses_nothing() {
    sandboxed(|| {
        let Some(gap) = told("listens-anew", ReloadSignal::Hup) else { return };
        let found = gap.reload.unwrap();
        assert_eq!(found.shown, Some(ReloadShown::Socket), "{gap:#?}");
        assert!(found.during.refused > 0 && found.after.kept > 0, "{found:?}");
        // What waits in the queue of a socket that is closed is reset: a matter of chance, and told apart.
        if found.during.lost == 0 {
            assert_eq!((gap.answer, gap.with_this_answer), (CheckAnswer::Refuses, found.during.refused));
        } else {
            assert_eq!(gap.answer, CheckAnswer::Loses, "{gap:#?}");
            assert!(gap.sentence.contains("connections were refused"), "{}", gap.sentence);
        }
    });
}

#[test]
fn what_is_not_shown_is_not_called_kept() {
    sandboxed(|| {
        for by in [ReloadSignal::Hup, ReloadSignal::Term] {
            let Some((url, server)) = obeys("ignores") else { return };
            let mut config = ProbeConfig::default();
            (config.only, config.repeat, config.watch) = (vec![Check::Reload], 1, false);
            (config.reload, config.patience) = (Some(signal(&server, by)), Duration::from_secs(2));
            let found = probe(&url.parse().unwrap(), &config, |_| {}).unwrap().findings.remove(0);
            assert_eq!((found.answer, found.verdict), (CheckAnswer::CannotTell, None), "{by}: {found:#?}");
            assert!(found.sentence.starts_with("nothing shows that it has"), "{}", found.sentence);
            let counts = found.reload.unwrap();
            assert_eq!((counts.shown, counts.during.lost, counts.during.refused), (None, 0, 0));
        }
        // The same by a command, whose status is taken at its word; and one that fails.
        let Some((url, server)) = obeys("ignores") else { return };
        let found = ask(&url, ReloadBy::Command(format!("kill -HUP {}", server.id())));
        assert_eq!(found.answer, CheckAnswer::Keeps, "{found:#?}");
        assert_eq!(found.reload.unwrap().shown, Some(ReloadShown::Command));
        let found = ask(&url, ReloadBy::Command("exit 3".into()));
        assert_eq!(found.answer, CheckAnswer::CannotTell, "{found:#?}");
        assert_eq!((found.sentence.as_str(), found.reload), ("the command ended with exit status: 3", None));
    });
}

#[test]
fn a_graceful_stop_keeps_what_it_has_accepted_and_refuses_the_rest() {
    sandboxed(|| {
        let Some(graceful) = told("stops-gracefully", ReloadSignal::Term) else { return };
        let found = graceful.reload.unwrap();
        // A request may be in the queue at the instant at which the socket is closed.
        assert!(matches!(graceful.answer, CheckAnswer::Keeps | CheckAnswer::AtRisk), "{graceful:#?}");
        assert_eq!((found.is_stop, found.shown, found.during.lost), (true, Some(ReloadShown::Ended), 0));
        assert!(found.under_way > 0 && found.after.refused > 0 && found.after.kept == 0, "{found:?}");
        // One field away: it ends at once.
        let Some(at_once) = told("stops-at-once", ReloadSignal::Term) else { return };
        let found = at_once.reload.unwrap();
        assert!(matches!(at_once.answer, CheckAnswer::Loses | CheckAnswer::LosesSilently), "{at_once:#?}");
        assert!(found.during.lost >= found.under_way && found.after.refused > 0, "{found:?}");
        assert_eq!(at_once.verdict, Some(Verdict::Lost));
    });
}

#[test]
fn http_server_dies_of_a_signal_that_it_does_not_know() {
    sandboxed(|| {
        let server = SERVERS.iter().find(|server| server.name == "Python http.server").unwrap();
        let Some(subject) = available((server.start)()) else { return };
        let found = ask(&subject.url, signal(&subject.peers[0], ReloadSignal::Hup));
        let counts = found.reload.unwrap();
        assert!(found.answer.is_fault() && found.answer >= CheckAnswer::Refuses, "{found:#?}");
        assert_eq!((counts.shown, counts.after.kept), (Some(ReloadShown::Ended), 0));
        assert!(counts.after.refused > 0 && found.sentence.contains("does not serve any more"), "{found:#?}");
    });
}

/// nginx with its master process, whose responses do not fit into its socket's buffer. `protocol` is what `listen` says of it.
fn workers(protocol: &str) -> Option<(String, RunningServer)> {
    let program = available(program("nginx", "nginx"))?;
    let launch = Launch::new("nginx");
    let (folder, port) = (launch.folder().to_string(), launch.port);
    launch.file("large", vec![b'r'; 300_000]);
    // In a namespace of its own there is one user only, whom the workers need not become.
    let config = launch.file(
        "nginx.conf",
        format!(
            "daemon off; user root root; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log;
             events {{ worker_connections 512; }}
             http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
               fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
               server {{ listen 127.0.0.1:{port} {protocol} sndbuf=32k; root {folder}; lingering_close always; }} }}"
        ),
    );
    let mut command = Command::new(program);
    command.arg("-p").arg(launch.path("")).arg("-c").arg(config).arg("-e").arg(launch.path("error.log"));
    let server = available(launch.start(command))?;
    Some((format!("http://{}/large", server.address), server))
}

#[test]
fn nginx_keeps_at_a_reload_and_at_quit_and_cuts_at_term() {
    sandboxed(|| {
        let asked = |by| {
            let (url, server) = workers("")?;
            Some(ask(&url, signal(&server, by)))
        };
        let Some(reload) = asked(ReloadSignal::Hup) else { return };
        let found = reload.reload.unwrap();
        // It ends idle connections that it has kept: a request may meet that.
        assert!(matches!(reload.answer, CheckAnswer::Keeps | CheckAnswer::AtRisk), "{reload:#?}");
        assert_eq!(found.shown, Some(ReloadShown::Processes));
        assert_eq!((found.during.lost, found.during.refused, found.after.refused), (0, 0, 0));
        assert!(found.under_way > 0 && found.after.kept > 0, "{found:?}");
        let Some(quit) = asked(ReloadSignal::Quit) else { return };
        let found = quit.reload.unwrap();
        assert!(matches!(quit.answer, CheckAnswer::Keeps | CheckAnswer::AtRisk), "{quit:#?}");
        assert!(found.under_way > 0 && found.during.lost == 0 && found.after.refused > 0, "{found:?}");
        let Some(term) = asked(ReloadSignal::Term) else { return };
        let found = term.reload.unwrap();
        assert!(matches!(term.answer, CheckAnswer::Loses | CheckAnswer::LosesSilently), "{term:#?}");
        assert!(found.during.lost >= found.under_way && found.after.refused > 0, "{found:?}");
    });
}

#[test]
fn nginx_does_the_same_over_http2() {
    sandboxed(|| {
        let asked = |signal| {
            let (url, server) = workers("http2")?;
            let mut config = ProbeConfig::default();
            (config.only, config.repeat, config.watch) = (vec![Check::Reload], 1, false);
            (config.http2, config.reload) = (true, Some(ReloadBy::Signal { pid: server.id(), signal }));
            let report = probe(&url.parse().unwrap(), &config, |_| {}).unwrap();
            assert_eq!(report.protocol, "HTTP/2");
            let found = report.findings.into_iter().next()?;
            eprintln!("{}: {} {:?}", found.answer, found.sentence, found.reload);
            let counts = found.reload?;
            assert!(counts.under_way > 0 && counts.before.kept > 0 && counts.before.lost == 0, "{counts:?}");
            Some((found, counts))
        };
        let Some((reload, counts)) = asked(ReloadSignal::Hup) else { return };
        assert!(matches!(reload.answer, CheckAnswer::Keeps | CheckAnswer::AtRisk), "{reload:#?}");
        assert_eq!((counts.shown, counts.during.lost), (Some(ReloadShown::Processes), 0));
        assert!(counts.after.kept > 0 && counts.after.refused == 0, "{counts:?}");
        let Some((quit, counts)) = asked(ReloadSignal::Quit) else { return };
        assert!(matches!(quit.answer, CheckAnswer::Keeps | CheckAnswer::AtRisk), "{quit:#?}");
        assert!(counts.during.lost == 0 && counts.after.refused > 0, "{counts:?}");
        let Some((term, counts)) = asked(ReloadSignal::Term) else { return };
        assert!(matches!(term.answer, CheckAnswer::Loses | CheckAnswer::LosesSilently), "{term:#?}");
        assert!(counts.during.lost >= counts.under_way && counts.after.refused > 0, "{counts:?}");
    });
}

#[test]
fn gunicorn_keeps_at_a_reload() {
    sandboxed(|| {
        let server = SERVERS.iter().find(|server| server.name == "gunicorn, sync").unwrap();
        let Some(subject) = available((server.start)()) else { return };
        let found = ask(&subject.url, signal(&subject.peers[0], ReloadSignal::Hup));
        let counts = found.reload.unwrap();
        assert_eq!(counts.shown, Some(ReloadShown::Processes), "{found:#?}");
        assert_eq!((counts.during.lost, counts.during.refused), (0, 0), "{found:#?}");
        assert!(counts.after.kept > 0, "{counts:?}");
    });
}
