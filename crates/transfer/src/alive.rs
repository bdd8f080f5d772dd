//! Long local work, such as fsync or hashing, during which this side must still send pings to the peer.

use std::io;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::{self, Builder};
use std::time::Duration;

use crate::driver::Session;
use crate::error::Error;

/// Runs `work` over `bytes` of a file. If that may take long it runs on a thread of its own, and the peer is pinged.
pub(crate) fn keep_alive<T: Send>(
    session: &mut Session,
    bytes: u64,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    /// Work on fewer bytes ends long before the peer's deadline.
    const LONG: u64 = 32 << 20;
    if bytes < LONG {
        return Ok(work());
    }
    let work = Mutex::new(Some(work));
    thread::scope(|scope| {
        let (done, finished) = mpsc::sync_channel(1);
        // The work is kept here: if it were moved into a thread that cannot be started, it would be lost.
        let work = &work;
        let on_its_own = move || take(work).map(|work| done.send(work()));
        if let Err(error) = Builder::new().name("alive".into()).spawn_scoped(scope, on_its_own) {
            tracing::warn!(%error, "no thread can be had: the peer hears nothing while a file is worked on");
            return take(work).map(|work| work()).ok_or_else(ended_early);
        }
        loop {
            match finished.recv_timeout(Duration::from_secs(5)) {
                Ok(result) => return Ok(result),
                Err(mpsc::RecvTimeoutError::Timeout) => session.ping()?,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(ended_early());
                }
            }
        }
    })
}

fn take<T>(from: &Mutex<Option<T>>) -> Option<T> {
    from.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn ended_early() -> Error {
    Error::io("finish", "writing", io::Error::other("a thread ended early"))
}
