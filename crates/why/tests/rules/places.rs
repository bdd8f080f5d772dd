//! Several captures of the same connections.

use std::fs;
use std::path::Path;

use linger_why::{AnalyzerLimits, Finding, compare, examine};

use crate::GET;
use crate::flow::{A, Client, F, Flow, Packet, R, Server, Who, flow};

/// The findings of these captures, compared: each as cause, confidence, harmlessness, and what the comparison says.
fn compared(views: &[&Flow]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..views.len()).map(|at| folder.path().join(format!("view{at}.pcapng"))).collect();
    let mut findings: Vec<Finding> = Vec::new();
    for (path, view) in paths.iter().zip(views) {
        fs::write(path, view.file()).unwrap();
        examine(path, AnalyzerLimits::default(), |finding| findings.push(finding)).unwrap();
    }
    let paths: Vec<&Path> = paths.iter().map(|path| path.as_path()).collect();
    let name = |text: &str| text.replace(&format!("{}/", folder.path().display()), "").replace(".pcapng", "");
    compare(&paths, findings).unwrap().iter().map(|finding| summary(finding, name)).collect()
}

fn summary(finding: &Finding, name: impl Fn(&str) -> String) -> String {
    let said: Vec<String> = finding
        .evidence
        .iter()
        .filter(|evidence| evidence.frame.is_none())
        .map(|evidence| name(&evidence.says.to_string()))
        .filter(|says| says.contains("view") || says.contains("here") || says.contains("lacks"))
        .collect();
    let harm = if finding.harmless { "harmless" } else { "harmful" };
    format!(
        "{}: {} {} {} {harm}: {}",
        name(&finding.file),
        finding.cause,
        finding.confidence,
        finding.class,
        said.join("; ")
    )
}

#[track_caller]
fn is(views: &[&Flow], expected: &[&str]) {
    assert_eq!(compared(views), expected);
    // The verdict does not depend on which end has the lower address.
    let mirrored: Vec<Flow> = views.iter().map(|view| (*view).clone().mirrored()).collect();
    assert_eq!(compared(&mirrored.iter().collect::<Vec<_>>()), expected, "mirrored");
}

/// The same over IPv6, whose packets have no identification.
fn v6(flow: Flow) -> Flow {
    flow.with_all(|packet| {
        let (client, server) = ("2001:db8::10".parse().unwrap(), "2001:db8::20".parse().unwrap());
        let (source, destination) = if packet.from == Client { (client, server) } else { (server, client) };
        packet.source.set_ip(source);
        packet.destination.set_ip(destination);
    })
}

/// The same connection as a capture shows it that is `hops` hops away from the client, on a path of four. Each hop
/// takes one off the TTL, and 5 ms. The clock of the capture is `ahead` milliseconds fast.
fn seen_at(flow: &Flow, hops: u8, ahead: i64) -> Flow {
    flow.clone().with_all(|packet: &mut Packet| {
        let (travelled, from) = if packet.from == Client { (hops, 64) } else { (4 - hops, 64) };
        packet.ttl = from - travelled;
        let travel = 5_000_000 * i64::from(travelled);
        packet.time = packet.time.wrapping_add_signed(travel + ahead * 1_000_000);
    })
}

/// The same connection as a capture beside `who` shows it. Packets of the other side arrive `us` microseconds after
/// they were sent.
fn near(flow: &Flow, who: Who, us: i64) -> Flow {
    flow.clone().with_all(|packet: &mut Packet| {
        let travel = if packet.from == who { 0 } else { us * 1_000 };
        (packet.ttl, packet.time) = (64, packet.time.wrapping_add_signed(travel));
    })
}

/// The same view, which goes on for long: it has a packet of another connection ten seconds after its last one.
fn outlasting(view: Flow) -> Flow {
    let last = view.last_of(Client).time.max(view.last_of(Server).time);
    view.and(flow().ports(50_001, 81).syn().with_all(|packet| packet.time = last + 10_000_000_000))
}

fn exchange() -> Flow {
    flow().shake().wait(50).data(Client, GET).wait(50).bytes(Server, 30).wait(50).ack(Client).wait(50)
}

#[test]
fn a_reset_that_its_sender_never_sent() {
    let at_sender = exchange().data(Client, GET).wait(50).bytes(Server, 5);
    let at_client = exchange().data(Client, GET).rst(Server).wait(49).id(Server, 7_002).bytes(Server, 5);
    let (client, server) = (seen_at(&at_client, 0, 0), seen_at(&at_sender, 4, 0));
    let forged = "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 3 packets of it, and not this reset";
    is(&[&client], &["view0: forged likely foreign harmful: "]);
    is(&[&client, &server], &[forged]);
    // Each of these differs in one thing: the other capture is of the other end, its place is unknown, it has no
    // packet of the sender, it has the reset, it ends before the reset.
    is(
        &[&seen_at(&at_client, 4, 0), &seen_at(&at_sender, 0, 0)],
        &["view0: forged likely foreign harmful: it never reached view1"],
    );
    let silent = seen_at(&at_sender, 4, 0).without(Server);
    is(&[&client, &silent], &["view0: forged likely foreign harmful: "]);
    let own = at_client.clone();
    is(
        &[&client, &seen_at(&own, 4, 0)],
        &["view1: forged likely foreign harmful: view0 has it too, as frame 8, +20.000 ms by aligned clocks"],
    );
}

/// Captures made by hand have the same addresses and numbers.
#[test]
fn a_capture_of_another_connection_with_the_same_numbers_proves_nothing() {
    let at_sender = exchange().data(Client, GET).wait(50).bytes(Server, 5);
    let at_client =
        seen_at(&exchange().data(Client, GET).rst(Server).wait(49).id(Server, 7_002).bytes(Server, 5), 0, 0);
    let forged = "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 3 packets of it, and not this reset";
    let alone = "view0: forged likely foreign harmful: ";
    let hours = |hours: i64| seen_at(&at_sender, 4, hours * 3_600_000);
    is(&[&at_client, &hours(25)], &[forged]);
    is(&[&at_client, &hours(27)], &[alone]);
    is(&[&at_client, &hours(-27)], &[alone]);
    let other_byte = |at: usize| {
        seen_at(&at_sender, 4, 0).with_all(|packet| {
            if packet.payload.len() == 30 {
                packet.payload[at] = b'y';
            }
        })
    };
    is(&[&at_client, &other_byte(15)], &[alone]);
    // Only so much of each segment is compared.
    is(&[&at_client, &other_byte(16)], &[forged]);
    // What was cut off is not known to differ.
    let cut = other_byte(15).with_all(|packet| packet.snap = 20 + 32 + 15);
    is(&[&at_client, &cut], &[forged]);
}

#[test]
fn a_view_that_lacks_other_packets_proves_less() {
    let at_client = exchange().data(Client, GET).rst(Server);
    let complete = exchange().data(Client, GET);
    is(
        &[&seen_at(&at_client, 0, 0), &outlasting(seen_at(&complete, 4, 0))],
        &[
            "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 2 packets of it, and not this reset",
        ],
    );
    let lacking = flow()
        .shake()
        .wait(50)
        .data(Client, GET)
        .wait(50)
        .bytes(Server, 30)
        .unseen()
        .wait(50)
        .ack(Client)
        .wait(50)
        .data(Client, GET);
    let expected = "view0: forged likely foreign harmful: view1, nearer to the alleged sender, has 1 packets of it, and not this reset; but it lacks 1 other packets of that side: it may have lost this one too";
    let lacking = seen_at(&lacking, 4, 0);
    is(&[&seen_at(&at_client, 0, 0), &outlasting(lacking.clone())], &[expected]);
    is(&[&v6(seen_at(&at_client, 0, 0)), &v6(outlasting(lacking))], &[expected]);
}

#[test]
fn a_view_that_ends_before_the_reset_proves_nothing() {
    let at_client = |ms: u64| exchange().data(Client, GET).wait(ms).rst(Server);
    let ends = exchange().data(Client, GET);
    let server = seen_at(&ends, 4, 3_000);
    // The view ends with the client's last packet. A reset that came later may be genuine, however little later.
    for ms in [40u64, 900] {
        let ended = format!(
            "view0: unknown possible active harmful: view1 ends {}.000 ms before it, by aligned clocks",
            ms + 1
        );
        is(&[&seen_at(&at_client(ms), 0, 0), &server], &[&ended]);
    }
    // Of another connection, the view has a packet after that time; or only one before.
    let with_another_at = |ms: u64| {
        let last = server.last_of(Client).time;
        server
            .clone()
            .and(flow().ports(50_001, 81).syn().with_all(|packet| packet.time = last + ms * 1_000_000))
    };
    let forged = "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 2 packets of it, and not this reset";
    is(&[&seen_at(&at_client(900), 0, 0), &with_another_at(901)], &[forged]);
    is(
        &[&seen_at(&at_client(900), 0, 0), &with_another_at(891)],
        &["view0: unknown possible active harmful: view1 ends 10.000 ms before it, by aligned clocks"],
    );
    // It begins after the reset.
    let begins = exchange().all_unseen().wait(500).id(Server, 7_004).bytes(Server, 7).ack(Client);
    let early = exchange().all_unseen().ack(Server).rst(Server).wait(600).bytes(Server, 7).ack(Client);
    is(&[&seen_at(&early, 0, 0), &seen_at(&begins, 4, 0)], &["view0: forged likely foreign harmless: "]);
}

#[test]
fn a_goodbye_that_never_arrived() {
    // Both places are on one link, so that the client's finding stays. The reset answers data that acknowledges
    // this number.
    let views = |flags, acknowledged| {
        let rest = |flow: Flow| {
            let flow = flow.data(Client, GET).with(|p| p.ack = acknowledged).packet(Server, R, b"");
            flow.with(|p| (p.seq, p.window, p.timestamps) = (acknowledged, 0, false))
        };
        let said = || exchange().packet(Server, flags, b"");
        (near(&rest(said().unseen()), Client, 300), near(&rest(said()), Server, 300))
    };
    let is_there = "view1 has it too, as frame 9, -0.300 ms by aligned clocks";
    let unheard = "(frame 7 there) was sent, and never arrived here";
    for (flags, acknowledged, expected) in [
        (
            F | A,
            900_031,
            format!(
                "view0: data-after-close certain passive-after-data harmful: {is_there}; before it the sender's FIN,ACK {unheard}"
            ),
        ),
        (
            R | A,
            900_021,
            format!(
                "view0: half-open certain passive-after-data harmful: {is_there}; before it the sender's RST,ACK {unheard}"
            ),
        ),
        (A, 900_031, format!("view0: half-open likely passive-after-data harmful: {is_there}")),
    ] {
        let (client, server) = views(flags, acknowledged);
        // Of two resets of one connection the first one counts; the other one is its consequence.
        let first = "view1: unknown possible active harmful: it never reached view0; view0 shows the end of the same connection by frame 8";
        is(&[&client, &server], &[if flags.has(R) { first } else { &expected }]);
    }
    // The reset does not count as a goodbye before itself, even if it has another identification here.
    let (client, server) = views(A, 900_031);
    let rewritten = server.with(|reset| reset.id = 9);
    let expected = format!("view0: half-open likely passive-after-data harmful: {is_there}");
    is(&[&client, &rewritten], &[&expected]);
    // The goodbye is in the finding's own capture, and missing in the other.
    let (client, server) = views(F | A, 900_031);
    is(
        &[&server, &client],
        &[
            "view0: data-after-close certain passive-after-fin harmful: view1 has it too, as frame 8, +0.300 ms by aligned clocks",
        ],
    );
}

/// `ab` and its like use a port again while others wait in TIME-WAIT: the numbers of the later connection are no longer those of the
/// first, and both are matched all the same.
#[test]
fn ends_that_are_used_again_count_once_in_each_place() {
    let story = |isns: (u32, u32), seconds: u64| {
        let flow = flow().isns(isns.0, isns.1).shake().wait(50).data(Client, GET).wait(50);
        let flow = flow.bytes(Server, 30).wait(50).ack(Client).wait(50).data(Client, GET).rst(Server);
        flow.with_all(|packet| packet.time += seconds * 1_000_000_000)
    };
    let twice = || story((1_000, 900_000), 0).and(story((7_000_000, 5_000), 20));
    let told = compared(&[&near(&twice(), Client, 300), &near(&twice(), Server, 300)]);
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told.iter().all(|told| told.contains("has it too")), "{told:#?}");
    // The same without the second one in one of them.
    let told = compared(&[&near(&twice(), Client, 300), &near(&story((1_000, 900_000), 0), Server, 300)]);
    assert_eq!(told.len(), 2, "{told:#?}");
}

/// Both connections are in both places, and each place has the reset of another one.
#[test]
fn resets_of_two_connections_with_the_same_ends_are_two_findings() {
    let story = |isns: (u32, u32), seconds: u64, is_reset: bool| {
        let flow = flow().isns(isns.0, isns.1).shake().wait(50).data(Client, GET).wait(50);
        let flow = flow.bytes(Server, 30).wait(50).ack(Client).wait(50).data(Client, GET);
        let flow = if is_reset { flow.rst(Server) } else { flow };
        flow.with_all(|packet| packet.time += seconds * 1_000_000_000)
    };
    let view = |resets: [bool; 2]| {
        story((1_000, 900_000), 0, resets[0]).and(story((7_000_000, 5_000), 20, resets[1]))
    };
    let told =
        compared(&[&near(&view([true, false]), Client, 300), &near(&view([false, true]), Server, 300)]);
    assert_eq!(told.len(), 2, "{told:#?}");
    let told =
        compared(&[&near(&view([true, false]), Client, 300), &near(&view([true, false]), Server, 300)]);
    assert_eq!(told.len(), 1, "{told:#?}");
}

/// One that failed without a reset is one conversation, too.
#[test]
fn a_failure_that_two_places_show_is_one_finding() {
    let syns = flow().syn().wait(1_000).again(Client).wait(2_000).again(Client);
    let (client, server) = (seen_at(&syns, 0, 0), seen_at(&syns, 4, 0));
    let told = compared(&[&client, &server]);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].starts_with("view0: no-answer likely") && told[0].contains("view1 shows"), "{told:#?}");
    // Another connection of the same ends is another one.
    let later = server.with_all(|packet| {
        packet.seq += 70_000;
        packet.time += 60_000_000_000;
    });
    assert_eq!(compared(&[&client, &later]).len(), 2);
}

#[test]
fn places_on_one_link_are_told_apart_by_who_answers_sooner() {
    let at_client = exchange().data(Client, GET).rst(Server);
    let at_server = exchange().data(Client, GET);
    is(
        &[&near(&at_client, Client, 300), &outlasting(near(&at_server, Server, 300))],
        &[
            "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 2 packets of it, and not this reset",
        ],
    );
    is(
        &[&near(&at_client, Server, 300), &outlasting(near(&at_server, Client, 300))],
        &["view0: unknown possible active harmful: it never reached view1"],
    );
    is(
        &[&near(&at_client, Client, 300), &outlasting(near(&at_server, Client, 300))],
        &[
            "view0: unknown possible active harmful: view1 does not have it, and which place is nearer is not known",
        ],
    );
}

/// As many connections as are compared, all of them open at once: the limit takes no later packets from any.
#[test]
fn as_many_connections_as_are_compared_are_compared_whole() {
    const MOST: u16 = 4_096;
    let all = |seen: fn(&Flow) -> Flow, reset: bool| {
        let flow_of = |number| {
            let isn = 100_000 * u32::from(number);
            let flow = flow().ports(20_000 + number, 80).isns(isn, isn + 50_000).shake();
            let flow =
                flow.wait(50).data(Client, GET).wait(50).bytes(Server, 30).wait(50).ack(Client).wait(50);
            let flow = flow.data(Client, GET);
            seen(&if reset { flow.rst(Server) } else { flow })
        };
        // Joined in pairs, because each joining sorts all packets.
        let mut flows: Vec<Flow> = (0..MOST).map(flow_of).collect();
        while flows.len() > 1 {
            flows = flows.chunks(2).map(|pair| pair[0].clone().and(pair[1].clone())).collect();
        }
        flows.remove(0)
    };
    let at_client = all(|flow| seen_at(flow, 0, 0), true);
    let at_server = outlasting(all(|flow| seen_at(flow, 4, 0), false));
    let forged = "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 2 packets of it, and not this reset";
    let found = compared(&[&at_client, &at_server]);
    assert_eq!(found.len(), usize::from(MOST));
    assert!(found.iter().all(|said| said == forged), "{:?}", found.iter().find(|said| *said != forged));
}

#[test]
fn connections_are_found_behind_address_translation() {
    let at_client = exchange().data(Client, GET).rst(Server);
    let at_server = exchange().data(Client, GET).addresses("203.0.113.1", "198.51.100.20");
    let translated = |client: &str, port| {
        let mut flow = flow().addresses(client, "10.0.0.80").ports(port, 8_080).shake();
        flow = flow.wait(50).data(Client, GET).wait(50).bytes(Server, 30).wait(50).ack(Client).wait(50);
        outlasting(seen_at(&flow.data(Client, GET), 4, 0))
    };
    let _ = at_server;
    let client = seen_at(&at_client, 0, 0);
    is(
        &[&client, &translated("10.0.0.1", 5_000)],
        &[
            "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 2 packets of it, and not this reset",
        ],
    );
    // The lower end here is the higher end there.
    is(
        &[&client, &translated("203.0.113.1", 5_000)],
        &[
            "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 2 packets of it, and not this reset",
        ],
    );
    let other = flow().addresses("10.0.0.1", "10.0.0.80").isns(5, 6).shake().bytes(Server, 9);
    is(&[&client, &seen_at(&other, 4, 0)], &["view0: unknown possible active harmful: "]);
}

/// The next file of the same capture has no packet of the first one, and another connection with the same ends has none either.
#[test]
fn captures_without_a_common_packet_say_nothing() {
    let whole = seen_at(
        &exchange().data(Client, GET).wait(50).bytes(Server, 5).ack(Client).wait(50).rst(Server),
        0,
        0,
    );
    let first = whole.clone().before(7);
    let second = whole.clone().from(7);
    let alone = compared(&[&second]);
    let beside = alone[0].replace("view0", "view1");
    is(&[&first, &second], &[&beside]);
    is(&[&second, &first], &[&alone[0]]);
    is(&[&outlasting(first.clone()), &second], &[&beside]);
    let other = exchange().isns(5, 6).shake().data(Client, GET).bytes(Server, 30).ack(Client);
    is(&[&second, &outlasting(seen_at(&other, 4, 0))], &[&alone[0]]);
    // One packet in common, and it counts.
    let common = outlasting(whole.clone().before(8));
    assert!(compared(&[&second, &seen_at(&common, 4, 0)])[0].contains("view1"));
}

#[test]
fn interfaces_of_one_capture_are_places() {
    let at_client = seen_at(&exchange().data(Client, GET).rst(Server), 0, 0);
    let at_server = outlasting(seen_at(&exchange().data(Client, GET), 4, 0)).with_all(|p| p.interface = 1);
    is(
        &[&at_client.clone().and(at_server.clone())],
        &[
            "view0: forged certain foreign harmful: view0 interface 1, nearer to the alleged sender, has 2 packets of it, and not this reset",
        ],
    );
    is(
        &[&at_client.and(at_server.with_all(|p| p.interface = 64))],
        &["view0: unknown possible active harmful: "],
    );
}

#[test]
fn one_reset_in_three_places_is_one_finding() {
    let story = exchange().data(Client, GET).rst(Server);
    let views = [0, 2, 4].map(|hops| seen_at(&story, hops, 0));
    is(
        &[&views[0], &views[1], &views[2]],
        &[
            "view2: unknown possible active harmful: view0 has it too, as frame 8, +20.000 ms by aligned clocks; view1 has it too, as frame 8, +10.000 ms by aligned clocks",
        ],
    );
    is(
        &[&views[2], &views[1], &views[0]],
        &[
            "view0: unknown possible active harmful: view1 has it too, as frame 8, +10.000 ms by aligned clocks; view2 has it too, as frame 8, +20.000 ms by aligned clocks",
        ],
    );
}

#[test]
fn a_view_of_which_packets_were_dropped_proves_nothing() {
    // Of each view 1,024 packets are kept; the client's has the reset, too.
    let long = |packets| (6..packets).fold(exchange(), |flow, _| flow.bytes(Client, 1));
    let views =
        |packets| (seen_at(&long(packets).rst(Server), 0, 0), outlasting(seen_at(&long(packets), 4, 0)));
    let (client, server) = views(1_023);
    let forged = "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 2 packets of it, and not this reset";
    is(&[&client, &server], &[forged]);
    let (client, server) = views(1_024);
    is(&[&client, &server], &["view0: unknown possible active harmful: "]);
}

#[test]
fn a_crowd_of_other_connections_takes_no_place() {
    // As many connections as are compared at most, all of them before the one that was reset.
    let crowd = (0..4_096).fold(flow(), |flow, _| flow.syn()).with_all(|packet| {
        packet.source.set_port(packet.seq as u16);
        packet.time -= 60_000_000_000;
    });
    let client = seen_at(&exchange().data(Client, GET).rst(Server), 0, 0);
    let server = outlasting(seen_at(&exchange().data(Client, GET), 4, 0)).and(crowd);
    let forged = "view0: forged certain foreign harmful: view1, nearer to the alleged sender, has 2 packets of it, and not this reset";
    is(&[&client, &server], &[forged]);
}

#[test]
fn clocks_are_aligned_by_the_quickest_packets() {
    let story = exchange().data(Client, GET).rst(Server);
    let (client, server) = (seen_at(&story, 0, 0), seen_at(&story, 4, 700));
    let expected =
        "view1: unknown possible active harmful: view0 has it too, as frame 8, +20.000 ms by aligned clocks";
    is(&[&client, &server], &[expected]);
    // One packet to the server, and one to the client, took 4 ms longer.
    is(&[&client, &server.clone().with_at(3, |p| p.time += 4_000_000)], &[expected]);
    is(&[&client.with_at(4, |p| p.time += 4_000_000), &server], &[expected]);
}
