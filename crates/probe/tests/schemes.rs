//! Every kind of target: TLS, unix sockets, FastCGI, and raw TCP with a payload.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use linger_fastcgi::{Address, Responder, apps, responder};
use linger_probe::{Check, CheckAnswer, ProbeConfig, ProbeError, Target, probe};
use linger_testing::sandboxed;
use linger_testing::servers::{LENGTH, RunningServer, available, nginx, program};

fn with_large_file(server: &str) -> Option<RunningServer> {
    let peer = available(nginx("nginx", 1, server))?;
    std::fs::write(peer.path("large"), vec![b'r'; LENGTH]).unwrap();
    Some(peer)
}

fn config(only: &[Check]) -> ProbeConfig {
    let mut config = ProbeConfig::default();
    config.only = only.to_vec();
    config.repeat = 1;
    config
}

const ASKED: [Check; 3] = [Check::LargeResponse, Check::LateByte, Check::TrailingBytes];

/// Probes `url`, and checks the answer.
fn expect(url: &str, config: &ProbeConfig, answers: &[CheckAnswer]) {
    let target: Target = url.parse().unwrap();
    let report = probe(&target, config, |_| {}).unwrap();
    let found: Vec<CheckAnswer> = report.findings.iter().map(|finding| finding.answer).collect();
    assert_eq!(found, answers, "{url}: {:#?}", report.findings);
}

#[test]
fn https() {
    sandboxed(|| {
        let folder = std::env::temp_dir().join(format!("linger-probe-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
        let Some(openssl) = available(program("openssl", "openssl")) else { return };
        let made = Command::new(openssl)
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
                "-keyout",
            ])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for (lingering, late) in [("always", CheckAnswer::Keeps), ("off", CheckAnswer::Loses)] {
            let server = format!(
                "server {{ listen 127.0.0.1:PORT ssl; root FOLDER; lingering_close {lingering};
                   ssl_certificate {}; ssl_certificate_key {}; }}",
                certificate.display(),
                key.display()
            );
            let Some(peer) = with_large_file(&server) else { return };
            let url = format!("https://localhost:{}/large", peer.address.port());
            expect(&url, &config(&ASKED), &[CheckAnswer::Keeps, CheckAnswer::Keeps, late]);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    });
}

#[test]
fn unix_sockets() {
    sandboxed(|| {
        let server =
            "server { listen 127.0.0.1:PORT; listen unix:FOLDER/sock; root FOLDER; lingering_close always; }";
        let Some(peer) = with_large_file(server) else { return };
        let url = format!("http://unix:{}:/large", peer.path("sock").display());
        expect(&url, &config(&ASKED[..1]), &[CheckAnswer::Keeps]);
    });
}

#[test]
fn bytes_of_ones_own() {
    sandboxed(|| {
        let server = "server { listen 127.0.0.1:PORT; root FOLDER; lingering_close off; }";
        let Some(peer) = with_large_file(server) else { return };
        let url = format!("tcp://{}", peer.address);
        let mut config = config(&[Check::LargeResponse, Check::LateByte, Check::UnreadBody]);
        let target: Target = url.parse().unwrap();
        assert!(matches!(probe(&target, &config, |_| {}), Err(ProbeError::NoPayload)));
        // For a raw TCP target an HTTP/1.0 response has no framing, so its length is found by repetition.
        config.payload = b"GET /large HTTP/1.0\r\n\r\n".to_vec();
        expect(&url, &config, &[CheckAnswer::Keeps, CheckAnswer::CannotTell, CheckAnswer::Loses]);
    });
}

/// A server that reads a little of each connection, sends `response` and closes cleanly. Returns its URL.
fn says(response: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4_096]);
            let _ = stream.write_all(response);
        }
    });
    format!("http://{address}/")
}

#[test]
fn a_server_that_says_nothing_keeps_nothing() {
    sandboxed(|| {
        for (response, answers) in [(&b""[..], false), (b"HTTP/1.1 200 OK\r\n\r\n", true)] {
            let target: Target = says(response).parse().unwrap();
            match probe(&target, &config(&[Check::HalfClose]), |_| {}) {
                Ok(report) => assert!(answers, "{:#?}", report.findings),
                Err(ProbeError::NoAnswer { .. }) => assert!(!answers, "{response:?}"),
                Err(error) => panic!("{error}"),
            }
        }
    });
}

#[test]
fn fastcgi_over_a_unix_socket() {
    sandboxed(|| {
        let folder = std::env::temp_dir().join(format!("linger-probe-fcgi-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("large"), vec![b'r'; LENGTH]).unwrap();
        let address = Address::Unix(folder.join("sock"));
        let responder = Responder::bind(&address, responder::Config::default()).unwrap();
        let (stop, files) = (responder.stopper(), apps::Files::new(&folder));
        let serving = std::thread::spawn(move || responder.run(files));
        let url = format!("fcgi://unix:{}:/large", folder.join("sock").display());
        let asked =
            [Check::LargeResponse, Check::UnreadBody, Check::TrailingBytes, Check::LateByte, Check::Stall];
        expect(&url, &config(&asked), &[CheckAnswer::Keeps; 5]);
        stop.stop();
        serving.join().unwrap().unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
    });
}

#[test]
fn hostile_questions_need_ones_own_server() {
    let target: Target = "http://192.0.2.1/".parse().unwrap();
    let mut config = ProbeConfig::default();
    config.hostile = true;
    // The probe refuses before it sends anything to this address.
    assert!(matches!(probe(&target, &config, |_| {}), Err(ProbeError::NotYours(_))));
}
