//! Which of several addresses is asked, and what the user says in the place of a name.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

use linger_probe::{Check, CheckAnswer, ProbeConfig, ProbeError, ProbeReport, will_ask};
use linger_testing::sandboxed;
use socket2::{Domain, Socket, Type};

use crate::common::{BODY, ask, close_well, config, head, respond};

/// A server of large responses at an address. Returns how many requests it has had.
fn serves(address: SocketAddr) -> Arc<AtomicU64> {
    let (listener, asked) = (TcpListener::bind(address).unwrap(), Arc::new(AtomicU64::new(0)));
    let count = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if head(&mut stream).is_empty() {
                continue;
            }
            count.fetch_add(1, SeqCst);
            respond(&mut stream, "200 OK", "", BODY);
            close_well(&mut stream);
        }
    });
    asked
}

const PORT: u16 = 8080;

fn at(last: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), PORT).into()
}

/// Takes no connection: its accept queue is full, so that the kernel drops what comes.
fn falls_silent(address: SocketAddr) -> Vec<Box<dyn Send>> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let first = TcpStream::connect(address).unwrap();
    vec![Box::new(listener), Box::new(first)]
}

fn asked(resolve: &str) -> ProbeReport {
    ask("http://app.example:8080/", &resolved(resolve)).unwrap()
}

fn resolved(resolve: &str) -> ProbeConfig {
    let mut config = config(&[Check::LargeResponse]);
    config.resolve = vec![format!("app.example:{PORT}:{resolve}").parse().unwrap()];
    config
}

fn unreached(report: &ProbeReport) -> Vec<&str> {
    report.unreached.iter().map(|one| one.address.as_str()).collect()
}

#[test]
fn the_first_address_that_answers_is_asked_and_the_others_are_told() {
    sandboxed(|| {
        let (third, fourth) = (serves(at(3)), serves(at(4)));
        // Refused, by the other family first.
        let report = asked("[::1],127.0.0.3");
        assert_eq!(report.address, "127.0.0.3:8080");
        assert_eq!(unreached(&report), ["[::1]:8080"]);
        assert!(report.unreached[0].reason.contains("refused"), "{:?}", report.unreached);
        assert_eq!(report.overall(), CheckAnswer::Keeps, "{report:#?}");
        let requests = third.load(SeqCst);
        assert_eq!(requests + 1, report.connections, "one attempt was in vain");
        // One that nobody answers at.
        let _silent = falls_silent(at(2));
        let report = asked("127.0.0.2,127.0.0.3");
        assert_eq!(
            (report.address.as_str(), &unreached(&report)[..]),
            ("127.0.0.3:8080", &["127.0.0.2:8080"][..])
        );
        assert_eq!(report.overall(), CheckAnswer::Keeps, "{report:#?}");
        let requests = third.load(SeqCst);
        // One field away: the first answers, and the others hear nothing.
        let report = asked("127.0.0.4,127.0.0.3,127.0.0.2");
        assert_eq!((report.address.as_str(), report.unreached.len()), ("127.0.0.4:8080", 0));
        assert_eq!((third.load(SeqCst), fourth.load(SeqCst)), (requests, report.connections));
        // None does.
        let mut dead = resolved("127.0.0.2,127.0.0.5");
        dead.patience = std::time::Duration::from_millis(600);
        let error = ask("http://app.example:8080/", &dead).unwrap_err();
        assert!(matches!(error, ProbeError::Connect { .. }), "{error}");
    });
}

#[test]
fn localhost_is_asked_at_either_of_its_addresses() {
    sandboxed(|| {
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)), "[::1]:8082".parse().unwrap()] {
            let asked = serves(address);
            let mut config = config(&[Check::LargeResponse]);
            // What `localhost` is on most systems, whatever this one's files say.
            config.resolve = vec![format!("localhost:{}:::1,127.0.0.1", address.port()).parse().unwrap()];
            let report = ask(&format!("http://localhost:{}/", address.port()), &config).unwrap();
            assert_eq!(report.address, address.to_string());
            assert!(report.is_active && report.overall() == CheckAnswer::Keeps, "{report:#?}");
            assert!(asked.load(SeqCst) > 0);
        }
    });
}

#[test]
fn one_address_that_is_not_here_makes_the_probe_quiet() {
    sandboxed(|| {
        serves(at(3));
        let asks = |resolve: &str| {
            let plan = will_ask(&"http://app.example:8080/".parse().unwrap(), &{
                let mut all = resolved(resolve);
                all.only.clear();
                all
            });
            plan.unwrap().costs.iter().all(|(_, cost)| cost.is_some())
        };
        assert!(asks("127.0.0.3") && !asks("192.0.2.1,127.0.0.3"));
        // As it was said before, so it is done, whichever address answers.
        assert!(asked("127.0.0.3").is_active && !asked("192.0.2.1,127.0.0.3").is_active);
    });
}

#[test]
fn the_request_names_the_host_of_the_url_wherever_it_goes() {
    sandboxed(|| {
        let listener = TcpListener::bind(at(6)).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = String::from_utf8(head(&mut stream)).unwrap();
                let named = head.contains("\r\nHost: app.example\r\n");
                respond(&mut stream, if named { "200 OK" } else { "404 Not Found" }, "", BODY);
                close_well(&mut stream);
            }
        });
        let status = |rules: &[&str]| {
            let mut config = config(&[Check::LargeResponse]);
            config.connect_to = rules.iter().map(|rule| rule.parse().unwrap()).collect();
            ask("http://app.example/", &config).map(|report| report.status)
        };
        for rules in
            [&["127.0.0.6:8080"][..], &["::127.0.0.6:8080"], &["x:80:y:80", "app.example:80:127.0.0.6:8080"]]
        {
            assert_eq!(status(rules).unwrap(), Some(200), "{rules:?}");
        }
        // One field away: the rule is for another port.
        assert!(matches!(status(&["app.example:81:127.0.0.6:8080"]), Err(ProbeError::Resolve { .. })));
    });
}
