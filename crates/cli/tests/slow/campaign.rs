//! `linger server` and `linger client`, which two machines run against each other.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::common::program::{interrupt, linger, run};

fn lines(output: &Output) -> Vec<Value> {
    crate::common::contract::lines("client", &String::from_utf8_lossy(&output.stdout))
}

/// Where `linger server` listens, by its first line.
fn address_of(server: &mut Child) -> String {
    let mut said = String::new();
    BufReader::new(server.stderr.take().unwrap()).read_line(&mut said).unwrap();
    said.split_whitespace().nth(2).unwrap().trim_end_matches(',').to_owned()
}

#[test]
fn server_and_client_agree_on_what_was_lost() {
    let mut server = linger(&["server", "--listen", "127.0.0.1:0", "--ending", "lingering", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let address = address_of(&mut server);
    let output = run(&["client", &address, "--count", "50", "--late", "8", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let client = lines(&output).remove(0);
    assert_eq!((&client["trials"], &client["lost"]), (&50.into(), &0.into()));
    interrupt(&server);
    let mut text = String::new();
    server.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(server.wait().unwrap().success());
    let told = crate::common::contract::line("server", &text);
    assert_eq!((&told["accepted"], &told["written_bytes"]), (&50.into(), &10_000_000.into()));
    assert_eq!(told["errors"], serde_json::json!({}));
}

/// The server closes with 8 bytes unread. Its response fits into the client's window over loopback, so every
/// byte arrives before the reset.
#[test]
fn a_connection_that_ends_in_a_reset_is_no_success() {
    let mut server = linger(&[
        "server",
        "--listen",
        "127.0.0.1:0",
        "--ending",
        "close",
        "--response",
        "1000",
        "--consume",
        "100",
    ])
    .stdout(Stdio::null())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let address = address_of(&mut server);
    let client = |more: &[&str]| {
        let mut arguments = vec!["client", &address];
        arguments.extend(more);
        run(&arguments)
    };
    let reset = client(&["--request", "108", "--until-reset", "--concurrency", "1"]);
    assert_eq!(reset.status.code(), Some(1), "{reset:?}");
    let text = String::from_utf8_lossy(&reset.stdout).into_owned();
    assert!(text.starts_with("1 connections"), "{text}");
    assert!(text.contains("lost 0 of 1") && text.contains("at risk 1 of 1"), "{text}");
    let counted = ["--request", "108", "--count", "20", "--json"];
    let told = lines(&client(&counted)).remove(0);
    assert_eq!((&told["lost"], &told["at_risk"], &told["kept"]), (&0.into(), &20.into(), &0.into()));
    assert_eq!(told["first_at_risk"]["trial"], 1);
    assert_eq!(client(&[&counted[..], &["--at-risk-ok"]].concat()).status.code(), Some(0));
    // One field changed: the request is as long as the server reads.
    let kept = client(&["--request", "100", "--count", "20", "--json"]);
    assert_eq!(kept.status.code(), Some(0), "{kept:?}");
    assert_eq!(lines(&kept)[0]["kept"], 20);
    interrupt(&server);
    assert!(server.wait().unwrap().success());
}

#[test]
fn where_nobody_listens_no_response_is_called_lost() {
    // The listener keeps the port from other programs. At another loopback address nobody listens on that
    // port.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("127.0.0.2:{}", listener.local_addr().unwrap().port());
    let output = run(&["client", &address, "--count", "3"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("no connection was made") && !text.contains("loss") && !text.contains("lost"),
        "{text}"
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("is `linger server` running"), "{output:?}");
}

/// A client that has not read what its kernel has acknowledged may still send, as long as the server has not been told to stop; then a
/// client that never closes does not hold it up.
#[test]
fn a_lingering_server_stays_with_a_client_that_has_everything_until_it_is_to_stop() {
    let words = [
        "server",
        "--listen",
        "127.0.0.1:0",
        "--ending",
        "lingering",
        "--response",
        "1000",
        "--consume",
        "10",
    ];
    let mut server =
        linger(&words).args(["--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut client = TcpStream::connect(address_of(&mut server)).unwrap();
    client.write_all(&[b'q'; 10]).unwrap();
    // This is the client's silence, longer than `grace` of the default policy; nothing is waited for.
    std::thread::sleep(2 * linger::defaults::GRACE);
    client.write_all(b"late").unwrap();
    // Over loopback a reset has arrived when the write returns.
    assert!(client.take_error().unwrap().is_none(), "it was reset with its response unread");
    client.write_all(b"later").unwrap();
    let mut response = Vec::new();
    client.read_to_end(&mut response).unwrap();
    assert_eq!(response.len(), 1_000);

    interrupt(&server);
    let mut text = String::new();
    server.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(server.wait().unwrap().success());
    let told = crate::common::contract::line("server", &text);
    assert_eq!(told["closes"], serde_json::json!({"evicted": 1}), "{text}");
    drop(client);
}
