//! Decisions of the world, each beside a case that differs in one field and is decided otherwise.

use std::time::Duration;

use linger_custody::world::{
    Action, Answer, Ask, Caller, Census, Cookie, Event, Inode, Limits, Open, Pid, ProcessFd, Seen, State,
    Tid, Unseen, Way, World,
};
use linger_custody::{Count, Socket};

const COOKIE: Cookie = Cookie(7);
const INODE: Inode = Inode(70);

fn caller(pid: u32) -> Caller {
    Caller { pid: Pid(pid), tid: Tid(pid * 10) }
}

fn seen(fd: i32) -> Seen {
    Seen { fd, cookie: COOKIE, inode: INODE, socket: Socket::default() }
}

fn name(pid: u32, fd: i32) -> ProcessFd {
    ProcessFd { pid: Pid(pid), fd }
}

/// A world, and the truth about the program.
#[derive(Default)]
struct Bed {
    world: World,
    names: Vec<ProcessFd>,
    hidden: bool,
    /// Threads that are within a call that copies.
    copying: Vec<Tid>,
    /// The answer to a hand-over, if it is not taken.
    refusal: Option<Answer>,
    now: Duration,
}

impl Bed {
    /// Reports an event, answers the world's questions truthfully, and returns all actions, questions included.
    fn tell(&mut self, event: Event<'_>) -> Vec<Action> {
        self.world.on(event, self.now);
        let mut done = Vec::new();
        while let Some(action) = self.world.next() {
            if let Action::Ask(ask) = &action {
                let answer = self.answer(ask);
                self.world.answer(answer, self.now);
            }
            done.push(action);
        }
        done
    }

    fn answer(&self, ask: &Ask) -> Answer {
        let mut census = Census { hidden: self.hidden, ..Census::default() };
        if !self.names.is_empty() {
            census.names.insert(INODE, self.names.clone());
        }
        let copying = self.copying.clone();
        match ask {
            Ask::Which { names, .. } => {
                Answer::ProcessFd(names.iter().find(|name| self.names.contains(name)).copied())
            }
            Ask::Census { .. } => Answer::Census { copying, census },
            Ask::Flights { .. } => {
                Answer::Flights { copying, sending: Vec::new(), quiet: true, census, took: Duration::ZERO }
            }
            Ask::Socket(_) => Answer::Socket(Socket::default()),
            Ask::HandOver { .. } => self.refusal.clone().unwrap_or(Answer::Done(true)),
            Ask::Unwatch(_) | Ask::HandOverShutdown { .. } => Answer::Done(true),
            Ask::Discard(_) => unreachable!("no test has unread bytes at a finished peer"),
        }
    }

    /// A process makes its first call, with these fds of the connection.
    fn appear(&mut self, pid: u32, fds: &[i32]) {
        let open: Vec<Open> =
            fds.iter().map(|fd| Open { fd: *fd, inode: INODE, cookie: Some(COOKIE) }).collect();
        self.tell(Event::Appeared { caller: caller(pid), open: &open, hidden: false });
    }

    /// Closes an fd, and returns what was done after it was gone.
    fn close(&mut self, pid: u32, fd: i32) -> Vec<Action> {
        let before = self.tell(Event::Close { caller: caller(pid), seen: seen(fd), way: Way::Close });
        self.names.retain(|other| *other != name(pid, fd));
        self.closed(&before)
    }

    fn closed(&mut self, before: &[Action]) -> Vec<Action> {
        let kept = before.iter().find_map(|action| match action {
            Action::Keep(kept) => Some(*kept),
            _ => None,
        });
        self.tell(Event::Closed(kept.expect("it was kept")))
    }
}

fn hands_over(done: &[Action]) -> bool {
    done.iter().any(|action| matches!(action, Action::Ask(Ask::HandOver { .. })))
}

fn counts(done: &[Action]) -> Vec<Count> {
    let counts = done.iter().filter_map(|action| match action {
        Action::Count { reason, .. } => Some(*reason),
        _ => None,
    });
    counts.collect()
}

fn unwatches(done: &[Action]) -> bool {
    done.iter().any(|action| matches!(action, Action::Ask(Ask::Unwatch(_))))
}

#[test]
fn the_last_fd_ends_a_connection_and_the_last_but_one_does_not() {
    let mut bed = Bed { names: vec![name(1, 3), name(2, 3)], ..Bed::default() };
    bed.appear(1, &[3]);
    bed.appear(2, &[3]);
    let first = bed.close(1, 3);
    assert!(!hands_over(&first));
    assert_eq!(counts(&first), [Count::Shared]);
    let last = bed.close(2, 3);
    assert!(hands_over(&last));
    assert_eq!(counts(&last), [Count::Handed]);
}

#[test]
fn epolls_forget_the_last_fd_before_the_call_and_no_other() {
    let mut bed = Bed { names: vec![name(1, 3), name(1, 4)], ..Bed::default() };
    bed.appear(1, &[3, 4]);
    let event = Event::Close { caller: caller(1), seen: seen(3), way: Way::Close };
    let before = bed.tell(event);
    assert!(!unwatches(&before), "fd 4 is still there");
    bed.names.remove(0);
    bed.closed(&before);
    assert!(unwatches(&bed.tell(Event::Close { caller: caller(1), seen: seen(4), way: Way::Close })));
}

#[test]
fn a_plain_end_is_counted_at_a_close_and_after_an_exit() {
    let finished = Socket { peer_finished: true, ..Socket::default() };
    let close = |way| {
        let mut bed = Bed { names: vec![name(1, 3)], ..Bed::default() };
        bed.tell(Event::Calls(Tid(10)));
        bed.tell(Event::Close { caller: caller(1), seen: Seen { socket: finished, ..seen(3) }, way })
    };
    assert_eq!(counts(&close(Way::Close)), [Count::Finished]);
    for way in [Way::Exit, Way::Exec, Way::Replace] {
        let done = close(way);
        assert_eq!(counts(&done), [], "{way:?} may not happen, or not to it alone");
        assert!(done.iter().any(|action| matches!(action, Action::Keep(_))));
    }
}

#[test]
fn two_messages_are_two() {
    for messages in [1, 2] {
        let mut bed = Bed { names: vec![name(1, 3)], ..Bed::default() };
        bed.appear(1, &[3]);
        for _ in 0..messages {
            bed.tell(Event::Send { caller: caller(1), seen: seen(3), abroad: false });
        }
        bed.close(1, 3);
        // One message has arrived.
        bed.appear(2, &[]);
        bed.names = vec![name(2, 5)];
        let done = bed.close(2, 5);
        assert_eq!(hands_over(&done), messages == 1, "{messages} messages");
    }
}

#[test]
fn a_child_that_cannot_be_seen_yet_is_waited_for() {
    for under_way in [true, false] {
        let mut bed = Bed { names: vec![name(1, 3)], ..Bed::default() };
        bed.appear(1, &[3]);
        let open = [Open { fd: 3, inode: INODE, cookie: None }];
        bed.tell(Event::Fork { caller: caller(1), open: &open, hidden: false, alone: true });
        if under_way {
            bed.copying.push(Tid(10));
        }
        let done = bed.close(1, 3);
        assert_eq!(hands_over(&done), !under_way, "under way: {under_way}");
        assert_eq!(bed.world.due().is_some(), under_way);
    }
}

#[test]
fn a_fork_beside_other_threads_makes_a_new_connection_doubtful() {
    for alone in [true, false] {
        let mut bed = Bed::default();
        bed.appear(1, &[]);
        bed.tell(Event::Fork { caller: caller(1), open: &[], hidden: false, alone });
        // Accepted since. The child has it, too, if another thread could accept it.
        bed.names = vec![name(1, 3)];
        if !alone {
            bed.names.push(name(2, 3));
        }
        let done = bed.close(1, 3);
        assert_eq!(hands_over(&done), alone, "alone: {alone}");
    }
}

#[test]
fn of_a_killed_holder_a_child_that_cannot_be_seen_yet_may_be_the_heir() {
    for under_way in [true, false] {
        let mut bed = Bed::default();
        bed.appear(1, &[]);
        bed.tell(Event::Accepted { cookie: COOKIE, inode: INODE, pid: Pid(1) });
        bed.appear(2, &[3]);
        let open = [Open { fd: 3, inode: INODE, cookie: None }];
        bed.tell(Event::Fork { caller: caller(2), open: &open, hidden: false, alone: false });
        // Another thread of process 2 has closed its fd since the child got one.
        if under_way {
            bed.copying.push(Tid(20));
        }
        let done = bed.tell(Event::Died(Pid(1)));
        assert_eq!(hands_over(&done), !under_way, "under way: {under_way}");
        assert_eq!(bed.world.due().is_some(), under_way);
    }
}

#[test]
fn what_another_thread_puts_at_an_fd_that_is_being_copied_is_looked_at() {
    for copied in [true, false] {
        let mut bed = Bed::default();
        bed.appear(1, &[]);
        if copied {
            let other = Seen { cookie: Cookie(8), inode: Inode(80), ..seen(3) };
            bed.tell(Event::Copy { caller: caller(1), seen: other });
        }
        bed.names = vec![name(1, 3)];
        if copied {
            bed.names.push(name(1, 5));
        }
        assert_eq!(hands_over(&bed.close(1, 3)), !copied, "copied: {copied}");
    }
}

#[test]
fn what_a_hidden_process_has_left_to_its_children_is_looked_at() {
    for hidden in [true, false] {
        let mut bed = Bed::default();
        bed.appear(1, &[]);
        if hidden {
            bed.tell(Event::Hidden { pid: Pid(1), does: Unseen::Copies });
        }
        bed.tell(Event::Died(Pid(1)));
        bed.names = vec![name(2, 3)];
        if hidden {
            bed.names.push(name(3, 3));
        }
        assert_eq!(hands_over(&bed.close(2, 3)), !hidden, "hidden: {hidden}");
    }
}

/// A connection may be in a message without a notification, until nothing is in flight. What was open then may be in
/// another program. What is accepted later is not, but a call that was under way may have copied it.
#[test]
fn what_was_done_unheard_is_looked_for() {
    let none = Census::default();
    let hidden = Census { hidden: true, ..Census::default() };
    let mut open = Census::default();
    open.names.insert(INODE, vec![name(1, 3)]);
    for (unheard, heard, copied, ends) in [
        (false, vec![], false, true),
        (true, vec![], false, false),
        (true, vec![&open], false, false),
        (true, vec![&none], false, true),
        // Nobody knows whether a process that cannot be looked at has the connection, until it has ended.
        (true, vec![&hidden], false, false),
        (true, vec![&hidden, &none], false, true),
        (true, vec![&none], true, false),
    ] {
        let mut bed = Bed::default();
        bed.appear(1, &[]);
        if unheard {
            bed.tell(Event::Unnotified);
        }
        for census in &heard {
            bed.tell(Event::CaughtUp(census));
        }
        bed.names = vec![name(1, 3)];
        if copied {
            bed.names.push(name(1, 5));
        }
        assert_eq!(hands_over(&bed.close(1, 3)), ends, "{unheard} {heard:?} {copied}");
    }
}

/// The kernel gives an inode again. What may be in another program is forgotten by a look that finds it nowhere, unless
/// the look is not the whole truth, or an event is being told of it.
#[test]
fn what_may_have_been_sent_unheard_is_forgotten_when_it_is_gone() {
    let mut open = Census::default();
    open.names.insert(INODE, vec![name(1, 3)]);
    for (looked, gone, hidden, copying, ends) in [
        (true, true, false, false, true),
        (false, true, false, false, false),
        (true, false, false, false, false),
        (true, true, true, false, false),
        (true, true, false, true, false),
    ] {
        let mut bed = Bed { hidden, ..Bed::default() };
        bed.appear(1, &[]);
        bed.tell(Event::Unnotified);
        bed.tell(Event::CaughtUp(&open));
        if copying {
            bed.tell(Event::Fork { caller: caller(1), open: &[], hidden: false, alone: true });
            bed.copying.push(Tid(10));
        }
        if !gone {
            bed.names = vec![name(1, 3)];
        }
        if looked {
            // Unheard calls may have copied another connection, so that all fds are looked at.
            let other = Seen { cookie: Cookie(8), inode: Inode(80), ..seen(4) };
            bed.tell(Event::Close { caller: caller(1), seen: other, way: Way::Close });
        }
        bed.hidden = false;
        bed.copying.clear();
        assert_eq!(hands_over(&bed.close(1, 3)), ends, "{looked} {gone} {hidden} {copying}");
    }
}

/// A connection that is being closed when nothing is in flight any more may have been sent before that.
#[test]
fn what_is_being_closed_when_all_is_heard_was_there_before() {
    for unheard in [true, false] {
        let mut bed = Bed { names: vec![name(1, 3)], ..Bed::default() };
        bed.appear(1, &[]);
        if unheard {
            bed.tell(Event::Unnotified);
        }
        let before = bed.tell(Event::Close { caller: caller(1), seen: seen(3), way: Way::Close });
        bed.names.clear();
        if unheard {
            bed.tell(Event::CaughtUp(&Census::default()));
        }
        assert_eq!(hands_over(&bed.closed(&before)), !unheard, "unheard: {unheard}");
    }
}

/// The child of an unheard fork ends what its parent closed, and its unread bytes are counted then. Where only nobody has
/// taken the connection, it is over, and another thread's call that closes it as well does not end it again.
#[test]
fn a_close_that_may_not_be_the_last_is_no_end() {
    let unread = Seen { socket: Socket { unread: 5, ..Socket::default() }, ..seen(3) };
    for (refusal, first, again) in [
        (Answer::Unsure, vec![Count::Refused], vec![Count::Unread, Count::Handed]),
        (Answer::Done(false), vec![Count::Unread, Count::Refused], vec![]),
    ] {
        let mut bed = Bed { names: vec![name(1, 3)], refusal: Some(refusal), ..Bed::default() };
        bed.appear(1, &[]);
        let close = |pid| Event::Close { caller: caller(pid), seen: unread, way: Way::Close };
        let before = bed.tell(close(1));
        bed.names.clear();
        let done = bed.closed(&before);
        assert_eq!(counts(&done), first);
        bed.refusal = None;
        bed.names = vec![name(2, 3)];
        let mut done = bed.tell(close(2));
        bed.names.clear();
        if done.iter().any(|action| matches!(action, Action::Keep(_))) {
            done.extend(bed.closed(&done));
        }
        assert_eq!(counts(&done), again);
        assert_eq!(hands_over(&done), !again.is_empty());
    }
}

/// A held connection that no process has after unheard calls was closed, and is counted. But if its process cannot be
/// looked at, the connection is only released, and the close is counted when it is reported.
#[test]
fn what_was_held_and_closed_unheard_is_counted_if_it_is_sure_to_be_closed() {
    for (hidden, died, counted) in
        [(false, false, vec![Count::Refused]), (true, false, vec![]), (true, true, vec![Count::Refused])]
    {
        let mut bed = Bed { hidden, ..Bed::default() };
        bed.appear(1, &[]);
        bed.tell(Event::Accepted { cookie: COOKIE, inode: INODE, pid: Pid(1) });
        let mut done = Vec::new();
        if died {
            // The unheard calls are reported before the death.
            bed.names = vec![name(1, 3)];
            done.extend(bed.tell(Event::Unnotified));
            bed.names.clear();
            done.extend(bed.tell(Event::Died(Pid(1))));
        } else {
            done.extend(bed.tell(Event::Unnotified));
        }
        assert!(done.contains(&Action::Release(COOKIE)), "{hidden} {died}");
        assert_eq!(counts(&done), counted, "{hidden} {died}");
    }
}

#[test]
fn what_was_shut_down_and_is_gone_is_forgotten_at_the_next_look() {
    for gone in [true, false] {
        let limits = Limits { shared: 2, ..Limits::default() };
        let mut bed = Bed { world: World::new(limits), names: vec![name(1, 3)], ..Bed::default() };
        bed.tell(Event::Shutdown(seen(3)));
        assert_eq!(bed.world.state(COOKIE), State::ShutDown);
        if gone {
            bed.names.clear();
        }
        for cookie in [8, 9] {
            let other = Seen { cookie: Cookie(cookie), inode: Inode(10 * cookie), ..seen(4) };
            bed.tell(Event::Shutdown(other));
        }
        assert_eq!(bed.world.state(COOKIE), if gone { State::Unknown } else { State::ShutDown });
    }
}

#[test]
fn what_is_seen_between_two_looks_has_been_nowhere_for_one_look_only() {
    for seen_again in [true, false] {
        let mut bed = Bed { names: vec![name(1, 3)], ..Bed::default() };
        bed.appear(1, &[3]);
        bed.tell(Event::Send { caller: caller(1), seen: seen(3), abroad: false });
        bed.close(1, 3);
        bed.now = bed.world.due().expect("it is looked for");
        assert!(!hands_over(&bed.tell(Event::Tick)), "one look is not enough");
        if seen_again {
            // The sender has received the connection back, and sends it on.
            bed.names = vec![name(1, 4)];
            bed.tell(Event::Send { caller: caller(1), seen: seen(4), abroad: false });
            bed.close(1, 4);
        }
        bed.now = bed.world.due().expect("it is looked for still");
        assert_eq!(hands_over(&bed.tell(Event::Tick)), !seen_again, "seen again: {seen_again}");
    }
}

#[test]
fn what_nobody_can_prove_is_left_alone_and_counted() {
    for hidden in [true, false] {
        let mut bed = Bed { names: vec![name(1, 3), name(2, 3)], ..Bed::default() };
        bed.appear(1, &[3]);
        bed.appear(2, &[3]);
        bed.names = vec![name(1, 3)];
        bed.hidden = hidden;
        let done = bed.close(1, 3);
        assert_eq!(counts(&done), [if hidden { Count::Refused } else { Count::Handed }]);
        assert_eq!(hands_over(&done), !hidden);
    }
}

#[test]
fn a_world_that_holds_something_is_not_idle() {
    let mut bed = Bed::default();
    assert!(bed.world.is_idle());
    bed.tell(Event::Accepted { cookie: COOKIE, inode: INODE, pid: Pid(1) });
    assert!(!bed.world.is_idle(), "held");
    let mut bed = Bed { names: vec![name(1, 3)], ..Bed::default() };
    bed.tell(Event::Close { caller: caller(1), seen: seen(3), way: Way::Close });
    assert!(!bed.world.is_idle(), "kept");
}
