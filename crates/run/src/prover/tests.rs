//! The order of a proof on a machine of which everything is known: each rule with a counter-example one field away.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use super::*;

const ROOT: Pid = Pid(100);
const CHILD: Pid = Pid(101);
const ACCEPTED_MS: u64 = 5_000;

/// Processes, their births and sockets, and a clock that each question moves on.
#[derive(Default)]
struct Fake {
    started: Option<Instant>,
    elapsed: Cell<Duration>,
    /// How long a search through one process takes.
    search: Duration,
    is_unlisted: bool,
    family: Relations,
    /// What each process has; none where it does not let itself be looked at.
    fds: HashMap<Pid, Option<HashMap<u64, Vec<i32>>>>,
    /// Made with the next update.
    born: Vec<(Pid, u64)>,
    /// Yet to appear, and seen to have been given its pid at this time.
    unborn: Option<(Pid, u64)>,
    searches: Cell<usize>,
}

impl ProcessSights for Fake {
    fn now(&self) -> Instant {
        self.started.unwrap() + self.elapsed.get()
    }

    fn update(&mut self, since_ms: u64) -> bool {
        let unborn = self.unborn.take_if(|(_, seen_ms)| since_ms <= *seen_ms);
        for (pid, born_by_ms) in self.born.drain(..).chain(unborn) {
            self.family.insert(pid, born_by_ms);
        }
        !self.is_unlisted
    }

    fn family(&self) -> &Relations {
        &self.family
    }

    fn is_there(&self, pid: Pid) -> bool {
        self.fds.contains_key(&pid)
    }

    fn has(&self, name: ProcessFd, inode: u64) -> bool {
        let fds = self.fds.get(&name.pid).and_then(Option::as_ref);
        fds.and_then(|fds| fds.get(&inode)).is_some_and(|fds| fds.contains(&name.fd))
    }

    fn sockets(&self, pid: Pid) -> Option<HashMap<u64, Vec<i32>>> {
        self.searches.set(self.searches.get() + 1);
        self.elapsed.set(self.elapsed.get() + self.search);
        self.fds.get(&pid).cloned().unwrap_or_default()
    }
}

/// A connection's two ends; the first is what the supervisor has.
struct Socket(OwnedFd, u64);

fn socket() -> Socket {
    let fd = OwnedFd::from(UnixStream::pair().unwrap().0);
    let inode = rustix::fs::fstat(&fd).unwrap().st_ino;
    Socket(fd, inode)
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Sole(u64),
    Shared(u64),
    Hidden(u64, Option<Pid>),
}

struct Trial {
    prover: Prover<Fake>,
    users: Shares,
}

impl Trial {
    /// A program of two processes, of which the child was made a second before the accept, and is known well enough not to be
    /// looked at for each connection.
    fn new() -> Self {
        let mut machine = Fake { started: Some(Instant::now()), ..Fake::default() };
        for (pid, born_by_ms) in [(ROOT, 1_000), (CHILD, 4_000)] {
            machine.family.insert(pid, born_by_ms);
            machine.fds.insert(pid, Some(HashMap::new()));
        }
        let mut prover = Prover::on(machine);
        prover.untrusted = 0;
        prover.next_audit += Duration::from_secs(3_600);
        Self { prover, users: Shares::new(100, 100) }
    }

    /// A child that may have inherited the connection.
    fn with_heir() -> Self {
        let mut trial = Self::new();
        trial.prover.machine.family.insert(CHILD, ACCEPTED_MS);
        trial
    }

    fn gives(&mut self, pid: Pid, socket: &Socket, fds: &[i32]) {
        let of = self.prover.machine.fds.get_mut(&pid).unwrap().as_mut().unwrap();
        of.insert(socket.1, fds.to_vec());
    }

    fn closes(&mut self, pid: Pid, socket: &Socket) {
        self.prover.machine.fds.get_mut(&pid).unwrap().as_mut().unwrap().remove(&socket.1);
    }

    fn nominate(&mut self, socket: &Socket, cookie: u64, by: (Pid, i32)) {
        let origin = Origin::new(ROOT.0.cast_signed(), ACCEPTED_MS);
        let passed = Passed { fd: socket.0.try_clone().unwrap(), share: self.users.take(1).unwrap() };
        let by = ProcessFd { pid: by.0, fd: by.1 };
        self.prover.nominate(Nominee { passed, cookie, by, origin, unread: 0, closed: true });
    }

    fn judge(&mut self) -> Vec<Told> {
        let mut all = Vec::new();
        self.prover.judge(|proof| {
            all.push(match proof {
                Proof::Sole(nominee) => Told::Sole(nominee.cookie),
                Proof::Shared(nominee) => Told::Shared(nominee.cookie),
                Proof::Hidden(nominee, pid) => Told::Hidden(nominee.cookie, pid),
            });
        });
        all
    }

    /// Waits until it is to be judged again.
    fn wait(&mut self) {
        let machine = &self.prover.machine;
        let due = self.prover.due().unwrap().saturating_duration_since(machine.now());
        machine.elapsed.set(machine.elapsed.get() + due);
    }

    fn pass(&mut self, time: Duration) {
        let elapsed = &self.prover.machine.elapsed;
        elapsed.set(elapsed.get() + time);
    }
}

#[test]
fn what_nobody_can_have_inherited_is_proved_without_a_search() {
    let (mut trial, socket) = (Trial::new(), socket());
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!(trial.judge(), [Told::Sole(7)]);
    assert_eq!((trial.prover.machine.searches.get(), trial.prover.looks(), trial.prover.due()), (0, 0, None));
    // Made at the moment of the accept: it may have it.
    let mut trial = Trial::with_heir();
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!((trial.judge(), trial.prover.looks()), (vec![], 1));
    // It is told with the next judgement: whoever had it until the look may have nominated it meanwhile.
    trial.wait();
    assert_eq!((trial.judge(), trial.prover.due()), (vec![Told::Sole(7)], None));
}

#[test]
fn the_close_that_was_announced_is_waited_for() {
    let (mut trial, socket) = (Trial::with_heir(), socket());
    trial.gives(ROOT, &socket, &[4]);
    trial.nominate(&socket, 7, (ROOT, 4));
    for _ in 0..3 {
        assert_eq!(trial.judge(), []);
        trial.wait();
    }
    trial.closes(ROOT, &socket);
    assert_eq!(trial.judge(), []);
    assert_eq!(trial.judge(), [Told::Sole(7)]);
}

#[test]
fn a_close_that_never_comes_is_not_waited_for_for_ever() {
    let (mut trial, socket) = (Trial::with_heir(), socket());
    trial.gives(ROOT, &socket, &[4]);
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!(trial.judge(), []);
    trial.pass(PROMISE - Duration::from_millis(1));
    assert_eq!(trial.judge(), []);
    trial.pass(Duration::from_millis(1));
    trial.wait();
    assert_eq!(trial.judge(), [Told::Shared(7)]);
}

#[test]
fn what_a_child_has_is_kept_for_a_while_and_then_is_the_childs() {
    let (mut trial, socket) = (Trial::with_heir(), socket());
    trial.gives(CHILD, &socket, &[9]);
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!(trial.judge(), []);
    let searches = trial.prover.machine.searches.get();
    trial.pass(PATIENCE - Duration::from_millis(1));
    assert_eq!(trial.judge(), []);
    assert_eq!(
        trial.prover.machine.searches.get(),
        searches,
        "the fd that was found is asked for, and no more"
    );
    trial.pass(Duration::from_millis(1));
    trial.wait();
    assert_eq!(trial.judge(), [Told::Shared(7)]);
    // One that has closed it by then, as before an exec.
    let mut trial = Trial::with_heir();
    trial.gives(CHILD, &socket, &[9]);
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!(trial.judge(), []);
    trial.closes(CHILD, &socket);
    trial.wait();
    assert_eq!(trial.judge(), []);
    assert_eq!(trial.judge(), [Told::Sole(7)]);
}

#[test]
fn the_last_of_two_nominations_ends_what_both_have_closed() {
    let (mut trial, socket) = (Trial::with_heir(), socket());
    trial.gives(CHILD, &socket, &[9]);
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!(trial.judge(), []);
    trial.nominate(&socket, 7, (CHILD, 9));
    assert_eq!(trial.judge(), [Told::Shared(7)]);
    trial.closes(CHILD, &socket);
    trial.wait();
    assert_eq!(trial.judge(), []);
    assert_eq!(trial.judge(), [Told::Sole(7)]);
}

#[test]
fn an_heir_that_cannot_be_looked_at_leaves_the_close_plain() {
    let (mut trial, socket) = (Trial::with_heir(), socket());
    trial.prover.machine.fds.insert(CHILD, None);
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!(trial.judge(), [Told::Hidden(7, Some(CHILD))]);
    // One that cannot have inherited it speaks against nothing, also if all are looked at.
    let mut trial = Trial::new();
    trial.prover.untrusted = 1;
    trial.prover.machine.fds.insert(CHILD, None);
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!(trial.judge(), []);
    assert_eq!(trial.judge(), [Told::Sole(7)]);
}

#[test]
fn a_stranger_proves_nothing_unless_it_has_ended() {
    const STRANGER: Pid = Pid(102);
    let (mut trial, socket) = (Trial::new(), socket());
    trial.prover.machine.fds.insert(STRANGER, Some(HashMap::new()));
    trial.nominate(&socket, 7, (STRANGER, 4));
    assert_eq!(trial.judge(), [Told::Hidden(7, Some(STRANGER))]);
    trial.prover.machine.fds.remove(&STRANGER);
    trial.nominate(&socket, 8, (STRANGER, 4));
    // The acceptor is another, and may still have it.
    assert_eq!(trial.judge(), []);
    assert_eq!(trial.judge(), [Told::Sole(8)]);
}

#[test]
fn without_a_list_of_processes_nothing_is_proved() {
    let (mut trial, socket) = (Trial::with_heir(), socket());
    trial.nominate(&socket, 7, (ROOT, 4));
    trial.gives(CHILD, &socket, &[9]);
    assert_eq!(trial.judge(), []);
    trial.prover.machine.is_unlisted = true;
    trial.nominate(&socket, 8, (ROOT, 5));
    assert_eq!(trial.judge(), [Told::Hidden(8, None), Told::Hidden(7, None)]);
    assert_eq!((trial.judge(), trial.prover.due()), (vec![], None));
}

#[test]
fn a_child_that_is_made_during_the_look_is_looked_at_as_well() {
    let (mut trial, socket) = (Trial::with_heir(), socket());
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!(trial.judge(), []);
    // The same, and a grandchild has it by the time that its parent has been looked at.
    const GRANDCHILD: Pid = Pid(103);
    let mut trial = Trial::with_heir();
    trial.nominate(&socket, 7, (ROOT, 4));
    trial.prover.machine.fds.insert(GRANDCHILD, Some(HashMap::from([(socket.1, vec![3])])));
    trial.prover.machine.born.push((GRANDCHILD, 6_000));
    assert_eq!(trial.judge(), []);
    trial.wait();
    assert_eq!(trial.judge(), [], "somebody has it");
    trial.pass(PATIENCE);
    assert_eq!(trial.judge(), [Told::Shared(7)]);
}

/// By a system call of its own a program can give a process what it cannot have inherited.
#[test]
fn a_program_that_passes_on_fds_unseen_is_found_out_and_not_trusted_again() {
    let (mut trial, other) = (Trial::new(), socket());
    trial.prover.untrusted = 1;
    trial.gives(CHILD, &other, &[9]);
    trial.nominate(&other, 7, (ROOT, 4));
    assert_eq!(trial.judge(), []);
    trial.pass(PATIENCE);
    assert_eq!(trial.judge(), [Told::Shared(7)]);
    let another = socket();
    trial.nominate(&another, 8, (ROOT, 4));
    assert_eq!(trial.judge(), [], "it is looked for");
    assert_eq!(trial.judge(), [Told::Sole(8)]);
    // A program that was found to be trusted.
    let mut trial = Trial::new();
    trial.prover.untrusted = 1;
    trial.nominate(&other, 7, (ROOT, 4));
    assert_eq!((trial.judge(), trial.judge()), (vec![], vec![Told::Sole(7)]));
    trial.prover.next_audit += Duration::from_secs(3_600);
    trial.nominate(&another, 8, (ROOT, 4));
    assert_eq!(trial.judge(), [Told::Sole(8)]);
}

#[test]
fn audits_take_one_part_in_a_hundred_of_the_time() {
    let (mut trial, socket) = (Trial::new(), socket());
    trial.prover.machine.search = Duration::from_millis(1);
    trial.prover.next_audit = trial.prover.machine.now();
    trial.nominate(&socket, 7, (ROOT, 4));
    // Two processes.
    assert_eq!((trial.judge(), trial.prover.searched()), (vec![], Duration::from_millis(2)));
    assert_eq!(trial.judge(), [Told::Sole(7)]);
    trial.pass(Duration::from_millis(199));
    trial.nominate(&socket, 8, (ROOT, 4));
    assert_eq!(trial.judge(), [Told::Sole(8)]);
    trial.pass(Duration::from_millis(1));
    trial.nominate(&socket, 9, (ROOT, 4));
    assert_eq!((trial.judge(), trial.judge()), (vec![], vec![Told::Sole(9)]));
}

#[test]
fn a_search_that_takes_long_is_followed_by_a_longer_rest() {
    let (mut trial, socket) = (Trial::with_heir(), socket());
    trial.prover.machine.search = Duration::from_millis(3);
    trial.gives(CHILD, &socket, &[9]);
    trial.nominate(&socket, 7, (ROOT, 4));
    assert_eq!(trial.judge(), []);
    let rest = trial.prover.due().unwrap() - trial.prover.machine.now();
    assert_eq!(rest, Duration::from_millis(12));
    // A short one by the pause alone, which doubles.
    trial.prover.machine.search = Duration::ZERO;
    for times in [2, 4] {
        trial.wait();
        assert_eq!(trial.judge(), []);
        assert_eq!(trial.prover.due().unwrap() - trial.prover.machine.now(), SOON * times);
    }
}

#[test]
fn nobody_may_have_more_pending_than_there_is_room() {
    let (mut trial, socket) = (Trial::with_heir(), socket());
    trial.prover.shares = Shares::new(1, 1);
    trial.gives(CHILD, &socket, &[9]);
    trial.nominate(&socket, 7, (ROOT, 4));
    trial.nominate(&socket, 8, (ROOT, 5));
    assert_eq!(trial.judge(), [Told::Hidden(8, None)]);
}

/// A process that was given its pid before the accept and is seen only afterwards cannot have inherited the connection.
#[test]
fn who_is_yet_to_appear_is_waited_for_by_older_connections_alone() {
    const LATE: Pid = Pid(102);
    let accepted = |ms| Origin::new(ROOT.0.cast_signed(), ms);
    // And how many of two are proved without a look: one is accepted as usual, the other has this origin.
    for (seen_ms, origin, is_asked, proved) in [
        (ACCEPTED_MS - 1, accepted(ACCEPTED_MS), false, 2),
        (ACCEPTED_MS, accepted(ACCEPTED_MS), true, 0),
        (ACCEPTED_MS - 1, accepted(ACCEPTED_MS - 1), true, 1),
        (1, Origin::UNKNOWN, true, 1),
    ] {
        let (mut trial, one, older) = (Trial::new(), socket(), socket());
        trial.prover.machine.unborn = Some((LATE, seen_ms));
        trial.prover.machine.fds.insert(LATE, Some(HashMap::new()));
        trial.nominate(&one, 1, (ROOT, 5));
        trial.nominate(&older, 2, (ROOT, 6));
        trial.prover.fresh[1].origin = origin;
        assert_eq!(trial.judge().len(), proved, "{seen_ms}, {origin:?}");
        assert_eq!(trial.prover.machine.family.contains(LATE), is_asked, "{seen_ms}, {origin:?}");
    }
}

/// A worker that was yet to appear when its pid was seen, and accepts the connection that it closes.
#[test]
fn who_was_yet_to_appear_may_have_accepted_the_connection() {
    const LATE: Pid = Pid(102);
    let (mut trial, one) = (Trial::new(), socket());
    trial.prover.machine.unborn = Some((LATE, ACCEPTED_MS - 1));
    trial.prover.machine.fds.insert(LATE, Some(HashMap::new()));
    trial.nominate(&one, 1, (LATE, 5));
    trial.prover.fresh[0].origin = Origin::new(LATE.0.cast_signed(), ACCEPTED_MS);
    assert_eq!(trial.judge(), [Told::Sole(1)]);
    // Where nothing is seen of the machine meanwhile, nothing is known of it.
    trial.prover.machine.is_unlisted = true;
    trial.nominate(&one, 1, (Pid(103), 5));
    assert_eq!(trial.judge(), [Told::Hidden(1, None)]);
}
