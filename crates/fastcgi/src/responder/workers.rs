//! Threads that take turns at accepting.
//!
//! One thread at a time waits in accept. Before it serves the connection it has got, it makes sure that another
//! thread waits in its place. No connection moves between threads.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::Duration;

use linger::{Budget, Closer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::Socket;

use super::gate::Gate;
use super::serve::{self, Surroundings};
use super::{Config, Handler, StopResponder};
use crate::journal::{Incident, Lack, note};
use crate::leaving::{LOOK, LastHandshakes, Shut, admit_no_more};
use crate::lobby::Lobby;
use crate::socket::{PAUSE, is_passing};

/// How many idle threads are kept.
const SPARE: usize = 16;
/// Most connections that are taken from the accept queue after a stop: the longest queue that Linux allows by default
/// (`net.core.somaxconn`). What comes beyond it is new.
const QUEUE: u32 = 4096;
struct Pool<'a, H> {
    config: &'a Config,
    stop: &'a StopResponder,
    handler: Arc<H>,
    closer: Closer,
    gate: Gate,
    count: Mutex<Count>,
    /// The accepting thread's turn is over.
    turn: Condvar,
}

#[derive(Default)]
struct Count {
    threads: usize,
    idle: usize,
    accepting: bool,
    /// Taken out by the thread that accepts, and closed with the last accept.
    door: Option<Entrance>,
    stopped: bool,
    failure: Option<io::Error>,
}

/// The listener, and what the thread that accepts has to know of earlier turns.
struct Entrance {
    listener: Socket,
    /// No other process has the listener.
    is_own: bool,
    /// Connections accepted after the stop.
    late: u32,
    /// The listener admits no more.
    shut: Option<Shut>,
    lack: Lack,
    /// A connection without a request was ended for its descriptor, and none was accepted since.
    has_evicted: bool,
}

pub(super) fn run(
    listener: Socket,
    is_own: bool,
    config: &Config,
    stop: &StopResponder,
    handler: impl Handler + 'static,
) -> io::Result<()> {
    let (handler, closer) = (Arc::new(handler), Closer::new(Budget::default())?);
    let door = Entrance { listener, is_own, late: 0, shut: None, lack: Lack::default(), has_evicted: false };
    let count = Mutex::new(Count { threads: 1, idle: 1, door: Some(door), ..Count::default() });
    let gate = Gate::new(config.connections, Lobby::within_descriptors(config.resting));
    let pool = Pool { config, stop, handler, closer, gate, count, turn: Condvar::new() };
    thread::scope(|scope| work(&pool, scope));
    // If the process exited now, the kernel would close the connections that still linger, and reset those at which more
    // arrives.
    let left = stop.left().map_or(Duration::MAX, |left| left.max(config.policy.grace));
    pool.closer.finish(config.policy.total.min(left));
    let count = pool.count.into_inner().unwrap_or_else(PoisonError::into_inner);
    count.failure.map_or(Ok(()), Err)
}

fn work<'s, H: Handler + 'static>(pool: &'s Pool<'_, H>, scope: &'s Scope<'s, '_>) {
    while let Some(stream) = next(pool) {
        // Nobody else accepts meanwhile: what cannot be served yet waits in the listener's queue.
        let mut visit = pool.gate.enter();
        let mut count = lock(pool);
        count.accepting = false;
        count.idle -= 1;
        if count.idle > 0 {
            drop(count);
            pool.turn.notify_one();
        } else if count.threads <= pool.config.connections.saturating_add(pool.config.resting) {
            // One more than there are slots and seats: somebody has to accept.
            count.threads += 1;
            count.idle += 1;
            drop(count);
            let started =
                thread::Builder::new().name("fastcgi".into()).spawn_scoped(scope, || work(pool, scope));
            if started.is_err() {
                // No thread could be started. The next thread that becomes free accepts.
                let mut count = lock(pool);
                count.threads -= 1;
                count.idle -= 1;
                drop(count);
                pool.gate.make_way();
            }
        } else {
            drop(count);
            // Too many wait for a slot with a request. The next thread that becomes free accepts.
            pool.gate.make_way();
        }
        if let Some(stream) = admitted(stream, pool.config) {
            let surroundings = Surroundings { closer: &pool.closer, stop: pool.stop };
            serve::connection(stream, pool.config, &pool.handler, &mut visit, &surroundings);
        }
        let mut count = lock(pool);
        // Under the lock: whoever finds that nobody leaves, and no thread idle, has counted this one.
        drop(visit);
        if count.idle >= SPARE {
            count.threads -= 1;
            return;
        }
        count.idle += 1;
    }
    lock(pool).idle -= 1;
    pool.turn.notify_all();
}

/// Waits for this thread's turn, then for a connection. Returns `None` when the pool ends.
fn next<H>(pool: &Pool<'_, H>) -> Option<Socket> {
    let mut count = lock(pool);
    while count.accepting && !count.stopped {
        count = pool.turn.wait(count).unwrap_or_else(PoisonError::into_inner);
    }
    if count.stopped {
        return None;
    }
    let mut door = count.door.take()?;
    count.accepting = true;
    drop(count);
    let accepted = door.accept(pool);
    if let Ok(Some(stream)) = accepted {
        lock(pool).door = Some(door);
        return Some(stream);
    }
    // Gateways that come from now on are refused at once, and not when the last request has ended.
    drop(door);
    let mut count = lock(pool);
    count.accepting = false;
    count.stopped = true;
    count.failure = accepted.err();
    None
}

impl Entrance {
    /// Waits for a connection. Returns `None` after a stop, once the queue is empty: what waits there would be reset with the listener.
    fn accept<H>(&mut self, pool: &Pool<'_, H>) -> io::Result<Option<Socket>> {
        let stop = pool.stop;
        loop {
            let mut ready =
                [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(stop.asked(), PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            if !ready[1].revents().is_empty() && !self.has_queue(stop) {
                return Ok(None);
            }
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Some(shut) = &self.shut {
                        shut.accepted(&stream);
                    }
                    self.lack.ended(pool.config.journal.as_ref());
                    self.has_evicted = false;
                    return Ok(Some(stream));
                }
                Err(error) => match Errno::from_io_error(&error) {
                    // Another process took it, or the peer gave up before it was taken (accept(2)).
                    Some(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
                    // The queue of a unix socket that admits no more is empty.
                    Some(Errno::INVAL) if self.late > 0 => return Ok(None),
                    _ if is_passing(&error) => {
                        self.lack.began(pool.config.journal.as_ref(), &error);
                        self.make_room(pool);
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Ends a connection without a request, and waits for a moment: the new one stays in the listener's queue until a descriptor is free,
    /// and there is no event for that.
    fn make_room<H>(&mut self, pool: &Pool<'_, H>) {
        if std::mem::take(&mut self.has_evicted) {
            // That one lingers, for it has to be closed by its gateway, which has everything. Those go first.
            pool.closer.evict(1);
        }
        self.has_evicted = pool.gate.evict();
        thread::sleep(PAUSE);
    }

    /// Called after a stop: whether there may be another connection to accept.
    fn has_queue(&mut self, stop: &StopResponder) -> bool {
        self.late += 1;
        if self.late == 1 && self.is_own {
            // Without it, the look at the queue below is the last that can be done for those who connect.
            self.shut = admit_no_more(&self.listener).ok();
        }
        let mut handshakes = LastHandshakes::new();
        loop {
            if self.late > QUEUE || stop.left().is_some_and(|left| left.is_zero()) {
                return false;
            }
            if self.waits(if self.is_own { LOOK } else { Duration::ZERO }) {
                return true;
            }
            if !self.is_own || !handshakes.may_end(&self.listener) {
                return false;
            }
        }
    }

    /// Whether a connection waits to be accepted, or comes within this time.
    fn waits(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).ok();
        loop {
            match poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], time.as_ref()) {
                // A signal is no answer: what waits would be reset.
                Err(Errno::INTR) => {}
                ready => return ready.is_ok_and(|ready| ready > 0),
            }
        }
    }
}

fn admitted(stream: Socket, config: &Config) -> Option<Socket> {
    let Some(allowed) = &config.allowed else { return Some(stream) };
    let peer = stream.peer_addr().ok()?.as_socket().map(|peer| peer.ip());
    // An IPv4 address may be written as an IPv6 one (RFC 4291 section 2.5.5.2), in the list as well as by the kernel.
    let is_allowed = |peer: IpAddr| allowed.iter().any(|one| one.to_canonical() == peer.to_canonical());
    match peer {
        Some(peer) if !is_allowed(peer) => {
            note(config.journal.as_ref(), &Incident::TurnedAway(peer));
            None
        }
        _ => Some(stream),
    }
}

fn lock<'a, H>(pool: &'a Pool<'_, H>) -> MutexGuard<'a, Count> {
    pool.count.lock().unwrap_or_else(PoisonError::into_inner)
}
