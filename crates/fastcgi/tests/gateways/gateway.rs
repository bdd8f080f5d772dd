//! This crate's client in front of real applications, and of responders that end in each of the seven ways.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;

use crate::common::{Ending, Raw, SIZES, available};
use linger_fastcgi::gateway::{Client, Config, Error, GatewayRequest, VALUES};
use linger_fastcgi::record::{self, EndRequest, ProtocolStatus, RecordType};
use linger_testing::sandboxed;
use linger_testing::servers::{RunningServer, Unavailable, libfcgi_echo, php_fpm, uwsgi};

fn client(address: SocketAddr, keep_conn: bool) -> Client {
    let mut config = Config::default();
    config.keep_conn = keep_conn;
    Client::new(address.into(), config)
}

/// Answers with `X_ANSWER` bytes after reading `X_READ` bytes of the body.
const PHP: &str = r#"<?php
$in = fopen('php://input', 'r');
$left = (int)$_SERVER['X_READ'];
while ($left > 0 && ($got = fread($in, min($left, 8192))) !== false && $got !== '') { $left -= strlen($got); }
header('Content-Type: application/octet-stream');
$chunk = str_repeat('r', 1000);
for ($i = (int)$_SERVER['X_ANSWER']; $i > 0; $i -= 1000) { echo substr($chunk, 0, $i); }
"#;

const PYTHON: &str = r#"
def application(environ, start_response):
    body, left = environ['wsgi.input'], int(environ['X_READ'])
    while left > 0:
        got = body.read(min(left, 65536))
        if not got: break
        left -= len(got)
    start_response('200 OK', [('Content-Type', 'application/octet-stream')])
    return [b'r' * int(environ['X_ANSWER'])]
"#;

const ECHO: &str = r#"
#include <fcgiapp.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
  FCGX_Stream *in, *out, *err; FCGX_ParamArray envp; static char buf[8192];
  while (FCGX_Accept(&in, &out, &err, &envp) >= 0) {
    long left = atol(FCGX_GetParam("X_READ", envp)), answer = atol(FCGX_GetParam("X_ANSWER", envp)); int got;
    while (left > 0 && (got = FCGX_GetStr(buf, left < 8192 ? left : 8192, in)) > 0) left -= got;
    FCGX_PutS("Content-Type: application/octet-stream\r\n\r\n", out);
    memset(buf, 'r', sizeof buf);
    for (; answer > 0; answer -= 1000) FCGX_PutStr(buf, answer < 1000 ? answer : 1000, out);
  }
  return 0;
}
"#;

fn in_front_of(name: &str, start: impl Fn() -> Result<RunningServer, Unavailable>) {
    sandboxed(|| {
        let Some(application) = available(start()) else { return };
        let script = application.path("script.php");
        for keep_conn in [false, true] {
            let client = client(application.address, keep_conn);
            for body in SIZES {
                for read in [0, body / 2, body] {
                    for answer in [0, 67_000, 2 << 20] {
                        let request = GatewayRequest::new("POST", &script.to_string_lossy())
                            .param("X_READ", read.to_string())
                            .param("X_ANSWER", answer.to_string())
                            .param("CONTENT_TYPE", "application/octet-stream")
                            .body(vec![b'b'; body]);
                        let case =
                            format!("{name}: keep {keep_conn}, body {body}, read {read}, answer {answer}");
                        let mut response =
                            client.send(request).unwrap_or_else(|error| panic!("{case}: {error}"));
                        let head = response.head().unwrap_or_else(|error| panic!("{case}: {error}"));
                        let length = io::copy(&mut response, &mut io::sink())
                            .unwrap_or_else(|error| panic!("{case}: {error}"));
                        assert_eq!((head.status, length), (200, answer as u64), "{case}");
                    }
                }
            }
        }
    });
}

#[test]
fn in_front_of_php_fpm() {
    in_front_of("php-fpm", || php_fpm(2, PHP));
}

#[test]
fn php_fpm_says_what_it_takes() {
    sandboxed(|| {
        let Some(application) = available(php_fpm(2, PHP)) else { return };
        let told = client(application.address, false).values(&VALUES).unwrap();
        assert_eq!(told.text("FCGI_MPXS_CONNS"), Some("0"), "{told:?}");
        // It leaves the other two out.
        assert_eq!(told.len(), 1, "{told:?}");
    });
}

#[test]
fn in_front_of_uwsgi() {
    in_front_of("uWSGI", || uwsgi("fastcgi-socket", 2, PYTHON));
}

#[test]
fn in_front_of_libfcgi() {
    in_front_of("libfcgi", || libfcgi_echo(ECHO, 2));
}

/// Sends `body` bytes to a responder that reads none and answers 67,000. Returns how many bytes came, or the
/// error.
fn ask(address: SocketAddr, body: usize) -> Result<u64, String> {
    let request = GatewayRequest::new("POST", "/").param("HTTP_X_READ", "0").param("HTTP_X_ANSWER", "67000");
    let mut response =
        client(address, false).send(request.body(vec![b'b'; body])).map_err(|error| error.to_string())?;
    response.head().map_err(|error| error.to_string())?;
    let got = io::copy(&mut response, &mut io::sink()).map_err(|error| error.to_string())?;
    assert!(response.end().is_some(), "an end of stream without END_REQUEST");
    Ok(got)
}

#[test]
fn whatever_the_ending_a_response_is_whole_or_refused() {
    sandboxed(|| {
        for ending in Ending::WRONG.into_iter().chain([Ending::Lingering]) {
            let responder = Raw::start(ending);
            for body in SIZES {
                match ask(responder.address, body) {
                    Ok(got) => assert_eq!(got, 67_000, "{ending:?}, body {body}"),
                    // A client that reads all the time meets resets only where the ending allows them.
                    Err(error) => assert_ne!(ending, Ending::Lingering, "body {body}: {error}"),
                }
            }
        }
    });
}

/// An application that sends a response with a body of `answer` bytes, without the last `cut` bytes of its records, and
/// resets the connection with the request unread.
fn resetting(answer: usize, cut: usize) -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut records = Vec::new();
        let mut stdout = b"Content-Type: text/plain\r\n\r\n".to_vec();
        stdout.resize(stdout.len() + answer, b'r');
        record::push_stream(&mut records, RecordType::Stdout, 1, &stdout);
        record::push(&mut records, RecordType::Stdout, 1, &[]);
        record::push_end(&mut records, 1, EndRequest::new(0, ProtocolStatus::RequestComplete));
        records.truncate(records.len() - cut);
        stream.write_all(&records).unwrap();
        // Everything is in the client's receive queue before the reset is sent: loopback acknowledges at once.
        while linger_sys::send_queue(std::os::fd::AsFd::as_fd(&stream)).unwrap() > 0 {
            thread::yield_now();
        }
        drop(stream);
    });
    (address, thread)
}

#[test]
fn what_arrived_before_a_reset_is_salvaged_and_what_is_cut_is_refused() {
    sandboxed(|| {
        // Small enough for the client's receive queue while it is busy sending.
        for answer in [0, 1000, 60_000] {
            for round in 0..20 {
                let (address, thread) = resetting(answer, 0);
                let request = GatewayRequest::new("POST", "/").body(vec![b'b'; 4 << 20]);
                let mut response = client(address, false).send(request).unwrap();
                let head = response.head().unwrap();
                let mut body = Vec::new();
                response.read_to_end(&mut body).unwrap();
                assert_eq!((head.status, body.len()), (200, answer), "round {round}");
                thread.join().unwrap();
            }
            for cut in [1, 8, 16, 17, 24] {
                let (address, thread) = resetting(answer, cut);
                let request = GatewayRequest::new("POST", "/").body(vec![b'b'; 4 << 20]);
                let error = match client(address, false).send(request) {
                    Ok(mut response) => {
                        let error = response.read_to_end(&mut Vec::new()).unwrap_err();
                        *error.into_inner().unwrap().downcast::<Error>().unwrap()
                    }
                    Err(error) => error,
                };
                assert!(matches!(error, Error::Cut { .. }), "cut {cut}: {error}");
                thread.join().unwrap();
            }
        }
    });
}

/// The application promises to keep its connections. It serves one request on each, and then breaks the
/// promise.
#[test]
fn only_what_can_be_repeated_is_sent_again() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let served = thread::spawn(move || {
        let mut served = Vec::new();
        let mut kept = Vec::new();
        // Connection 1: answers, then resets on the second request; connection 2: answers.
        for connection in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 4096];
            let got = stream.read(&mut buffer).unwrap();
            served.push(got);
            let mut end = Vec::new();
            record::push(&mut end, RecordType::Stdout, 1, &[]);
            record::push_end(&mut end, 1, EndRequest::new(0, ProtocolStatus::RequestComplete));
            stream.write_all(&end).unwrap();
            if connection != 1 {
                // Takes the next request on the connection, and closes without an answer.
                let _ = stream.read(&mut buffer).unwrap();
                drop(stream);
            } else {
                kept.push(stream);
            }
        }
        served.len()
    });
    let client = client(address, true);
    let finish = |request| -> Result<usize, Error> {
        let mut response = client.send(request)?;
        let mut all = Vec::new();
        response.read_to_end(&mut all).map_err(Error::System)?;
        Ok(all.len())
    };
    finish(GatewayRequest::new("GET", "/")).unwrap();
    // The kept connection ends under the second request, which is sent again on a fresh one.
    finish(GatewayRequest::new("GET", "/")).unwrap();
    drop(client);
    let mut config = Config::default();
    (config.keep_conn, config.reuses_after_bodies) = (true, true);
    let client = Client::new(address.into(), config);
    let finish = |request| -> Result<(), Error> {
        client.send(request)?.read_to_end(&mut Vec::new()).map_err(Error::System)?;
        Ok(())
    };
    finish(GatewayRequest::new("POST", "/")).unwrap();
    // A POST may have taken effect already, so it is not sent again.
    let error = finish(GatewayRequest::new("POST", "/")).unwrap_err();
    assert!(matches!(error, Error::Cut { received: 0, .. }), "{error}");
    assert_eq!(served.join().unwrap(), 3);
}
