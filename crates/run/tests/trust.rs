//! A hostile worker that runs as another user than the rest of the program, and knows the address and the token.
//!
//! The kernel has a user for each thread: a thread of the test becomes the other one, and connects as that one.

mod support;

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use linger_preload::protocol::{Count, Message, MessageKind, Origin};
use linger_testing::{secluded, skip};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Gid, Signal, Uid, kill_process};
use support::hostile::{Hostile, await_hang_up, is_cured, say, server};

/// The user `nobody`.
const OTHER: u32 = 65_534;

/// Runs `attack` in a thread of another user, and returns once it is done. What `attack` returns stays open until the second value
/// is dropped. `None` where there is no second user.
fn as_other_user<R: Send + 'static>(
    attack: impl FnOnce() -> R + Send + 'static,
) -> Option<(thread::JoinHandle<()>, mpsc::Sender<()>)> {
    let (done, attacked) = mpsc::channel();
    let (until, end) = mpsc::channel::<()>();
    let attacker = thread::spawn(move || {
        let (user, group) = (Uid::from_raw(OTHER), Gid::from_raw(OTHER));
        let became = rustix::thread::set_thread_groups(&[])
            .and_then(|()| rustix::thread::set_thread_res_gid(group, group, group))
            .and_then(|()| rustix::thread::set_thread_res_uid(user, user, user));
        if became.is_err() {
            let _ = done.send(false);
            return;
        }
        let kept = attack();
        let _ = done.send(true);
        let _ = end.recv();
        drop(kept);
    });
    if attacked.recv().expect("the attack itself fails") {
        return Some((attacker, until));
    }
    skip("root", "a second user is needed");
    None
}

/// It takes every descriptor that it gets, and gives none back.
#[test]
fn a_flood_by_another_user_takes_nothing_from_the_program() {
    secluded(|| {
        let Some(mut server) = server("nofile=512") else { return };
        let hostile = Hostile::new(&server);
        let flood = move || {
            let strangers: Vec<OwnedFd> = (0..300).map(|_| hostile.stranger()).collect();
            let workers: Vec<OwnedFd> = (0..4).map(|_| hostile.worker()).collect();
            let mut others = Vec::new();
            for turn in 0..1_000 {
                let kind = SocketType::STREAM;
                let pair =
                    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
                let cookie = rustix::net::sockopt::socket_cookie(&pair.0).unwrap();
                let held = Message::about(MessageKind::Hold, cookie, 0).by(1, 3, Origin::UNKNOWN);
                say(&workers[turn % workers.len()], held, Some(pair.0.as_fd()));
                others.push(pair.1);
            }
            (strangers, workers, others)
        };
        let Some((attacker, until)) = as_other_user(flood) else { return };
        for number in 0..5 {
            assert!(is_cured(), "connection {number} while all of that is held");
        }
        drop(until);
        attacker.join().unwrap();
        kill_process(server.pid(), Signal::TERM).unwrap();
        let report = server.said();
        assert_eq!((&report["lingered"], &report["lost"]), (&5.into(), &0.into()), "{report:?}");
    });
}

/// It speaks of connections that it does not have, with descriptors of its own, and claims closes.
#[test]
fn forgeries_by_another_user_end_and_hold_nothing() {
    secluded(|| {
        // Cookies count up on each processor (`gen_cookie_next`): here those of the next connections are known.
        let ours = rustix::thread::sched_getaffinity(None).unwrap();
        let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|number| ours.is_set(*number)).unwrap();
        let mut one = rustix::thread::CpuSet::new();
        one.set(first);
        rustix::thread::sched_setaffinity(None, &one).unwrap();
        let Some(mut server) = server("") else { return };
        let hostile = Hostile::new(&server);
        let forge = move || {
            let worker = hostile.worker();
            let (own, other) =
                rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                    .unwrap();
            // A socket gets its cookie when it is asked for: those below are of none of these.
            let last =
                [&worker, &own, &other].map(|one| rustix::net::sockopt::socket_cookie(one).unwrap())[2];
            let kinds = [
                MessageKind::Hold,
                MessageKind::Shutdown,
                MessageKind::Close,
                MessageKind::Last,
                MessageKind::Release,
            ];
            for cookie in last + 1..last + 1_000 {
                for kind in kinds {
                    say(&worker, Message::about(kind, cookie, 0), (cookie % 2 == 0).then_some(own.as_fd()));
                }
            }
            for count in Count::EACH {
                say(&worker, Message::about(MessageKind::Uncounted, count as u64, 1), None);
                for _ in 0..64 {
                    say(&worker, Message::about(MessageKind::Counted, count as u64, u32::MAX), None);
                }
            }
            // What it says last has another length than any message: it is turned away, so all before has been heard.
            rustix::net::send(&worker, b"more", rustix::net::SendFlags::NOSIGNAL).unwrap();
            await_hang_up(&worker);
            (own, other)
        };
        let Some((attacker, until)) = as_other_user(forge) else { return };
        for number in 0..5 {
            assert!(is_cured(), "connection {number}");
        }
        drop(until);
        attacker.join().unwrap();
        kill_process(server.pid(), Signal::TERM).unwrap();
        let report = server.said();
        let seen = ["lingered", "shared", "drained", "lost"].map(|name| report[name].as_u64().unwrap());
        assert_eq!(seen, [5, 0, 0, 0], "{report:?}");
        // Its word is taken for as much as a process can have done in so short a time (a minute, to be sure).
        assert!(report["finished"].as_u64() < Some(60_000 * 500), "{report:?}");
    });
}

/// Another user's worker may not do what only the program's user may.
#[test]
fn another_user_neither_signals_nor_reads_the_supervisor() {
    secluded(|| {
        let Some(server) = server("") else { return };
        let supervisor = server.supervisor();
        let (tell, told) = mpsc::channel();
        let attack = move || {
            let signalled = kill_process(supervisor, Signal::STOP);
            let read = fs::read(format!("/proc/{}/environ", supervisor.as_raw_nonzero()));
            let _ = tell.send((signalled.err(), read.is_err()));
        };
        let Some((attacker, until)) = as_other_user(attack) else { return };
        assert_eq!(told.recv().unwrap(), (Some(rustix::io::Errno::PERM), true));
        drop(until);
        attacker.join().unwrap();
        assert!(is_cured());
        assert_eq!(server.stop(Signal::TERM)["lingered"], 1);
    });
}
