//! What a reset shows of the stack that has sent it.

use linger_why::Claim;

use crate::case::rule;
use crate::flow::{A, Client, Flow, R, Server, flow};
use crate::{GET, response};

/// The options of a SYN as Linux, Windows and macOS send them.
pub(crate) const LINUX: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7];
pub(crate) const MACOS: [u8; 24] =
    [2, 4, 5, 180, 1, 3, 3, 6, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 4, 2, 0, 0];
const LINUX_WITHOUT_TIMESTAMPS: [u8; 12] = [2, 4, 5, 180, 1, 1, 4, 2, 1, 3, 3, 7];
const WINDOWS: [u8; 12] = [2, 4, 5, 180, 1, 3, 3, 8, 1, 1, 4, 2];

fn opened(server: &[u8]) -> Flow {
    flow().syn().syn_ack().with(|p| p.options = Some(server.to_vec())).ack(Client)
}

pub(crate) fn exchange(server: &[u8]) -> Flow {
    opened(server).data(Client, GET).data(Server, &response(20, 20)).ack(Client)
}

/// Whether a sentence of the only finding is one that `is` names. Every other sentence of these cases is checked by `rule`.
fn says(flow: &Flow, is: impl Fn(&Claim) -> bool) -> bool {
    let findings = flow.findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings[0].evidence.iter().any(|evidence| is(&evidence.says))
}

#[test]
fn timestamps_that_are_missing() {
    let bare_of_them = |flow: Flow| flow.rst(Server).with(|p| p.timestamps = false);
    let lacks = |flow: &Flow, of_linux: bool| {
        says(flow, |claim| matches!(claim, Claim::LacksTimestamps { linux } if *linux == of_linux))
    };
    let base = bare_of_them(exchange(&LINUX));
    assert!(lacks(&base, true) && lacks(&bare_of_them(exchange(&MACOS)), false));
    let none = |flow: &Flow| !says(flow, |claim| matches!(claim, Claim::LacksTimestamps { .. }));
    assert!(none(&exchange(&LINUX).rst(Server)));
    assert!(none(&exchange(&LINUX).data(Client, GET).bare(Server)), "an answer has none");
    // The client has not agreed.
    let alone = base.clone().with_all(|packet| packet.timestamps &= packet.from == Server);
    assert!(none(&alone));
    assert!(none(&base.clone().with(|packet| packet.snap = 20 + 20 - 1)), "it may have been cut off");
    rule("timestamps")
        .base(&base, "unknown possible active")
        .but("with them", &exchange(&LINUX).rst(Server), "unknown possible active")
        .but("macOS", &bare_of_them(exchange(&MACOS)), "unknown possible active")
        .done();
}

#[test]
fn a_window_in_an_answer() {
    let answer = |server: &[u8], window| {
        exchange(server).data(Client, GET).bare(Server).with(|packet| packet.window = window)
    };
    let window = |flow: &Flow| says(flow, |claim| matches!(claim, Claim::WindowInAnswer { .. }));
    assert!(window(&answer(&LINUX, 502)) && window(&answer(&LINUX_WITHOUT_TIMESTAMPS, 1)));
    for (server, size) in [(&LINUX[..], 0), (&WINDOWS, 502), (&MACOS, 502)] {
        assert!(!window(&answer(server, size)), "{server:?} {size}");
    }
    assert!(!window(&exchange(&LINUX).rst(Server)), "of its own accord it has the window");
    rule("window in an answer")
        .base(&answer(&LINUX, 502), "unknown possible passive-after-data")
        .but("0", &answer(&LINUX, 0), "unknown possible passive-after-data")
        .done();
}

#[test]
fn several_resets_of_its_own_accord() {
    let reset = |flow: Flow, ahead: u32| flow.rst(Server).with(|packet| packet.seq += ahead);
    let three = reset(reset(exchange(&LINUX).rst(Server), 1_460), 4_380);
    let several = |flow: &Flow| {
        let found = |claim: &Claim| matches!(claim, Claim::SeveralOfItsOwn { count: 3, furthest: 4_380 });
        says(flow, found)
    };
    let none = |flow: &Flow| !says(flow, |claim| matches!(claim, Claim::SeveralOfItsOwn { .. }));
    assert!(several(&three));
    assert!(none(&reset(reset(exchange(&LINUX).rst(Server), 0), 0)), "the same one again");
    let answers = exchange(&LINUX).data(Client, GET).bare(Server).bare(Server).with(|p| p.seq += 1_460);
    assert!(none(&answers), "answers have the numbers that they are asked with");
    let behind = exchange(&LINUX).data(Client, GET).bare(Server).rst(Server).with(|p| p.seq += 1_460);
    assert!(none(&behind), "the first one is an answer");
    let other = exchange(&LINUX).rst(Server).rst(Client).with(|packet| packet.seq += 1_460);
    assert!(none(&other), "the other side's");
    assert!(none(&reset(exchange(&LINUX).rst(Server), 1 << 20)), "another connection's");
    rule("several resets").base(&three, "unknown possible active").done();
}

#[test]
fn what_is_acknowledged_too_soon() {
    let far = |after: u64| {
        let shaken = flow().syn().just(20_000).syn_ack().just(100).ack(Client);
        shaken.data(Client, GET).just(after).packet(Server, R | A, b"")
    };
    let soon = |flow: &Flow| {
        says(flow, |claim| matches!(claim, Claim::AcknowledgesTooSoon { round_trip_us: 20_000, .. }))
    };
    let none = |flow: &Flow| !says(flow, |claim| matches!(claim, Claim::AcknowledgesTooSoon { .. }));
    assert!(soon(&far(9_999)) && none(&far(10_000)));
    assert!(none(&far(100).with(|packet| packet.ack -= 1)), "it does not acknowledge the last bytes");
    let near = flow().shake().data(Client, GET).just(100).packet(Server, R | A, b"");
    assert!(none(&near), "a way of a millisecond says nothing");
    rule("acknowledged too soon")
        .base(&far(9_999), "unknown possible active")
        .but("half the way", &far(10_000), "unknown possible active")
        .done();
}

#[test]
fn the_reason_of_multipath_tcp() {
    let with =
        |options: &[u8]| exchange(&LINUX).rst(Server).with(|packet| packet.options = Some(options.to_vec()));
    let ended = |flow: &Flow| says(flow, |claim| matches!(claim, Claim::MptcpEnded(_)));
    assert!(ended(&with(&[30, 4, 0x81, 5])) && !ended(&with(&[30, 4, 0x21, 5])));
    rule("Multipath TCP")
        .base(&with(&[30, 4, 0x80, 6]), "unknown possible active")
        .but("transient", &with(&[30, 4, 0x81, 2]), "unknown possible active")
        .but("all subflows", &with(&[30, 12, 0x70, 0, 1, 2, 3, 4, 5, 6, 7, 8]), "unknown possible active")
        .but("another option", &with(&[30, 4, 0x21, 5]), "unknown possible active")
        .done();
}

#[test]
fn a_checksum_that_no_host_takes() {
    let right = |flow: Flow| flow.with_all(|packet| packet.checksum = true);
    let wrong = |claim: &Claim| *claim == Claim::WrongChecksum;
    let base = right(exchange(&LINUX)).rst(Server);
    assert!(says(&base, wrong));
    assert!(!says(&base.clone().with(|packet| packet.checksum = true), wrong));
    let offloaded = base.clone().with_all(|packet| packet.checksum = packet.from == Client);
    assert!(!says(&offloaded, wrong), "the card would have computed it");
    assert!(!says(&base.clone().with(|packet| packet.snap = 20 + 20 + 11), wrong), "a part of it is here");
    rule("checksum").base(&base, "unknown possible active").done();
}

#[test]
fn probes_whose_answers_were_lost() {
    let beats = |count: u32, pause: u64, last: u64, answered: bool| {
        let flow = (0..count).fold(exchange(&LINUX), |flow, _| {
            let flow = flow.wait(pause).probe(Server);
            if answered { flow.ack(Client) } else { flow }
        });
        flow.wait(last).rst(Server)
    };
    let here = |flow: &Flow| says(flow, |claim| matches!(claim, Claim::BeatsAnsweredHere { .. }));
    assert!(here(&beats(3, 10_000, 10_000, true)) && here(&beats(9, 10_000, 10_000, true)));
    assert!(!here(&beats(2, 10_000, 10_000, true)), "two are chance");
    assert!(!here(&beats(3, 10_000, 5_000, true)), "it came sooner: for another reason");
    assert!(!here(&beats(3, 10_000, 10_000, false)), "nobody answered here");
    assert!(!here(&beats(3, 50, 50, true)), "a pace that no keepalive has");
    let acknowledged = (0..4).fold(exchange(&LINUX), |flow, _| flow.wait(10_000).ack(Server).ack(Client));
    assert!(!here(&acknowledged.wait(10_000).rst(Server)), "no probes");
    rule("answered beats")
        .base(&beats(4, 10_000, 10_000, true), "keepalive-timeout likely active")
        .but("unanswered", &beats(4, 10_000, 10_000, false), "keepalive-timeout after-keepalive")
        .but("sooner", &beats(4, 10_000, 5_000, true), "unknown possible active")
        .done();
}
