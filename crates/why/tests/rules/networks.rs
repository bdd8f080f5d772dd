//! Connections with the same ends in several networks, and one connection whose packets have several tags.

use linger_why::Finding;

use crate::flow::{Client, Flow, Server, Who, flow};
use crate::{GET, response};

/// Cause, confidence and byte counts of each finding, with its tags.
fn told(flow: &Flow) -> Vec<String> {
    let words = |finding: &Finding| {
        format!(
            "{} {} {} {:?} {:?} [{}]",
            finding.cause,
            finding.confidence,
            finding.class,
            finding.lost_response_bytes,
            finding.unread_request_bytes,
            finding.tags
        )
    };
    let mut told: Vec<String> = flow.findings().iter().map(words).collect();
    told.sort();
    let mut mirrored: Vec<String> = flow.clone().mirrored().findings().iter().map(words).collect();
    mirrored.sort();
    assert_eq!(told, mirrored, "mirrored");
    told
}

/// The server closes, and a second request comes.
fn late() -> Flow {
    let flow = flow().shake().data(Client, GET).data(Server, &response(20, 20)).ack(Client);
    flow.fin(Server).ack(Client).wait(20).data(Client, GET).bare(Server)
}

/// Another connection between the same ends, which the server aborts after the first bytes.
fn aborted() -> Flow {
    flow()
        .isns(77_000_000, 3_000_000_000)
        .wait_us(300)
        .shake()
        .bytes(Server, 9)
        .ack(Client)
        .wait(15)
        .rst(Server)
}

fn tagged(flow: Flow, vlan: u16, label: u32) -> Flow {
    flow.with_all(|packet| (packet.vlan, packet.label) = (vlan, label))
}

/// The packets of this side get a tag.
fn tag_of(flow: Flow, who: Who, vlan: u16, label: u32) -> Flow {
    flow.with_all(|packet| {
        if packet.from == who {
            (packet.vlan, packet.label) = (vlan, label);
        }
    })
}

fn without_tags(told: Vec<String>) -> Vec<String> {
    told.into_iter().map(|told| told.split(" [").next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_same_ends_in_two_networks_are_two_connections() {
    for (one, other) in
        [((10, 0), (20, 0)), ((0, 0), (20, 0)), ((10, 0), (0, 0)), ((0, 16), (0, 17)), ((10, 16), (20, 16))]
    {
        let (late, aborted) = (tagged(late(), one.0, one.1), tagged(aborted(), other.0, other.1));
        let mut apart = [told(&late), told(&aborted)].concat();
        apart.sort();
        assert_eq!(told(&late.and(aborted)), apart, "{one:?} {other:?}");
    }
    // In one network they cannot be two connections at a time: the packets contradict each other.
    let mixed = told(&tagged(late(), 10, 0).and(tagged(aborted(), 10, 0)));
    assert_ne!(without_tags(mixed), without_tags([told(&late()), told(&aborted())].concat()));
}

#[test]
fn tags_that_differ_between_directions_are_one_connection() {
    for (there, back) in [((10, 0), (20, 0)), ((0, 0), (20, 0)), ((10, 0), (0, 0)), ((0, 16), (0, 99))] {
        let flow = tag_of(tag_of(late(), Client, there.0, there.1), Server, back.0, back.1);
        assert_eq!(without_tags(told(&flow)), without_tags(told(&late())), "{there:?} {back:?}");
        // Also where the handshake is not in the capture, and beside another connection that does the same.
        let middle = |flow: Flow| flow.from(3);
        assert_eq!(
            without_tags(told(&middle(flow.clone()))),
            without_tags(told(&middle(late()))),
            "{there:?} {back:?}"
        );
        let other = tag_of(tag_of(aborted(), Client, there.0 + 100, there.1), Server, back.0, back.1);
        let mut apart = without_tags([told(&late()), told(&aborted())].concat());
        apart.sort();
        assert_eq!(without_tags(told(&flow.and(other))), apart, "{there:?} {back:?}");
    }
}

#[test]
fn a_packet_with_another_tag_belongs_to_the_connection_that_it_continues() {
    let last = late().from(7);
    let with_last = |vlan, seq_ahead: u32| {
        let last = last.clone().with_all(|packet| {
            packet.vlan = vlan;
            packet.seq = packet.seq.wrapping_add(seq_ahead);
        });
        tagged(late().before(7), 10, 0).and(last)
    };
    let expected = without_tags(told(&late()));
    assert_eq!(without_tags(told(&with_last(10, 0))), expected);
    // Labels and VLANs change when the way through the network does.
    assert_eq!(without_tags(told(&with_last(20, 0))), expected);
    // These packets have other numbers: they are of another connection.
    assert_ne!(without_tags(told(&with_last(20, 1 << 28))), expected);
}

#[test]
fn a_packet_that_is_captured_before_and_after_its_tag_changes_counts_once() {
    let first = tagged(late(), 10, 0);
    let second = tagged(late(), 20, 0).with_all(|packet| {
        packet.time += 50_000;
        packet.ttl -= 1;
    });
    assert_eq!(without_tags(told(&first.and(second))), without_tags(told(&late())));
}

#[test]
fn listeners_in_two_networks_are_two() {
    // The port refuses from then on: in the same network, that shows the end of the process.
    let refused = || flow().ports(41_000, 80).wait(100).syn().refuse(Server);
    let ended = |vlan| tagged(aborted(), 10, 0).and(tagged(refused(), vlan, 0));
    assert!(told(&ended(10)).iter().any(|told| told.starts_with("process-gone")), "{:?}", told(&ended(10)));
    assert!(!told(&ended(20)).iter().any(|told| told.starts_with("process-gone")), "{:?}", told(&ended(20)));
}
