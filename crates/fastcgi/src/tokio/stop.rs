//! The stop of a server, as its connections learn of it.

use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Instant;

use ::tokio::sync::watch;
use ::tokio::time::sleep_until;

/// `None` before the stop; then when the time for an end in order is over, if it ever is.
#[derive(Clone, Debug)]
pub(super) struct StopNews(pub(super) watch::Receiver<Option<Option<Instant>>>);

impl StopNews {
    /// Waits for the stop.
    pub(super) async fn asked(&self) {
        self.wait().await;
    }

    /// Waits for the stop, and until the time for an end in order is over.
    pub(super) async fn overdue(&self) {
        match self.wait().await {
            Some(overdue) => sleep_until(overdue.into()).await,
            None => pending().await,
        }
    }

    async fn wait(&self) -> Option<Instant> {
        let mut stopped = self.0.clone();
        let overdue = stopped.wait_for(Option::is_some).await.ok().map(|overdue| overdue.flatten());
        match overdue {
            Some(overdue) => overdue,
            // The future that serves was dropped: its connections go on, and no stop comes any more.
            None => pending().await,
        }
    }
}

/// The output of a future if it is ready now.
pub(super) async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
