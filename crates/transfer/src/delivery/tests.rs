//! A command runs once, and what is not known stays not known.

use super::*;
use crate::message::{Durability, Time};
use std::cell::Cell;
use std::sync::Arc;

fn receipt(size: u64) -> Receipt {
    Receipt {
        index: 0,
        size,
        hash: None,
        durability: Durability::Handed,
        time: Time::default(),
        name: b"@print".to_vec(),
        present: false,
        mode: None,
    }
}

fn id(number: u64) -> TransferId {
    let mut id = TransferId::default();
    id[..8].copy_from_slice(&number.to_be_bytes());
    id
}

/// Each transfer brings a content of its own.
fn order(number: u64) -> DeliveryOrder {
    let mut content = Hash::default();
    content[..8].copy_from_slice(&number.to_be_bytes());
    DeliveryOrder { id: id(number), content, anew: false }
}

#[test]
fn a_command_runs_once_for_a_transfer_and_once_more_for_another() {
    let (deliveries, runs) = (Deliveries::default(), Cell::new(0));
    let run = |number| {
        deliveries.run(&order(number), || {
            runs.set(runs.get() + 1);
            Ok(receipt(runs.get()))
        })
    };
    deliveries.begin(id(1), None).unwrap();
    assert!(deliveries.outcome(id(1)).is_none());
    assert_eq!(run(1).unwrap().size, 1);
    deliveries.begin(id(1), Some(deliveries.memory())).unwrap();
    assert_eq!(deliveries.outcome(id(1)).unwrap().unwrap().size, 1);
    assert_eq!(run(1).unwrap().size, 1);
    deliveries.begin(id(2), None).unwrap();
    assert_eq!(run(2).unwrap().size, 2);
}

#[test]
fn what_failed_is_not_tried_again_by_itself() {
    let deliveries = Deliveries::default();
    deliveries.begin(id(1), None).unwrap();
    let failed = deliveries.run(&order(1), || Err(Fault(Refusal::Command, "no paper".into())));
    assert!(failed.is_err());
    assert!(deliveries.run(&order(1), || Ok(receipt(1))).is_err());
    assert!(deliveries.outcome(id(1)).unwrap().is_err());
}

#[test]
fn what_nobody_remembers_runs_only_if_nothing_was_forgotten() {
    let deliveries = Deliveries { most: 8, ..Deliveries::default() };
    let memory = deliveries.memory();
    let refused = deliveries.begin(id(1), Some([1; 16])).unwrap_err();
    assert!(refused.1.to_string().contains("may have been done"), "{refused:?}");
    // All of it arrived, and the server was asked before it ran: nothing has run.
    deliveries.begin(id(1), Some(memory)).unwrap();
    deliveries.run(&order(1), || Ok(receipt(1))).unwrap();
    for number in 2..=8 {
        deliveries.begin(id(number), None).unwrap();
    }
    assert!(deliveries.begin(id(1), Some(memory)).is_ok(), "the last that fits");
    assert_eq!(deliveries.memory(), memory);
    deliveries.begin(id(9), None).unwrap();
    assert_ne!(deliveries.memory(), memory, "a command was started that is forgotten now");
    assert!(deliveries.begin(id(1), Some(memory)).is_err());
    let memory = deliveries.memory();
    deliveries.begin(id(10), None).unwrap();
    assert_eq!(deliveries.memory(), memory, "no command was started for what is forgotten");
}

#[test]
fn a_server_that_comes_up_again_knows_what_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let before = Deliveries::open(&path).unwrap();
    let memory = before.memory();
    for number in 1..=4 {
        before.begin(id(number), None).unwrap();
    }
    before.run(&order(1), || Ok(receipt(1))).unwrap();
    let _ = before.run(&order(2), || Err(Fault(Refusal::Command, "no paper".into())));
    // The file as it is while the third command runs.
    let image = before.run(&order(3), || {
        std::fs::copy(&path, dir.path().join("image")).unwrap();
        Ok(receipt(3))
    });
    image.unwrap();
    let after = Deliveries::open(&dir.path().join("image")).unwrap();
    assert_eq!(after.memory(), memory);
    let never = || -> Result<Receipt, Fault> { panic!("it is not run again") };
    after.begin(id(1), Some(memory)).unwrap();
    assert_eq!(after.run(&order(1), never).unwrap().size, 1);
    assert!(matches!(after.ask(id(2)), AskedDelivery::Failed(_)));
    assert!(after.begin(id(3), Some(memory)).is_err() && after.run(&order(3), never).is_err());
    assert!(matches!(after.ask(id(3)), AskedDelivery::Unknown));
    // Its command was never started, and this memory would know.
    after.begin(id(4), Some(memory)).unwrap();
    assert!(matches!(after.ask(id(4)), AskedDelivery::Nothing));
    assert_eq!(after.run(&order(4), || Ok(receipt(4))).unwrap().size, 4);
}

/// The memory of a server that ended while the command of transfer 1 ran.
fn interrupted(dir: &Path) -> Deliveries {
    let path = dir.join("journal");
    let before = Deliveries::open(&path).unwrap();
    before.begin(id(1), None).unwrap();
    let ended = before.run(&order(1), || {
        std::fs::copy(&path, dir.join("image")).unwrap();
        Ok(receipt(1))
    });
    ended.unwrap();
    Deliveries::open(&dir.join("image")).unwrap()
}

#[test]
fn what_may_have_been_done_is_done_by_no_other_transfer_unless_somebody_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let after = interrupted(dir.path());
    let same = |number, anew| DeliveryOrder { id: id(number), anew, ..order(1) };
    let never = || -> Result<Receipt, Fault> { panic!("it is not run") };
    let refused = after.run(&same(2, false), never).unwrap_err();
    assert!(refused.is_open(), "{refused:?}");
    assert!(matches!(after.ask(id(2)), AskedDelivery::Nothing), "its own command was not started");
    // Other content, or the same for another sink, is another delivery.
    assert_eq!(after.run(&order(3), || Ok(receipt(3))).unwrap().size, 3);
    assert_eq!(after.run(&same(4, true), || Ok(receipt(4))).unwrap().size, 4);
    // Once for each time that somebody says so.
    assert_eq!(after.run(&same(4, true), never).unwrap().size, 4);
    after.heard(id(4));
    assert_eq!(after.run(&same(5, false), || Ok(receipt(5))).unwrap().size, 5, "nobody doubts any more");
    after.heard(id(5));
    assert!(matches!(after.ask(id(1)), AskedDelivery::Unknown), "what became of it nobody knows still");
    drop(after);
    let later = Deliveries::open(&dir.path().join("image")).unwrap();
    assert_eq!(later.run(&same(6, false), || Ok(receipt(6))).unwrap().size, 6, "also after a restart");
    assert!(matches!(later.ask(id(1)), AskedDelivery::Unknown));
}

#[test]
fn a_second_server_that_ended_while_it_ran_is_as_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let after = interrupted(dir.path());
    let (image, second) = (dir.path().join("image"), dir.path().join("second"));
    let again = DeliveryOrder { id: id(2), anew: true, ..order(1) };
    let ended = after.run(&again, || {
        std::fs::copy(&image, &second).unwrap();
        Ok(receipt(2))
    });
    ended.unwrap();
    let third = Deliveries::open(&second).unwrap();
    let never = || -> Result<Receipt, Fault> { panic!("it is not run") };
    assert!(third.begin(id(2), None).unwrap_err().is_open(), "the word was for one start");
    assert!(third.run(&again, never).unwrap_err().is_open());
    let plain = DeliveryOrder { id: id(3), anew: false, ..again };
    assert!(third.run(&plain, never).unwrap_err().is_open());
}

#[test]
fn what_cannot_be_noted_is_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let deliveries = Deliveries::open(&path).unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    deliveries.lock().journal().unwrap().replace_file(full);
    deliveries.begin(id(1), None).unwrap();
    let refused = deliveries.run(&order(1), || panic!("it is not run")).unwrap_err();
    assert_eq!(refused.0, Refusal::NoSpace);
    assert!(refused.1.contains("in journal, so nothing was run"), "{refused:?}");
    assert!(matches!(deliveries.ask(id(1)), AskedDelivery::Nothing));
}

/// Two sessions of one transfer, the older of which was cut and still waits for its turn. The newer one has told the client that
/// nothing was run; then the disk works again.
#[test]
fn what_a_client_was_told_is_not_run_by_its_older_session() {
    let dir = tempfile::tempdir().unwrap();
    let deliveries = Deliveries::open(&dir.path().join("journal")).unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let works = deliveries.lock().journal().unwrap().replace_file(full);
    deliveries.begin(id(1), None).unwrap();
    let told = deliveries.run(&order(1), || panic!("it is not run")).unwrap_err();
    deliveries.lock().journal().unwrap().replace_file(works);
    let older = deliveries.run(&order(1), || panic!("the client was told that nothing was run")).unwrap_err();
    assert_eq!(format!("{older:?}"), format!("{told:?}"));
    // A transfer of its own is another matter.
    deliveries.begin(id(2), None).unwrap();
    deliveries.run(&order(2), || Ok(receipt(2))).unwrap();
}

#[test]
fn a_journal_that_was_removed_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let after = interrupted(dir.path());
    let path = dir.path().join("image");
    std::fs::remove_file(&path).unwrap();
    after.run(&order(2), || Ok(receipt(2))).unwrap();
    let memory = after.memory();
    drop(after);
    let later = Deliveries::open(&path).unwrap();
    assert_eq!(later.memory(), memory);
    assert!(matches!(later.ask(id(2)), AskedDelivery::Delivered(_)));
    let same = DeliveryOrder { id: id(3), ..order(1) };
    assert!(later.run(&same, || panic!("it is not run")).unwrap_err().is_open());
    // Something else that has its name by now is not written over.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "somebody else's").unwrap();
    assert!(!later.run(&order(4), || panic!("it is not run")).unwrap_err().is_open());
    assert_eq!(std::fs::read(&path).unwrap(), b"somebody else's");
}

#[test]
fn two_sessions_at_once_run_it_once() {
    let deliveries = Deliveries::default();
    deliveries.begin(id(1), None).unwrap();
    let (started, wait) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            deliveries.run(&order(1), || {
                started.wait();
                wait.wait();
                Ok(receipt(1))
            })
        });
        started.wait();
        assert!(deliveries.is_running(id(1)));
        let second = scope.spawn(|| deliveries.run(&order(1), || Ok(receipt(2))));
        wait.wait();
        assert_eq!(second.join().unwrap().unwrap().size, 1);
        assert_eq!(first.join().unwrap().unwrap().size, 1);
    });
    assert!(!deliveries.is_running(id(1)));
}

#[test]
fn what_no_client_has_heard_is_done_by_no_other_transfer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let deliveries = Deliveries::open(&path).unwrap();
    let same = |number, anew| DeliveryOrder { id: id(number), anew, ..order(1) };
    let never = || -> Result<Receipt, Fault> { panic!("it is not run") };
    deliveries.begin(id(1), None).unwrap();
    deliveries.run(&order(1), || Ok(receipt(1))).unwrap();
    let refused = deliveries.run(&same(2, false), never).unwrap_err();
    assert!(refused.is_open() && refused.1.contains("has not heard"), "{refused:?}");
    assert_eq!(deliveries.run(&same(1, false), never).unwrap().size, 1, "the same transfer gets its receipt");
    assert!(matches!(deliveries.ask(id(1)), AskedDelivery::Delivered(_)));
    assert!(deliveries.run(&same(2, false), never).unwrap_err().is_open(), "nobody has said that he knows");
    // Other content, or what has failed, is not concerned.
    assert_eq!(deliveries.run(&order(3), || Ok(receipt(3))).unwrap().size, 3);
    let failed = DeliveryOrder { id: id(4), ..order(4) };
    assert!(deliveries.run(&failed, || Err(Fault(Refusal::Command, "no paper".into()))).is_err());
    assert_eq!(deliveries.run(&DeliveryOrder { id: id(5), ..failed }, || Ok(receipt(5))).unwrap().size, 5);
    drop(deliveries);
    let later = Deliveries::open(&path).unwrap();
    assert!(later.run(&same(2, false), never).unwrap_err().is_open(), "also after a restart");
    assert!(matches!(later.ask(id(1)), AskedDelivery::Delivered(_)));
    later.heard(id(2));
    assert!(
        later.run(&same(2, false), never).unwrap_err().is_open(),
        "another one's goodbye says nothing of it"
    );
    later.heard(id(1));
    drop(later);
    let last = Deliveries::open(&path).unwrap();
    assert_eq!(last.run(&same(2, false), || Ok(receipt(2))).unwrap().size, 2, "its client knows");
    // A person's word settles it as well, and for once.
    last.begin(id(6), None).unwrap();
    assert_eq!(last.run(&same(6, true), || Ok(receipt(6))).unwrap().size, 6);
    last.heard(id(6));
    assert_eq!(last.run(&same(7, false), || Ok(receipt(7))).unwrap().size, 7);
}

/// A second client with the same content waits as long as the first one may still hear, and gets its turn or the doubt.
#[test]
fn the_same_content_waits_for_a_client_that_may_still_hear() {
    for hears in [true, false] {
        let deliveries = Arc::new(Deliveries::default());
        let [first, second] = [1, 2].map(|number| Attendance::new(&deliveries, id(number)));
        deliveries.run(&order(1), || Ok(receipt(1))).unwrap();
        let again = || deliveries.run(&DeliveryOrder { id: id(2), ..order(1) }, || Ok(receipt(2)));
        std::thread::scope(|scope| {
            let waits = scope.spawn(again);
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waits.is_finished(), "the first client may still hear");
            if hears {
                first.heard();
            }
            drop(first);
            match waits.join().unwrap() {
                Ok(receipt) => assert!(hears && receipt.size == 2),
                Err(fault) => assert!(!hears && fault.is_open(), "{fault:?}"),
            }
        });
        drop(second);
    }
}

/// While a command runs nobody else runs it with the same content. Who has left meanwhile gets nothing run.
#[test]
fn the_same_content_waits_for_a_command_that_runs() {
    for (fails, stays) in [(true, true), (true, false), (false, true)] {
        let deliveries = Arc::new(Deliveries::default());
        let second = Attendance::new(&deliveries, id(2));
        let (started, end) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                deliveries.run(&order(1), || {
                    started.wait();
                    end.wait();
                    if fails { Err(Fault(Refusal::Command, "no paper".into())) } else { Ok(receipt(1)) }
                })
            });
            started.wait();
            let again = || deliveries.run(&DeliveryOrder { id: id(2), ..order(1) }, || Ok(receipt(2)));
            let waits = scope.spawn(again);
            std::thread::sleep(Duration::from_millis(20));
            assert!(!waits.is_finished(), "the command runs");
            let _stays = stays.then_some(second);
            end.wait();
            assert_eq!(first.join().unwrap().is_err(), fails);
            match waits.join().unwrap() {
                Ok(receipt) => assert!(fails && stays && receipt.size == 2),
                Err(Fault(Refusal::Busy, _)) => assert!(fails && !stays),
                Err(fault) => assert!(!fails && fault.is_open(), "{fault:?}"),
            }
        });
    }
}

/// A session that asks for the same once more does not wait for its own goodbye, which can only come later.
#[test]
fn nobody_waits_for_the_own_goodbye() {
    let deliveries = Arc::new(Deliveries::default());
    let mut first = Attendance::new(&deliveries, id(1));
    deliveries.run(&order(1), || Ok(receipt(1))).unwrap();
    first.let_others_go_on();
    let _second = Attendance::new(&deliveries, id(2));
    let again = DeliveryOrder { id: id(2), ..order(1) };
    assert!(deliveries.run(&again, || Ok(receipt(2))).unwrap_err().is_open());
    // And what it says at the end settles the content. What its second transfer was told stays as it is.
    first.heard();
    assert!(deliveries.run(&again, || panic!("it was refused")).unwrap_err().is_open());
    let later = DeliveryOrder { id: id(3), ..order(1) };
    assert_eq!(deliveries.run(&later, || Ok(receipt(2))).unwrap().size, 2);
}

/// Neither a command that runs nor a client that may still hear keeps other content waiting.
#[test]
fn other_content_waits_for_nobody() {
    let deliveries = Arc::new(Deliveries::default());
    let first = Attendance::new(&deliveries, id(1));
    let during = deliveries.run(&order(1), || {
        assert_eq!(deliveries.run(&order(2), || Ok(receipt(2))).unwrap().size, 2);
        Ok(receipt(1))
    });
    assert_eq!(during.unwrap().size, 1);
    assert_eq!(deliveries.run(&order(3), || Ok(receipt(3))).unwrap().size, 3);
    drop(first);
    assert_eq!(deliveries.run(&order(4), || Ok(receipt(4))).unwrap().size, 4, "nor does a doubt");
}

/// A person's word is for one content: of another, what nobody has heard and what nobody knows stays in doubt.
#[test]
fn a_word_for_one_content_settles_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let after = interrupted(dir.path());
    let never = || -> Result<Receipt, Fault> { panic!("it is not run") };
    after.run(&order(2), || Ok(receipt(2))).unwrap();
    after.run(&order(3), || Ok(receipt(3))).unwrap();
    let again = |number, of| DeliveryOrder { id: id(number), anew: true, ..order(of) };
    after.run(&again(4, 3), || Ok(receipt(4))).unwrap();
    for doubted in [1, 2, 3] {
        let plain = DeliveryOrder { id: id(9), ..order(doubted) };
        assert!(after.run(&plain, never).unwrap_err().is_open(), "{doubted}");
    }
    after.heard(id(4));
    let plain = DeliveryOrder { id: id(5), ..order(3) };
    assert_eq!(after.run(&plain, || Ok(receipt(5))).unwrap().size, 5, "this one is settled");
    drop(after);
    // The journal says the same.
    let later = Deliveries::open(&dir.path().join("image")).unwrap();
    for doubted in [1, 2] {
        let plain = DeliveryOrder { id: id(9), ..order(doubted) };
        assert!(later.run(&plain, never).unwrap_err().is_open(), "{doubted}");
    }
}

/// A session that leaves is one of its own transfer: others of that transfer, and of others, are still there.
#[test]
fn who_leaves_leaves_alone() {
    let deliveries = Arc::new(Deliveries::default());
    let [first, second, other] = [1, 1, 2].map(|number| Attendance::new(&deliveries, id(number)));
    let attended = |number| deliveries.lock().is_attended(&id(number));
    drop(first);
    assert!(attended(1) && attended(2), "a second session is there for it");
    drop(other);
    assert!(attended(1) && !attended(2));
    drop(second);
    assert!(!attended(1));
}

/// Each stage of a delivery, as a session of the same transfer and whoever asks are told it.
#[test]
fn a_session_hears_what_its_transfer_has_come_to() {
    let deliveries = Deliveries::default();
    assert!(matches!(deliveries.ask(id(1)), AskedDelivery::Nothing) && deliveries.outcome(id(1)).is_none());
    deliveries.begin(id(1), None).unwrap();
    assert!(!deliveries.is_running(id(1)) && deliveries.outcome(id(1)).is_none());
    let ran = deliveries.run(&order(1), || {
        assert!(deliveries.is_running(id(1)) && deliveries.outcome(id(1)).is_none());
        assert!(matches!(deliveries.ask(id(1)), AskedDelivery::Runs));
        Ok(receipt(1))
    });
    assert_eq!(ran.unwrap().size, 1);
    // The outcome is the same before and after its client has heard it.
    for hears in [false, true] {
        if hears {
            deliveries.heard(id(1));
        }
        assert!(!deliveries.is_running(id(1)));
        assert_eq!(deliveries.outcome(id(1)).unwrap().unwrap().size, 1);
        assert!(matches!(deliveries.ask(id(1)), AskedDelivery::Delivered(receipt) if receipt.size == 1));
    }
}
