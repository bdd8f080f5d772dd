//! What each event of a process means, each rule with a counter-example one step away.

use linger_custody::process::{Close, Epolls, Executes, Last, Phase, Shutdown, Table, TakenBack, Unhold};
use linger_custody::{Count, Origin};

const ORIGIN: Origin = Origin::new(1, 5_000);
const ENDED: Last = Last { cookie: 7, origin: ORIGIN, held: false, epolls: Epolls::Unknown, stray: false };
const LAST: Close = Close::Last(ENDED);

struct Process {
    table: Table<16>,
}

impl Process {
    fn new() -> Self {
        let process = Self { table: Table::new() };
        process.table.belongs_to(1);
        process
    }

    /// With one connection: fd 3, cookie 7.
    fn accepting(held: bool) -> Self {
        let process = Self::new();
        assert_eq!(process.accept(3, 7, held), None);
        process
    }

    fn accept(&self, fd: i32, cookie: u64, held: bool) -> Option<Unhold> {
        self.table.accepted(fd, cookie, ORIGIN, held)
    }

    fn close(&self, fd: i32) -> Close {
        self.table.close(fd, Some(7))
    }

    fn copy(&self, old: i32, new: i32) {
        assert_eq!(self.table.copied(old, new), None);
    }

    fn receive(&self, fd: i32, cookie: u64, held: bool) -> Option<Unhold> {
        self.table.received(fd, cookie, held, self.table.find(cookie))
    }

    fn fork(&self) -> Self {
        let child = Self { table: self.table.forked() };
        child.table.child(2);
        child
    }

    /// Before an `execve`, in which these fds survive.
    fn executes(&self, surviving: &[i32]) -> Vec<Executes> {
        assert!(self.table.begins());
        let mut all = Vec::new();
        for fd in self.table.fds(0, i32::MAX) {
            let unhold = self.table.will_close(fd, !surviving.contains(&fd));
            all.extend(unhold.map(Executes::Unhold));
        }
        for fd in self.table.fds(0, i32::MAX) {
            all.push(self.table.executes(fd, Some(7)));
        }
        all.retain(|decision| *decision != Executes::Leave);
        all
    }

    fn fails(&self) -> Vec<TakenBack> {
        let each = self.table.fds(0, i32::MAX);
        let all = each.map(|fd| self.table.failed_to_execute(fd, Some(7))).collect();
        self.table.goes_on();
        all
    }
}

#[test]
fn the_only_fd_is_the_last() {
    let process = Process::accepting(false);
    assert_eq!(process.close(4), Close::Leave);
    assert_eq!(process.close(3), LAST);
    assert_eq!(process.close(3), Close::Leave);
}

#[test]
fn of_copies_the_last_counts() {
    let process = Process::accepting(false);
    process.copy(3, 4);
    process.copy(4, 5);
    assert_eq!([4, 3, 5].map(|fd| process.close(fd)), [Close::Leave, Close::Leave, LAST]);
}

#[test]
fn another_file_under_the_number_is_left_alone() {
    for (cookie, held, expected) in [
        (Some(8), false, Close::Leave),
        (None, false, Close::Leave),
        (Some(8), true, Close::Unhold(Unhold { cookie: 7 })),
        (Some(7), false, LAST),
    ] {
        let process = Process::accepting(held);
        assert_eq!(process.table.close(3, cookie), expected);
    }
}

#[test]
fn what_was_closed_by_a_bare_call_makes_room() {
    let process = Process::accepting(true);
    let stale = process.accept(3, 8, true);
    assert_eq!(stale, Some(Unhold { cookie: 7 }));
    // The same one again, as after a second `connect`.
    assert_eq!(process.accept(3, 8, true), None);
    let last = Last { cookie: 8, held: true, ..ENDED };
    assert_eq!(process.table.close(3, Some(8)), Close::Last(last));
}

#[test]
fn a_full_table_tracks_no_more_and_holds_nothing() {
    let process = Process::new();
    for fd in 0..16 {
        assert_eq!(process.accept(fd, 100 + fd as u64, true), None);
    }
    assert!(!process.table.has_room_for(16) && process.table.has_room_for(15));
    assert_eq!(process.accept(16, 7, true), Some(Unhold { cookie: 7 }));
    assert_eq!(process.accept(16, 7, false), None);
    assert_eq!(process.close(16), Close::Leave);
}

#[test]
fn a_copy_beyond_the_table_makes_it_nobody_s() {
    for (copy, expected) in [(16, Close::Leave), (15, LAST)] {
        let process = Process::accepting(false);
        process.copy(3, copy);
        let _ = process.close(copy);
        assert_eq!(process.close(3), expected);
    }
    let process = Process::accepting(true);
    assert_eq!(process.table.copied(3, 16), Some(Unhold { cookie: 7 }));
}

/// The table of one process does not know whether the other process still has the connection. Each process reports
/// its own last close.
#[test]
fn of_two_processes_each_lets_go() {
    let parent = Process::accepting(false);
    parent.copy(3, 4);
    let child = parent.fork();
    assert!(child.table.is_of(2) && !child.table.is_of(1));
    for process in [&child, &parent] {
        assert_eq!((process.close(3), process.close(4)), (Close::Leave, LAST));
    }
}

#[test]
fn a_child_has_no_execve_under_way() {
    let parent = Process::accepting(false);
    assert_eq!(parent.executes(&[]), [Executes::Last(ENDED)]);
    let child = parent.fork();
    assert_eq!((parent.close(3), child.close(3)), (Close::Leave, LAST));
    assert!(!parent.table.begins() && child.table.begins());
}

#[test]
fn an_execve_waits_for_another() {
    let process = Process::accepting(false);
    assert!(process.table.begins());
    assert!(!process.table.begins());
    process.table.goes_on();
    assert!(process.table.begins());
}

#[test]
fn a_child_is_held_for_as_its_parent() {
    for held in [true, false] {
        let parent = Process::accepting(held);
        let child = parent.fork();
        assert_eq!(child.table.child_holds(3, Some(7)), held);
        child.table.not_held(3);
        assert_eq!((parent.close(3), child.close(3)), (Close::Last(Last { held, ..ENDED }), LAST));
    }
    // A connection that was handed over and then received or connected once more: the supervisor ends it, and
    // holds it for nobody.
    for (handed, received) in [(true, true), (true, false), (false, true), (false, false)] {
        let parent = Process::accepting(false);
        if handed {
            parent.table.handed(3);
        }
        let again =
            if received { parent.receive(4, 7, true) } else { parent.table.accepted(3, 7, ORIGIN, true) };
        assert_eq!(again, handed.then_some(Unhold { cookie: 7 }));
        assert_eq!(parent.table.entry(3).unwrap().held, !handed);
        let child = parent.fork();
        assert_eq!(child.table.child_holds(3, Some(7)), !handed);
        assert_eq!(child.table.entry(3).unwrap().held, !handed);
    }
    // The fd was closed by a bare system call: nothing is held under its cookie.
    let child = Process::accepting(true).fork();
    assert!(!child.table.child_holds(3, Some(8)));
    assert_eq!(child.close(3), Close::Leave);
}

#[test]
fn where_it_comes_from_is_known_until_it_is_passed() {
    let origin = |process: &Process| process.table.entry(3).unwrap().origin;
    let process = Process::accepting(false);
    assert_eq!((origin(&process), origin(&process.fork())), (ORIGIN, ORIGIN));
    // Received from another process, for the first time and again.
    assert_eq!(process.receive(5, 7, false), None);
    assert_eq!(origin(&process), Origin::UNKNOWN);
    let last = Last { origin: Origin::UNKNOWN, ..ENDED };
    assert_eq!((process.close(3), process.close(5)), (Close::Leave, Close::Last(last)));
    let process = Process::new();
    assert_eq!(process.receive(3, 7, false), None);
    assert_eq!(process.close(3), Close::Last(last));
}

/// A connection that is received while an `execve` is under way, which then fails.
#[test]
fn what_is_received_beside_an_execve_comes_from_elsewhere() {
    for (received, origin) in [(true, Origin::UNKNOWN), (false, ORIGIN)] {
        let process = Process::accepting(false);
        assert_eq!(process.executes(&[]).len(), 1);
        if received {
            assert_eq!(process.receive(5, 7, false), None);
        }
        assert_eq!(process.fails().len(), if received { 2 } else { 1 });
        let _ = process.close(5);
        assert_eq!(process.close(3), Close::Last(Last { origin, ..ENDED }));
    }
}

#[test]
fn an_origin_is_what_it_was_made_of() {
    assert_eq!(Origin::new(4_194_303, 5).known(), Some((4_194_303, 5)));
    assert_eq!(Origin::from_word(Origin::new(7, u64::MAX >> 22).word()).known(), Some((7, u64::MAX >> 22)));
    // Values that do not fit, and the start of the machine, are unknown.
    for (process, ms) in [(4_194_304, 5), (0, 5), (-1, 5), (7, 1 << 42), (7, 0)] {
        assert_eq!(Origin::new(process, ms).known(), None, "{process} {ms}");
    }
}

#[test]
fn a_shutdown_hands_over_once() {
    let process = Process::accepting(true);
    let hand_over = Shutdown::HandOver { cookie: 7 };
    assert_eq!(process.table.shutdown(4, Some(7)), Shutdown::Leave);
    assert_eq!(process.table.shutdown(3, Some(8)), Shutdown::Leave);
    assert_eq!(process.table.shutdown(3, Some(7)), hand_over);
    process.table.handed(3);
    assert_eq!(process.table.shutdown(3, Some(7)), Shutdown::Done);
    assert_eq!(process.close(3), Close::Handed(Epolls::Unknown));
}

#[test]
fn what_is_given_away_is_another_s() {
    let process = Process::accepting(true);
    process.copy(3, 4);
    assert_eq!(process.table.given_away(3), Some(Unhold { cookie: 7 }));
    assert_eq!(process.table.given_away(3), None);
    assert_eq!(process.table.entry(4).unwrap().phase, Phase::Given);
    assert_eq!(process.close(4), Close::Leave);
    let process = Process::accepting(false);
    assert_eq!(process.table.given_away(3), None);
    assert_eq!(process.close(3), Close::Leave);
}

#[test]
fn what_comes_back_is_ours_again() {
    let process = Process::accepting(false);
    process.copy(3, 4);
    assert_eq!(process.table.given_away(3), None);
    assert_eq!(process.receive(5, 7, false), None);
    let last = Last { origin: Origin::UNKNOWN, ..ENDED };
    assert_eq!((process.close(5), process.close(4)), (Close::Leave, Close::Last(last)));
    // Getting another connection does not take the passed one back.
    let process = Process::accepting(false);
    process.copy(3, 4);
    assert_eq!(process.table.given_away(3), None);
    assert_eq!(process.receive(5, 8, false), None);
    assert_eq!(process.close(4), Close::Leave);
}

/// The same while an `execve` is under way, which then fails: nothing of it is announced, and the connection is
/// not left to a plain close.
#[test]
fn what_comes_back_beside_an_execve_is_ours_again() {
    for comes_back in [true, false] {
        let process = Process::accepting(false);
        process.copy(3, 4);
        assert_eq!(process.table.given_away(3), None);
        assert_eq!(process.executes(&[]), []);
        if comes_back {
            assert_eq!(process.receive(5, 7, true), None);
        }
        assert_eq!(process.fails().iter().filter(|back| **back != TakenBack::default()).count(), 0);
        let _ = process.close(5);
        let last = Last { origin: Origin::UNKNOWN, held: true, ..ENDED };
        assert_eq!(process.close(4), if comes_back { Close::Last(last) } else { Close::Leave });
    }
}

#[test]
fn epolls_are_remembered() {
    let process = Process::accepting(false);
    process.table.made_epoll(9);
    process.table.made_epoll(9);
    process.table.made_epoll(11);
    let of = |epolls| process.table.each_epoll(epolls).collect::<Vec<_>>();
    assert_eq!(
        (of(Epolls::Unknown), of(Epolls::One(5)), of(Epolls::Many)),
        (vec![9, 11], vec![5], vec![9, 11])
    );
    for (epoll, expected) in [(9, Epolls::One(9)), (9, Epolls::One(9)), (11, Epolls::Many), (9, Epolls::Many)]
    {
        process.table.watched(3, epoll);
        assert_eq!(process.table.entry(3).unwrap().epolls, expected);
    }
    // An epoll's fd that is too large for the word counts as many epolls.
    let process = Process::accepting(false);
    process.table.watched(3, (1 << 20) - 3);
    assert_eq!(process.table.entry(3).unwrap().epolls, Epolls::One((1 << 20) - 3));
    let process = Process::accepting(false);
    process.table.watched(3, (1 << 20) - 2);
    assert_eq!(process.table.entry(3).unwrap().epolls, Epolls::Many);
}

/// An epoll has the connection under fd 3, which is closed before fd 4.
#[test]
fn a_registration_under_a_closed_fd_leaves_the_last_close_plain() {
    let last = |process: &Process, fd| match process.close(fd) {
        Close::Last(last) => last.stray,
        other => panic!("{other:?}"),
    };
    let registered = || {
        let process = Process::accepting(true);
        process.table.watched(3, 9);
        process.copy(3, 4);
        process
    };
    let process = registered();
    assert_eq!(process.close(3), Close::Leave);
    let child = process.fork();
    assert_eq!((last(&process, 4), last(&child, 4)), (true, true), "the child shares the epoll");
    // A `shutdown` of both sides hands nothing over then.
    let hand_over = Shutdown::HandOver { cookie: 7 };
    let process = registered();
    assert_eq!(process.table.shutdown(4, Some(7)), hand_over);
    assert_eq!(process.close(3), Close::Leave);
    assert_eq!(process.table.shutdown(4, Some(7)), Shutdown::Leave);
    // Once handed over it cannot be left: the registration goes with its fd. One without registration has nothing to remove.
    for (first, means) in [(3, Close::Handed(Epolls::One(9))), (4, Close::Leave)] {
        let process = registered();
        process.table.handed(4);
        assert_eq!(process.close(first), means);
    }

    // The registered fd is closed last; the copy was never registered; it was, and was removed before its close.
    let process = registered();
    assert_eq!((process.close(4), last(&process, 3)), (Close::Leave, false));
    let process = Process::accepting(true);
    process.copy(3, 4);
    assert_eq!((process.close(3), last(&process, 4)), (Close::Leave, false));
    let process = registered();
    process.table.unwatched(3, 9);
    assert_eq!((process.close(3), last(&process, 4)), (Close::Leave, false));
    // Another epoll still has it; and what is removed from an epoll that never had it stays where it was.
    let process = registered();
    process.table.watched(3, 11);
    process.table.unwatched(3, 9);
    assert_eq!((process.close(3), last(&process, 4)), (Close::Leave, true));
    let process = registered();
    process.table.unwatched(3, 11);
    assert_eq!((process.close(3), last(&process, 4)), (Close::Leave, true));
    // The next connection at these fds has nothing of it.
    assert_eq!(process.accept(3, 7, true), None);
    assert!(!last(&process, 3));
}

#[test]
fn an_exec_announces_what_it_closes() {
    let process = Process::accepting(false);
    process.copy(3, 4);
    assert_eq!(process.executes(&[]), [Executes::Last(ENDED)]);
    process.table.announced(3, Count::Handed);
    let back = TakenBack { unhold: Some(Unhold { cookie: 7 }), hold: None, uncount: Some(Count::Handed) };
    assert_eq!(process.fails(), [back, TakenBack::default()]);
    assert_eq!((process.close(3), process.close(4)), (Close::Leave, LAST));
    // One of the two fds survives the `execve`.
    let process = Process::accepting(false);
    process.copy(3, 4);
    assert_eq!(process.executes(&[4]), []);
    assert_eq!(process.fails(), [TakenBack::default(); 2]);
    assert_eq!((process.close(3), process.close(4)), (Close::Leave, LAST));
}

#[test]
fn an_exec_that_fails_holds_again() {
    let again = TakenBack { hold: Some(7), ..TakenBack::default() };
    let process = Process::accepting(true);
    assert_eq!(process.executes(&[3]), [Executes::Unhold(Unhold { cookie: 7 })]);
    assert_eq!(process.fails(), [again]);
    // A held connection is announced as well, so it is held again after the failure.
    let process = Process::accepting(true);
    assert_eq!(process.executes(&[]).len(), 1);
    process.table.announced(3, Count::Handed);
    assert_eq!(process.fails(), [TakenBack { uncount: Some(Count::Handed), ..again }]);
    assert!(process.table.entry(3).unwrap().held);
    // A connection that was to be closed plainly is held again, too.
    let process = Process::accepting(true);
    assert_eq!(process.executes(&[]).len(), 1);
    process.table.announced(3, Count::Finished);
    assert_eq!(process.fails(), [TakenBack { uncount: Some(Count::Finished), ..again }]);
}

#[test]
fn fds_are_gone_through_in_their_bounds() {
    let process = Process::new();
    for fd in [2, 5, 9] {
        assert_eq!(process.accept(fd, fd as u64, false), None);
    }
    let fds = |first, last| process.table.fds(first, last).collect::<Vec<_>>();
    assert_eq!((fds(0, i32::MAX), fds(-4, 5), fds(3, 8)), (vec![2, 5, 9], vec![2, 5], vec![5]));
    assert!(process.table.is_tracked(5) && !process.table.is_tracked(4) && !process.table.is_tracked(-1));
}
