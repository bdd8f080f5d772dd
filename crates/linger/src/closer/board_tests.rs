//! The board with numbers for sockets, one thread at a time; what threads do at once is in `board_models.rs`.

use super::*;
use crate::outcome::Ended;

fn outcome(discarded: u64) -> Outcome {
    Outcome {
        ended: Ended::PeerClosed,
        discarded,
        unacknowledged: Some(0),
        closed_after: true,
        elapsed: Duration::ZERO,
    }
}

fn board(most: usize) -> Shared<u32> {
    Shared::new(most).unwrap()
}

fn look(shared: &Shared<u32>, now: u64) -> Work<u32> {
    let mut work = Work::new();
    shared.look(now, &mut Report::default(), &mut work);
    work
}

/// When the thread looks next.
fn looks_at(shared: &Shared<u32>) -> u64 {
    shared.lock().look
}

#[cfg(feature = "tokio")]
struct Number(u32);

#[cfg(feature = "tokio")]
impl Watched<u32> for Number {
    fn take(self: Arc<Self>) -> Option<u32> {
        Some(self.0)
    }
}

#[cfg(feature = "tokio")]
fn take(watched: Vec<Arc<dyn Watched<u32>>>) -> Vec<u32> {
    watched.into_iter().filter_map(Watched::take).collect()
}

#[test]
fn what_is_brought_is_taken_once_and_counted_once() {
    let shared = board(8);
    assert_eq!((shared.submit(1, false), shared.submit(2, true)), (None, None));
    let Snapshot { handed_over, lingering, .. } = shared.snapshot();
    assert_eq!((handed_over, lingering), (1, 1), "the second one was counted before");
    assert_eq!(look(&shared, 0).arrivals, [1, 2]);
    assert!(look(&shared, 0).arrivals.is_empty());
}

/// Each new socket gives back the oldest of those that wait: that one has had the most time for its last bytes.
#[test]
fn the_oldest_is_given_back_when_there_are_too_many() {
    let shared = board(3);
    let shed: Vec<_> = (0..7).map(|number| shared.submit(number, false)).collect();
    assert_eq!(shed, [None, None, None, Some(0), Some(1), Some(2), Some(3)]);
    assert_eq!(look(&shared, 0).arrivals, [4, 5, 6]);
}

#[test]
fn the_thread_is_asked_to_look_in_time() {
    let shared = board(2);
    // Nothing is known of the thread yet: it looks at once.
    assert_eq!(looks_at(&shared), 0);
    assert_eq!(look(&shared, 0).next, None);
    assert_eq!(looks_at(&shared), u64::MAX, "nothing to wait for");
    let before = shared.clock().now();
    assert_eq!(shared.submit(1, false), None);
    let first = looks_at(&shared);
    assert!((before + LULL..=shared.clock().now() + LULL).contains(&first));
    // A later time does not replace it, an earlier one does.
    assert_eq!(shared.submit(2, false), None);
    assert_eq!(looks_at(&shared), first);
    look(&shared, 0);
    let before = shared.clock().now();
    shared.evict(0);
    assert!((before..=shared.clock().now()).contains(&looks_at(&shared)));
}

#[test]
fn more_sockets_than_may_linger_are_urgent() {
    for (most, urgent) in [(1, true), (2, false)] {
        let shared = board(most);
        look(&shared, 0);
        for _ in 0..2 {
            shared.refused();
        }
        shared.change(1 << 60, |_| ());
        assert_eq!(looks_at(&shared) <= shared.clock().now(), urgent, "{most}");
    }
}

/// A task watches for a tenth of a second; the thread comes soon after, and not for each socket.
#[test]
fn the_times_fit_together() {
    assert_eq!([LULL, WATCH, SLACK], [3, 100, 25].map(|millis| millis * 1_000_000));
    #[cfg(feature = "tokio")]
    assert_eq!(super::LONGEST_WATCH, Duration::from_millis(125));
}

#[test]
fn orders_are_given_once_or_stay() {
    let shared = board(2);
    shared.evict(2);
    shared.evict(3);
    assert_eq!(look(&shared, 0).orders, Orders { evict: 5, ..Orders::default() });
    assert_eq!(look(&shared, 0).orders, Orders::default());
    shared.evict(usize::MAX);
    shared.evict(1);
    assert_eq!(look(&shared, 0).orders.evict, usize::MAX);
    shared.finish(Duration::ZERO);
    assert_eq!(look(&shared, 0).orders, Orders { leave: true, ..Orders::default() });
    assert_eq!(look(&shared, 0).orders, Orders::default());
    shared.no_more();
    for _ in 0..2 {
        assert_eq!(look(&shared, 0).orders, Orders { no_more: true, ..Orders::default() });
    }
}

#[cfg(feature = "tokio")]
#[test]
fn watched_sockets_are_taken_when_their_time_is_over() {
    let shared = board(2);
    look(&shared, 0);
    let before = shared.clock().now();
    let ticket = shared.watch(Arc::new(Number(1)), shared.clock().now());
    let until = shared.clock().now();
    let within = |wait: u64| before + wait..=until + wait;
    assert!(within(WATCH + SLACK).contains(&looks_at(&shared)), "the alarm is set for it");
    let Snapshot { handed_over, lingering, .. } = shared.snapshot();
    assert_eq!((handed_over, lingering), (1, 1));
    // Not yet; the thread looks a little after it.
    let work = look(&shared, before + WATCH - 1);
    assert!(take(work.watched).is_empty());
    assert!(within(WATCH + SLACK).contains(&work.next.unwrap()));
    assert_eq!(looks_at(&shared), work.next.unwrap());
    let work = look(&shared, until + WATCH);
    assert_eq!((take(work.watched), work.next), (vec![1], None));
    // It is the thread's: forgetting it changes no count.
    shared.unwatch(ticket, None);
    assert_eq!(shared.snapshot().lingering, 1);
    // Over before its time: it is counted, and not taken.
    let ticket = shared.watch(Arc::new(Number(2)), shared.clock().now());
    shared.unwatch(ticket, Some(&outcome(7)));
    assert!(take(look(&shared, u64::MAX).watched).is_empty());
    let Snapshot { handed_over, lingering, ended, discarded, .. } = shared.snapshot();
    assert_eq!((handed_over, lingering, ended.peer_closed, discarded), (2, 1, 1, 7));
    assert_eq!(shared.lock().reported, 1);
}

#[cfg(feature = "tokio")]
#[test]
fn orders_and_need_take_what_is_watched_before_its_time() {
    type Change = fn(&Shared<u32>);
    let cases: [(&str, Change, bool); 5] = [
        ("nothing", |_| {}, false),
        ("an eviction", |shared| shared.evict(1), true),
        ("a deadline", |shared| shared.lock().orders.deadline = Some(1), true),
        ("no more handles", Shared::no_more, true),
        ("too many sockets", |shared| assert_eq!(shared.submit(2, false), None), true),
    ];
    for (what, change, taken) in cases {
        let shared = board(1);
        shared.watch(Arc::new(Number(1)), shared.clock().now());
        change(&shared);
        assert_eq!(!take(look(&shared, 0).watched).is_empty(), taken, "{what}");
    }
}

#[test]
fn what_is_published_adds_up() {
    let shared = board(8);
    for number in 0..3 {
        assert_eq!(shared.submit(number, false), None);
    }
    let mut report = Report { reported: 1, acknowledged: 2, ..Report::default() };
    report.done.record(&outcome(5));
    shared.publish(&mut report);
    assert_eq!((report.reported, report.done, report.acknowledged), (0, Snapshot::default(), 2));
    // When the report is published again, only `acknowledged` stays, because it is not a difference.
    shared.look(0, &mut report, &mut Work::new());
    let snapshot = shared.snapshot();
    assert_eq!((snapshot.handed_over, snapshot.lingering, snapshot.lingering_acknowledged), (3, 2, 2));
    assert_eq!((snapshot.ended.peer_closed, snapshot.discarded, shared.lock().reported), (1, 5, 1));
    // Those that have ended since are not among those that linger.
    shared.record(&outcome(1));
    assert_eq!(shared.snapshot().lingering_acknowledged, 1);
    assert_eq!(shared.lock().reported, 1);
    shared.reported();
    assert_eq!(shared.lock().reported, 2);
    shared.refused();
    let Snapshot { handed_over, lingering, .. } = shared.snapshot();
    assert_eq!((handed_over, lingering), (4, 2));
}

#[test]
fn finish_tells_of_what_it_waited_for() {
    let shared = board(8);
    // Before: one that has ended, one that lingers.
    for number in 0..2 {
        assert_eq!(shared.submit(number, false), None);
    }
    shared.publish(&mut Report { reported: 1, done: done(3), ..Report::default() });
    let summary = std::thread::scope(|scope| {
        let finishing = scope.spawn(|| shared.finish(Duration::from_secs(1_000)));
        // The deadline is an order.
        let deadline = loop {
            if let Some(deadline) = look(&shared, 0).orders.deadline {
                break deadline;
            }
            std::thread::yield_now();
        };
        assert!(deadline > 900_000_000_000);
        // A second `finish` waits too. Its deadline is nearer, so it replaces the first one's.
        let other = scope.spawn(|| shared.finish(Duration::from_secs(500)));
        while look(&shared, 0).orders.deadline == Some(deadline) {
            std::thread::yield_now();
        }
        let nearer = look(&shared, 0).orders.deadline;
        assert_eq!((shared.lock().finishing, nearer < Some(deadline)), (2, true));
        // The last end is counted and not yet reported: neither `finish` may return.
        shared.publish(&mut Report { done: done(4), ..Report::default() });
        assert_eq!((shared.snapshot().lingering, shared.lock().has_reported_all()), (0, false));
        shared.publish(&mut Report { reported: 1, ..Report::default() });
        other.join().unwrap();
        finishing.join().unwrap()
    });
    assert_eq!(
        (summary.handed_over, summary.lingering, summary.ended.total(), summary.discarded),
        (1, 0, 1, 4)
    );
    // Both orders are withdrawn when their callers return.
    let board = shared.lock();
    assert_eq!((board.finishing, board.orders.deadline), (0, None));
}

#[test]
fn finish_gives_up_a_second_after_its_deadline() {
    let shared = board(8);
    assert_eq!(shared.submit(1, false), None);
    let summary = shared.finish(Duration::ZERO);
    // Nobody has ended the socket, so `finish` returns a second after its deadline. The second is not
    // asserted: it depends on the clock.
    assert_eq!((summary.handed_over, summary.lingering), (1, 1));
    assert!(shared.clock().now() >= 1_000_000_000);
    assert_eq!(shared.lock().orders.deadline, None, "its order is gone with it");
}

/// One close after which so many bytes were discarded.
fn done(discarded: u64) -> Snapshot {
    let mut done = Snapshot::default();
    done.record(&outcome(discarded));
    done
}
