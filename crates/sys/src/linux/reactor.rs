//! Waiting for many sockets: an edge-triggered epoll, and an alarm that interrupts the wait.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::timespec;
use crate::Ready;

/// The alarm's key in the epoll. No socket has this key.
const ALARM: u64 = u64::MAX;

/// A timer whose fd becomes readable at the time that was set last.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// Makes an alarm that is not set.
    ///
    /// # Errors
    /// Returns the errors of `timerfd_create(2)`.
    pub fn new() -> io::Result<Self> {
        Ok(timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).map(Self)?)
    }

    /// Sets the alarm to ring after `within`: a wait of its reactor then ends. An earlier setting is replaced.
    pub fn set(&self, within: Duration) {
        let timer = Itimerspec {
            it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
            // Zero would stop the timer.
            it_value: timespec(within.max(Duration::from_nanos(1))),
        };
        // `timerfd_settime` fails for bad arguments only.
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &timer);
    }
}

/// Reports what happens to sockets.
#[derive(Debug)]
pub struct Reactor(OwnedFd);

/// Room for what one wait reports.
pub struct ReadyList {
    events: Vec<epoll::Event>,
}

impl ReadyList {
    /// Makes room for `capacity` events.
    pub fn new(capacity: usize) -> Self {
        Self { events: Vec::with_capacity(capacity) }
    }

    /// The events of the last wait.
    pub fn iter(&self) -> impl Iterator<Item = Ready> + '_ {
        self.events.iter().filter(|event| event.data.u64() != ALARM).map(|event| {
            let (key, flags) = (event.data.u64(), event.flags);
            // The end of a connection, for whatever reason, shuts its receiving side (`tcp_done`,
            // `unix_release_sock`): epoll reports RDHUP.
            let is_fresh = !flags.contains(epoll::EventFlags::RDHUP);
            Ready {
                key,
                is_over: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
                is_fresh,
            }
        })
    }
}

impl fmt::Debug for ReadyList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ReadyList").field(&self.events.len()).finish()
    }
}

impl Reactor {
    /// Makes a reactor whose waits the alarm interrupts.
    ///
    /// # Errors
    /// Returns the errors of `epoll_create1(2)` and `epoll_ctl(2)`.
    pub fn new(alarm: &Alarm) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edge-triggered, so that the timer need not be read.
        let interest = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &alarm.0, epoll::EventData::new_u64(ALARM), interest)?;
        Ok(Self(epoll))
    }

    /// Adds a socket. What has happened before is reported by the next wait. The acknowledgement of the FIN is reported
    /// if `awaits_acknowledgement`.
    ///
    /// For that the interest includes EPOLLOUT: an edge-triggered epoll reports it when the FIN is acknowledged
    /// (`tcp_rcv_state_process`).
    ///
    /// # Errors
    /// Returns the errors of `epoll_ctl(2)`.
    pub fn add(&self, socket: BorrowedFd<'_>, key: u64, awaits_acknowledgement: bool) -> io::Result<()> {
        let mut interest = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        if awaits_acknowledgement {
            interest |= epoll::EventFlags::OUT;
        }
        Ok(epoll::add(&self.0, socket, epoll::EventData::new_u64(key), interest)?)
    }

    /// Asks for the next event of a socket of which one was reported. Does nothing here: an edge-triggered epoll goes
    /// on reporting.
    ///
    /// # Errors
    /// None here.
    pub fn again(&self, _socket: BorrowedFd<'_>, _key: u64) -> io::Result<()> {
        Ok(())
    }

    /// Removes a socket. Must come before its descriptor is closed: while another fd of the socket is open anywhere, closing
    /// this one would not remove it (`epoll(7)`).
    pub fn remove(&self, socket: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.0, socket);
    }

    /// Waits for an event or for the alarm, at most for `timeout`. A signal may end the wait, too.
    pub fn wait(&self, ready: &mut ReadyList, timeout: Option<Duration>) {
        let timeout = timeout.map(timespec);
        ready.events.clear();
        // An error is EINTR: the caller's next turn waits again.
        let _ = epoll::wait(&self.0, spare_capacity(&mut ready.events), timeout.as_ref());
    }
}

impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// For tests: if the fd is not an epoll, every registration fails.
#[cfg(any(test, feature = "testing"))]
impl From<OwnedFd> for Reactor {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    /// Milliseconds until the alarm rings; 0 if it is not set or has rung.
    fn left(alarm: &Alarm) -> i64 {
        let value = rustix::time::timerfd_gettime(&alarm.0).unwrap().it_value;
        (value.tv_sec * 1_000_000_000 + value.tv_nsec).div_euclid(1_000_000)
    }

    #[test]
    fn it_rings_at_the_time_that_was_set_last() {
        let alarm = Alarm::new().unwrap();
        assert_eq!(left(&alarm), 0, "it is not set");
        alarm.set(Duration::from_secs(50_000));
        assert!((40_000_000..=50_000_000).contains(&left(&alarm)));
        // A time of zero rings at once: it does not switch the alarm off.
        alarm.set(Duration::ZERO);
        poll(&mut [PollFd::new(&alarm.0, PollFlags::IN)], None).unwrap();
        alarm.set(Duration::from_nanos(u64::MAX));
        assert!(left(&alarm) > 1_000_000_000_000);
    }

    #[test]
    fn each_ring_ends_one_wait() {
        let alarm = Alarm::new().unwrap();
        let reactor = Reactor::new(&alarm).unwrap();
        let mut ready = ReadyList::new(2);
        for _ in 0..2 {
            alarm.set(Duration::from_nanos(1));
            reactor.wait(&mut ready, Some(Duration::from_secs(10)));
            assert_eq!((ready.events.len(), ready.iter().count()), (1, 0), "it has rung, and is no socket");
            // Although nobody has read the timer, it is not reported again.
            reactor.wait(&mut ready, Some(Duration::ZERO));
            assert!(ready.events.is_empty());
        }
    }
}
