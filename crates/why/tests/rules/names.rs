//! The name that a reset connection's client has asked for, where thousands of others ask in between.

use linger_why::Claim;

use crate::GET;
use crate::flow::{Client, Flow, Server, flow};
use crate::passive::record;

/// As many clients, each of which asks for another name, two seconds after the beginning.
fn others(count: usize) -> impl Iterator<Item = Flow> {
    (0..count).map(|at| {
        let request = format!("GET / HTTP/1.1\r\nHost: h{at}.example\r\n\r\n");
        let client = format!("10.2.{}.{}", at / 250, at % 250);
        flow().addresses(&client, "10.0.0.2").wait(2_000).data(Client, request.as_bytes())
    })
}

fn names(flow: &Flow) -> Vec<Option<String>> {
    flow.findings().into_iter().map(|finding| finding.asked_name).collect()
}

#[test]
fn a_name_is_known_as_long_as_its_connection() {
    let known = &[Some("shop.example".to_owned())];
    let asks = |request: &[u8]| flow().shake().data(Client, request);
    let late = |request| asks(request).wait(5_000).rst(Server);
    assert_eq!(names(&late(GET).with_others(others(5_000))), *known);
    assert_eq!(names(&late(b"GET / HTTP/1.1\r\n\r\n").with_others(others(5_000))), [None], "no Host");
    // More different names than are kept: forgotten, unless the reset came before them.
    assert_eq!(names(&late(GET).with_others(others(8_191))), *known);
    assert_eq!(names(&late(GET).with_others(others(8_192))), [None]);
    let soon = asks(GET).wait(1_000).rst(Server);
    assert_eq!(names(&soon.with_others(others(8_192))), *known);
}

#[test]
fn a_name_after_a_reset_that_nobody_obeyed() {
    let goes_on = |request: &[u8]| flow().shake().rst(Server).data(Client, request).bytes(Server, 10);
    assert_eq!(names(&goes_on(GET)), [Some("shop.example".to_owned())]);
    assert_eq!(names(&goes_on(b"GET / HTTP/1.1\r\n\r\n")), [None]);
}

/// A ClientHello that asks for `name`.
fn hello(name: &str) -> Vec<u8> {
    let length = |bytes: usize| (bytes as u16).to_be_bytes();
    let entry = [&[0][..], &length(name.len()), name.as_bytes()].concat();
    let list = [&length(entry.len())[..], &entry].concat();
    let extensions = [&[0, 0][..], &length(list.len()), &list].concat();
    // Its version, random, session, one cipher suite and one compression method.
    let body =
        [&[3, 3][..], &[7; 32], &[0, 0, 2, 0x13, 1, 1, 0], &length(extensions.len()), &extensions].concat();
    let message = [&[1, 0][..], &length(body.len()), &body].concat();
    [&[22, 3, 1][..], &length(message.len()), &message].concat()
}

#[test]
fn the_evidence_says_which_name_was_asked_for() {
    let said = |request: &[u8]| {
        let flow = flow().ports(40_000, 443).shake().data(Client, request);
        let findings = flow.data(Server, &record(22, 40)).ack(Client).rst(Server).findings();
        let says = findings[0].evidence.iter().map(|evidence| &evidence.says);
        says.filter_map(|claim| match claim {
            Claim::ServerName(name) => Some(name.to_string()),
            _ => None,
        })
        .next()
    };
    assert_eq!(said(&hello("shop.example")).as_deref(), Some("shop.example"));
    assert_eq!(said(&record(22, 60)), None);
}
