//! Waiting for many sockets: one event at a time for each, and an alarm that interrupts the wait.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use polling::{Event, Events, Poller};

use crate::Ready;
use crate::fd::BorrowedFd;

/// Ends a wait of its reactor at the time that was set last.
#[derive(Clone, Debug)]
pub struct Alarm {
    poller: Arc<Poller>,
    times: Arc<Mutex<Times>>,
}

#[derive(Debug, Default)]
struct Times {
    /// When the alarm rings; `None` if it is not set.
    rings: Option<Instant>,
    /// When the present wait of the reactor ends; `None` if it is not waiting.
    waits: Option<Instant>,
}

/// The longest wait, and the longest time until the alarm rings. Where a caller asks for more, its wait ends early, and it
/// asks again.
const LONGEST: Duration = Duration::from_secs(3_600);

impl Alarm {
    /// Makes an alarm that is not set.
    ///
    /// # Errors
    /// Returns the errors of the system's calls for events (`kqueue`, `CreateIoCompletionPort`).
    pub fn new() -> io::Result<Self> {
        Ok(Self { poller: Arc::new(Poller::new()?), times: Arc::default() })
    }

    /// Sets the alarm to ring after `within`: a wait of its reactor then ends. An earlier setting is replaced.
    pub fn set(&self, within: Duration) {
        let rings = Instant::now() + within.min(LONGEST);
        let mut times = self.times();
        times.rings = Some(rings);
        if times.waits.is_some_and(|waits| rings < waits) {
            // The reactor may be awake already, and not have noted it yet. A second wake-up does no harm.
            let _ = self.poller.notify();
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports what happens to sockets.
#[derive(Debug)]
pub struct Reactor {
    alarm: Alarm,
}

/// Room for what one wait reports.
pub struct ReadyList(Events);

impl ReadyList {
    /// Makes room for `capacity` events.
    pub fn new(capacity: usize) -> Self {
        Self(Events::with_capacity(NonZeroUsize::new(capacity).unwrap_or(NonZeroUsize::MIN)))
    }

    /// The events of the last wait.
    pub fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        // Whether the connection is over is not reported here: the next read finds out.
        self.0.iter().map(|event| Ready { key: event.key as u64, is_over: false, is_fresh: false })
    }
}

impl fmt::Debug for ReadyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadyList").field(&self.0.len()).finish()
    }
}

impl Reactor {
    /// Makes a reactor whose waits the alarm interrupts.
    ///
    /// # Errors
    /// None here.
    pub fn new(alarm: &Alarm) -> io::Result<Self> {
        Ok(Self { alarm: alarm.clone() })
    }

    /// Adds a socket. Its next event is reported, also if it has happened already. Acknowledgements are not reported
    /// on these systems.
    ///
    /// # Errors
    /// Returns the errors of the system's calls for events.
    pub fn add(&self, socket: BorrowedFd<'_>, key: u64, _awaits_acknowledgement: bool) -> io::Result<()> {
        // SAFETY: the caller owns the descriptor behind this borrow, and calls `remove` before closing it, as `remove`
        // asks. If somebody else has closed it meanwhile, kqueue and epoll have forgotten it; on Windows the socket is
        // named by the handle of its device, and a wrong one is refused.
        unsafe { self.alarm.poller.add(raw(&socket), Event::readable(key as usize)) }
    }

    /// Re-arms a socket after an event. The next one is reported even if it has happened already.
    ///
    /// # Errors
    /// Returns the errors of the system's calls for events.
    pub fn again(&self, socket: BorrowedFd<'_>, key: u64) -> io::Result<()> {
        self.alarm.poller.modify(socket, Event::readable(key as usize))
    }

    /// Removes a socket. Must come before its descriptor is closed.
    pub fn remove(&self, socket: BorrowedFd<'_>) {
        let _ = self.alarm.poller.delete(socket);
    }

    /// Waits for an event or for the alarm, at most for `timeout`. A signal may end the wait, too.
    pub fn wait(&self, ready: &mut ReadyList, timeout: Option<Duration>) {
        let end = Instant::now() + timeout.unwrap_or(LONGEST).min(LONGEST);
        ready.0.clear();
        loop {
            let mut times = self.alarm.times();
            let now = Instant::now();
            if times.rings.is_some_and(|rings| rings <= now) {
                times.rings = None;
                times.waits = None;
                return;
            }
            let waits = times.rings.map_or(end, |rings| rings.min(end));
            times.waits = Some(waits);
            drop(times);
            let waited = self.alarm.poller.wait(&mut ready.0, Some(waits.saturating_duration_since(now)));
            self.alarm.times().waits = None;
            if waited.is_err() || !ready.0.is_empty() || Instant::now() >= end {
                return;
            }
            // The alarm was set to an earlier time, or rings now.
        }
    }
}

#[cfg(unix)]
fn raw(socket: &BorrowedFd<'_>) -> std::os::fd::RawFd {
    std::os::fd::AsRawFd::as_raw_fd(socket)
}

#[cfg(windows)]
fn raw(socket: &BorrowedFd<'_>) -> std::os::windows::io::RawSocket {
    std::os::windows::io::AsRawSocket::as_raw_socket(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fd::AsFd;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    fn keys(ready: &ReadyList) -> Vec<u64> {
        ready.iter().map(|ready| ready.key).collect()
    }

    #[test]
    fn each_ring_ends_one_wait() {
        let alarm = Alarm::new().unwrap();
        let reactor = Reactor::new(&alarm).unwrap();
        let mut ready = ReadyList::new(2);
        let waiting = |reactor: &Reactor, ready: &mut ReadyList, seconds| {
            let started = Instant::now();
            reactor.wait(ready, Some(Duration::from_secs(seconds)));
            started.elapsed() < Duration::from_secs(60)
        };
        for _ in 0..2 {
            alarm.set(Duration::from_millis(1));
            assert!(waiting(&reactor, &mut ready, 600), "it has rung");
            assert!(alarm.times().rings.is_none());
        }
        // Another thread sets the alarm to a time before the end of the wait.
        alarm.set(Duration::from_secs(500));
        let other = alarm.clone();
        let setting = std::thread::spawn(move || {
            while other.times().waits.is_none() {
                std::thread::yield_now();
            }
            other.set(Duration::from_millis(5));
        });
        assert!(waiting(&reactor, &mut ready, 600));
        setting.join().unwrap();
    }

    #[test]
    fn a_socket_is_reported_once_and_again_when_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let alarm = Alarm::new().unwrap();
        let reactor = Reactor::new(&alarm).unwrap();
        let mut ready = ReadyList::new(2);
        reactor.add(server.as_fd(), 7, true).unwrap();
        client.write_all(b"x").unwrap();
        reactor.wait(&mut ready, Some(Duration::from_secs(60)));
        assert_eq!(keys(&ready), [7]);
        reactor.wait(&mut ready, Some(Duration::ZERO));
        assert!(keys(&ready).is_empty(), "nobody has asked again");
        reactor.again(server.as_fd(), 7).unwrap();
        reactor.wait(&mut ready, Some(Duration::from_secs(60)));
        assert_eq!(keys(&ready), [7], "the byte is still there");
        reactor.remove(server.as_fd());
        assert!(reactor.again(server.as_fd(), 7).is_err());
    }
}
