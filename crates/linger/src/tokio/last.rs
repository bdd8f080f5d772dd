//! The last connections of a listener under a server that drops its listener at a stop: they are accepted and served
//! first.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::vec::IntoIter;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::Accept;
use super::serve::FIRST_BYTE;

type StreamAndAddress<L> = (<L as Accept>::Io, <L as Accept>::Addr);
type Closing<L> = Pin<Box<dyn Future<Output = Vec<StreamAndAddress<L>>> + Send>>;

/// Where connections come from. The mutexes are never locked: they are there because a mutex is `Sync` although its value is
/// only `Send`.
pub(super) enum ConnectionSource<L: Accept> {
    Open(L),
    Closing(Mutex<Closing<L>>),
    /// Holds the connections that were in the accept queue.
    Closed(Mutex<IntoIter<StreamAndAddress<L>>>),
}

impl<L: Accept> ConnectionSource<L> {
    /// Returns the next connection, or `None` if the stop has come and the source has to be closed.
    pub(super) async fn accept(
        &mut self,
        stop: Option<&mut Stop>,
    ) -> Option<io::Result<StreamAndAddress<L>>> {
        if let Self::Open(listener) = self {
            return next(listener, stop).await;
        }
        if let Some(connection) = self.rest().await {
            return Some(Ok(connection));
        }
        if let Some(stop) = stop {
            stop.unread = None;
        }
        std::future::pending().await
    }

    /// Starts to close an open source.
    pub(super) fn close(&mut self) {
        let closed = Self::Closed(Mutex::new(Vec::new().into_iter()));
        *self = match std::mem::replace(self, closed) {
            Self::Open(listener) => Self::Closing(Mutex::new(Box::pin(listener.close()))),
            other => other,
        };
    }

    /// The next connection that was in the accept queue of a source that is being closed.
    pub(super) async fn rest(&mut self) -> Option<StreamAndAddress<L>> {
        if let Self::Closing(closing) = self {
            let rest = closing.get_mut().unwrap_or_else(PoisonError::into_inner).await;
            *self = Self::Closed(Mutex::new(rest.into_iter()));
        }
        let Self::Closed(rest) = self else { return None };
        rest.get_mut().unwrap_or_else(PoisonError::into_inner).next()
    }

    pub(super) fn local_addr(&self) -> io::Result<L::Addr> {
        match self {
            Self::Open(listener) => listener.local_addr(),
            Self::Closing(_) | Self::Closed(_) => Err(ErrorKind::NotConnected.into()),
        }
    }
}

/// Accepts a connection, or returns `None` once the stop has come.
async fn next<L: Accept>(
    listener: &mut L,
    stop: Option<&mut Stop>,
) -> Option<io::Result<StreamAndAddress<L>>> {
    let Some(stop) = stop else { return Some(listener.accept().await) };
    let mut accept = pin!(listener.accept());
    poll_fn(|context| {
        if let Signal::Awaited(told) = &mut stop.signal {
            match Pin::new(told).poll(context) {
                Poll::Ready(Ok(())) => stop.signal = Signal::Come,
                // The server's future was dropped without a stop, so none can come any more.
                Poll::Ready(Err(_)) => stop.signal = Signal::Never,
                Poll::Pending => {}
            }
        }
        match stop.signal {
            Signal::Come => Poll::Ready(None),
            Signal::Awaited(_) | Signal::Never => accept.as_mut().poll(context).map(Some),
        }
    })
    .await
}

/// The stop of a listener, as that listener knows it.
#[derive(Debug)]
pub(super) struct Stop {
    signal: Signal,
    /// Each connection that was not read from yet holds a clone. `None` when all connections have been returned.
    unread: Option<Unread>,
}

#[derive(Debug)]
enum Signal {
    Awaited(oneshot::Receiver<()>),
    Come,
    Never,
}

/// A connection holds this until it is read from for the first time.
pub(super) type Unread = mpsc::Sender<Infallible>;

impl Stop {
    /// A stop at `signal`, and a future that is ready when the server may be told of the stop.
    pub(super) fn when<F: Future<Output = ()>>(signal: F) -> (Self, impl Future<Output = ()> + use<F>) {
        let (tell, told) = oneshot::channel();
        let (unread, mut all_read) = mpsc::channel(1);
        let stopped = async move {
            signal.await;
            // If the listener is gone, its connections still have to be read from.
            let _ = tell.send(());
            // Nothing is ever sent: `recv` returns when the last sender is dropped.
            let _ = timeout(FIRST_BYTE, all_read.recv()).await;
        };
        (Self { signal: Signal::Awaited(told), unread: Some(unread) }, stopped)
    }

    /// The value that a new connection holds until it is read from.
    pub(super) fn hold(&self) -> Option<Unread> {
        self.unread.clone()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::task::{Context, Waker};

    #[test]
    fn a_server_learns_of_the_stop_when_all_is_handed_out_and_read_from() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let mut context = Context::from_waker(Waker::noop());
        let (signal, signalled) = oneshot::channel::<()>();
        let (mut stop, stopped) = Stop::when(async { _ = signalled.await });
        let mut stopped = pin!(stopped);
        let connection = stop.hold();
        assert!(stopped.as_mut().poll(&mut context).is_pending());
        let Signal::Awaited(told) = &mut stop.signal else { unreachable!("nobody has asked it") };
        assert!(told.try_recv().is_err());
        signal.send(()).unwrap();
        assert!(stopped.as_mut().poll(&mut context).is_pending());
        assert!(told.try_recv().is_ok());
        drop(connection);
        assert!(stopped.as_mut().poll(&mut context).is_pending(), "the accept queue is not handed out");
        let last = stop.hold();
        stop.unread = None;
        assert!(stopped.as_mut().poll(&mut context).is_pending(), "a connection is not read from");
        drop(last);
        assert!(stopped.as_mut().poll(&mut context).is_ready());
    }
    /// A listener for which there are no descriptors, with one connection in its queue.
    struct Full(tokio::net::UnixStream);

    impl Accept for Full {
        type Io = tokio::net::UnixStream;
        type Addr = ();

        async fn accept(&mut self) -> io::Result<(Self::Io, ())> {
            Err(io::Error::other("no descriptors"))
        }

        fn local_addr(&self) -> io::Result<()> {
            Ok(())
        }

        async fn close(self) -> Vec<(Self::Io, ())> {
            vec![(self.0, ())]
        }
    }

    #[test]
    fn a_stop_while_room_is_made_is_not_forgotten_whoever_gives_up_waiting() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (stream, _peer) = tokio::net::UnixStream::pair().unwrap();
            let listener = crate::tokio::Listener::new(Full(stream), crate::Policy::default());
            let (mut listener, stopped) = listener.stop_when(std::future::ready(()));
            let mut stopped = pin!(stopped);
            let mut context = Context::from_waker(Waker::noop());
            // It makes room, and is dropped while it does: before the stop, and after it.
            assert!(pin!(listener.accept()).poll(&mut context).is_pending());
            assert!(stopped.as_mut().poll(&mut context).is_pending());
            assert!(pin!(listener.accept()).poll(&mut context).is_pending());
            let (last, ()) = listener.accept().await;
            assert!(stopped.as_mut().poll(&mut context).is_pending());
            drop(last);
            assert!(pin!(listener.accept()).poll(&mut context).is_pending());
            assert!(stopped.as_mut().poll(&mut context).is_ready());
            assert_eq!(listener.local_addr().unwrap_err().kind(), ErrorKind::NotConnected);
        });
    }
}
