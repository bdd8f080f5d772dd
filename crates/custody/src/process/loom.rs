//! Models of the table's concurrency, checked in every order that the memory model allows:
//! `RUSTFLAGS="--cfg loom" cargo test -p linger-custody --lib --release loom_`.
//!
//! loom models neither signals nor fork. For each ordering stronger than Relaxed there is a model that fails without it:
//!
//! | ordering | model |
//! |---|---|
//! | Release in `publish`, Acquire of the load in `take` | `loom_an_entry_has_its_cookie` |
//! | Acquire of the failed exchange in `take` | `loom_a_late_close_knows_what_has_come_meanwhile` |
//! | Acquire in `open` | `loom_a_shutdown_knows_the_cookie` |
//! | Acquire of the load and of the failed exchange in `publish` | `loom_what_is_replaced_is_known` |
//! | Release in `update`, Acquire in `claim` | `loom_a_place_is_free_when_its_cookie_has_been_read` |
//! | Acquire in `update` | `loom_what_is_found_is_what_was_looked_for` |
//! | Acquire in `begins`, Release in `goes_on` | `loom_an_exec_sees_what_the_one_before_has_found` |
//!
//! `cargo xtask mutants orderings` weakens each of them, one at a time, and runs the models.

use loom::sync::Arc;
use loom::thread;

use super::{Close, Epolls, Executes, Last, Shutdown, Table};
use crate::Origin;

const ORIGIN: Origin = Origin::new(1, 5_000);

fn table<const N: usize>() -> Arc<Table<N>> {
    let table = Table::new();
    table.belongs_to(1);
    Arc::new(table)
}

/// Every order with at most two preemptions, which is what most faults need; without a bound one model may take hours.
fn model(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(body);
}

/// Runs two threads to their end.
fn both<A: 'static, B: 'static>(
    one: impl FnOnce() -> A + 'static,
    other: impl FnOnce() -> B + 'static,
) -> (A, B) {
    let one = thread::spawn(one);
    let other = other();
    (one.join().unwrap(), other)
}

/// An `execve`: waits until no other is under way, then runs `within`.
fn executes<A>(table: Arc<Table<1>>, within: impl FnOnce(&Table<1>) -> A) -> impl FnOnce() -> A {
    move || {
        while !table.begins() {
            thread::yield_now();
        }
        let done = within(&table);
        table.goes_on();
        done
    }
}

fn is_last(decision: Close) -> bool {
    matches!(decision, Close::Last(_))
}

#[test]
fn loom_an_entry_has_its_cookie() {
    model(|| {
        let table = table::<1>();
        let other = Arc::clone(&table);
        let (_, closed) =
            both(move || other.accepted(0, 77, ORIGIN, false), move || table.close(0, Some(77)));
        let last = Last { cookie: 77, origin: ORIGIN, held: false, epolls: Epolls::Unknown, stray: false };
        assert!(matches!(closed, Close::Leave) || closed == Close::Last(last));
    });
}

/// Two fds of a connection are closed at once, and one of them is in an epoll. If that one is closed first, the last close
/// is told of the stray registration.
#[test]
fn loom_the_last_close_knows_of_a_registered_fd_that_went_before() {
    model(|| {
        let table = table::<2>();
        table.accepted(0, 77, ORIGIN, false);
        assert!(table.copied(0, 1).is_none());
        table.watched(0, 9);
        let other = Arc::clone(&table);
        let (registered, copy) = both(move || other.close(0, Some(77)), move || table.close(1, Some(77)));
        match (registered, copy) {
            (Close::Leave, Close::Last(last)) => assert!(last.stray),
            (Close::Last(last), Close::Leave) => assert!(!last.stray),
            others => panic!("one of them is the last: {others:?}"),
        }
    });
}

#[test]
fn loom_a_shutdown_knows_the_cookie() {
    model(|| {
        let table = table::<1>();
        let other = Arc::clone(&table);
        let known = move || {
            let tracked = table.is_tracked(0);
            (tracked, table.shutdown(0, Some(77)))
        };
        let (_, (tracked, shut)) = both(move || other.accepted(0, 77, ORIGIN, false), known);
        assert!(!tracked || matches!(shut, Shutdown::HandOver { cookie: 77 }));
    });
}

#[test]
fn loom_what_is_replaced_is_known() {
    model(|| {
        let table = table::<2>();
        let other = Arc::clone(&table);
        // The program closes the fd without the library's knowledge between the two accepts.
        let (one, two) = both(move || other.accepted(0, 77, ORIGIN, true), {
            let table = Arc::clone(&table);
            move || table.accepted(0, 88, ORIGIN, true)
        });
        let left = table.close(0, Some(77));
        let cookies = [one, two].map(|replaced| replaced.map(|replaced| replaced.cookie));
        let is_77 = matches!(left, Close::Last(Last { cookie: 77, .. }));
        assert!(cookies == [Some(88), None] && is_77 || cookies == [None, Some(77)] && !is_77);
    });
}

#[test]
fn loom_a_late_close_knows_what_has_come_meanwhile() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, ORIGIN, false), None);
        let other = Arc::clone(&table);
        let (_, closed) =
            both(move || other.accepted(0, 88, ORIGIN, false), move || table.close(0, Some(88)));
        assert!(matches!(closed, Close::Leave | Close::Last(Last { cookie: 88, .. })));
    });
}

#[test]
fn loom_a_place_is_free_when_its_cookie_has_been_read() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, ORIGIN, false), None);
        let other = Arc::clone(&table);
        let (closed, claimed) =
            both(move || other.close(0, Some(77)), move || table.claim(0, 88, ORIGIN, false));
        assert!(is_last(closed));
        assert!(matches!(claimed, None | Some(0)));
    });
}

#[test]
fn loom_a_place_is_free_when_all_have_read_its_cookie() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, ORIGIN, false), None);
        assert_eq!(table.copied(0, 1), None);
        let (one, two) = (Arc::clone(&table), Arc::clone(&table));
        let first = thread::spawn(move || one.close(0, Some(77)));
        let second = thread::spawn(move || two.close(1, Some(77)));
        table.claim(0, 88, ORIGIN, false).unwrap();
        assert!(is_last(first.join().unwrap()) != is_last(second.join().unwrap()));
    });
}

#[test]
fn loom_of_two_closes_of_one_fd_one_ends() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, ORIGIN, false), None);
        let other = Arc::clone(&table);
        let (one, two) = both(move || other.close(0, Some(77)), move || table.close(0, Some(77)));
        assert!(is_last(one) != is_last(two));
    });
}

#[test]
fn loom_of_two_copies_the_last_ends() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, ORIGIN, false), None);
        assert_eq!(table.copied(0, 1), None);
        let other = Arc::clone(&table);
        let (one, two) = both(move || other.close(0, Some(77)), move || table.close(1, Some(77)));
        assert!(is_last(one) != is_last(two));
    });
}

#[test]
fn loom_a_copy_made_meanwhile_keeps_the_connection() {
    model(|| {
        let table = table::<3>();
        assert_eq!(table.accepted(1, 77, ORIGIN, false), None);
        assert_eq!(table.copied(1, 2), None);
        let (copies, closes) = (Arc::clone(&table), Arc::clone(&table));
        let (one, two) = both(
            move || {
                assert_eq!(copies.copied(2, 0), None);
                copies.close(2, Some(77))
            },
            move || closes.close(1, Some(77)),
        );
        assert_eq!((one, two), (Close::Leave, Close::Leave));
        assert!(is_last(table.close(0, Some(77))));
    });
}

#[test]
fn loom_of_two_epolls_none_is_forgotten() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, ORIGIN, false), None);
        let (one, two) = (Arc::clone(&table), Arc::clone(&table));
        both(move || one.watched(0, 5), move || two.watched(0, 6));
        assert_eq!(table.entry(0).unwrap().epolls, Epolls::Many);
    });
}

#[test]
fn loom_what_is_handed_over_is_not_ended_again() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, ORIGIN, false), None);
        assert_eq!(table.copied(0, 1), None);
        let (one, two) = (Arc::clone(&table), Arc::clone(&table));
        both(move || one.handed(0), move || assert_eq!(two.close(1, Some(77)), Close::Leave));
        assert_eq!(table.close(0, Some(77)), Close::Handed(Epolls::Unknown));
    });
}

/// A connection is received back while another thread closes it, and gets another in its place.
#[test]
fn loom_what_is_found_is_what_was_looked_for() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, ORIGIN, false), None);
        let (receives, closes) = (Arc::clone(&table), Arc::clone(&table));
        both(
            move || receives.received(1, 77, false, receives.find(77)),
            move || {
                let closed = closes.close(0, Some(77));
                assert_eq!(closes.accepted(0, 88, ORIGIN, false), None);
                closed
            },
        );
        assert!(is_last(table.close(0, Some(88))));
        assert!(is_last(table.close(1, Some(77))));
    });
}

/// A thread replaces the program while another closes the only fd: exactly one of the two reports the last close.
#[test]
fn loom_a_close_while_another_thread_executes() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, ORIGIN, false), None);
        assert!(table.begins());
        assert_eq!(table.will_close(0, true), None);
        let executes = Arc::clone(&table);
        let (executed, closed) =
            both(move || executes.executes(0, Some(77)), move || table.close(0, Some(77)));
        assert!(matches!(executed, Executes::Last(_)) != is_last(closed), "{executed:?}, {closed:?}");
    });
}

/// A failed `execve` undoes its announcement. If two fail, the second finds the connection in the table again, and undoes its
/// own announcement, too.
#[test]
fn loom_of_two_execs_each_takes_back() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, ORIGIN, true), None);
        let fails = |table: &Table<1>| {
            let unhold = table.will_close(0, false);
            (unhold.is_some(), table.failed_to_execute(0, Some(77)).hold)
        };
        let (one, two) = both(executes(Arc::clone(&table), fails), executes(Arc::clone(&table), fails));
        assert_eq!((one, two), ((true, Some(77)), (true, Some(77))));
    });
}

/// The program has closed an fd without the library's knowledge. The first `execve` finds that out, and the second must not
/// find the fd again: by then its place may be another connection's.
#[test]
fn loom_an_exec_sees_what_the_one_before_has_found() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, ORIGIN, true), None);
        let finds = |table: &Table<1>| {
            let found = table.is_tracked(0);
            (found, matches!(table.executes(0, Some(88)), Executes::Unhold(_)))
        };
        let (one, two) = both(executes(Arc::clone(&table), finds), executes(Arc::clone(&table), finds));
        assert_ne!(one, two);
        assert!([one, two].iter().all(|(found, forgot)| found == forgot), "{one:?}, {two:?}");
    });
}
