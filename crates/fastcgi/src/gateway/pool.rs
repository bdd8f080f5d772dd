//! Connections that wait for their next request.

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use socket2::Socket;

use super::idle::Idle;
use super::{Config, Error};
use crate::address::Address;

#[derive(Debug)]
pub(super) struct Pool {
    address: Address,
    config: Config,
    pub(super) idle: Idle<Socket>,
}

impl Pool {
    pub(super) fn new(address: Address, config: Config) -> Self {
        Self { address, config, idle: Idle::default() }
    }

    /// Returns a connection, and whether it was used before. It is a new one unless `kept`.
    pub(super) fn take(&self, kept: bool) -> Result<(Socket, bool), Error> {
        while let Some((socket, since)) = self.idle.pop() {
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
        self.idle.put(socket, self.config.idle_connections);
    }
}

/// Whether an idle connection has nothing to read. Anything readable between two requests is the end of the stream or
/// bytes that belong to no request; either way the connection cannot be used again.
fn is_silent(socket: &Socket) -> bool {
    let mut byte = [0u8];
    recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT).is_err_and(|error| error == Errno::AGAIN)
}
