//! What a full accept queue shows beside the verdict: connections that nobody takes, packets that were dropped, and the ladder.

use linger_packet::capture::CaptureReader;
use linger_why::{AnalyzerLimits, Drops, Groups, Tools, examine_reader, text};

use crate::GET;
use crate::case::rule;
use crate::flow::{Client, Flow, Server, flow};
use crate::opening::accepted_at;
use crate::unanswered::{asked, asked_from, later, opened, opened_late};

/// A connection with a request that the host has acknowledged.
fn held(port: u16) -> Flow {
    flow().ports(port, 80).shake().data(Client, GET).ack(Server)
}

/// Its client gives up, which the host acknowledges 1.6 s later.
fn given_up(port: u16) -> Flow {
    held(port).wait(1_600).fin(Client).ack(Server)
}

/// SYNs in vain, behind those connections.
fn in_vain() -> Flow {
    later(asked(3), 10)
}

#[test]
fn a_listener_that_accepts_nobody() {
    let answered = |port| flow().ports(port, 80).shake().data(Client, GET).bytes(Server, 5).ack(Client);
    let elsewhere = |port| flow().ports(port, 81).shake().data(Client, GET).ack(Server);
    rule("held connections")
        .base(
            &in_vain().and(given_up(41_000)).and(held(41_001)),
            "accept-queue-overflow likely unanswered harmful lost:0 unread:0",
        )
        .but("one of them", &in_vain().and(given_up(41_000)), "no-answer likely")
        .but(
            "nothing is acknowledged meanwhile",
            &in_vain().and(held(41_000)).and(held(41_001)),
            "accept-queue-overflow possible unanswered",
        )
        .but(
            "another had its answer before",
            &later(in_vain().and(given_up(41_000)).and(held(41_001)), 20).and(answered(41_002)),
            "accept-queue-overflow likely",
        )
        .but(
            "another has its answer meanwhile",
            &in_vain().and(given_up(41_000)).and(held(41_001)).and(later(answered(41_002), 1_500)),
            "no-answer likely",
        )
        .but(
            "another ends meanwhile",
            &in_vain().and(given_up(41_000)).and(held(41_001)).and(held(41_002).wait(1_600).fin(Server)),
            "no-answer likely",
        )
        .but(
            "one is opened after the last SYN",
            &in_vain().and(given_up(41_000)).and(later(held(41_001), 4_000)),
            "no-answer likely",
        )
        .but(
            "the listener ends after the last SYN",
            &in_vain().and(given_up(41_000)).and(held(41_001).wait(4_000).rst(Server)),
            "accept-queue-overflow likely",
        )
        .but(
            "another is reset meanwhile",
            &in_vain().and(given_up(41_000)).and(held(41_001)).and(held(41_002).wait(1_600).rst(Server)),
            "no-answer likely",
        )
        .but("of another port", &in_vain().and(elsewhere(41_000)).and(elsewhere(41_001)), "no-answer likely")
        .done();
}

/// What the capture says that port 80 has dropped.
fn drops(flow: &Flow) -> (u32, u32) {
    let Drops { syns, answers, .. } = all_drops(flow);
    (syns, answers)
}

fn all_drops(flow: &Flow) -> Drops {
    let file = flow.file();
    let reader = CaptureReader::in_memory(&file).unwrap();
    let examined = examine_reader(reader, "built", AnalyzerLimits::default(), |_| {});
    let listener = "198.51.100.20:80".parse().unwrap();
    examined.drops.get(&listener).copied().unwrap_or_default()
}

#[test]
fn syns_that_were_dropped_are_counted() {
    assert_eq!(drops(&asked(3).and(accepted_at(500))), (3, 0), "none was answered");
    assert_eq!(drops(&asked(3).syn_ack().ack(Client)), (2, 0), "the third was");
    assert_eq!(drops(&flow().shake()), (0, 0));
    assert_eq!(drops(&asked(3).refuse(Server)), (2, 0), "the third was refused");
    assert_eq!(drops(&asked(2).and(asked_from(40_001, 4)).and(opened(40_002, 2, 1))), (7, 0));
    let twice = asked(3).and(asked(3).with_all(|packet| packet.interface = 1));
    assert_eq!(drops(&twice), (3, 0), "two views of the same SYNs");
}

#[test]
fn what_was_dropped_behind_a_syn_ack_is_counted() {
    let data = || flow().shake().data(Client, GET);
    let again = || data().wait(200).again(Client);
    assert_eq!(drops(&data().ack(Server)), (0, 0), "heard at once");
    assert_eq!(drops(&again().ack(Server)), (0, 2), "the ACK and the first data: the second was heard");
    assert_eq!(drops(&again().wait(400).again(Client)), (0, 4), "nothing was heard");
    assert_eq!(drops(&data()), (0, 0), "nobody knows");
    assert_eq!(drops(&again().bare(Server)), (0, 2), "the last met no socket, and was answered");
    assert_eq!(drops(&again().rst(Client)), (0, 3), "the client gave up");
    assert_eq!(drops(&data().wait(996).again_syn_ack()), (0, 2));
    let acked = || data().wait(996).again_syn_ack().ack(Client);
    assert_eq!(
        drops(&acked().data(Client, b"more").ack(Server)),
        (0, 2),
        "the second ACK may have been heard"
    );
    assert_eq!(drops(&acked().again(Client).again(Client).ack(Server)), (0, 4), "it was not");
    assert_eq!(drops(&acked().bytes(Server, 9)), (0, 2), "it was");
    let heard = data().ack(Server).again_syn_ack().again(Client);
    assert_eq!(drops(&heard).1, 1, "what was acknowledged was not dropped");
}

#[test]
fn what_the_kernel_may_count_elsewhere_is_known() {
    let bare = |flow: &Flow| {
        let drops = all_drops(flow);
        (drops.bare, drops.at_least())
    };
    let again = || flow().shake().data(Client, GET).wait(200).again(Client);
    assert_eq!(bare(&again().ack(Server)), (1, 1), "the ACK, and the first data");
    assert_eq!(bare(&again().wait(400).again(Client)), (1, 3), "nothing was heard");
    assert_eq!(bare(&again().fin(Client)), (1, 3), "a FIN is no bare ACK");
    let acked = || flow().shake().data(Client, GET).wait(996).again_syn_ack().ack(Client);
    assert_eq!(
        bare(&acked().data(Client, b"more").ack(Server)),
        (1, 1),
        "the second ACK may have been heard"
    );
    assert_eq!(bare(&acked().again(Client).again(Client).ack(Server)), (2, 2));
    assert_eq!(bare(&acked().ack(Client).data(Client, b"more").ack(Server)), (2, 1), "the third may");
    let refused = flow().shake().data(Client, GET).bare(Server);
    assert_eq!((all_drops(&refused).refused, bare(&refused)), (1, (0, 1)), "a reset, as the kernel does it");
    assert_eq!(all_drops(&again().ack(Server).bare(Server)).refused, 0, "the data was acknowledged");
}

#[test]
fn the_report_says_what_a_full_listener_dropped() {
    let report = |flow: &Flow| {
        let file = flow.file();
        let mut groups = Groups::default();
        let reader = CaptureReader::in_memory(&file).unwrap();
        let examined =
            examine_reader(reader, "built", AnalyzerLimits::default(), |finding| groups.add(finding));
        groups.note_drops(&examined);
        let mut out = Vec::new();
        text::report(&mut out, &[examined], &groups.sorted(), 0, &Tools::default()).unwrap();
        String::from_utf8(out).unwrap()
    };
    let late = report(&opened_late(3).and(accepted_at(500)));
    assert!(late.contains("   Dropped: 6 SYNs, of all"), "{late}");
    assert!(late.contains("   Connections: frame") && !late.contains("Resets:"), "{late}");
    let both = report(
        &opened_late(3)
            .and(accepted_at(500))
            .and(flow().ports(42_000, 80).shake().data(Client, GET).again(Client).ack(Server)),
    );
    assert!(both.contains("   Dropped: 6 SYNs and 2 packets behind a SYN-ACK, of all"), "{both}");
    assert!(
        both.contains("at least 7 of these: bare ACKs, 1 here, are") && !late.contains("at least"),
        "{both}"
    );
    let silent = report(&asked(3).and(asked_from(40_001, 3)));
    assert!(silent.contains("no-answer (likely)") && !silent.contains("Dropped:"), "{silent}");
    let turned = |port| flow().ports(port, 80).shake().data(Client, GET).bare(Server);
    let resets = report(&turned(40_000).and(turned(40_001)).and(turned(40_002)));
    assert!(
        resets.contains("   Resets: frame") && resets.contains("Dropped: 3 packets that got a reset, of all"),
        "{resets}"
    );
}

#[test]
fn the_ladder_of_a_late_opening_begins_with_its_syns() {
    let rest = |flow: Flow| (0..9).fold(flow, |flow, _| flow.bytes(Client, 5).ack(Server));
    let all =
        rest(opened_late(1)).and(opened(40_101, 3, 200)).and(opened(40_102, 3, 200)).and(accepted_at(500));
    let findings = all.findings();
    let finding = findings.iter().find(|finding| finding.to.port() == 40_000).unwrap();
    let flags: Vec<_> = finding.ladder.iter().map(|rung| rung.flags.as_str()).collect();
    assert_eq!(flags[..4], ["SYN", "SYN", "SYN", "SYN,ACK"]);
    assert_eq!(flags.len(), 4 + 8, "and the latest packets");
    let frames: Vec<_> = finding.ladder.iter().map(|rung| rung.frame).collect();
    assert!(frames.is_sorted_by(|one, two| one < two), "each once, in order: {frames:?}");
    // Where all packets are kept, none is told twice.
    let short = opened_late(3).and(accepted_at(500)).findings();
    assert_eq!(short[0].ladder.len(), 5);
}
