//! Every kind of target: TLS, unix sockets, FastCGI, and raw TCP with a payload.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use linger_fastcgi::{Address, Responder, apps, responder};
use linger_probe::{Check, CheckAnswer, ProbeConfig, ProbeError, Target, probe};
use linger_testing::sandboxed;
use linger_testing::servers::{LENGTH, Launch, RunningServer, available, httpd, nginx, program};

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

/// Makes a key and a certificate in a folder. Returns nginx's directives for them; `None` without openssl.
fn certificate(folder: &Path) -> Option<String> {
    std::fs::create_dir_all(folder).unwrap();
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let openssl = available(program("openssl", "openssl"))?;
    let made = Command::new(openssl)
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let (key, certificate) = (key.display(), certificate.display());
    Some(format!("ssl_certificate {certificate}; ssl_certificate_key {key};"))
}

#[test]
fn https() {
    sandboxed(|| {
        let folder = std::env::temp_dir().join(format!("linger-probe-{}", std::process::id()));
        let Some(certificate) = certificate(&folder) else { return };
        for (lingering, late) in [("always", CheckAnswer::Keeps), ("off", CheckAnswer::Loses)] {
            let server = format!(
                "server {{ listen 127.0.0.1:PORT ssl; root FOLDER; lingering_close {lingering};
                   {certificate} }}"
            );
            let Some(peer) = with_large_file(&server) else { return };
            let url = format!("https://localhost:{}/large", peer.address.port());
            expect(&url, &config(&ASKED), &[CheckAnswer::Keeps, CheckAnswer::Keeps, late]);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    });
}

fn http2(only: &[Check]) -> ProbeConfig {
    let mut config = config(only);
    config.http2 = true;
    config
}

const OVER_HTTP2: [Check; 4] =
    [Check::LargeResponse, Check::UnreadBody, Check::UploadInProgress, Check::Stall];

#[test]
fn nginx_over_http2() {
    sandboxed(|| {
        let server = "server { listen 127.0.0.1:PORT http2; root FOLDER; client_max_body_size 1m; }";
        let Some(peer) = with_large_file(server) else { return };
        let url = format!("http://{}/large", peer.address);
        expect(&url, &http2(&OVER_HTTP2), &[CheckAnswer::Keeps; 4]);
        // Two directives away: the connection ends with its first request, and what the client still sends meets a closed socket.
        let server = "server { listen 127.0.0.1:PORT http2; root FOLDER; keepalive_requests 1;
                               client_max_body_size 1m; lingering_close off; }";
        let Some(peer) = with_large_file(server) else { return };
        let target: Target = format!("http://{}/large", peer.address).parse().unwrap();
        let report = probe(&target, &http2(&OVER_HTTP2[..3]), |_| {}).unwrap();
        for found in &report.findings {
            let cut = matches!(found.answer, CheckAnswer::Loses | CheckAnswer::AtRisk);
            assert!(cut, "{}: {}", found.check, found.sentence);
            assert!(found.counters.contains_key("OutRsts"), "{}: {:?}", found.check, found.counters);
        }
    });
}

#[test]
fn http2_is_chosen_in_the_tls_handshake_or_refused() {
    sandboxed(|| {
        let folder = std::env::temp_dir().join(format!("linger-probe-alpn-{}", std::process::id()));
        let Some(certificate) = certificate(&folder) else { return };
        for (listen, offers) in [("ssl http2", true), ("ssl", false)] {
            let server = format!("server {{ listen 127.0.0.1:PORT {listen}; root FOLDER; {certificate} }}");
            let Some(peer) = with_large_file(&server) else { return };
            let url = format!("https://localhost:{}/large", peer.address.port());
            if offers {
                expect(&url, &http2(&OVER_HTTP2[..2]), &[CheckAnswer::Keeps; 2]);
                continue;
            }
            let error = probe(&url.parse().unwrap(), &http2(&[]), |_| {}).unwrap_err();
            assert!(matches!(&error, ProbeError::Connect { .. }), "{error}");
            assert!(error.to_string().contains("does not choose HTTP/2"), "{error}");
            // One field away: in HTTP/1.1 it answers.
            expect(&url, &config(&OVER_HTTP2[..1]), &[CheckAnswer::Keeps]);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    });
}

/// Both send a complete response, and then reset the stream whose request they have not read: Node with NO_ERROR, as RFC 9113
/// section 8.1 has it, HAProxy 2.6 with CANCEL, for which curl 7.88 gives up the response (status 92).
#[test]
fn node_and_haproxy_over_http2() {
    sandboxed(|| {
        let Some(node) = available(program("node", "nodejs")) else { return };
        let launch = Launch::new("node");
        let source = format!(
            "require('http2').createServer((request, response) => {{
               response.writeHead(200, {{ 'content-length': {LENGTH} }});
               response.end(Buffer.alloc({LENGTH}, 'r'));
             }}).listen({}, '127.0.0.1');",
            launch.port
        );
        let file = launch.file("server.js", source);
        let mut command = Command::new(node);
        command.arg(file);
        let Some(peer) = available(launch.start(command)) else { return };
        expect(&format!("http://{}/", peer.address), &http2(&OVER_HTTP2), &[CheckAnswer::Keeps; 4]);

        let Some(haproxy) = available(program("haproxy", "haproxy")) else { return };
        let launch = Launch::new("haproxy");
        let answer = launch.file("large", vec![b'r'; LENGTH]);
        let config = format!(
            "global\n  tune.bufsize 400000\n  maxconn 200\ndefaults\n  mode http\n  timeout client 20s\n  timeout server 20s
  timeout connect 5s\nfrontend front\n  bind 127.0.0.1:{} proto h2\n
  http-request return status 200 content-type application/octet-stream file {}\n",
            launch.port,
            answer.display()
        );
        let file = launch.file("haproxy.cfg", config);
        let mut command = Command::new(haproxy);
        command.arg("-db").arg("-f").arg(file);
        let Some(peer) = available(launch.start(command)) else { return };
        let [large, _, upload, _] = OVER_HTTP2;
        let url = format!("http://{}/", peer.address);
        expect(&url, &http2(&[large, upload]), &[CheckAnswer::Keeps, CheckAnswer::AtRisk]);
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

#[test]
fn a_proxy_is_asked_in_the_place_of_the_server() {
    sandboxed(|| {
        let folder = std::env::temp_dir().join(format!("linger-probe-proxy-{}", std::process::id()));
        let Some(certificate) = certificate(&folder) else { return };
        // Behind the proxies a server that ends its connections well, in the clear and over TLS.
        let server = "server { listen 127.0.0.1:PORT; root FOLDER; lingering_close always; }";
        let Some(plain) = with_large_file(server) else { return };
        let server = format!(
            "server {{ listen 127.0.0.1:PORT ssl; root FOLDER; lingering_close always; {certificate} }}"
        );
        let Some(tls) = with_large_file(&server) else { return };
        let through = |lingering: &str| {
            let server = format!(
                "server {{ listen 127.0.0.1:PORT; lingering_close {lingering};
                   location / {{ proxy_pass http://$http_host$request_uri; }} }}"
            );
            available(nginx("nginx", 1, &server))
        };
        let (Some(good), Some(bad)) = (through("always"), through("off")) else { return };
        let asked = |proxy: SocketAddr, url: &str| {
            let mut config = config(&ASKED);
            config.proxy = Some(format!("http://{proxy}").parse().unwrap());
            probe(&url.parse().unwrap(), &config, |_| {})
        };
        let url = format!("http://{}/large", plain.address);
        for (proxy, late) in [(good.address, CheckAnswer::Keeps), (bad.address, CheckAnswer::Loses)] {
            let report = asked(proxy, &url).unwrap();
            assert_eq!((report.status, report.address), (Some(200), proxy.to_string()));
            let found: Vec<CheckAnswer> = report.findings.iter().map(|finding| finding.answer).collect();
            assert_eq!(found, [CheckAnswer::Keeps, CheckAnswer::Keeps, late], "{:#?}", report.findings);
        }
        // nginx knows no CONNECT.
        let url = format!("https://localhost:{}/large", tls.address.port());
        let error = asked(good.address, &url).unwrap_err().to_string();
        assert!(error.contains("the proxy answers 40") && error.contains("to CONNECT"), "{error}");
        let Some(httpd) = available(httpd(
            "httpd",
            "event",
            &["proxy", "proxy_http", "proxy_connect"],
            &format!("ProxyRequests On\nAllowCONNECT {}", tls.address.port()),
        )) else {
            return;
        };
        let report = asked(httpd.address, &url).unwrap();
        assert_eq!((report.status, report.response_bytes), (Some(200), LENGTH as u64));
        assert_eq!(report.findings[0].answer, CheckAnswer::Keeps, "{:#?}", report.findings);
        // One field away: a port that it does not allow.
        let error =
            asked(httpd.address, &format!("https://{}/large", plain.address)).unwrap_err().to_string();
        assert!(error.contains("the proxy answers 403 to CONNECT"), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    });
}
