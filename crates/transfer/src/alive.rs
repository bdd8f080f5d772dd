//! Long work during which the peer must hear from us.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use crate::driver::Session;
use crate::error::Error;

/// Does `work` over `bytes` of a file while the peer is told that we are alive, if it may take long.
pub(crate) fn keep_alive<T: Send>(
    session: &mut Session,
    bytes: u64,
    work: impl FnOnce() -> T + Send,
) -> Result<T, Error> {
    /// Below this the work is over before anybody could wonder.
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
