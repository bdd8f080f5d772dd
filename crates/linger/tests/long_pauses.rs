//! Peers that pause for up to half a minute, with the default policy. The tests take as long.
//!
//! `cargo xtask test`, or `cargo test -p linger --all-features --test long_pauses`.

#[path = "support/pauses.rs"]
mod pauses;
mod support;

use std::thread;
use std::time::Duration;

use linger::{Bound, Budget, Closer, Ended, Policy};
use linger_testing::{Counters, sandboxed};
use pauses::{Server, Vanishes, all, reads_late, reads_nothing, uploads_slowly};
use support::{RESPONSE, no_resets, until};

/// The pauses are longer than any other server allows: httpd keeps a client for 25 s, nginx and lighttpd for
/// 5 s.
#[test]
fn a_client_that_reads_nothing_gets_everything_after_every_pause_below_total() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        let server = Server::start(Policy::default(), &closer);
        let pauses = [1.0, 2.0, 4.8, 5.2, 5.5, 9.8, 10.5, 15.0, 20.0, 25.5, 27.0, 29.0];
        let clients = pauses.map(|pause| {
            let address = server.address;
            thread::spawn(move || (pause, reads_late(address, Duration::from_secs_f64(pause))))
        });
        for client in clients {
            let (pause, seen) = client.join().unwrap();
            assert_eq!(seen, all(200, RESPONSE), "{pause} s");
        }
        let snapshot = until(&closer, |snapshot| snapshot.ended.total() == pauses.len() as u64);
        assert_eq!(snapshot.undelivered, 0, "{snapshot:?}");
        no_resets(&before);
        // A client that takes longer than `total` does not get everything: otherwise the test would show
        // nothing.
        let late = reads_late(server.address, Duration::from_secs(33));
        assert_ne!(late, all(200, RESPONSE));
    });
}

#[test]
fn an_uploader_may_pause_for_as_long_as_idle() {
    sandboxed(|| {
        let before = Counters::read().unwrap();
        let closer = Closer::new(Budget::default()).unwrap();
        let server = Server::start(Policy::default(), &closer);
        let clients = [(8, 0.7), (6, 2.0), (4, 4.5)].map(|(pieces, pause)| {
            let address = server.address;
            thread::spawn(move || uploads_slowly(address, "/refused", pieces, Duration::from_secs_f64(pause)))
        });
        for client in clients {
            assert_eq!(client.join().unwrap(), all(401, RESPONSE));
        }
        no_resets(&before);
    });
}

/// The second unanswered probe, or retransmission, comes within 10 s.
#[test]
fn a_peer_that_is_gone_is_given_up_long_before_total() {
    sandboxed(|| {
        let closes = [Vanishes::WithDataInFlight, Vanishes::WithItsWindowClosed]
            .map(|vanishes| thread::spawn(move || (vanishes, reads_nothing(vanishes, &Policy::default()))));
        for close in closes {
            let (vanishes, outcome) = close.join().unwrap();
            assert_eq!(outcome.ended, Ended::TimedOut(Bound::Idle), "{vanishes:?}: {outcome}");
            assert!(!outcome.delivered(), "{vanishes:?}: {outcome}");
        }
    });
}
