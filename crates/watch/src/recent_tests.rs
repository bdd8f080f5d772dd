//! Which resets are echoes, and whose.

use super::*;
use linger_why::{Cause, Confidence};

const SECOND: u64 = 1_000_000_000;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn opinion(cause: Cause) -> Opinion {
    (cause, Confidence::Certain, vec![cause], Vec::new())
}

fn recent(server: &str, client: &str) -> RecentResets {
    let mut recent = RecentResets::default();
    recent.sent(SECOND, (at(server), at(client)), opinion(Cause::ClosedWithUnreadData), None);
    recent
}

#[test]
fn an_echo_is_one_of_the_same_connection_and_soon() {
    let (server, client) = ("10.0.0.1:80", "10.0.0.2:4000");
    let recent = recent(server, client);
    let original =
        |local: &str, remote: &str, time_ns| recent.original(&(at(local), at(remote)), time_ns, &[]);
    let ends = Some(((at(server), at(client)), SECOND));
    assert_eq!(original(server, client, 2 * SECOND), ends);
    assert_eq!(original(server, client, SECOND + CONNECTION), None, "too late");
    assert_eq!(original(server, "10.0.0.2:4001", 2 * SECOND), None, "another connection");
    // From a listener the kernel does not say the peer.
    for listener in ["0.0.0.0:80", "[::]:80", server] {
        assert_eq!(original(listener, "0.0.0.0:0", SECOND + PORT - 1), ends);
        assert_eq!(original(listener, "0.0.0.0:0", SECOND + PORT), None, "too late for a port alone");
    }
    assert_eq!(original("0.0.0.0:81", "0.0.0.0:0", SECOND + 1), None, "another port");
    assert_eq!(original("10.0.0.9:80", "0.0.0.0:0", SECOND + 1), None, "another address");
}

/// One field away: the namespace alone.
#[test]
fn an_echo_is_of_a_namespace_in_which_it_can_have_been_sent() {
    let ends = (at("10.0.0.1:80"), at("10.0.0.2:4000"));
    let [here, there] = [7, 8].map(NamespaceId::from_inode);
    let first = opinion(Cause::ClosedWithUnreadData);
    for listener in [false, true] {
        let mut recent = recent("10.0.0.1:80", "10.0.0.2:4000");
        let packet = if listener { (at("0.0.0.0:80"), at("0.0.0.0:0")) } else { ends };
        let later = SECOND + PORT / 2;
        let original = |recent: &RecentResets, places: &[NamespaceId]| {
            recent.original(&packet, later, places).map(|(_, time_ns)| time_ns)
        };
        assert_eq!(original(&recent, &[there]), Some(SECOND), "where the first was sent is not known yet");
        recent.correct(&(ends, SECOND), first.clone(), Some(here));
        for places in [&[here][..], &[there, here], &[]] {
            assert_eq!(original(&recent, places), Some(SECOND), "{places:?}");
        }
        assert_eq!(original(&recent, &[there]), None, "another namespace");
        // One of the other namespace came in between: each has its own.
        recent.sent(SECOND + 1, ends, first.clone(), None);
        recent.correct(&(ends, SECOND + 1), first.clone(), Some(there));
        assert_eq!(original(&recent, &[there]), Some(SECOND + 1));
        assert_eq!(original(&recent, &[here]), Some(SECOND));
    }
}

#[test]
fn a_socket_that_receives_a_reset_after_another_has_a_connection_of_its_own() {
    let ends = (at("10.0.0.1:80"), at("10.0.0.2:4000"));
    let (received, mut recent) = ((ends.1, ends.0), recent("10.0.0.1:80", "10.0.0.2:4000"));
    let suspect = |time_ns| Suspect {
        time_ns,
        running: (1, 1),
        ends,
        reason: None,
        state: 0,
        socket: 0,
        original: (ends, SECOND),
    };
    recent.suspect(suspect(SECOND + 1));
    assert_eq!(recent.receive(&received, SECOND + 2, 0), None, "a kernel that tells no cookies");
    assert_eq!(recent.receive(&received, SECOND + 2, 5), None, "the first was lost, and it had the echo");
    assert_eq!(recent.receive(&received, SECOND + 3, 5), None, "the same socket");
    assert_eq!(recent.receive(&(at("10.0.0.2:4001"), ends.0), SECOND + 3, 6), None, "another port");
    assert_eq!(recent.receive(&received, SECOND - AFTER, 6), None, "before it was sent");
    assert_eq!(recent.receive(&received, SECOND + 3, 6), Some(suspect(SECOND + 1)));
    assert_eq!(recent.receive(&received, SECOND + 4, 7), None, "no echo is left that could be it");
}

#[test]
fn echoes_that_are_none_are_taken_back_until_they_are_told() {
    let key = ((at("10.0.0.1:80"), at("10.0.0.2:4000")), SECOND);
    let mut recent = recent("10.0.0.1:80", "10.0.0.2:4000");
    recent.echo(&key);
    assert!(recent.echoes(false).is_empty(), "too young: its receiver may not have been seen");
    assert!(recent.take_back(&key) && !recent.take_back(&key));
    assert!(recent.echoes(true).is_empty());
    recent.echo(&key);
    assert!(recent.echoes(false).is_empty());
    // A peer that does not stop: what is old enough is told all the same.
    recent.echo(&key);
    let told = |recent: &mut RecentResets| {
        recent.echoes(false).iter().map(|echoes| echoes.count).collect::<Vec<_>>()
    };
    assert_eq!((told(&mut recent), told(&mut recent)), (vec![1], vec![1]));
    assert!(told(&mut recent).is_empty() && !recent.take_back(&key), "they were told");
}

#[test]
fn echoes_are_told_once_with_the_cause_of_the_first() {
    let ends = (at("10.0.0.1:80"), at("10.0.0.2:4000"));
    let mut recent = recent("10.0.0.1:80", "10.0.0.2:4000");
    assert!(recent.echoes(true).is_empty());
    recent.echo(&(ends, SECOND));
    recent.echo(&(ends, SECOND));
    let echoes = recent.echoes(true);
    assert_eq!((echoes.len(), echoes[0].count, echoes[0].opinion.0), (1, 2, Cause::ClosedWithUnreadData));
    assert!(recent.echoes(true).is_empty());
}

#[test]
fn a_reset_with_echoes_to_report_is_forgotten_once_they_are_reported() {
    let ends = (at("10.0.0.1:80"), at("10.0.0.2:4000"));
    let mut recent = recent("10.0.0.1:80", "10.0.0.2:4000");
    recent.echo(&(ends, SECOND));
    let others = |recent: &mut RecentResets, number: usize| {
        for address in 0..number as u32 {
            let local = SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + address), 80));
            recent.sent(SECOND, (local, ends.1), opinion(Cause::DataAfterClose), None);
        }
    };
    others(&mut recent, 2 * MAX);
    assert_eq!((recent.sent.len(), recent.order.len()), (MAX, MAX));
    assert_eq!(recent.echoes(true).len(), 1, "still remembered");
    others(&mut recent, 2 * MAX);
    assert_eq!((recent.sent.len(), recent.order.len()), (MAX, MAX));
    assert!(!recent.sent.contains_key(&ends));
}

#[test]
fn a_received_reset_has_the_cause_of_its_sender() {
    let mut recent = recent("10.0.0.1:80", "10.0.0.2:4000");
    let ends = (at("10.0.0.2:4000"), at("10.0.0.1:80"));
    // As through a shaped link, 100 ms later.
    let (cause, confidence, _, evidence) = recent.cause_of(&ends, SECOND + SECOND / 10).unwrap();
    assert_eq!((cause, confidence), (Cause::ClosedWithUnreadData, Confidence::Certain));
    assert_eq!(evidence, ["this host sent it itself"]);
    assert!(recent.cause_of_same(&ends, SECOND - AFTER, true).is_some(), "noted after it was received");
    assert_eq!(recent.cause_of_same(&ends, SECOND - AFTER - 1, true), None, "too early");
    assert_eq!(recent.cause_of_same(&ends, SECOND - 1, false), None, "it may be another connection's");
    assert_eq!(recent.cause_of(&(ends.0, at("10.0.0.1:81")), SECOND - AFTER - 1), None, "before it was sent");
    // A published port: the client knows another address of the server.
    let published = (ends.0, at("192.0.2.1:8080"));
    let (cause, confidence, ..) = recent.cause_of(&published, SECOND + 1).unwrap();
    assert_eq!((cause, confidence), (Cause::ClosedWithUnreadData, Confidence::Likely));
    assert_eq!(recent.cause_of(&published, SECOND + PORT), None, "too late for half of the addresses");
    assert_eq!(recent.cause_of(&(at("10.0.0.3:4000"), ends.1), SECOND + 1), None, "another client");
}

#[test]
fn a_listener_of_this_host_is_the_sender_only_under_an_address_of_this_host() {
    let mut recent = RecentResets::default();
    let listener = (at("0.0.0.0:80"), at("0.0.0.0:0"));
    recent.sent(SECOND, listener, opinion(Cause::AcceptQueueOverflow), None);
    let ends = (at("10.0.0.2:4000"), at("10.0.0.1:80"));
    assert_eq!(recent.cause_of(&ends, SECOND + 1), None, "a server elsewhere may have the same port");
    recent.own(ends.1.ip());
    assert_eq!(recent.cause_of(&ends, SECOND + 1).unwrap().0, Cause::AcceptQueueOverflow);
    assert_eq!(recent.cause_of(&ends, SECOND + 1), None, "each reset has one receiver");
}
