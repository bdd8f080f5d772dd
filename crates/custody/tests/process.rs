//! What each event of a process means, each rule with a counter-example one step away.

use linger_custody::Count;
use linger_custody::process::{
    Close, Epolls, Executes, Last, Phase, ShareWord, Shares, Shutdown, Table, TakenBack, Unhold,
};

const LAST: Close = Close::Last(Last { cookie: 7, held: false, epolls: Epolls::Unknown });

struct Process {
    table: Table<16>,
    shares: &'static [ShareWord],
}

impl Process {
    fn new() -> Self {
        Self::with_counters(4)
    }

    fn with_counters(counters: usize) -> Self {
        let words: Vec<ShareWord> = (0..counters).map(|_| ShareWord::new()).collect();
        let process = Self { table: Table::new(), shares: words.leak() };
        process.table.belongs_to(1);
        process
    }

    /// With one connection: fd 3, cookie 7.
    fn accepting(held: bool) -> Self {
        let process = Self::new();
        assert_eq!(process.table.accepted(3, 7, held, process.shares()), None);
        process
    }

    fn shares(&self) -> Shares<'static> {
        Shares::new(self.shares)
    }

    fn close(&self, fd: i32) -> Close {
        self.table.close(fd, Some(7), self.shares(), false)
    }

    fn copy(&self, old: i32, new: i32) {
        assert_eq!(self.table.copied(old, new, self.shares()), None);
    }

    fn prepare(&self) -> Vec<Unhold> {
        assert!(self.table.begins());
        self.table.fds(0, i32::MAX).filter_map(|fd| self.table.prepare(fd, self.shares())).collect()
    }

    fn child(&self) -> Self {
        let child = Self { table: self.table.forked(), shares: self.shares };
        child.table.child(2);
        child
    }

    fn fork(&self) -> Self {
        assert_eq!(self.prepare(), []);
        let child = self.child();
        self.table.parent();
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
            all.push(self.table.executes(fd, Some(7), self.shares()));
        }
        all.retain(|decision| *decision != Executes::Leave);
        all
    }

    fn fails(&self) -> Vec<TakenBack> {
        let each = self.table.fds(0, i32::MAX);
        let all = each.map(|fd| self.table.failed_to_execute(fd, Some(7), self.shares())).collect();
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
        assert_eq!(process.table.close(3, cookie, process.shares(), false), expected);
    }
}

#[test]
fn what_was_closed_by_a_bare_call_makes_room() {
    let process = Process::accepting(true);
    let stale = process.table.accepted(3, 8, true, process.shares());
    assert_eq!(stale, Some(Unhold { cookie: 7 }));
    // The same one again, as after a second `connect`.
    assert_eq!(process.table.accepted(3, 8, true, process.shares()), None);
    let last = Last { cookie: 8, held: true, epolls: Epolls::Unknown };
    assert_eq!(process.table.close(3, Some(8), process.shares(), false), Close::Last(last));
}

#[test]
fn a_full_table_tracks_no_more_and_holds_nothing() {
    let process = Process::new();
    for fd in 0..16 {
        assert_eq!(process.table.accepted(fd, 100 + fd as u64, true, process.shares()), None);
    }
    assert!(!process.table.has_room_for(16) && process.table.has_room_for(15));
    assert_eq!(process.table.accepted(16, 7, true, process.shares()), Some(Unhold { cookie: 7 }));
    assert_eq!(process.table.accepted(16, 7, false, process.shares()), None);
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
    assert_eq!(process.table.copied(3, 16, process.shares()), Some(Unhold { cookie: 7 }));
}

#[test]
fn of_two_processes_the_last_ends() {
    let parent = Process::accepting(false);
    let child = parent.fork();
    assert_eq!((parent.close(3), child.close(3)), (Close::Shared(None), LAST));
    let parent = Process::accepting(false);
    let child = parent.fork();
    assert_eq!((child.close(3), parent.close(3)), (Close::Shared(None), LAST));
}

#[test]
fn copies_are_one_share() {
    let parent = Process::accepting(false);
    parent.copy(3, 4);
    let child = parent.fork();
    let grandchild = child.fork();
    for process in [&child, &grandchild] {
        assert_eq!((process.close(3), process.close(4)), (Close::Leave, Close::Shared(None)));
    }
    assert_eq!((parent.close(3), parent.close(4)), (Close::Leave, LAST));
}

#[test]
fn a_close_waits_for_a_fork() {
    let process = Process::accepting(false);
    assert_eq!(process.prepare(), []);
    assert_eq!(process.close(3), Close::Wait);
    process.table.parent();
    // There was no child, which nobody tells.
    assert_eq!(process.close(3), Close::Shared(None));
    let process = Process::accepting(false);
    assert_eq!(process.prepare(), []);
    assert_eq!(process.table.close(3, Some(7), process.shares(), true), Close::Shared(None));
}

#[test]
fn a_child_has_nothing_that_came_late() {
    let process = Process::new();
    assert_eq!(process.prepare(), []);
    assert_eq!(process.table.accepted(3, 7, false, process.shares()), None);
    let child = process.child();
    process.table.parent();
    assert_eq!((child.close(3), process.close(3)), (Close::Leave, LAST));
    assert!(child.table.is_of(2) && !child.table.is_of(1));
}

#[test]
fn without_a_counter_nobody_ends_it() {
    for (held, expected) in [(true, vec![Unhold { cookie: 7 }]), (false, vec![])] {
        let process = Process::with_counters(0);
        assert_eq!(process.table.accepted(3, 7, held, process.shares()), None);
        assert_eq!(process.prepare(), expected);
        let child = process.child();
        process.table.parent();
        assert_eq!((process.close(3), child.close(3)), (Close::Leave, Close::Leave));
    }
}

#[test]
fn counters_come_back() {
    let process = Process::with_counters(1);
    for _ in 0..3 {
        assert_eq!(process.table.accepted(3, 7, false, process.shares()), None);
        let child = process.fork();
        assert_eq!((process.close(3), child.close(3)), (Close::Shared(None), LAST));
    }
}

#[test]
fn forks_are_one_at_a_time() {
    let process = Process::accepting(false);
    assert!(process.table.begins());
    assert!(!process.table.begins());
    process.table.parent();
    assert!(process.table.begins());
}

#[test]
fn a_child_is_held_for_as_its_parent() {
    for held in [true, false] {
        let parent = Process::accepting(held);
        let child = parent.fork();
        assert_eq!(child.table.child_holds(3, Some(7), child.shares()), held);
        let unhold = held.then_some(Unhold { cookie: 7 });
        assert_eq!(parent.close(3), Close::Shared(unhold));
        child.table.not_held(3);
        assert_eq!(child.close(3), LAST);
    }
    // Closed by a bare call: nothing is held under its cookie.
    let child = Process::accepting(true).fork();
    assert!(!child.table.child_holds(3, Some(8), child.shares()));
    assert_eq!(child.close(3), Close::Leave);
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
    assert_eq!(process.table.received(5, 7, false, process.shares()), None);
    assert_eq!((process.close(5), process.close(4)), (Close::Leave, LAST));
    // Another connection does not make it so.
    let process = Process::accepting(false);
    process.copy(3, 4);
    assert_eq!(process.table.given_away(3), None);
    assert_eq!(process.table.received(5, 8, false, process.shares()), None);
    assert_eq!(process.close(4), Close::Leave);
}

#[test]
fn a_shutdown_hands_over_once() {
    let process = Process::accepting(true);
    let hand_over = Shutdown::HandOver { cookie: 7 };
    assert_eq!(process.table.shutdown(4, Some(7), process.shares()), Shutdown::Leave);
    assert_eq!(process.table.shutdown(3, Some(8), process.shares()), Shutdown::Leave);
    assert_eq!(process.table.shutdown(3, Some(7), process.shares()), hand_over);
    assert!(process.table.handed(3, process.shares()));
    assert!(!process.table.handed(3, process.shares()));
    assert_eq!(process.table.shutdown(3, Some(7), process.shares()), Shutdown::Done);
    assert_eq!(process.close(3), Close::Handed(Epolls::Unknown, None));
}

#[test]
fn a_shutdown_is_known_in_other_processes() {
    let parent = Process::accepting(true);
    let child = parent.fork();
    assert!(parent.table.handed(3, parent.shares()));
    assert_eq!(child.table.shutdown(3, Some(7), child.shares()), Shutdown::Done);
    assert!(!child.table.handed(3, child.shares()));
    assert_eq!(parent.close(3), Close::Handed(Epolls::Unknown, None));
    assert_eq!(child.close(3), Close::Handed(Epolls::Unknown, None));
    // Not handed over by the child itself: its hold is still there.
    let parent = Process::accepting(true);
    let child = parent.fork();
    assert!(parent.table.handed(3, parent.shares()));
    let unhold = Some(Unhold { cookie: 7 });
    assert_eq!(child.close(3), Close::Handed(Epolls::Unknown, unhold));
    assert_eq!(parent.close(3), Close::Handed(Epolls::Unknown, None));
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
    // A number that does not fit is one of many.
    let process = Process::accepting(false);
    process.table.watched(3, (1 << 20) - 3);
    assert_eq!(process.table.entry(3).unwrap().epolls, Epolls::One((1 << 20) - 3));
    let process = Process::accepting(false);
    process.table.watched(3, (1 << 20) - 2);
    assert_eq!(process.table.entry(3).unwrap().epolls, Epolls::Many);
}

#[test]
fn an_exec_announces_what_it_closes() {
    let last = Last { cookie: 7, held: false, epolls: Epolls::Unknown };
    let process = Process::accepting(false);
    process.copy(3, 4);
    assert_eq!(process.executes(&[]), [Executes::Last(last)]);
    process.table.announced(3, Count::Handed);
    let back = TakenBack { unhold: Some(Unhold { cookie: 7 }), hold: None, uncount: Some(Count::Handed) };
    assert_eq!(process.fails(), [back, TakenBack::default()]);
    assert_eq!((process.close(3), process.close(4)), (Close::Leave, LAST));
    // One of the two survives.
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
    let parent = Process::accepting(true);
    let child = parent.fork();
    assert_eq!(child.executes(&[]), [Executes::Unhold(Unhold { cookie: 7 })]);
    assert_eq!(child.fails(), [again]);
    assert_eq!(
        (parent.close(3), child.close(3)),
        (
            Close::Shared(Some(Unhold { cookie: 7 })),
            Close::Last(Last { cookie: 7, held: true, epolls: Epolls::Unknown }),
        )
    );
    // What is held is announced as well, so it is held again.
    let process = Process::accepting(true);
    assert_eq!(process.executes(&[]).len(), 1);
    process.table.announced(3, Count::Handed);
    assert_eq!(process.fails(), [TakenBack { uncount: Some(Count::Handed), ..again }]);
    assert!(process.table.entry(3).unwrap().held);
    // What was to be closed plainly is held again, too.
    let process = Process::accepting(true);
    assert_eq!(process.executes(&[]).len(), 1);
    process.table.announced(3, Count::Finished);
    assert_eq!(process.fails(), [TakenBack { uncount: Some(Count::Finished), ..again }]);
}

#[test]
fn an_exec_that_fails_takes_its_part_again() {
    let parent = Process::accepting(false);
    let child = parent.fork();
    assert_eq!(child.executes(&[]), []);
    assert_eq!(child.fails(), [TakenBack::default()]);
    assert_eq!((child.close(3), parent.close(3)), (Close::Shared(None), LAST));
    // The others have closed it meanwhile.
    let parent = Process::accepting(false);
    let child = parent.fork();
    assert_eq!(child.executes(&[]), []);
    assert_eq!(parent.close(3), LAST);
    assert_eq!(child.fails(), [TakenBack::default()]);
    assert_eq!(child.close(3), Close::Handed(Epolls::Unknown, None));
}

#[test]
fn fds_are_gone_through_in_their_bounds() {
    let process = Process::new();
    for fd in [2, 5, 9] {
        assert_eq!(process.table.accepted(fd, fd as u64, false, process.shares()), None);
    }
    let fds = |first, last| process.table.fds(first, last).collect::<Vec<_>>();
    assert_eq!((fds(0, i32::MAX), fds(-4, 5), fds(3, 8)), (vec![2, 5, 9], vec![2, 5], vec![5]));
    assert!(process.table.is_tracked(5) && !process.table.is_tracked(4) && !process.table.is_tracked(-1));
}
