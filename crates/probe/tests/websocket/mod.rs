//! WebSockets of other people's servers.

use std::process::Command;

use linger_probe::{Check, CheckAnswer, CheckFinding, ProbeConfig, ProbeReport, probe};
use linger_testing::sandboxed;
use linger_testing::servers::{Launch, RunningServer, SERVERS, available, nginx, python_with};

fn ask(url: &str) -> ProbeReport {
    let mut config = ProbeConfig::default();
    (config.only, config.watch) = (vec![Check::WebSocket], false);
    let report = probe(&url.parse().unwrap(), &config, |_| {}).unwrap();
    let found = &report.findings[0];
    eprintln!("{url}: {}: {} {:?}", found.answer, found.sentence, found.form);
    report
}

fn aiohttp() -> Option<RunningServer> {
    let python = available(python_with("aiohttp"))?;
    let launch = Launch::new("aiohttp");
    let script = launch.file("server.py", include_str!("aiohttp_server.py"));
    let mut command = Command::new(python);
    command.arg(script).arg(launch.port.to_string());
    available(launch.start(command))
}

fn found(report: ProbeReport) -> CheckFinding {
    report.findings.into_iter().next().unwrap()
}

#[test]
fn aiohttp_speaks_it_at_one_path() {
    sandboxed(|| {
        let Some(server) = aiohttp() else { return };
        let report = ask(&format!("http://{}/ws", server.address));
        // The plain request is refused there, which is no doubt.
        assert_eq!((report.status, report.doubt()), (Some(400), None), "{report:#?}");
        let overall = report.overall();
        let socket = found(report);
        assert_eq!((socket.status, socket.forms.len()), (Some(101), 3), "{socket:#?}");
        assert_eq!(overall, socket.answer);
        let page = found(ask(&format!("http://{}/", server.address)));
        assert_ne!(page.status, Some(101), "{page:#?}");
        assert!(page.answer != CheckAnswer::Keeps, "{page:#?}");
    });
}

#[test]
fn through_nginx_it_is_asked_as_well() {
    sandboxed(|| {
        let Some(server) = aiohttp() else { return };
        let config = format!(
            "server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass http://{}; proxy_http_version 1.1;
               proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }}",
            server.address
        );
        let Some(gateway) = available(nginx("nginx", 1, &config)) else { return };
        let socket = found(ask(&format!("http://{}/ws", gateway.address)));
        assert_eq!((socket.status, socket.forms.len()), (Some(101), 3), "{socket:#?}");
    });
}

#[test]
fn servers_of_pages_do_not_speak_it() {
    sandboxed(|| {
        for name in ["nginx, lingering_close always", "httpd, event"] {
            let server = SERVERS.iter().find(|server| server.name == name).unwrap();
            let Some(subject) = available((server.start)()) else { continue };
            let page = found(ask(&subject.url));
            assert_eq!((page.answer, page.status), (CheckAnswer::CannotTell, Some(200)), "{name}: {page:#?}");
            assert!(
                page.sentence.starts_with("it answered 200, and speaks no WebSocket"),
                "{}",
                page.sentence
            );
        }
    });
}
