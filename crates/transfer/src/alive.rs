//! Long local work, such as fsync or hashing, during which the peer must still hear from us.

use std::io;
use std::sync::mpsc;
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
    std::thread::scope(|scope| {
        let (done, finished) = mpsc::sync_channel(1);
        scope.spawn(move || done.send(work()));
        loop {
            match finished.recv_timeout(Duration::from_secs(5)) {
                Ok(result) => return Ok(result),
                Err(mpsc::RecvTimeoutError::Timeout) => session.ping()?,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(Error::io("finish", "writing", io::Error::other("a thread ended early")));
                }
            }
        }
    })
}
