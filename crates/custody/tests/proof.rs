//! Which processes may have a connection that one process has closed: each rule with a counter-example that
//! differs in one field.

use linger_custody::Origin;
use linger_custody::proof::{Heirs, Relations, Sight, Standing, judge};
use linger_custody::world::{Pid, ProcessFd};

const ACCEPTOR: Pid = Pid(100);
const ACCEPTED_MS: u64 = 5_000;
const ORIGIN: Origin = Origin::new(100, ACCEPTED_MS);

fn relations(processes: &[(u32, u64)]) -> Relations {
    let mut relations = Relations::default();
    processes.iter().for_each(|(pid, born_by_ms)| relations.insert(Pid(*pid), *born_by_ms));
    relations
}

fn some(pids: &[u32]) -> Heirs {
    Heirs::Some(pids.iter().copied().map(Pid).collect())
}

/// A process that was made one millisecond earlier cannot have inherited the connection.
#[test]
fn who_is_made_at_the_accept_or_later_may_have_it() {
    for (born_by_ms, expected) in [
        (ACCEPTED_MS - 1, Heirs::None),
        (ACCEPTED_MS, some(&[101])),
        (ACCEPTED_MS + 1, some(&[101])),
        (u64::MAX, some(&[101])),
    ] {
        let relations = relations(&[(100, 1_000), (101, born_by_ms)]);
        assert_eq!(relations.heirs(ORIGIN, ACCEPTOR), expected, "{born_by_ms}");
    }
}

#[test]
fn the_acceptor_may_have_what_another_lets_go_of() {
    let family = relations(&[(99, 500), (100, 1_000), (101, 6_000)]);
    assert_eq!(family.heirs(ORIGIN, Pid(101)), some(&[100, 101]));
    assert_eq!(family.heirs(ORIGIN, ACCEPTOR), some(&[101]));
    // The same if the other process has ended, and if no process is that young.
    let family = relations(&[(99, 500), (100, 1_000)]);
    assert_eq!(family.heirs(ORIGIN, Pid(101)), some(&[100]));
    assert_eq!(family.heirs(ORIGIN, ACCEPTOR), Heirs::None);
    // The acceptor has ended.
    let family = relations(&[(99, 500)]);
    assert_eq!(family.heirs(ORIGIN, Pid(101)), Heirs::None);
}

#[test]
fn of_unknown_origin_all_may_have_it() {
    let family = relations(&[(100, 1_000), (101, 1_000)]);
    for (origin, expected) in
        [(Origin::UNKNOWN, Heirs::All), (Origin::new(100, 0), Heirs::All), (ORIGIN, Heirs::None)]
    {
        assert_eq!(family.heirs(origin, ACCEPTOR), expected);
    }
    assert_eq!(family.all().collect::<Vec<_>>(), [Pid(100), Pid(101)]);
}

#[test]
fn who_has_ended_is_no_heir() {
    let mut family = relations(&[(100, 1_000), (101, 6_000), (102, 7_000)]);
    let mut heirs = Vec::new();
    // The youngest process ends, then one that never existed, then the next youngest.
    for ended in [102, 103, 101] {
        family.remove(Pid(ended));
        heirs.push(family.heirs(ORIGIN, ACCEPTOR));
    }
    assert_eq!(heirs, [some(&[101]), some(&[101]), Heirs::None]);
    assert!(family.contains(ACCEPTOR) && !family.contains(Pid(101)) && !family.contains(Pid(103)));
    // A process ends that is not the youngest.
    let mut family = relations(&[(100, 1_000), (101, 6_000)]);
    family.remove(ACCEPTOR);
    assert_eq!(family.heirs(ORIGIN, ACCEPTOR), some(&[101]));
    // The last process of all ends, and a new one gets its pid.
    family.remove(Pid(101));
    assert_eq!(family.heirs(ORIGIN, ACCEPTOR), Heirs::None);
    family.insert(Pid(101), 9_000);
    assert_eq!(family.heirs(ORIGIN, ACCEPTOR), some(&[101]));
}

const A: Pid = Pid(1);
const B: Pid = Pid(2);

fn name(pid: Pid, fd: i32) -> ProcessFd {
    ProcessFd { pid, fd }
}

fn fds(pid: Pid, fds: &[i32]) -> (Pid, Sight) {
    (pid, Sight::Fds(fds.to_vec()))
}

#[test]
fn it_is_nobody_s_if_nobody_has_an_fd() {
    assert_eq!(judge(&[], &[]), Standing::Nobody);
    assert_eq!(judge(&[fds(A, &[]), fds(B, &[])], &[name(A, 3)]), Standing::Nobody);
    assert_eq!(judge(&[fds(A, &[]), fds(B, &[3])], &[name(A, 3)]), Standing::Held(name(B, 3)));
}

/// The same fd number in another process, or another number in the same process, is another fd.
#[test]
fn what_is_being_closed_is_looked_at_again() {
    let seen = [fds(A, &[3]), fds(B, &[])];
    assert_eq!(judge(&seen, &[name(A, 3)]), Standing::Closing);
    assert_eq!(judge(&seen, &[name(B, 3)]), Standing::Held(name(A, 3)));
    assert_eq!(judge(&seen, &[name(A, 4)]), Standing::Held(name(A, 3)));
    assert_eq!(judge(&[fds(A, &[3, 4])], &[name(A, 3)]), Standing::Held(name(A, 4)));
    assert_eq!(judge(&[fds(A, &[3, 4])], &[name(A, 3), name(A, 4)]), Standing::Closing);
}

#[test]
fn who_does_not_let_itself_be_looked_at_may_have_it() {
    let hidden = (B, Sight::Hidden);
    assert_eq!(judge(&[fds(A, &[]), hidden.clone()], &[]), Standing::Hidden(B));
    // Another process has it for certain, or has it until its close is over.
    assert_eq!(judge(&[hidden.clone(), fds(A, &[3])], &[]), Standing::Held(name(A, 3)));
    assert_eq!(judge(&[hidden.clone(), fds(A, &[3])], &[name(A, 3)]), Standing::Closing);
    // The hidden process is not known to be closing an fd of it.
    assert_eq!(judge(&[hidden], &[name(B, 3)]), Standing::Hidden(B));
}
