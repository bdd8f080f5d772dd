//! The life of one connection: its requests, one after the other, and its end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use linger::Closer;
use socket2::Socket;

use super::gate::Gate;
use super::link::{Link, NextStep};
use super::wire::{SocketWire, Wire};
use super::{Closed, Config, Handler, Request, Response, StopResponder};
use crate::conversation::{Answer, End, Key, PANICKED};
use crate::incoming::Start;

/// What all connections of a responder share.
pub(super) struct Surroundings<'a> {
    pub(super) closer: &'a Closer,
    pub(super) gate: &'a Gate,
    pub(super) stop: &'a StopResponder,
}

/// Serves a connection to its end, and hands it over to be closed.
pub(super) fn connection<H: Handler + 'static>(
    socket: Socket,
    config: &Config,
    handler: &Arc<H>,
    around: &Surroundings<'_>,
) {
    let Ok(wire) = SocketWire::new(socket, config.multiplex, around.stop.clone()) else { return };
    let Some((wire, end)) = converse(wire, config, &**handler, around.gate, around.stop) else { return };
    // END_REQUEST is out: half-close, bounded drain, close.
    let handler = handler.clone();
    let End { requests, fault, policy, .. } = end;
    tracing::debug!(requests, ?fault, "closes: FIN, then a bounded drain");
    around.closer.close_then(wire.into_socket(), &policy, move |outcome| {
        tracing::debug!(requests, ?outcome, "closed");
        handler.closed(&Closed { requests, fault, outcome });
    });
}

/// Holds the conversation on a connection. Returns the connection, and how it is to end.
pub(super) fn converse<W: Wire + 'static>(
    wire: W,
    config: &Config,
    handler: &impl Handler,
    gate: &Gate,
    stop: &StopResponder,
) -> Option<(W, End)> {
    let link = Arc::new(Link::new(wire, config));
    let end = if config.multiplex {
        many_at_once(&link, handler, stop)
    } else {
        one_at_a_time(&link, handler, gate, stop)
    };
    Some((Link::into_wire(link)?, end))
}

fn one_at_a_time<W: Wire + 'static>(
    link: &Arc<Link<W>>,
    handler: &impl Handler,
    gate: &Gate,
    stop: &StopResponder,
) -> End {
    let mut buffer = Vec::new();
    loop {
        match link.next() {
            NextStep::Serve(key, start) => buffer = request(link, key, start, handler, buffer),
            NextStep::Rest(until) => {
                if !gate.rest(|| link.rest(until, stop)).unwrap_or(false) {
                    return link.end();
                }
            }
            NextStep::End(end) => return end,
        }
    }
}

fn many_at_once<W: Wire + 'static>(link: &Arc<Link<W>>, handler: &impl Handler, stop: &StopResponder) -> End {
    thread::scope(|scope| {
        loop {
            let (key, start) = match link.next() {
                NextStep::Serve(key, start) => (key, start),
                // No request is under way, so only the gateway or a stop can end this wait.
                NextStep::Rest(until) if link.rest(until, stop) => continue,
                NextStep::Rest(_) => return link.end(),
                NextStep::End(end) => return end,
            };
            let id = start.id;
            let served = thread::Builder::new().name("fastcgi".into()).spawn_scoped(scope, move || {
                request(link, key, start, handler, Vec::new());
            });
            if served.is_err() {
                let failed = Err(io::Error::other("no thread can be started"));
                link.finish(key, Answer::new(id, Vec::new()), failed);
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
    let answer = Answer::new(start.id, buffer);
    let mut request = Request::new(link.clone(), key, start);
    let mut response = Response::new(link.clone(), answer);
    let handled = catch_unwind(AssertUnwindSafe(|| handler.handle(&mut request, &mut response)))
        .unwrap_or_else(|_| Err(io::Error::other(PANICKED)));
    link.finish(key, response.into_answer(), handled)
}
