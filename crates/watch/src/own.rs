//! [`OwnConnections`]: the connections of this program's own client. What happens to them is not told: a collector that is not there
//! resets each try to tell it something, and telling that would be the next try.
//!
//! They are known by the kernel's sockets, and at the other end, if it is on this host, by their addresses: whoever else has a
//! connection to the same port is told as before.

use std::collections::VecDeque;

use crate::events::{Endpoints, ProcessChange, ProcessEvent};
use crate::namespace_id::NamespaceId;
use crate::notice::OwnClient;

/// Most connections that are remembered; the oldest are forgotten first. The client has two at a time.
const MAX: usize = 256;

/// Whether a reset is of an own connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OwnReset {
    #[default]
    No,
    /// It is if the socket of an own connection, whose port is not known yet, receives it.
    Perhaps,
    Yes,
}

#[derive(Debug)]
struct OwnConnection {
    /// The kernel's address of the socket.
    socket: u64,
    /// The local port is 0 until it is known.
    ends: Endpoints,
    is_connected: bool,
    /// The socket is destroyed: the kernel uses its memory again.
    is_gone: bool,
}

/// The latest connections of the client.
#[derive(Debug, Default)]
pub(crate) struct OwnConnections {
    /// `None` if there is none, or none any more: its pid may be another's.
    client: Option<OwnClient>,
    connections: VecDeque<OwnConnection>,
    /// How many resets of them were not told.
    resets: u64,
}

impl OwnConnections {
    pub(crate) fn new(client: Option<OwnClient>) -> Self {
        Self { client, ..Self::default() }
    }

    pub(crate) fn resets(&self) -> u64 {
        self.resets
    }

    pub(crate) fn count(&mut self) {
        self.resets += 1;
    }

    /// Whether this is the client's process.
    pub(crate) fn is_client(&self, pid: u32) -> bool {
        self.client.is_some_and(|client| client.pid == pid)
    }

    /// Notes the end of the client.
    pub(crate) fn process(&mut self, event: &ProcessEvent) {
        let is_end = matches!(event.what, ProcessChange::Exit { .. }) && event.pid == event.thread;
        if is_end && self.is_client(event.pid) {
            self.client = None;
        }
    }

    /// Notes that a process connects. Its own port is not chosen yet.
    pub(crate) fn connects(&mut self, pid: u32, socket: u64, ends: Endpoints) {
        self.forget(socket);
        if !self.is_client(pid) {
            return;
        }
        if self.connections.len() >= MAX {
            self.connections.pop_front();
        }
        self.connections.push_back(OwnConnection { socket, ends, is_connected: false, is_gone: false });
    }

    /// Notes that a socket is connected. If that is not the client's, its addresses are the client's no more.
    pub(crate) fn connected(&mut self, socket: u64, ends: Endpoints) {
        match self.of(socket) {
            Some(own) => (own.ends, own.is_connected) = (ends, true),
            None => self.connections.retain(|own| !own.is_gone || own.ends != ends),
        }
    }

    pub(crate) fn destroyed(&mut self, socket: u64) {
        match self.of(socket) {
            Some(own) if own.is_connected => own.is_gone = true,
            Some(_) => self.forget(socket),
            None => {}
        }
    }

    fn of(&mut self, socket: u64) -> Option<&mut OwnConnection> {
        self.connections.iter_mut().find(|own| own.socket == socket && !own.is_gone)
    }

    fn forget(&mut self, socket: u64) {
        self.connections.retain(|own| own.socket != socket || own.is_gone);
    }

    /// Of a reset that arrived at a socket.
    pub(crate) fn received(&mut self, ends: &Endpoints, socket: u64) -> bool {
        if let Some(own) = self.of(socket) {
            own.ends = *ends;
            return true;
        }
        // That of the other end, to which an own socket sent it.
        self.connections.iter().any(|own| own.is_connected && turned(&own.ends) == *ends)
    }

    /// Of a reset that a socket sent, or the kernel in the place of one that is gone (`has_socket`).
    pub(crate) fn sent(&mut self, ends: &Endpoints, socket: u64, has_socket: bool) -> OwnReset {
        if has_socket && self.of(socket).is_some() {
            return OwnReset::Yes;
        }
        let here = |own: &OwnConnection| own.is_connected && !has_socket && own.ends == *ends;
        // Where the client's socket is gone, a port that is closed answers somebody else.
        let there = |own: &OwnConnection| {
            own.is_connected && (has_socket || !own.is_gone) && turned(&own.ends) == *ends
        };
        let begins = |own: &OwnConnection| {
            let (local, remote) = own.ends;
            let is_from = local.ip().is_unspecified() || local.ip() == ends.1.ip();
            !own.is_connected && !has_socket && remote == ends.0 && is_from
        };
        match () {
            () if self.connections.iter().any(|own| here(own) || there(own)) => OwnReset::Yes,
            () if self.connections.iter().any(begins) => OwnReset::Perhaps,
            () => OwnReset::No,
        }
    }
}

/// A connection as its other end sees it.
pub(crate) fn turned((local, remote): &Endpoints) -> Endpoints {
    (*remote, *local)
}

/// Whether a reset cannot be of a connection of this namespace: one over a loopback address stays where it is.
pub(crate) fn is_elsewhere(ends: &Endpoints, namespace: Option<NamespaceId>, own: NamespaceId) -> bool {
    ends.0.ip().is_loopback() && namespace.is_some_and(|namespace| namespace != own)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: u32 = 7;

    fn ends(local: u16) -> Endpoints {
        (([127, 0, 0, 1], local).into(), ([127, 0, 0, 1], 4318).into())
    }

    fn connecting() -> OwnConnections {
        let mut own = OwnConnections::new(Some(OwnClient::new(CLIENT, 4318)));
        own.connects(CLIENT, 1, ends(0));
        own
    }

    #[test]
    fn a_refused_try_is_known_where_it_is_received() {
        let mut own = connecting();
        let closed = turned(&ends(5000));
        assert_eq!(own.sent(&closed, 0, false), OwnReset::Perhaps);
        // Another client of that port is refused at the same time: at another socket.
        assert!(!own.received(&ends(5001), 2));
        assert!(own.received(&ends(5000), 1));
        own.destroyed(1);
        assert_eq!(own.sent(&closed, 0, false), OwnReset::No, "whoever has that port now");
        assert!(!own.received(&ends(5000), 1), "the memory is another socket's");
        // Another port, another process, an open socket: nothing is left open.
        let mut own = connecting();
        let other = (([127, 0, 0, 1], 80).into(), ends(5000).0);
        assert_eq!(own.sent(&other, 0, false), OwnReset::No);
        assert_eq!(own.sent(&closed, 9, true), OwnReset::No);
        let mut own = OwnConnections::new(Some(OwnClient::new(CLIENT, 4318)));
        own.connects(CLIENT + 1, 1, ends(0));
        assert_eq!((own.sent(&closed, 0, false), own.received(&ends(5000), 1)), (OwnReset::No, false));
    }

    #[test]
    fn both_ends_of_a_connection_are_own_until_somebody_else_has_it() {
        let mut own = connecting();
        own.connected(1, ends(5000));
        let there = turned(&ends(5000));
        assert_eq!(own.sent(&ends(5000), 1, true), OwnReset::Yes);
        assert_eq!((own.sent(&there, 2, true), own.sent(&there, 0, false)), (OwnReset::Yes, OwnReset::Yes));
        assert!(own.received(&ends(5000), 1) && own.received(&there, 2));
        // One port away.
        assert_eq!(own.sent(&turned(&ends(5001)), 2, true), OwnReset::No);
        assert!(!own.received(&turned(&ends(5001)), 2) && !own.received(&ends(5001), 3));
        // Its socket is gone: what comes late is answered by the kernel, and the other end may still close with bytes unread.
        own.destroyed(1);
        assert_eq!(own.sent(&ends(5000), 0, false), OwnReset::Yes);
        assert_eq!(own.sent(&ends(5000), 1, true), OwnReset::No, "the memory is another socket's");
        assert_eq!((own.sent(&there, 2, true), own.sent(&there, 0, false)), (OwnReset::Yes, OwnReset::No));
        // Somebody else connects from that port.
        own.connected(4, ends(5000));
        assert_eq!(
            (own.sent(&there, 2, true), own.sent(&ends(5000), 0, false)),
            (OwnReset::No, OwnReset::No)
        );
        assert!(!own.received(&there, 2));
    }

    #[test]
    fn a_pid_that_is_used_again_is_another_process() {
        let mut own = connecting();
        let exit = |thread| ProcessEvent {
            time_ns: 1,
            pid: CLIENT,
            thread,
            what: ProcessChange::Exit { name: b"linger-otlp".to_vec() },
        };
        own.process(&exit(CLIENT + 1));
        assert!(own.is_client(CLIENT), "a thread of it");
        own.process(&exit(CLIENT));
        own.connects(CLIENT, 2, ends(0));
        assert!(own.received(&ends(5000), 1), "that was still its own");
        assert!(!own.received(&ends(5001), 2));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut own = connecting();
        for socket in 2..=MAX as u64 + 1 {
            own.connects(CLIENT, socket, ends(0));
        }
        assert_eq!(own.connections.len(), MAX);
        assert!(!own.received(&ends(5000), 1) && own.received(&ends(5000), 2));
    }

    #[test]
    fn a_loopback_address_is_of_one_namespace() {
        let [own, other] = [1, 2].map(NamespaceId::from_inode);
        let far = (([10, 0, 0, 1], 4318).into(), ends(5000).0);
        assert!(is_elsewhere(&ends(5000), Some(other), own));
        assert!(!is_elsewhere(&ends(5000), Some(own), own) && !is_elsewhere(&ends(5000), None, own));
        assert!(!is_elsewhere(&far, Some(other), own));
    }
}
