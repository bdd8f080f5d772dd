//! Models of what callers and the thread do at once, run by loom in every order that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p linger --lib --release loom_`
//!
//! The closer has no atomics of its own: its orderings are what happens under which lock, in which order, and who is
//! notified. `docs/mutants/linger.md` lists for each of them the model that fails without it. loom models neither time
//! nor `fork`: a wait with a deadline is one without, so that a missing notification is a deadlock, which it reports.

use std::sync::Arc as StdArc;
use std::task::{Context, Wake, Waker};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use super::*;
use crate::closer::place::{Look, Next, Place};
use crate::outcome::Ended;

fn outcome() -> Outcome {
    Outcome {
        ended: Ended::PeerClosed,
        discarded: 0,
        unacknowledged: Some(0),
        closed_after: true,
        elapsed: Duration::ZERO,
    }
}

/// A board for sockets that are numbers.
fn board(most: usize) -> Arc<Shared<u32>> {
    Arc::new(Shared::new(most).unwrap())
}

/// The closer's thread without sockets: whatever it takes has ended at once. It runs until no more can come, and says
/// what it took.
fn work(shared: &Shared<u32>) -> Vec<u32> {
    let (mut report, mut work) = (Report::default(), Work::new());
    let mut taken = Vec::new();
    loop {
        shared.look(shared.clock().now(), &mut report, &mut work);
        let no_more = work.orders.no_more;
        let watched = std::mem::take(&mut work.watched).into_iter().filter_map(Watched::take);
        for socket in work.arrivals.drain(..).chain(watched) {
            taken.push(socket);
            report.done.record(&outcome());
            report.reported += 1;
        }
        shared.publish(&mut report);
        if no_more {
            return taken;
        }
        shared.alarm().wait();
    }
}

fn started(shared: &Arc<Shared<u32>>) -> thread::JoinHandle<Vec<u32>> {
    let shared = Arc::clone(shared);
    thread::spawn(move || work(&shared))
}

/// Nothing that was handed over is forgotten, and the thread hears of the last handle's end.
#[test]
fn loom_every_socket_is_taken_once() {
    loom::model(|| {
        let shared = board(8);
        let working = started(&shared);
        assert_eq!(shared.submit(1, false), None);
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || assert_eq!(shared.submit(2, false), None)
        });
        other.join().unwrap();
        shared.no_more();
        let mut taken = working.join().unwrap();
        taken.sort_unstable();
        assert_eq!(taken, [1, 2]);
        let Snapshot { handed_over, lingering, ended, .. } = shared.snapshot();
        assert_eq!((handed_over, lingering, ended.peer_closed), (2, 0, 2));
    });
}

/// Of two callers the one that is in a hurry sets the alarm, whoever comes first.
#[test]
fn loom_the_earliest_time_wins() {
    loom::model(|| {
        let shared = board(8);
        // The thread has looked, and has nothing to wait for.
        shared.look(1, &mut Report::default(), &mut Work::new());
        let patient = thread::spawn({
            let shared = Arc::clone(&shared);
            move || assert_eq!(shared.submit(1, false), None)
        });
        shared.evict(1);
        patient.join().unwrap();
        assert_eq!(shared.alarm().is_set(), Some(0));
    });
}

/// If the budget is exceeded, a socket that the thread has not taken is given back: each socket is in one place.
#[test]
fn loom_what_is_given_back_is_not_taken() {
    loom::model(|| {
        let shared = board(1);
        let working = started(&shared);
        let shed: Vec<u32> = (0..2).filter_map(|number| shared.submit(number, false)).collect();
        shared.no_more();
        let mut all = working.join().unwrap();
        all.extend(&shed);
        all.sort_unstable();
        assert_eq!(all, [0, 1]);
    });
}

/// `finish` waits for the end and the report of what was handed over before, and hears of it.
#[test]
fn loom_finish_hears_of_the_last_end() {
    loom::model(|| {
        let shared = board(8);
        assert_eq!(shared.submit(1, false), None);
        let working = started(&shared);
        let finished = shared.finish(Duration::from_secs(1));
        // None, if it had ended before.
        assert_eq!((finished.lingering, finished.ended.total()), (0, finished.handed_over));
        assert_eq!(shared.snapshot().ended.total(), 1);
        shared.no_more();
        assert_eq!(working.join().unwrap(), [1]);
    });
}

/// `finish` also hears of an end that a caller counts, and not before the watcher has returned.
#[test]
fn loom_finish_waits_for_watchers() {
    loom::model(|| {
        let shared = board(8);
        shared.refused();
        let told = Arc::new(AtomicUsize::new(0));
        let telling = thread::spawn({
            let (shared, told) = (Arc::clone(&shared), Arc::clone(&told));
            move || {
                shared.record(&outcome());
                told.store(1, Ordering::Relaxed);
                shared.reported();
            }
        });
        let finished = shared.finish(Duration::from_secs(1));
        assert_eq!(told.load(Ordering::Relaxed), 1, "a watcher is still at work");
        assert_eq!(finished.lingering, 0);
        telling.join().unwrap();
    });
}

/// A task that waits, as its runtime sees it.
struct Task {
    woken: loom::sync::Notify,
}

impl Wake for Task {
    fn wake(self: StdArc<Self>) {
        self.woken.notify();
    }
}

/// A socket that a task watches.
struct Watching {
    place: Place<u32>,
}

impl Watched<u32> for Watching {
    fn take(self: StdArc<Self>) -> Option<u32> {
        self.place.take()
    }
}

/// `finish` hears of an end that comes in a task.
#[test]
fn loom_finish_hears_of_a_task() {
    loom::model(|| {
        let shared = board(8);
        let ticket = shared.watch(StdArc::new(Watching { place: Place::new(7) }), shared.clock().now());
        let task = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.unwatch(ticket, Some(&outcome()))
        });
        assert_eq!(shared.finish(Duration::from_secs(1)).lingering, 0);
        task.join().unwrap();
    });
}

/// A task that waits only until the thread has its socket hears of that, without an end.
#[test]
fn loom_a_detached_task_hears_that_its_socket_is_taken() {
    loom::model(|| {
        let watching = StdArc::new(Watching { place: Place::new(7) });
        let taking = thread::spawn({
            let watching = watching.clone();
            move || assert_eq!(watching.take(), Some(7))
        });
        let task = StdArc::new(Task { woken: loom::sync::Notify::new() });
        let waker = Waker::from(task.clone());
        loop {
            let next = watching.place.poll(&mut Context::from_waker(&waker), |_, _| Look::Wait);
            assert!(matches!(next, Next::Pending));
            if watching.place.is_given() {
                break;
            }
            task.woken.wait();
        }
        taking.join().unwrap();
    });
}

/// The task and the thread both try to end a connection: one does, and the other hears of it.
#[test]
fn loom_one_of_task_and_thread_ends_it() {
    loom::model(|| {
        let shared = board(8);
        let watching = StdArc::new(Watching { place: Place::new(7) });
        let ticket = shared.watch(watching.clone(), shared.clock().now());
        let closing = thread::spawn({
            let (shared, watching) = (Arc::clone(&shared), watching.clone());
            move || {
                // Its time is over, or everything is to end.
                let mut work = Work::new();
                shared.look(u64::MAX, &mut Report::default(), &mut work);
                let taken: Vec<u32> = work.watched.drain(..).filter_map(Watched::take).collect();
                for _ in &taken {
                    let mut report = Report { reported: 1, ..Report::default() };
                    report.done.record(&outcome());
                    shared.publish(&mut report);
                    watching.place.over(outcome());
                }
                taken.len()
            }
        });
        let task = StdArc::new(Task { woken: loom::sync::Notify::new() });
        let waker = Waker::from(task.clone());
        let mut context = Context::from_waker(&waker);
        let mut looks = 0;
        let ended_here = loop {
            // The peer closes after the first look.
            looks += 1;
            let look = if looks > 1 { Look::Over(outcome()) } else { Look::Wait };
            match watching.place.poll(&mut context, |_, _| look) {
                Next::Pending if looks == 1 && !watching.place.is_given() => {}
                Next::Pending => task.woken.wait(),
                Next::Close(number, ended) => {
                    assert_eq!(number, 7);
                    shared.unwatch(ticket, Some(&ended));
                    break 1;
                }
                Next::Over(_) => break 0,
                Next::Give => unreachable!("nobody asked for it"),
            }
        };
        assert_eq!(closing.join().unwrap() + ended_here, 1);
        let Snapshot { handed_over, lingering, ended, .. } = shared.snapshot();
        assert_eq!((handed_over, lingering, ended.total()), (1, 0, 1));
    });
}
