//! Accepting connections, each for a thread of its own, until it is time to end.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::door::{Door, NewConnection};
use super::{Server, Serving};
use crate::error::Error;
use crate::host;

impl Server {
    /// Serves connections, and returns when the last connection has ended. With `most`, accepts no more connections
    /// once this many requests have ended. A connection without a request, such as a port scan's, does not count. Nor
    /// does, for [`ShareOptions::patience`](crate::ShareOptions::patience), a request whose connection was cut.
    ///
    /// # Errors
    /// Returns the errors of `accept(2)` that do not concern a single connection.
    pub fn serve(
        &self,
        listener: &TcpListener,
        most: Option<usize>,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Result<(), Error> {
        self.serve_at(Door::Tcp(listener), most, observe)
    }

    /// Does what [`serve`](Self::serve) does, over a unix socket. Nothing is encrypted there: the kernel says which user
    /// has connected, and this process's own user and root are served, all others only with one of the two insecure
    /// options.
    ///
    /// # Errors
    /// Returns the errors of `accept(2)` that do not concern a single connection.
    pub fn serve_unix(
        &self,
        listener: &UnixListener,
        most: Option<usize>,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Result<(), Error> {
        self.serve_at(Door::Unix(listener), most, observe)
    }

    fn serve_at(
        &self,
        door: Door<'_>,
        most: Option<usize>,
        observe: &(dyn Fn(Serving<'_>) + Sync),
    ) -> Result<(), Error> {
        door.set_nonblocking().map_err(|error| Error::io("set up", "the listener", error))?;
        self.count.set_most(most);
        std::thread::scope(|scope| {
            while !self.count.is_over() {
                if self.last.is_cancelled() {
                    break;
                }
                let accepted = match door.accept() {
                    Ok(accepted) => accepted,
                    Err(error) => match error.kind() {
                        io::ErrorKind::WouldBlock => {
                            if self.await_connection(door)? {
                                continue;
                            } else {
                                break;
                            }
                        }
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => continue,
                        // ENFILE, EMFILE: no descriptor is free until a session ends.
                        _ if matches!(error.raw_os_error(), Some(23 | 24)) => {
                            std::thread::sleep(Duration::from_millis(50));
                            continue;
                        }
                        _ => return Err(Error::io("accept on", "the listener", error)),
                    },
                };
                let peer = accepted.peer();
                // The connection is behind an `Arc`: if it were moved into the thread, and the thread could not be
                // started, it would be dropped, and reset.
                let slot = Arc::new(Mutex::new(Some(accepted)));
                let serve = move |slot: &Mutex<Option<NewConnection>>| {
                    let accepted = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let Some(served) = accepted.map(|accepted| self.receive(accepted, observe)) else {
                        return;
                    };
                    let has_asked = served.has_asked();
                    let waits = served.may_return() && !self.options.patience.is_zero();
                    observe(Serving::Served(Box::new(served)));
                    let patient_until = waits.then(|| host::now() + self.options.patience);
                    if has_asked && self.count.end(patient_until) {
                        self.accept_no_more();
                    }
                };
                let its = slot.clone();
                if let Err(error) = Builder::new().spawn_scoped(scope, move || serve(&its)) {
                    tracing::warn!(%error, %peer, "no thread can be had: others wait until this connection is over");
                    serve(&slot);
                }
            }
            Ok(())
        })
    }

    /// Accepts no more connections, and ends those that have not made a request.
    fn accept_no_more(&self) {
        self.last.cancel();
        self.lobby.clear();
    }

    /// Waits until a connection can be accepted. Returns false when serving is to end.
    fn await_connection(&self, door: Door<'_>) -> Result<bool, Error> {
        let waits = self.count.waits(host::now());
        if waits == Some(Duration::ZERO) {
            self.accept_no_more();
            return Ok(false);
        }
        let timeout = waits.and_then(|waits| Timespec::try_from(waits).ok());
        let mut fds = [
            PollFd::new(&door, PollFlags::IN),
            PollFd::from_borrowed_fd(self.cancel.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.last.as_fd(), PollFlags::IN),
            PollFd::new(&self.count, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) => Ok((fds[1].revents() | fds[2].revents()).is_empty()),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(Error::io("wait on", "the listener", error)),
        }
    }
}
