//! Tests of closes that the runtime's side drives.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as Peer;
use std::pin::Pin;
use std::time::Duration;

use linger_sys::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::*;
use crate::{Budget, Snapshot};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A stream of this runtime that holds an answer for its peer.
fn pair(runtime: &Runtime) -> (UnixStream, Peer) {
    let (mut server, client) = Peer::pair().unwrap();
    server.write_all(b"answer").unwrap();
    server.set_nonblocking(true).unwrap();
    let _entered = runtime.enter();
    (UnixStream::from_std(server).unwrap(), client)
}

/// No bound of this policy is met.
fn patient() -> Policy {
    let long = Duration::from_secs(60);
    Policy::new().with_total(long).with_idle(long).with_grace(long)
}

/// What the peer reads until the end of the stream.
fn read(mut peer: &Peer) -> String {
    peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut got = String::new();
    peer.read_to_string(&mut got).unwrap();
    got
}

/// The counts when every close has ended and been reported.
fn ended(closer: &Closer) -> Snapshot {
    closer.finish(Duration::from_secs(60));
    closer.snapshot()
}

#[test]
fn the_closer_has_those_from_the_start_whose_bounds_a_watch_would_outlast() {
    let runtime = runtime();
    let closer = Closer::new(Budget::default()).unwrap();
    let short = LONGEST_WATCH - Duration::from_nanos(1);
    let good = Policy { grace: LONGEST_WATCH, ..Policy::default() };
    for (policy, is_given) in [
        (good, false),
        (Policy { grace: short, ..good }, true),
        (Policy { idle: short, ..good }, true),
        (Policy { total: short, ..good }, true),
    ] {
        let (stream, _peer) = pair(&runtime);
        let ending = LingeringClose::begin(stream, &policy, Some(&closer), false);
        assert_eq!(ending.shared.place.is_given(), is_given, "{policy:?}");
    }
}

#[test]
fn the_event_ends_a_close_that_nobody_waits_for() {
    let runtime = runtime();
    let closer = Closer::new(Budget::default()).unwrap();
    let (stream, peer) = pair(&runtime);
    let shared = SharedClose::begin(stream, &patient(), Some(&closer), false);
    shared.clone().look();
    assert!(!shared.place.is_given());
    assert_eq!(read(&peer), "answer");
    drop(peer);
    // On a busy machine the closer may have taken it over before the runtime has its turn.
    while shared.place.outcome().is_none() && !shared.place.is_given() {
        runtime.block_on(tokio::task::yield_now());
    }
    if let Some(outcome) = shared.place.outcome() {
        assert_eq!(outcome.ended, crate::Ended::PeerClosed);
    }
    assert_eq!(ended(&closer).ended.peer_closed, 1);
    assert_eq!(runtime.metrics().num_alive_tasks(), 0);
    // Neither the runtime nor the closer keeps anything of it.
    assert_eq!(Arc::strong_count(&shared), 1);
}

#[test]
fn a_close_whose_runtime_is_not_driven_or_gone_is_the_closers() {
    for is_gone in [false, true] {
        let runtime = runtime();
        let closer = Closer::new(Budget::default()).unwrap();
        let (stream, peer) = pair(&runtime);
        let kept = if is_gone { None } else { Some(runtime) };
        let_go(stream, &patient(), Some(&closer), false);
        assert_eq!(read(&peer), "answer", "{is_gone}");
        drop(peer);
        assert_eq!(ended(&closer).ended.peer_closed, 1, "{is_gone}");
        drop(kept);
    }
}

#[test]
fn a_runtime_that_ends_leaves_its_closes_to_the_closer() {
    let runtime = runtime();
    let closer = Closer::new(Budget::default()).unwrap();
    let (stream, peer) = pair(&runtime);
    let shared = SharedClose::begin(stream, &patient(), Some(&closer), false);
    shared.clone().look();
    drop(runtime);
    assert!(shared.place.is_given());
    assert_eq!(read(&peer), "answer");
    drop(peer);
    assert_eq!(ended(&closer).ended.peer_closed, 1);
    assert_eq!(Arc::strong_count(&shared), 1);
}

#[test]
fn a_close_goes_to_the_closer_that_is_named_or_to_the_global_one() {
    let runtime = runtime();
    let closer = Closer::new(Budget::default()).unwrap();
    let global = Closer::global().unwrap();
    let before = global.snapshot().handed_over;
    for named in [Some(&closer), None] {
        let (stream, peer) = pair(&runtime);
        let_go(stream, &patient(), named, false);
        assert_eq!((read(&peer).as_str(), closer.snapshot().handed_over), ("answer", 1));
    }
    assert_eq!(global.snapshot().handed_over, before + 1);
}

/// A stream that wakes whoever asks it, while it is being asked.
struct Restless(UnixStream);

impl AsyncRead for Restless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buf)
    }
}

impl AsyncWrite for Restless {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl AsFd for Restless {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Stream for Restless {
    fn into_fd(self) -> io::Result<OwnedFd> {
        self.0.into_fd()
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        context.waker().wake_by_ref();
        self.0.poll_readable(context)
    }

    fn reading<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.0.reading(read)
    }
}

#[test]
fn an_event_during_a_look_blocks_nobody_and_is_not_forgotten() {
    let runtime = runtime();
    let closer = Closer::new(Budget::default()).unwrap();
    let (stream, peer) = pair(&runtime);
    let shared = SharedClose::begin(Restless(stream), &patient(), Some(&closer), false);
    shared.clone().look();
    assert!(shared.place.is_given());
    assert_eq!(read(&peer), "answer");
    drop(peer);
    assert_eq!(ended(&closer).ended.peer_closed, 1);
}
