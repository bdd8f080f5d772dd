//! The life of one connection: its requests, one after the other, and its end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use linger::Closer;
use socket2::Socket;

use super::gate::{Visit, own_bell};
use super::link::{Link, NextStep};
use super::wire::{SocketWire, Wire};
use super::{Closed, Config, Handler, Request, Response, StopResponder};
use crate::conversation::{Answer, End, Key, PANICKED};
use crate::incoming::Start;
use crate::journal::{Incident, note};
use crate::socket::{PAUSE, is_passing};

/// What all connections of a responder share.
pub(super) struct Surroundings<'a> {
    pub(super) closer: &'a Closer,
    pub(super) stop: &'a StopResponder,
}

/// Serves a connection to its end, and hands it over to be closed.
pub(super) fn connection<H: Handler + 'static>(
    socket: Socket,
    config: &Config,
    handler: &Arc<H>,
    visit: &mut Visit<'_>,
    around: &Surroundings<'_>,
) {
    let wire = match wired(socket, config, visit, around) {
        Ok(wire) => wire,
        // Without a byte of a response, and in order: what the gateway has sent must not reset the connection.
        Err(socket) => return around.closer.close_then(socket, &config.policy, |_| {}),
    };
    let Some((wire, end)) = converse(wire, config, &**handler, visit) else { return };
    // END_REQUEST is out: half-close, bounded drain, close.
    let handler = handler.clone();
    let End { requests, fault, policy, is_slow } = end;
    if is_slow {
        note(config.journal.as_ref(), &Incident::TooSlow);
    }
    tracing::debug!(requests, ?fault, "closes: FIN, then a bounded drain");
    around.closer.close_then(wire.into_socket(), &policy, move |outcome| {
        tracing::debug!(requests, ?outcome, "closed");
        handler.closed(&Closed { requests, fault, outcome });
    });
}

/// Waits for the descriptors that a connection needs beside its own, as the next connection waits for its own: its thread's bell, so that no
/// kept connection has to end behind a response for lack of it, and another one if it is multiplexed. Returns the socket if the
/// responder has to end before, or if it is something else that is lacking.
fn wired(
    mut socket: Socket,
    config: &Config,
    visit: &Visit<'_>,
    around: &Surroundings<'_>,
) -> Result<SocketWire, Socket> {
    loop {
        let wire = match own_bell() {
            Ok(_) => SocketWire::new(socket, config.multiplex, around.stop.clone()),
            Err(error) => Err((socket, error)),
        };
        let error = match wire {
            Ok(wire) => return Ok(wire),
            Err((back, error)) => {
                socket = back;
                error
            }
        };
        if !is_passing(&error) || around.stop.left().is_some_and(|left| left.is_zero()) {
            return Err(socket);
        }
        // One that was ended lingers, and has its descriptor until its gateway closes.
        around.closer.evict(1);
        visit.evict();
        thread::sleep(PAUSE);
    }
}

/// Holds the conversation on a connection. Returns the connection, and how it is to end.
pub(super) fn converse<W: Wire + 'static>(
    wire: W,
    config: &Config,
    handler: &impl Handler,
    visit: &mut Visit<'_>,
) -> Option<(W, End)> {
    let link = Arc::new(Link::new(wire, config));
    let end = if config.multiplex {
        many_at_once(&link, handler, visit)
    } else {
        one_at_a_time(&link, handler, visit)
    };
    Some((Link::into_wire(link)?, end))
}

fn one_at_a_time<W: Wire + 'static>(
    link: &Arc<Link<W>>,
    handler: &impl Handler,
    visit: &mut Visit<'_>,
) -> End {
    let mut buffer = Vec::new();
    loop {
        match link.next() {
            NextStep::Serve(key, start) => {
                visit.serve();
                buffer = request(link, key, start, handler, buffer);
            }
            NextStep::Rest(pause) if link.rest(pause, visit) => {}
            NextStep::Rest(_) => return link.end(),
            NextStep::End(end) => return end,
        }
    }
}

fn many_at_once<W: Wire + 'static>(
    link: &Arc<Link<W>>,
    handler: &impl Handler,
    visit: &mut Visit<'_>,
) -> End {
    thread::scope(|scope| {
        loop {
            let (key, start) = match link.next() {
                NextStep::Serve(key, start) => (key, start),
                // No request is under way, so only the gateway, a stop or another connection can end this wait.
                NextStep::Rest(pause) if link.rest(pause, visit) => continue,
                NextStep::Rest(_) => return link.end(),
                NextStep::End(end) => return end,
            };
            visit.serve();
            let id = start.id;
            let refused = link.entry(&start);
            let served = thread::Builder::new().name("fastcgi".into()).spawn_scoped(scope, move || {
                request(link, key, start, handler, Vec::new());
            });
            if served.is_err() {
                let failed = Err(io::Error::other("no thread can be started"));
                link.finish(key, Answer::new(id, Vec::new()), refused, failed);
            }
        }
    })
}

/// Serves one request.
fn request<W: Wire + 'static>(
    link: &Arc<Link<W>>,
    key: Key,
    start: Start,
    handler: &impl Handler,
    buffer: Vec<u8>,
) -> Vec<u8> {
    let mut answer = Answer::new(start.id, buffer);
    let entry = link.entry(&start);
    if entry.is_some() {
        answer.look();
    }
    let mut request = Request::new(link.clone(), key, start);
    let mut response = Response::new(link.clone(), answer);
    let handled = catch_unwind(AssertUnwindSafe(|| handler.handle(&mut request, &mut response)))
        .unwrap_or_else(|_| Err(io::Error::other(PANICKED)));
    link.finish(key, response.into_answer(), entry, handled)
}
