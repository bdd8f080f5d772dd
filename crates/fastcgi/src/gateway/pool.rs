//! Connections that wait for their next request.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::Socket;

use super::{Config, Error};
use crate::address::Address;

#[derive(Debug)]
pub(super) struct Pool {
    address: Address,
    config: Config,
    /// The most recently used last: the first to be taken, while the others grow old.
    idle: Mutex<Vec<(Socket, Instant)>>,
}

impl Pool {
    pub(super) fn new(address: Address, config: Config) -> Self {
        Self { address, config, idle: Mutex::default() }
    }

    /// Returns a connection, and whether it was used before. It is a new one unless `kept`.
    pub(super) fn take(&self, kept: bool) -> Result<(Socket, bool), Error> {
        while let Some((socket, since)) = self.idle().pop() {
            if !kept {
                // Close the idle connection first: many applications serve one connection a worker, and the idle one
                // may occupy the worker that the new one needs.
                break;
            }
            if since.elapsed() < self.config.idle_timeout && is_silent(&socket) {
                return Ok((socket, true));
            }
        }
        let connected = self.address.connect(self.config.connect_timeout);
        let socket = connected.map_err(|source| Error::Connect { address: self.address.clone(), source })?;
        Ok((socket, false))
    }

    pub(super) fn put(&self, socket: Socket) {
        let mut idle = self.idle();
        if idle.len() >= self.config.idle_connections && !idle.is_empty() {
            idle.remove(0);
        }
        if self.config.idle_connections > 0 {
            idle.push((socket, Instant::now()));
        }
    }

    pub(super) fn clear(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Socket, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an idle connection has nothing to read. Anything readable between two requests is the end of the stream or
/// bytes that belong to no request; either way the connection cannot be used again.
fn is_silent(socket: &Socket) -> bool {
    let mut byte = [0u8];
    recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).is_err_and(|error| error == Errno::AGAIN)
}
