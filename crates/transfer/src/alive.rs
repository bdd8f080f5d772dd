//! Runs work that is known to take long (fsync, hashing, commands) on a helper thread.
//!
//! The session's own thread stays with the socket meanwhile: it tells the peer how far the work is, and hears a request to
//! stop. A thread that waits for a disk cannot be ended (a sync on a dead disk takes minutes), and a command may outlive its
//! session: then the session leaves the helper thread behind. Calls that take long only now and then, such as an open on NFS,
//! are made on the session's own thread; see `driver/watch.rs`.

use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::cancel::Stopped;
use crate::driver::{Phase, PhaseWork, Session};
use crate::error::Error;
use crate::helper::{Helper, Job};

/// How often the peer is told how far the work is.
const BEAT: Duration = Duration::from_millis(250);

/// How far some work is, and whether it is still wanted.
#[derive(Debug, Default)]
pub(crate) struct Gauge {
    done: AtomicU64,
    unwanted: AtomicBool,
}

impl Gauge {
    /// Notes bytes that are done. Returns false if nobody wants the rest.
    pub(crate) fn advance(&self, bytes: u64) -> bool {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        !self.unwanted.load(Ordering::Relaxed)
    }

    /// The gauge of work whose result nobody waits for any more.
    #[cfg(test)]
    pub(crate) fn unwanted() -> Self {
        Self { unwanted: AtomicBool::new(true), ..Self::default() }
    }
}

/// Does `work` on the session's helper thread, and returns its result. Meanwhile the peer is told `phase`, and how many
/// of `total` bytes are done. If no thread can be started, the work is done on this thread, and the peer is told nothing.
///
/// # Errors
/// Returns [`Error::Cancelled`] at once if a stop is requested, and [`Error::Cut`] if the peer has left: the work then goes on
/// without the session, until it looks at its gauge. Otherwise the errors of writing to the peer.
pub(crate) fn away<T: Send + 'static>(
    session: &mut Session,
    phase: Phase,
    total: u64,
    work: impl FnOnce(&Gauge) -> T + Send + 'static,
) -> Result<T, Error> {
    let gauge = Arc::new(Gauge::default());
    if session.helper.is_none() {
        match Helper::start() {
            Ok(helper) => session.helper = Some(helper),
            Err(error) => {
                tracing::warn!(%error, "no thread can be had: the peer hears nothing while a file is worked on");
                return Ok(work(&gauge));
            }
        }
    }
    let result = Arc::new(Mutex::new(None));
    let (its, its_gauge) = (result.clone(), gauge.clone());
    let job: Job = Box::new(move || {
        let done = work(&its_gauge);
        *its.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
    });
    session.set_working(true);
    let waited = wait(session, phase, total, &gauge, job);
    session.set_working(false);
    if waited.is_err() {
        gauge.unwanted.store(true, Ordering::Relaxed);
        // The session has no helper from here on: nobody waits for what the old one still does.
        session.helper = None;
    }
    waited?;
    let done = result.lock().unwrap_or_else(PoisonError::into_inner).take();
    done.ok_or_else(|| Error::io("finish", "writing", std::io::Error::other("a thread ended early")))
}

fn wait(session: &mut Session, phase: Phase, total: u64, gauge: &Gauge, job: Job) -> Result<(), Error> {
    let Some(helper) = &session.helper else { return Ok(()) };
    let over = helper.over.clone();
    if !helper.does(job) {
        return Err(Error::io("start", "some work", std::io::Error::other("a thread ended early")));
    }
    let cancel = session.canceller();
    loop {
        match cancel.wait_beside(over.as_fd(), PollFlags::IN, BEAT) {
            Ok(true) => {
                let _ = rustix::io::read(&*over, &mut [0; 8]);
                return Ok(());
            }
            Ok(false) if session.peer_has_left() => {
                return Err(Error::Cut(std::io::Error::new(
                    std::io::ErrorKind::BrokenPipe,
                    "the peer has left",
                )));
            }
            Ok(false) => session.works(PhaseWork::new(phase, gauge.done.load(Ordering::Relaxed), total))?,
            Err(error) if error.get_ref().is_some_and(|inner| inner.is::<Stopped>()) => {
                return Err(Error::Cancelled);
            }
            Err(error) => return Err(Error::io("wait for", "some work", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::driver::SessionEvent;
    use crate::machine::Role;
    use crate::transport::Plain;

    fn pair() -> [Session; 2] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        [(client, Role::Initiator), (server, Role::Responder)]
            .map(|(stream, role)| Session::new(Box::new(Plain::new(stream).unwrap()), role).unwrap())
    }

    /// The work waits for a message that the peer sends only once it has been told of the work. If the work were done
    /// on the session's thread, neither would ever come.
    #[test]
    fn the_peer_hears_how_far_the_work_is() {
        let [mut mine, mut theirs] = pair();
        let (heard, go) = mpsc::channel();
        // Both prefaces must have arrived: a peer of version 1 would be sent pings.
        theirs.flush().unwrap();
        mine.open(b"").unwrap();
        mine.flush().unwrap();
        assert!(matches!(theirs.receive().unwrap(), SessionEvent::Opened { .. }));
        while mine.try_receive().unwrap().is_none() && !mine.is_greeted() {}
        let peer = std::thread::spawn(move || {
            let event = theirs.receive().unwrap();
            heard.send(()).unwrap();
            event
        });
        let done = away(&mut mine, Phase::Verify, 100, move |gauge| {
            gauge.advance(31);
            go.recv().unwrap();
            7
        });
        assert_eq!(done.unwrap(), 7);
        assert_eq!(peer.join().unwrap(), SessionEvent::Works(PhaseWork::new(Phase::Verify, 31, 100)));
        assert_eq!(away(&mut mine, Phase::Disk, 0, |_| 8).unwrap(), 8, "the helper goes on");
    }

    #[test]
    fn whoever_asks_for_the_end_does_not_wait_for_the_work() {
        let [mut mine, _theirs] = pair();
        let cancel = mine.canceller();
        let (stop, never) = mpsc::channel::<()>();
        let started = Instant::now();
        let done = away(&mut mine, Phase::Disk, 0, move |_| {
            cancel.cancel();
            never.recv()
        });
        assert!(matches!(done, Err(Error::Cancelled)), "{:?}", started.elapsed());
        drop(stop);
    }
}
