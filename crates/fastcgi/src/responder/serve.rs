//! The life of one connection: request after request, and the one right end.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use linger::Closer;
use socket2::Socket;

use super::gate::Gate;
use super::link::Link;
use super::{Closed, Config, Handler, Request, Response, Stop};
use crate::cgi;
use crate::incoming::Start;

/// What all connections of a responder share.
pub(super) struct Surroundings<'a> {
    pub(super) closer: &'a Closer,
    pub(super) gate: &'a Gate,
    pub(super) stop: &'a Stop,
}

/// Serves a connection to its end, and hands it over to be closed.
pub(super) fn connection<H: Handler + 'static>(
    socket: Socket,
    config: &Config,
    handler: &Arc<H>,
    around: &Surroundings<'_>,
) {
    let Ok(link) = Link::new(socket, config) else { return };
    let link = Arc::new(link);
    let requests = if config.multiplex {
        many_at_once(&link, config, &**handler)
    } else {
        one_at_a_time(&link, config, &**handler, around)
    };
    let fault = link.fault();
    let Some(socket) = Link::into_socket(link) else { return };
    // END_REQUEST is out: half-close, bounded drain, close.
    let handler = handler.clone();
    tracing::debug!(requests, ?fault, "closes: FIN, then a bounded drain");
    around.closer.close_then(socket, &config.policy, move |outcome| {
        tracing::debug!(requests, ?outcome, "closed");
        handler.closed(&Closed { requests, fault, outcome });
    });
}

fn one_at_a_time(
    link: &Arc<Link>,
    config: &Config,
    handler: &impl Handler,
    around: &Surroundings<'_>,
) -> u64 {
    let mut requests = 0;
    let mut buffer = Vec::new();
    while let Some(start) = link.next_request(config.io_timeout, &config.policy) {
        requests += 1;
        let keep_conn = start.keep_conn;
        let (kept, draining) = request(link, start, handler, &mut buffer);
        if !kept || !keep_conn || (draining && !link.drain(&config.policy)) {
            break;
        }
        // The next request is often there already.
        let more = link.has_input()
            || around.gate.rest(|| link.rest(config.keep_idle, around.stop)).unwrap_or(false);
        if !more {
            break;
        }
    }
    requests
}

fn many_at_once(link: &Arc<Link>, config: &Config, handler: &impl Handler) -> u64 {
    let requests = AtomicU64::new(0);
    thread::scope(|scope| {
        while let Some(start) = link.next_request(config.keep_idle, &config.policy) {
            requests.fetch_add(1, Ordering::Relaxed);
            let id = start.id;
            let served = thread::Builder::new().name("fastcgi".into()).spawn_scoped(scope, || {
                request(link, start, handler, &mut Vec::new());
            });
            if served.is_err() {
                let response = Response::new(link.clone(), id, Vec::new());
                link.ending(id);
                // A gateway that cannot be told will see the connection end.
                let _ = refuse(response, "no thread can be started");
                link.ended(true);
            }
        }
    });
    requests.into_inner()
}

/// Serves one request. Gives whether the connection may go on, and whether the body is still coming.
fn request(link: &Arc<Link>, start: Start, handler: &impl Handler, buffer: &mut Vec<u8>) -> (bool, bool) {
    let (id, keep_conn) = (start.id, start.keep_conn);
    let mut request = Request::new(link.clone(), start);
    let mut response = Response::new(link.clone(), id, std::mem::take(buffer));
    let handled = catch_unwind(AssertUnwindSafe(|| handler.handle(&mut request, &mut response)))
        .unwrap_or_else(|_| Err(io::Error::other("the handler panicked")));
    drop(request);
    let draining = link.ending(id);
    let sent = match handled {
        Ok(app_status) => {
            let (sent, used) = response.end(app_status);
            *buffer = used;
            sent
        }
        Err(error) if !response.has_begun() => refuse(response, &error.to_string()),
        Err(error) => {
            // Part of it is gone: no END_REQUEST, so that nobody takes the part for the whole. Where others
            // share the connection, only the status can tell.
            let logged = response.log(&error.to_string());
            if link.is_shared() { logged.and_then(|()| response.end(1).0) } else { Err(error) }
        }
    };
    let kept = sent.is_ok();
    link.ended(!kept || !keep_conn);
    (kept, draining)
}

fn refuse(mut response: Response, reason: &str) -> io::Result<()> {
    response.discard_gathered();
    response.log(reason)?;
    cgi::head(&mut response, 500, [("Content-Type", "text/plain")])?;
    response.write_all(b"The application failed; its log says why.\n")?;
    response.end(1).0
}
