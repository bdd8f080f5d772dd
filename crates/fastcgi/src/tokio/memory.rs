//! Runs the driver on tokio against a gateway in memory.

use std::io::{self, ErrorKind, IoSlice};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use linger::Event;

use super::floor::Floor;
use super::wire::AsyncWire;
use super::{Config, Request, Response};
use crate::conversation::End;
use crate::lobby::Lobby;
use crate::transcripts::memory::Gateway;
use crate::transcripts::plan::{Act, Done, INPUT_IDLE, REASON, pattern};

impl AsyncWire for Arc<Gateway> {
    fn poll_receive(&self, context: &mut Context<'_>, to: &mut [u8]) -> Poll<io::Result<usize>> {
        match Gateway::receive(self, to, Some(context.waker())) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }

    fn poll_send(&self, context: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match Gateway::send(self, parts) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            result => Poll::Ready(result),
        }
    }

    fn unacknowledged(&self) -> Event {
        Event::Unacknowledged { bytes: 0, fin: true }
    }
}

/// A stop that does not come.
fn never() -> super::StopNews {
    super::StopNews(tokio::sync::watch::channel(None).1)
}

/// Holds a conversation on the present runtime.
pub(crate) async fn converse(gateway: &Arc<Gateway>) -> End {
    let handler = {
        let gateway = gateway.clone();
        Arc::new(move |request, response| handle(gateway.clone(), request, response))
    };
    let config = Config { input_idle: INPUT_IDLE, ..Config::default() };
    let visit = Floor::new(1, Lobby::new(1)).enter();
    let ended = super::converse(gateway.clone(), &config, &handler, visit, never()).await;
    ended.expect("nobody keeps the connection").1
}

/// A handler that does what the plan of its request says, as a future.
pub(crate) async fn handle(
    gateway: Arc<Gateway>,
    mut request: Request,
    mut response: Response,
) -> io::Result<()> {
    let index = gateway.start(request.params());
    let mut read = 0;
    let acted = act(gateway.acts(index), &mut read, &mut request, &mut response).await;
    let done = gateway.note(index, read, &acted);
    if gateway.is_last(index) {
        loop {
            let started = gateway.gate.notified();
            if gateway.has_all() {
                break;
            }
            started.await;
        }
    }
    acted?;
    match done {
        Done::Status(status) => response.end(status).await,
        Done::Error => Err(io::Error::other(REASON)),
        Done::Panic => resume_unwind(Box::new(())),
    }
}

async fn act(
    acts: &[Act],
    read: &mut usize,
    request: &mut Request,
    response: &mut Response,
) -> io::Result<()> {
    // A piece of the body may be longer than an act wants to read. The rest is left for the next act.
    let mut left = Bytes::new();
    let mut written = 0;
    for act in acts {
        match act {
            Act::ReadAll => take(request, &mut left, usize::MAX, read).await?,
            Act::Read(most) => take(request, &mut left, *most, read).await?,
            Act::ReadData => while request.data_chunk().await?.is_some() {},
            Act::Write(bytes) => {
                response.write(&pattern(written, *bytes)).await?;
                written += bytes;
            }
            Act::Flush => response.flush().await?,
            Act::Log(bytes) => {
                let text = pattern(0, *bytes);
                response.log(std::str::from_utf8(&text).expect("small")).await?;
            }
        }
    }
    Ok(())
}

async fn take(request: &mut Request, left: &mut Bytes, most: usize, read: &mut usize) -> io::Result<()> {
    let mut wanted = most;
    while wanted > 0 {
        if left.is_empty() {
            match request.chunk().await? {
                Some(bytes) => *left = bytes,
                None => break,
            }
        }
        let got = left.split_to(left.len().min(wanted));
        *read += got.len();
        wanted -= got.len();
    }
    Ok(())
}
