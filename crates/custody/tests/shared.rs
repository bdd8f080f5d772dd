//! What the drivers of processes and of the supervisor have in common: each rule with a counter-example that
//! differs in one field.

use linger_custody::{Count, Discarded, Fate, HalfClosed, Rights, Socket, after_discarding, fate, is_over};

const QUIET: Socket = Socket { aborts: false, peer_finished: false, over: false, unread: 0 };

#[test]
fn a_close_lingers_while_more_may_come() {
    assert_eq!(fate(&QUIET), Fate::Linger);
    assert_eq!(fate(&Socket { unread: 1, ..QUIET }), Fate::Linger);
    assert_eq!(fate(&Socket { peer_finished: true, ..QUIET }), Fate::Plain(Count::Finished));
    assert_eq!(fate(&Socket { over: true, ..QUIET }), Fate::Plain(Count::Gone));
    assert_eq!(fate(&Socket { aborts: true, ..QUIET }), Fate::Plain(Count::Aborted));
}

#[test]
fn a_finished_peer_s_bytes_are_discarded() {
    let finished = Socket { peer_finished: true, ..QUIET };
    assert_eq!(fate(&Socket { unread: 1, ..finished }), Fate::Discard);
    // With both sides closed the kernel reports a hang-up, too: what is unread would still provoke a reset.
    assert_eq!(fate(&Socket { unread: 1, over: true, ..finished }), Fate::Discard);
    assert_eq!(fate(&Socket { over: true, ..finished }), Fate::Plain(Count::Finished));
}

#[test]
fn what_the_program_aborts_is_aborted_whatever_else_is_so() {
    for (peer_finished, over, unread) in [(true, false, 0), (true, true, 5), (false, true, 0)] {
        let socket = Socket { aborts: true, peer_finished, over, unread };
        assert_eq!(fate(&socket), Fate::Plain(Count::Aborted));
        assert_ne!(fate(&Socket { aborts: false, ..socket }), Fate::Plain(Count::Aborted));
    }
}

#[test]
fn discarding_decides() {
    assert_eq!(after_discarding(Discarded::ToTheEnd), Fate::Plain(Count::Drained));
    assert_eq!(after_discarding(Discarded::Unable), Fate::Linger);
    assert_eq!(after_discarding(Discarded::Failed), Fate::Plain(Count::Gone));
}

#[test]
fn a_half_closed_connection_is_over_when_nothing_is_left_of_it() {
    let over = HalfClosed { closed: true, failed: false, unread: 0 };
    assert!(is_over(&over));
    assert!(!is_over(&HalfClosed { closed: false, ..over }));
    // A reset is told in the report, and what is unread is discarded and counted: by the closer.
    assert!(!is_over(&HalfClosed { failed: true, ..over }));
    assert!(!is_over(&HalfClosed { unread: 1, ..over }));
}

#[test]
fn counts_are_numbered_in_their_order() {
    assert!(Count::EACH.iter().enumerate().all(|(number, count)| *count as usize == number));
}

/// One control message, padded as `CMSG_ALIGN` does.
fn message(level: i32, kind: i32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + payload.len()).to_ne_bytes().to_vec();
    bytes.extend([level, kind].map(i32::to_ne_bytes).as_flattened());
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(8), 0xee);
    bytes
}

fn fds(fds: &[i32]) -> Vec<u8> {
    fds.iter().flat_map(|fd| fd.to_ne_bytes()).collect()
}

fn read(control: &[u8]) -> Vec<i32> {
    Rights::new(control).collect()
}

#[test]
fn fds_are_read_from_all_control_messages_of_rights() {
    let (one, two) = (message(1, 1, &fds(&[5])), message(1, 1, &fds(&[6, 7, 8])));
    assert_eq!(read(&one), [5]);
    assert_eq!(read(&[one.clone(), two.clone()].concat()), [5, 6, 7, 8]);
    // Another level, or another kind of the same.
    for (level, kind) in [(0, 1), (1, 2), (41, 50)] {
        let other = message(level, kind, &fds(&[9, 9, 9]));
        assert_eq!(read(&other), []);
        assert_eq!(read(&[other, two.clone()].concat()), [6, 7, 8]);
    }
}

#[test]
fn control_data_that_contradicts_itself_ends_it() {
    let whole = message(1, 1, &fds(&[5, 6]));
    // The kernel writes it like this if there is no room for the last padding.
    assert_eq!(read(&message(1, 1, &fds(&[5]))[..20]), [5]);
    for cut in 0..whole.len() {
        assert_eq!(read(&whole[..cut]), [], "{cut} bytes of a message of two");
    }
    for length in [0usize, 1, 15, whole.len() + 1, usize::MAX, usize::MAX - 7] {
        let mut lying = whole.clone();
        lying[..8].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(read(&lying), [], "a length of {length}");
    }
    // No fds at all, and part of one.
    assert_eq!(read(&message(1, 1, &[])), []);
    assert_eq!(read(&message(1, 1, &[1, 0, 0, 0, 2, 0])), [1]);
}
