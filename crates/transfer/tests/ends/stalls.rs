//! A session's thread that waits for a disk: the peer hears of it, whoever asks for the end is heard, and the thread is
//! left behind.
//!
//! A thread that waits for a disk cannot be ended from outside, so the delays are injected in the function that observes the
//! progress: there the thread is as far from its session as in a read(2).

use std::fs;
use std::sync::mpsc;
use std::time::Duration;

use crate::common::*;
use linger_transfer::session::{Cancel, Deadlines};
use linger_transfer::*;
use tempfile::tempdir;

/// How much silence a session bears here.
const STALL: Duration = Duration::from_millis(700);

fn impatient() -> Deadlines {
    let mut deadlines = Deadlines::default();
    deadlines.stall = STALL;
    deadlines.ping = STALL * 10;
    deadlines
}

fn client(port: u16, deadlines: Deadlines) -> Client {
    let mut options = ClientOptions::default();
    options.retry.patience = Duration::ZERO;
    options.deadlines = deadlines;
    Client::new("127.0.0.1", port, options).unwrap()
}

/// Blocks once, at the first content that moves, for as long as the peer would bear silence twice over.
fn stalls_once() -> impl FnMut(&Progress) -> bool {
    let mut stalled = false;
    move |progress| {
        let stalls = !stalled && matches!(progress, Progress::Moved { .. });
        stalled |= stalls;
        stalls
    }
}

#[test]
fn a_source_that_stalls_is_waited_for() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(5 * BLOCK, 1)).unwrap();
    let patient = |options: &mut ShareOptions| options.deadlines = impatient();
    share(to.path(), patient, |shared| {
        let mut stalls = stalls_once();
        let client = client(shared.port, Deadlines::default());
        let (summary, error) =
            client.put(Input::Path(file.clone()), &place("copy"), &PutOptions::default(), &mut |progress| {
                if stalls(&progress) {
                    std::thread::sleep(2 * STALL);
                }
            });
        assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed, "{summary:?} {error:?}");
    });
}

/// A stop is requested while the session's thread is away. The thread comes back only when the peer has heard of the stop.
#[test]
fn a_thread_that_is_away_does_not_keep_the_end_from_the_peer() {
    let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
    let file = from.path().join("file");
    fs::write(&file, bytes(5 * BLOCK, 2)).unwrap();
    let served = share(
        to.path(),
        |_| {},
        |shared| {
            let mut stalls = stalls_once();
            let client = client(shared.port, Deadlines::default());
            let cancel = client.canceller();
            let (summary, error) = client.put(
                Input::Path(file.clone()),
                &place("copy"),
                &PutOptions::default(),
                &mut |progress| {
                    if stalls(&progress) {
                        cancel.cancel();
                        // Would wait for ever if the session's own thread had to say it.
                        shared.wait_for_sessions(1);
                        let (_, at) = client.waits_for_disk().expect("it is away");
                        assert_eq!(at, Some(RelPath::root()));
                    }
                },
            );
            assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered, "{summary:?}");
            assert!(matches!(error, Some(Error::Cancelled)), "{error:?}");
        },
    );
    let [served] = &served[..] else { panic!("{served:?}") };
    let told = served.error.as_ref().map(ToString::to_string).unwrap_or_default();
    assert!(told.contains("stopped on request"), "{served:?}");
}

/// A server whose disk stalls, as its observer does here.
fn stalled_server(test: impl FnOnce(&Server, u16, &mpsc::Receiver<()>, &mpsc::Sender<()>)) {
    let to = tempdir().unwrap();
    let mut options = ShareOptions::new(to.path());
    (options.insecure_loopback, options.writable, options.connections) = (true, true, 1);
    let server = Server::new(options).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (away, is_away) = mpsc::channel();
    let (back, comes_back) = mpsc::channel();
    let stalls = std::sync::Mutex::new((stalls_once(), comes_back));
    struct End(Cancel);
    impl Drop for End {
        fn drop(&mut self) {
            self.0.cancel();
        }
    }
    std::thread::scope(|scope| {
        let end = End(server.canceller());
        let running = scope.spawn(|| {
            server.serve(&listener, None, &|serving| {
                if let Serving::Progress(_, progress) = serving {
                    let mut stalls = stalls.lock().unwrap();
                    if stalls.0(progress) {
                        away.send(()).unwrap();
                        let _ = stalls.1.recv();
                    }
                }
            })
        });
        test(&server, port, &is_away, &back);
        drop(back);
        drop(end);
        running.join().unwrap().unwrap();
    });
}

/// The only place is free again as soon as the client has left, though the thread of its session is stuck.
#[test]
fn a_server_leaves_a_thread_behind_whose_client_has_left() {
    let from = tempdir().unwrap();
    let file = from.path().join("file");
    fs::write(&file, bytes(5 * BLOCK, 3)).unwrap();
    stalled_server(|server, port, is_away, back| {
        let first = client(port, Deadlines::default());
        let put = |client: &Client, name: &str| {
            client.put(Input::Path(file.clone()), &place(name), &PutOptions::default(), &mut |_| {})
        };
        std::thread::scope(|scope| {
            let leaves = scope.spawn(|| put(&first, "copy"));
            is_away.recv().unwrap();
            first.canceller().cancel();
            let (summary, error) = leaves.join().unwrap();
            assert_ne!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed);
            // Asked before the server's thread is let go: it is listed without any of its content moving.
            client(port, Deadlines::default()).list(&RelPath::root(), &mut |_| {}).unwrap();
            assert_eq!(server.left_behind(), 1);
            back.send(()).unwrap();
        });
    });
}
