//! One processor's ring: its perf events, its memory, and the records in it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::kernel::locked;

/// `PERF_TYPE_TRACEPOINT`, and the fields of each sample: `PERF_SAMPLE_TID | _TIME | _RAW`.
const TYPE_TRACEPOINT: u32 = 2;
const SAMPLE: u64 = 1 << 1 | 1 << 2 | 1 << 10;
/// Attribute bits `watermark`, `use_clockid` and `comm` (records for new process names).
const FLAGS: u64 = 1 << 14 | 1 << 25;
const COMM: u64 = 1 << 9;
/// `PERF_FORMAT_LOST`.
const FORMAT_LOST: u64 = 1 << 4;
const RECORD_LOST: u32 = 2;
const RECORD_COMM: u32 = 3;
const RECORD_SAMPLE: u32 = 9;
/// `PERF_EVENT_IOC_SET_OUTPUT` and `PERF_EVENT_IOC_SET_FILTER`.
const SET_OUTPUT: libc::c_ulong = 0x2405;
const SET_FILTER: libc::c_ulong = 0x4008_2406;
/// Offsets of the ring's head and tail in its first page (`struct perf_event_mmap_page`).
const HEAD: usize = 1024;
const TAIL: usize = 1032;

/// `struct perf_event_attr` in the size of its version 5, which every kernel with these tracepoints accepts.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    bp_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

/// A tracepoint to open.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Subscription {
    /// The tracepoint's id (the file `id` in its tracefs directory).
    pub(crate) id: u64,
    /// A filter in the syntax of tracefs `filter` files.
    pub(crate) filter: Option<String>,
}

/// One tracepoint event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample<'a> {
    /// The process that was running. It caused the event only if a system call led to it.
    pub(crate) pid: u32,
    /// The thread that was running.
    pub(crate) thread: u32,
    /// Nanoseconds since 1970-01-01 00:00 UTC.
    pub(crate) time_ns: u64,
    /// The raw event, laid out as in `format`; the first two bytes are the tracepoint's id.
    pub(crate) raw: &'a [u8],
}

/// A record in the ring.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PerfRecord<'a> {
    /// An event of a tracepoint.
    Sample(Sample<'a>),
    /// A process has a new name, usually after `execve`.
    Name {
        /// The process's pid.
        pid: u32,
        /// The name, at most 15 bytes.
        name: &'a [u8],
    },
}

#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) cpu: i32,
    /// The first event owns the ring. `PERF_EVENT_IOC_SET_OUTPUT` makes the other events write into it.
    pub(crate) events: Vec<OwnedFd>,
    start: NonNull<u8>,
    page: usize,
    pub(crate) size: usize,
    /// All events up to this time were read (monotonic clock, nanoseconds).
    pub(crate) read_until: u64,
}

// SAFETY: the mapping belongs to this value alone and is tied to no thread.
unsafe impl Send for Ring {}

/// Why a ring cannot be made.
#[derive(Debug)]
pub(crate) enum RingError {
    /// The kernel does not let this process lock the ring in memory.
    Locked,
    Other(io::Error),
}

impl From<io::Error> for RingError {
    fn from(error: io::Error) -> Self {
        Self::Other(error)
    }
}

/// The result of [`Ring::drain`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RingDrained {
    /// Events that were passed on.
    pub(crate) events: usize,
    /// The time of the last of them (monotonic clock, nanoseconds).
    last: u64,
    /// Events that the kernel dropped, by the records about that.
    pub(crate) lost: u64,
}

impl Ring {
    /// `size` in bytes: a power of two, a page at least and [`MOST`](crate::kernel::locked::MOST) at most.
    pub(crate) fn open(sources: &[Subscription], cpu: i32, size: usize) -> Result<Self, RingError> {
        if !size.is_power_of_two() || size < rustix::param::page_size() || size as u64 > locked::MOST {
            return Err(io::Error::from_raw_os_error(libc::EINVAL).into());
        }
        let mut events: Vec<OwnedFd> = Vec::new();
        for source in sources {
            let flags = if events.is_empty() { FLAGS | COMM } else { FLAGS };
            events.push(open_event(source.id, cpu, flags, (size / 4) as u32)?);
        }
        let ring = Self::of_events(events, cpu, size)?;
        let mut first: Option<libc::c_int> = None;
        for (event, source) in ring.events.iter().zip(sources) {
            if let Some(first) = first {
                // SAFETY: two live fds of perf events; the call reads nothing of ours.
                check(unsafe { libc::ioctl(event.as_raw_fd(), SET_OUTPUT, first) })?;
            }
            first.get_or_insert(event.as_raw_fd());
            if let Some(filter) = &source.filter {
                let filter = std::ffi::CString::new(filter.as_str()).map_err(io::Error::from)?;
                // SAFETY: the kernel reads a terminated string that lives until the call returns.
                check(unsafe { libc::ioctl(event.as_raw_fd(), SET_FILTER, filter.as_ptr()) })?;
            }
        }
        Ok(ring)
    }

    /// Maps the ring of events that are open. If it is mapped elsewhere, in the same size, it is the same memory.
    pub(crate) fn of_events(events: Vec<OwnedFd>, cpu: i32, size: usize) -> Result<Self, RingError> {
        let page = rustix::param::page_size();
        let Some(first) = events.first() else {
            return Ok(Self { cpu, events, start: NonNull::dangling(), page, size, read_until: 0 });
        };
        // SAFETY: a new shared mapping at an address of the kernel's choice, over the event's own ring.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page + size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                first.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            let locked = error.raw_os_error() == Some(libc::EPERM);
            return Err(if locked { RingError::Locked } else { error.into() });
        }
        let start = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("a mapping at address 0"))?;
        Ok(Self { cpu, events, start, page, size, read_until: 0 })
    }

    /// How many events were lost, by the events' own counts (`PERF_FORMAT_LOST`).
    pub(crate) fn counted_lost(&self) -> u64 {
        let lost = |event: &OwnedFd| {
            // The event's own count, then the lost records.
            let mut counts = [0; 16];
            match rustix::io::read(event, &mut counts) {
                Ok(16) => word64(&counts, 8).unwrap_or(0),
                _ => 0,
            }
        };
        self.events.iter().map(lost).sum()
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: `offset` is HEAD or TAIL, inside the mapped first page and aligned to eight bytes.
        let address = unsafe { self.start.as_ptr().add(offset) };
        // SAFETY: the kernel and this process share these words as atomics (`perf_output_get_handle`).
        unsafe { AtomicU64::from_ptr(address.cast()) }
    }

    /// Copies `length` bytes from ring position `from`, wrapping at the end of the ring.
    fn copy(&self, from: u64, length: usize, out: &mut Vec<u8>) {
        out.clear();
        let at = (from as usize) & (self.size - 1);
        let first = length.min(self.size - at);
        for (at, length) in [(at, first), (0, length - first)] {
            // SAFETY: the data area begins after one page and has `size` bytes; `at + length` stays within.
            let start = unsafe { self.start.as_ptr().add(self.page + at) };
            // SAFETY: between tail and head the kernel does not write, and the head was read with Acquire.
            out.extend_from_slice(unsafe { std::slice::from_raw_parts(start, length) });
        }
    }

    /// Passes the records of the ring to `on_record`, up to `most` events. `now` is the time.
    pub(crate) fn drain(
        &mut self,
        most: usize,
        now: u64,
        on_record: &mut impl FnMut(PerfRecord<'_>),
    ) -> RingDrained {
        let mut drained = RingDrained::default();
        if self.events.is_empty() {
            self.read_until = now;
            return drained;
        }
        let head = self.word(HEAD).load(Ordering::Acquire);
        let mut tail = self.word(TAIL).load(Ordering::Relaxed);
        let (mut record, mut read_until) = (Vec::new(), now);
        while tail != head {
            if drained.events >= most {
                read_until = drained.last.min(now);
                break;
            }
            self.copy(tail, 8, &mut record);
            let kind = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
            let length = usize::from(u16::from_ne_bytes([record[6], record[7]]));
            if length < 8 {
                // The kernel writes no record of this length. Skip the rest of the ring instead of looping forever.
                tail = head;
                break;
            }
            self.copy(tail, length, &mut record);
            tail = tail.wrapping_add(length as u64);
            match kind {
                RECORD_LOST => drained.lost += word64(&record, 16).unwrap_or(0),
                RECORD_SAMPLE => {
                    if let Some(sample) = sample(&record) {
                        (drained.events, drained.last) = (drained.events + 1, sample.time_ns);
                        on_record(PerfRecord::Sample(sample));
                    }
                }
                RECORD_COMM => {
                    if let Some((pid, name)) = name(&record) {
                        on_record(PerfRecord::Name { pid, name });
                    }
                }
                _ => {}
            }
        }
        self.word(TAIL).store(tail, Ordering::Release);
        self.read_until = self.read_until.max(read_until);
        drained
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if !self.events.is_empty() {
            // SAFETY: unmaps what `open` mapped; no slice of it outlives a call of `copy`.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.page + self.size) };
        }
    }
}

/// Opens an event that counts its lost records, or, before Linux 6.0, one that does not.
fn open_event(id: u64, cpu: i32, flags: u64, watermark: u32) -> io::Result<OwnedFd> {
    match open_event_as(id, cpu, flags, watermark, FORMAT_LOST) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            open_event_as(id, cpu, flags, watermark, 0)
        }
        result => result,
    }
}

fn open_event_as(id: u64, cpu: i32, flags: u64, watermark: u32, read_format: u64) -> io::Result<OwnedFd> {
    let attributes = Attributes {
        kind: TYPE_TRACEPOINT,
        size: size_of::<Attributes>() as u32,
        config: id,
        sample_period: 1,
        sample_type: SAMPLE,
        read_format,
        flags,
        wakeup_watermark: watermark,
        clockid: libc::CLOCK_MONOTONIC,
        ..Attributes::default()
    };
    const CLOSE_ON_EXEC: libc::c_ulong = 8;
    // SAFETY: `attributes` is a live structure of the size it states; -1 asks for all processes.
    let fd = unsafe {
        libc::syscall(libc::SYS_perf_event_open, &raw const attributes, -1, cpu, -1, CLOSE_ON_EXEC)
    };
    check(fd as libc::c_int)?;
    // SAFETY: a new fd that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Parses `PERF_RECORD_SAMPLE`: header, pid, tid, time, length, raw bytes.
fn sample(record: &[u8]) -> Option<Sample<'_>> {
    let (pid, thread) = (word32(record, 8)?, word32(record, 12)?);
    let (time_ns, length) = (word64(record, 16)?, word32(record, 24)? as usize);
    Some(Sample { pid, thread, time_ns, raw: record.get(28..28 + length)? })
}

/// Parses `PERF_RECORD_COMM`: header, pid, tid, NUL-terminated name. `None` for threads other than the first.
fn name(record: &[u8]) -> Option<(u32, &[u8])> {
    let (pid, thread) = (word32(record, 8)?, word32(record, 12)?);
    let name = record.get(16..)?.split(|byte| *byte == 0).next()?;
    (pid == thread).then_some((pid, name))
}
