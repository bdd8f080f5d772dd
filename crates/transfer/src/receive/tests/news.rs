//! What a sender says beside its entries.

use super::*;
use crate::driver::{Phase, PhaseWork};

/// A sender's report of its work (WORK) is passed on, and is no part of the content that arrives around it. A phase that the
/// protocol does not have is a violation.
#[test]
fn what_the_sender_says_of_its_work_is_passed_on() {
    let word = |phase: u8| {
        let numbers = [7_u64.to_be_bytes(), 9_u64.to_be_bytes()].concat();
        Step::Frame(Frame::Work, 0, [&[phase][..], &numbers].concat())
    };
    for (phase, told) in [(1, Some(Phase::Verify)), (4, Some(Phase::Source)), (9, None)] {
        let to = tempfile::tempdir().unwrap();
        let mut script = one_file(b"content", 7, true);
        script.insert(1, word(phase));
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        let seen = received.seen.iter().filter_map(|progress| match progress {
            Progress::PeerWorks(work) => Some(*work),
            _ => None,
        });
        let seen: Vec<PhaseWork> = seen.collect();
        match told {
            Some(phase) => {
                received.done(1, 0);
                assert_eq!(seen, [PhaseWork::new(phase, 7, 9)]);
                assert_eq!(read(&to, "top"), b"content");
            }
            None => {
                assert_eq!(received.violation(), &Violation::Malformed("word about its work"));
                assert_eq!(seen, []);
            }
        }
    }
}

fn unsent(path: &str, refusal: Refusal) -> Step {
    Say(Message::Unsent {
        path: RelPath::new(path.as_bytes()).unwrap(),
        refusal,
        text: Reason::from("no disk"),
    })
}

/// What the sender could not send is named and counts as failed.
#[test]
fn what_was_not_sent_is_named() {
    for count in [1, 2] {
        let to = tempfile::tempdir().unwrap();
        let mut script: Vec<Step> =
            (0..count).map(|number| unsent(&format!("file{number}"), Refusal::Source)).collect();
        script.extend(one_file(b"content", 7, true));
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        received.done(1, count);
        let is_named = |progress: &&Progress| {
            matches!(progress, Progress::NotDelivered { refusal: Refusal::Source, .. })
        };
        assert_eq!(received.seen.iter().filter(is_named).count() as u64, count);
    }
}

/// If all entries were announced in this session, as in every get and in the first session of a put, the total has to be their
/// number, and not 0; if the session continues another one of a put, at least their number.
#[test]
fn a_total_is_of_all_that_was_announced() {
    let one = || one_file(b"content", 7, true).into_iter().take(3).collect::<Vec<_>>();
    let none = Vec::new;
    for (goes_on, begins, entries, good) in [
        (false, none(), 0, false),
        (false, vec![unsent("file", Refusal::Source)], 0, true),
        (false, vec![unsent("file", Refusal::Skipped)], 0, true),
        (false, vec![unsent("file", Refusal::Source)], 1, false),
        (false, one(), 1, true),
        (false, one(), 0, false),
        (false, one(), 2, false),
        (true, none(), 0, true),
        (true, none(), 1, true),
        (true, one(), 0, false),
        (true, one(), 1, true),
        (true, one(), 2, true),
    ] {
        let mut script: Vec<Step> = begins;
        script.push(total(entries));
        let first = With { from_the_start: true, ..with(VERIFIED) };
        let kinds = if goes_on { vec![again(VERIFIED)] } else { vec![with(VERIFIED), first] };
        for with in kinds {
            let to = tempfile::tempdir().unwrap();
            let received = receive(To::Directory(to.path()), with, &script);
            assert_eq!(received.result.is_ok(), good, "{goes_on} {entries} {received:?}");
            if !good {
                assert_eq!(received.violation(), &Violation::Unexpected("a total of something else"));
            }
        }
    }
}

/// What failed in an earlier session of the transfer counts in this one, and is said of it.
#[test]
fn what_failed_in_an_earlier_session_counts() {
    for failed_before in [0, 1, 3] {
        let to = tempfile::tempdir().unwrap();
        let mut script = one_file(b"content", 7, true);
        script.pop();
        script.push(Say(Message::Total { entries: 1, failed_before }));
        let received = receive(To::Directory(to.path()), with(VERIFIED), &script);
        assert!(received.result.is_ok(), "{received:?}");
        assert_eq!((received.summary.confirmed, received.summary.failed), (1, failed_before));
        let said = (failed_before > 0).then_some("something failed in an earlier session of this transfer");
        assert_eq!(received.summary.first_failure.as_deref(), said);
        // The account is of this session alone: the sender knows of the others.
        assert!(matches!(received.said.last(), Some(Message::Done { confirmed: 1, failed: 0, .. })));
    }
}
