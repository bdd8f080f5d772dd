//! The wire: a thread that carries frames between two ports through an emulated link.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use linger_netns::Namespace;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use crate::clock::{Nanos, now};
use crate::kernel::{Frame, FramePool, Port};
use crate::link::capture::Capture;
use crate::link::decision::Decision;
use crate::link::emulator::Emulator;
use crate::link::identity::Identity;
use crate::link::middlebox::MiddleboxCounts;
use crate::link::{Direction, ENDS, Link};
use crate::lock;
use crate::steps::{Actor, ResetWatch, Steps};

/// Counts of a wire.
#[derive(Clone, Debug, Default)]
pub struct WireReport {
    /// Frames that left the link.
    pub carried: u64,
    /// Frames lost by chance or by a fault, or too large for the link.
    pub lost: u64,
    /// Frames dropped because the queue before the rate limit was full.
    pub queue_full: u64,
    /// Frames that were lost by this machine and not by the emulated link: the wire was too slow, or a port refused
    /// them. Frames that could not be written to the capture count as well. If there are any, the result of the
    /// experiment is not valid.
    pub accidents: u64,
    /// Frames that the link marked (CE) in the place of dropping them.
    pub marked: u64,
    /// What the middlebox of the link has done; none without one.
    pub middlebox: Option<MiddleboxCounts>,
    /// How late frames left, compared with when they were due.
    pub lateness: Lateness,
    /// Every decision, if a log was requested.
    pub log: Vec<(Identity, Decision)>,
}

/// A histogram of lateness in microseconds.
#[derive(Clone, Debug)]
pub struct Lateness(Vec<u64>);

impl Default for Lateness {
    fn default() -> Self {
        Self(vec![0; 10_001])
    }
}

impl Lateness {
    fn note(&mut self, late: Nanos) {
        let last = self.0.len() - 1;
        self.0[usize::try_from(late / 1_000).unwrap_or(last).min(last)] += 1;
    }

    /// A quantile (0 to 1) of the lateness, in microseconds; 10,000 means 10,000 or more.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let total: u64 = self.0.iter().sum();
        let mut left = (total as f64 * quantile).ceil() as u64;
        for (micros, count) in self.0.iter().enumerate() {
            left = left.saturating_sub(*count);
            if left == 0 {
                return micros as u64;
            }
        }
        0
    }
}

/// A running wire. Dropping it stops it.
#[derive(Debug)]
pub struct Wire {
    stop: OwnedFd,
    thread: Option<JoinHandle<io::Result<io::Result<WireReport>>>>,
}

impl Wire {
    /// Starts a wire in `namespace` between the interfaces `server` and `client`.
    ///
    /// # Errors
    /// Returns an error if the ports cannot be opened.
    pub fn start(
        namespace: &Namespace,
        link: Link,
        seed: u64,
        capture: Option<Arc<Mutex<Capture>>>,
        keep_log: bool,
        steps: Option<Arc<Steps>>,
    ) -> io::Result<Self> {
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let stopped = stop.try_clone()?;
        let ports = namespace.run(|| Ok::<_, io::Error>([Port::open(ENDS[0])?, Port::open(ENDS[1])?]))??;
        if let Some(capture) = capture.as_ref().filter(|_| link.middlebox.is_some()) {
            lock(capture).hold_back();
        }
        let mut emulator = Emulator::new(link, seed);
        if keep_log {
            emulator.keep_log();
        }
        let thread = namespace.spawn("wire", move || {
            // The default timer slack of 50 us would be added to every delay.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
            let pool = FramePool::default();
            let watch = steps.map(|steps| (steps, ResetWatch::default()));
            let mut pump = Pump { ports, pool, emulator, capture, watch, report: WireReport::default() };
            pump.run(&stopped)?;
            pump.report.log = pump.emulator.take_log();
            pump.report.middlebox = pump.emulator.middlebox_counts();
            Ok(pump.report)
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops the wire and returns what it carried. Packets on the link are dropped.
    ///
    /// # Errors
    /// Returns the error that stopped the wire, if one did.
    pub fn stop(mut self) -> io::Result<WireReport> {
        self.halt().unwrap_or_else(|| Ok(WireReport::default()))
    }

    fn halt(&mut self) -> Option<io::Result<WireReport>> {
        let thread = self.thread.take()?;
        if let Err(error) = rustix::io::write(&self.stop, &1u64.to_ne_bytes()) {
            return Some(Err(error.into()));
        }
        Some(match thread.join() {
            Ok(result) => result.flatten(),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let _ = self.halt();
    }
}

struct Pump {
    /// The port at the server's end, then the one at the client's: indexed by the direction of the frames that arrive
    /// there.
    ports: [Port; 2],
    pool: FramePool,
    emulator: Emulator<Frame>,
    capture: Option<Arc<Mutex<Capture>>>,
    watch: Option<(Arc<Steps>, ResetWatch)>,
    report: WireReport,
}

impl Pump {
    fn run(&mut self, stop: &OwnedFd) -> io::Result<()> {
        let mut arrived = Vec::new();
        let mut leaving = [Vec::new(), Vec::new()];
        let mut dropped = Vec::new();
        loop {
            let mut busy = false;
            for direction in Direction::BOTH {
                busy |= self.ports[direction.index()].receive(&mut self.pool, &mut arrived)? > 0;
                let now = now();
                for frame in arrived.drain(..) {
                    self.take_in(direction, now, frame, &mut dropped);
                }
            }
            self.let_out(&mut leaving, &mut dropped)?;
            if busy {
                continue;
            }
            let timeout = self.emulator.next_due().map(|due| due.saturating_sub(now()));
            if timeout == Some(0) {
                continue;
            }
            let timeout = timeout.map(|nanos| Timespec {
                tv_sec: (nanos / 1_000_000_000) as i64,
                tv_nsec: (nanos % 1_000_000_000) as _,
            });
            let mut ready = [
                PollFd::new(stop, PollFlags::IN),
                PollFd::from_borrowed_fd(self.ports[0].as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.ports[1].as_fd(), PollFlags::IN),
            ];
            match rustix::event::poll(&mut ready, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if !ready[0].revents().is_empty() {
                break;
            }
        }
        // What had come by then is part of the account.
        for direction in Direction::BOTH {
            self.ports[direction.index()].receive(&mut self.pool, &mut arrived)?;
            for frame in arrived.drain(..) {
                self.take_in(direction, now(), frame, &mut dropped);
            }
        }
        for port in &self.ports {
            self.report.accidents += u64::from(port.overruns()?);
        }
        Ok(())
    }

    fn take_in(&mut self, direction: Direction, now: Nanos, frame: Frame, dropped: &mut Vec<Frame>) {
        self.note(direction, false, frame.bytes());
        // The emulator takes the frame; only a capture needs it afterwards.
        let copy = self.capture.as_ref().map(|_| frame.bytes().to_vec());
        let (decision, back) = self.emulator.arrive(direction, now, frame);
        if let Some(copy) = copy {
            self.record(direction, false, &copy, decision);
        }
        match decision {
            Decision::Lost | Decision::Dropped | Decision::TooBig | Decision::EctSyn => {
                self.report.lost += 1;
            }
            Decision::QueueFull => self.report.queue_full += 1,
            Decision::Marked => self.report.marked += 1,
            _ => {}
        }
        dropped.extend(back);
    }

    /// Writes a frame to the capture when it enters or leaves the link.
    fn record(&mut self, direction: Direction, leaving: bool, frame: &[u8], decision: Decision) {
        if let Some(capture) = &self.capture {
            let written = lock(capture).packet(direction, leaving, frame, decision.comment());
            self.report.accidents += u64::from(written.is_err());
        }
    }

    /// Says of a packet that is in the capture already what the middlebox did with it at the far end of the link.
    fn explain(&self, direction: Direction, frame: &[u8], decision: Decision) {
        if let (Some(capture), Some(comment)) = (&self.capture, decision.comment()) {
            lock(capture).comment_on(direction, frame, comment);
        }
    }

    /// Notes the server's reset when it enters and when it leaves the link.
    fn note(&mut self, direction: Direction, leaving: bool, frame: &[u8]) {
        if let Some((steps, watch)) = &mut self.watch
            && let Some(action) = watch.look(direction, leaving, frame)
        {
            steps.note(now(), Actor::Link, action);
        }
    }

    fn let_out(&mut self, leaving: &mut [Vec<Frame>; 2], dropped: &mut Vec<Frame>) -> io::Result<()> {
        let now = now();
        while let Some(departure) = self.emulator.depart(now) {
            self.report.lateness.note(now - departure.due);
            if departure.decision.drops() {
                self.explain(departure.direction, departure.packet.bytes(), departure.decision);
                dropped.push(departure.packet);
                continue;
            }
            self.report.carried += 1;
            self.note(departure.direction, true, departure.packet.bytes());
            self.record(departure.direction, true, departure.packet.bytes(), departure.decision);
            leaving[departure.direction.index()].push(departure.packet);
        }
        for direction in Direction::BOTH {
            let refused = self.ports[direction.reverse().index()]
                .send(&mut self.pool, &mut leaving[direction.index()])?;
            self.report.accidents += refused as u64;
        }
        self.pool.recycle(dropped);
        Ok(())
    }
}
