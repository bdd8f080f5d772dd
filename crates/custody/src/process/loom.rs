//! Models of the table's concurrency, checked in every order that the memory model allows:
//! `RUSTFLAGS="--cfg loom" cargo test -p linger-custody --lib --release loom_`.
//!
//! loom models neither signals nor fork; a fork is here a copy of the table that the forking thread makes. Each ordering
//! stronger than Relaxed is needed by a model, which fails without it:
//!
//! | ordering | model |
//! |---|---|
//! | Release in `publish`, Acquire of the load in `take` | `loom_an_entry_has_its_cookie` |
//! | Acquire of the failed exchange in `take` | `loom_a_late_close_knows_what_has_come_meanwhile` |
//! | Acquire in `open` | `loom_a_shutdown_knows_the_cookie` |
//! | Acquire of the load and of the failed exchange in `publish` | `loom_what_is_replaced_is_known` |
//! | Release in `update`, Acquire in `claim` | `loom_a_place_is_free_when_its_cookie_has_been_read` |
//! | Acquire in `update` | `loom_a_close_while_another_thread_forks` |
//! | Acquire in `begins`, Release in `ends` | `loom_of_two_forks_each_is_counted` |

use loom::sync::Arc;
use loom::thread;
use std::vec::Vec;

use super::{Close, Entry, Epolls, Executes, Last, ShareWord, Shares, Shutdown, Table};

const NONE: Shares<'static> = Shares::new(&[]);

fn table<const N: usize>() -> Arc<Table<N>> {
    let table = Table::new();
    table.belongs_to(1);
    Arc::new(table)
}

fn share_words() -> Arc<Vec<ShareWord>> {
    Arc::new((0..2).map(|_| ShareWord::new()).collect())
}

/// Every order with at most two preemptions, which is what most faults need; without a bound a fork alone takes hours.
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

fn is_last(decision: Close) -> bool {
    matches!(decision, Close::Last(_))
}

/// Closes, and waits for a fork that is under way.
fn close<const N: usize>(table: &Table<N>, fd: i32, cookie: u64, shares: Shares<'_>) -> Close {
    loop {
        match table.close(fd, Some(cookie), shares, false) {
            Close::Wait => thread::yield_now(),
            decision => return decision,
        }
    }
}

#[test]
fn loom_an_entry_has_its_cookie() {
    model(|| {
        let table = table::<1>();
        let other = Arc::clone(&table);
        let (_, closed) =
            both(move || other.accepted(0, 77, false, NONE), move || table.close(0, Some(77), NONE, false));
        let last = Last { cookie: 77, held: false, epolls: Epolls::Unknown };
        assert!(matches!(closed, Close::Leave) || closed == Close::Last(last));
    });
}

#[test]
fn loom_a_shutdown_knows_the_cookie() {
    model(|| {
        let table = table::<1>();
        let other = Arc::clone(&table);
        let known = move || {
            let tracked = table.is_tracked(0);
            (tracked, table.shutdown(0, Some(77), NONE))
        };
        let (_, (tracked, shut)) = both(move || other.accepted(0, 77, false, NONE), known);
        assert!(!tracked || matches!(shut, Shutdown::HandOver { cookie: 77 }));
    });
}

#[test]
fn loom_what_is_replaced_is_known() {
    model(|| {
        let table = table::<2>();
        let other = Arc::clone(&table);
        // Closed behind the library's back between the two.
        let (one, two) = both(move || other.accepted(0, 77, true, NONE), {
            let table = Arc::clone(&table);
            move || table.accepted(0, 88, true, NONE)
        });
        let left = table.close(0, Some(77), NONE, false);
        let cookies = [one, two].map(|replaced| replaced.map(|replaced| replaced.cookie));
        let is_77 = matches!(left, Close::Last(Last { cookie: 77, .. }));
        assert!(cookies == [Some(88), None] && is_77 || cookies == [None, Some(77)] && !is_77);
    });
}

#[test]
fn loom_a_late_close_knows_what_has_come_meanwhile() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        let other = Arc::clone(&table);
        let (_, closed) =
            both(move || other.accepted(0, 88, false, NONE), move || table.close(0, Some(88), NONE, false));
        assert!(matches!(closed, Close::Leave | Close::Last(Last { cookie: 88, .. })));
    });
}

#[test]
fn loom_a_place_is_free_when_its_cookie_has_been_read() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        let other = Arc::clone(&table);
        let (closed, claimed) =
            both(move || other.close(0, Some(77), NONE, false), move || table.claim(0, 88, false));
        assert!(is_last(closed));
        assert!(matches!(claimed, None | Some(0)));
    });
}

#[test]
fn loom_a_place_is_free_when_all_have_read_its_cookie() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        assert_eq!(table.copied(0, 1, NONE), None);
        let (one, two) = (Arc::clone(&table), Arc::clone(&table));
        let first = thread::spawn(move || one.close(0, Some(77), NONE, false));
        let second = thread::spawn(move || two.close(1, Some(77), NONE, false));
        table.claim(0, 88, false).unwrap();
        assert!(is_last(first.join().unwrap()) != is_last(second.join().unwrap()));
    });
}

#[test]
fn loom_of_two_closes_of_one_fd_one_ends() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        let other = Arc::clone(&table);
        let (one, two) = both(
            move || other.close(0, Some(77), NONE, false),
            move || table.close(0, Some(77), NONE, false),
        );
        assert!(is_last(one) != is_last(two));
    });
}

#[test]
fn loom_of_two_copies_the_last_ends() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        assert_eq!(table.copied(0, 1, NONE), None);
        let other = Arc::clone(&table);
        let (one, two) = both(
            move || other.close(0, Some(77), NONE, false),
            move || table.close(1, Some(77), NONE, false),
        );
        assert!(is_last(one) != is_last(two));
    });
}

#[test]
fn loom_a_copy_made_meanwhile_keeps_the_connection() {
    model(|| {
        let table = table::<3>();
        assert_eq!(table.accepted(1, 77, false, NONE), None);
        assert_eq!(table.copied(1, 2, NONE), None);
        let (copies, closes) = (Arc::clone(&table), Arc::clone(&table));
        let (one, two) = both(
            move || {
                assert_eq!(copies.copied(2, 0, NONE), None);
                copies.close(2, Some(77), NONE, false)
            },
            move || closes.close(1, Some(77), NONE, false),
        );
        assert_eq!((one, two), (Close::Leave, Close::Leave));
        assert!(is_last(table.close(0, Some(77), NONE, false)));
    });
}

#[test]
fn loom_of_two_epolls_none_is_forgotten() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        let (one, two) = (Arc::clone(&table), Arc::clone(&table));
        both(move || one.watched(0, 5), move || two.watched(0, 6));
        assert_eq!(table.entry(0).unwrap().epolls, Epolls::Many);
    });
}

#[test]
fn loom_a_registration_and_a_mark_both_stay() {
    model(|| {
        let table = table::<1>();
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        let (one, two) = (Arc::clone(&table), Arc::clone(&table));
        both(move || one.watched(0, 5), move || two.mark_forking(0, true));
        let Entry { epolls, forking, .. } = table.entry(0).unwrap();
        assert_eq!((epolls, forking), (Epolls::One(5), true));
    });
}

#[test]
fn loom_what_is_handed_over_is_not_ended_again() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        assert_eq!(table.copied(0, 1, NONE), None);
        let (one, two) = (Arc::clone(&table), Arc::clone(&table));
        both(
            move || assert!(one.handed(0, NONE)),
            move || assert_eq!(two.close(1, Some(77), NONE, false), Close::Leave),
        );
        assert_eq!(table.close(0, Some(77), NONE, false), Close::Handed(Epolls::Unknown, None));
    });
}

/// A thread forks while another closes: the connection is ended once, by the last that has it.
#[test]
fn loom_a_close_while_another_thread_forks() {
    model(|| {
        let (table, words) = (table::<1>(), share_words());
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        let (forks, closes) = (Arc::clone(&table), Arc::clone(&table));
        let (shared, words) = (Arc::clone(&words), words);
        let (child, closed) = both(
            move || {
                let shares = Shares::new(&shared);
                assert!(forks.begins());
                assert_eq!(forks.prepare(0, shares), None);
                let child = forks.forked();
                forks.parent();
                child.child(2);
                child.close(0, Some(77), shares, false)
            },
            {
                let words = Arc::clone(&words);
                move || close(&closes, 0, 77, Shares::new(&words))
            },
        );
        let ends = [child, closed].into_iter().filter(|decision| is_last(*decision)).count();
        assert_eq!(ends, 1, "{child:?}, {closed:?}");
        assert!(!is_last(child) || matches!(closed, Close::Shared(None)));
    });
}

/// What another thread accepts while one forks is the parent's alone.
#[test]
fn loom_an_accept_while_another_thread_forks() {
    model(|| {
        let (table, words) = (table::<1>(), share_words());
        let (forks, accepts) = (Arc::clone(&table), Arc::clone(&table));
        let shared = Arc::clone(&words);
        let (child, _) = both(
            move || {
                let shares = Shares::new(&shared);
                assert!(forks.begins());
                forks.fds(0, 0).for_each(|fd| assert_eq!(forks.prepare(fd, shares), None));
                let child = forks.forked();
                forks.parent();
                child.child(2);
                child.close(0, Some(77), shares, false)
            },
            move || accepts.accepted(0, 77, false, NONE),
        );
        let parent = table.close(0, Some(77), Shares::new(&words), false);
        let counted = child == Close::Leave && is_last(parent);
        assert!(
            counted
                || is_last(child)
                    && parent == Close::Last(Last { cookie: 77, held: false, epolls: Epolls::Unknown })
                || is_last(parent) && matches!(child, Close::Shared(_)),
            "{child:?} {parent:?}"
        );
    });
}

#[test]
fn loom_of_two_forks_each_is_counted() {
    model(|| {
        let (table, words) = (table::<1>(), share_words());
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        let fork = |table: Arc<Table<1>>, words: Arc<Vec<ShareWord>>| {
            move || {
                while !table.begins() {
                    thread::yield_now();
                }
                assert_eq!(table.prepare(0, Shares::new(&words)), None);
                let child = table.forked();
                table.parent();
                child.child(2);
                child
            }
        };
        let (one, two) =
            both(fork(Arc::clone(&table), Arc::clone(&words)), fork(Arc::clone(&table), Arc::clone(&words)));
        let shares = Shares::new(&words);
        let closes = [&one, &two, &*table].map(|table| table.close(0, Some(77), shares, false));
        assert!(matches!(closes, [Close::Shared(_), Close::Shared(_), Close::Last(_)]), "{closes:?}");
    });
}

/// Two processes close at once.
#[test]
fn loom_of_two_processes_the_last_ends() {
    model(|| {
        let (table, words) = (table::<1>(), share_words());
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        assert!(table.begins());
        assert_eq!(table.prepare(0, Shares::new(&words)), None);
        let child = table.forked();
        table.parent();
        child.child(2);
        let (one, two) = (Arc::clone(&words), words);
        let (child, parent) = both(
            move || child.close(0, Some(77), Shares::new(&one), false),
            move || table.close(0, Some(77), Shares::new(&two), false),
        );
        assert!(is_last(child) != is_last(parent), "{child:?}, {parent:?}");
    });
}

/// A thread replaces the program while another closes the only fd: its share is given up once.
#[test]
fn loom_a_close_while_another_thread_executes() {
    model(|| {
        let (table, words) = (table::<1>(), share_words());
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        assert!(table.begins());
        assert_eq!(table.prepare(0, Shares::new(&words)), None);
        let child = table.forked();
        table.parent();
        child.child(2);
        assert_eq!(table.will_close(0, true), None);
        let executes = Arc::clone(&table);
        let (one, two) = (Arc::clone(&words), Arc::clone(&words));
        let (executed, closed) = both(
            move || executes.executes(0, Some(77), Shares::new(&one)),
            move || table.close(0, Some(77), Shares::new(&two), false),
        );
        assert_eq!(executed, Executes::Leave);
        assert!(matches!(closed, Close::Leave | Close::Shared(None)));
        assert!(is_last(child.close(0, Some(77), Shares::new(&words), false)));
    });
}

/// A connection is received back while another thread closes it, and gets another in its place.
#[test]
fn loom_what_is_found_is_what_was_looked_for() {
    model(|| {
        let table = table::<2>();
        assert_eq!(table.accepted(0, 77, false, NONE), None);
        let (receives, closes) = (Arc::clone(&table), Arc::clone(&table));
        both(
            move || receives.received(1, 77, false, NONE),
            move || {
                let closed = closes.close(0, Some(77), NONE, false);
                assert_eq!(closes.accepted(0, 88, false, NONE), None);
                closed
            },
        );
        assert!(is_last(table.close(0, Some(88), NONE, false)));
        assert!(is_last(table.close(1, Some(77), NONE, false)));
    });
}
