//! Peers that pause for up to three seconds; those that take longer are in `long_pauses.rs`.

#[path = "support/pauses.rs"]
mod pauses;
mod support;

use std::thread;
use std::time::Duration;

use linger::{Bound, Budget, Closer, Ended, Policy};
use linger_sys::TELLS_ACKNOWLEDGED;
use linger_testing::{Counters, sandboxed};
use pauses::{Server, Vanishes, all, reads_late, reads_nothing, uploads_slowly};
use support::{RESPONSE, no_resets, undelivered, until};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn an_uploader_that_pauses_and_reads_at_the_end_gets_its_answer() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        let server = Server::start(Policy::default(), &closer);
        let clients: Vec<_> = [("/", 0.1), ("/", 0.7), ("/refused", 0.7)]
            .into_iter()
            .map(|(path, pause)| {
                let address = server.address;
                thread::spawn(move || (path, uploads_slowly(address, path, 4, SECOND.mul_f64(pause))))
            })
            .collect();
        for client in clients {
            let (path, seen) = client.join().unwrap();
            let refusal = if path == "/" { all(413, REFUSAL) } else { all(401, RESPONSE) };
            assert_eq!(seen, refusal, "{path}");
        }
        let snapshot = until(&closer, |snapshot| snapshot.ended.total() == 3);
        assert_eq!((snapshot.ended.peer_closed, snapshot.undelivered), (3, undelivered(3)), "{snapshot:?}");
        no_resets(&before);
    });
}

/// The length of axum's answer to a body that is too large.
const REFUSAL: usize = 56;

#[test]
fn a_client_that_reads_nothing_for_a_while_gets_everything() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        let mut policy = Policy::default();
        if TELLS_ACKNOWLEDGED {
            // Shorter than the pauses. Where the system does not tell whether the peer's kernel answers, `idle` is how long
            // a client may pause.
            policy.idle = SECOND / 2;
        }
        let server = Server::start(policy, &closer);
        let clients: Vec<_> = [0.1, 1.0, 2.7]
            .into_iter()
            .map(|pause| {
                let address = server.address;
                thread::spawn(move || (pause, reads_late(address, SECOND.mul_f64(pause))))
            })
            .collect();
        for client in clients {
            let (pause, seen) = client.join().unwrap();
            assert_eq!(seen, all(200, RESPONSE), "{pause} s");
        }
        let snapshot = until(&closer, |snapshot| snapshot.ended.total() == 3);
        assert_eq!((snapshot.ended.peer_closed, snapshot.undelivered), (3, undelivered(3)), "{snapshot:?}");
        no_resets(&before);
    });
}

/// A peer that only does not read is waited for until `total`. A peer that is gone is not.
#[test]
fn a_peer_that_is_gone_is_told_from_one_that_does_not_read() {
    sandboxed(|| {
        let mut policy = Policy::default();
        (policy.idle, policy.total) = (SECOND / 2, SECOND * 3);
        let mut cases = vec![
            // The two cannot be told apart where the system does not tell what the peer's kernel has answered.
            (Vanishes::Never, if TELLS_ACKNOWLEDGED { Bound::Total } else { Bound::Idle }),
            (Vanishes::WithDataInFlight, Bound::Idle),
        ];
        if TELLS_ACKNOWLEDGED {
            // That the window is closed shows in what is not acknowledged.
            cases.push((Vanishes::WithItsWindowClosed, Bound::Idle));
        }
        let closes: Vec<_> = cases
            .into_iter()
            .map(|(vanishes, bound)| {
                thread::spawn(move || (vanishes, bound, reads_nothing(vanishes, &policy)))
            })
            .collect();
        for close in closes {
            let (vanishes, bound, outcome) = close.join().unwrap();
            assert_eq!(outcome.ended, Ended::TimedOut(bound), "{vanishes:?}: {outcome}");
            assert!(!outcome.delivered(), "{vanishes:?}: {outcome}");
        }
    });
}
