//! How large the perf rings may be: their pages are locked memory, and the kernel bounds that.
//!
//! `perf_mmap` (kernel/events/core.c) charges each ring, and one more page for its head and tail, to the user: up to
//! `kernel.perf_event_mlock_kb` for each processor. It charges the rest to the `RLIMIT_MEMLOCK` of the process. If the rest is
//! more than that limit, it fails with `EPERM`. `CAP_IPC_LOCK` lifts the bound, and so does a
//! `kernel.perf_event_paranoid` of -1.

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// Size of the largest ring, in bytes: about 16,000 events.
pub(crate) const MOST: u64 = 2 << 20;
/// Size of the smallest ring, in bytes: about 500 events. With less, a burst of resets is lost before it can be read.
const LEAST: u64 = 64 << 10;

/// The bounds on the locked memory of the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockableMemory {
    /// Size of a page in bytes.
    pub(crate) page: u64,
    /// Number of processors, and so of rings.
    pub(crate) processors: u64,
    /// `kernel.perf_event_mlock_kb`: what each user may lock a processor, in KiB.
    pub(crate) each_kib: u64,
    /// `RLIMIT_MEMLOCK` in bytes; `None` if there is no bound.
    pub(crate) limit: Option<u64>,
}

impl LockableMemory {
    /// How much this process may lock. The kernel does not tell how much the user's other processes have locked
    /// already.
    pub(crate) fn now(processors: usize) -> Self {
        let sysctl = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
            text.trim().parse::<i64>().ok()
        };
        let page = rustix::param::page_size() as u64;
        let lifted = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK))
            || sysctl("perf_event_paranoid") == Some(-1);
        let each = sysctl("perf_event_mlock_kb").and_then(|kib| u64::try_from(kib).ok());
        Self {
            page,
            processors: processors as u64,
            // The kernel's default (`sysctl_perf_event_mlock`).
            each_kib: each.unwrap_or(512 + page / 1024),
            limit: if lifted { None } else { getrlimit(Resource::Memlock).current },
        }
    }

    /// Returns the ring sizes to try, in bytes, each half of the one before. The first is the largest size that the kernel is
    /// expected to allow; if none is, only the smallest size is tried, because the kernel has the last word.
    pub(crate) fn rings(self) -> impl Iterator<Item = usize> {
        let least = self.least() as usize;
        self.all_sizes().filter(move |size| *size == least || self.admits(*size as u64))
    }

    /// All ring sizes in bytes, each half of the one before.
    pub(crate) fn all_sizes(self) -> impl Iterator<Item = usize> {
        let least = self.least();
        let halves = std::iter::successors(Some(MOST.max(least)), move |size| {
            Some(size / 2).filter(|half| *half >= least)
        });
        halves.map(|size| size as usize)
    }

    fn least(self) -> u64 {
        LEAST.max(self.page)
    }

    /// Whether rings of this size pass if the user has locked nothing else.
    fn admits(self, ring: u64) -> bool {
        let Some(limit) = self.limit else { return true };
        let users = self.processors.saturating_mul(self.each_kib.saturating_mul(1024) / self.page);
        self.pages(ring).saturating_sub(users) <= limit / self.page
    }

    fn pages(self, ring: u64) -> u64 {
        self.processors.saturating_mul(ring / self.page + 1)
    }

    /// What rings of full size lock on all processors, in KiB.
    pub(crate) fn most_kib(self) -> u64 {
        self.pages(MOST.max(self.page)).saturating_mul(self.page) / 1024
    }

    /// What this process may lock if the user has locked nothing else, in KiB; `None` if there is no bound.
    pub(crate) fn lockable_kib(self) -> Option<u64> {
        let users = self.processors.saturating_mul(self.each_kib);
        self.limit.map(|limit| users.saturating_add(limit / 1024))
    }

    /// What the smallest rings lock on all processors, in KiB.
    pub(crate) fn least_kib(self) -> u64 {
        self.pages(self.least()).saturating_mul(self.page) / 1024
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;
    /// systemd's default limit, the kernel's default allowance, and a host of eight processors.
    const USUAL: LockableMemory =
        LockableMemory { page: 4096, processors: 8, each_kib: 516, limit: Some(8 << 20) };

    fn largest(memory: LockableMemory) -> usize {
        memory.rings().next().expect("there is always a size to try")
    }

    #[test]
    fn the_ring_is_the_largest_that_the_kernel_admits() {
        let hosts = [(4, 2048), (5, 2048), (6, 1024), (16, 1024), (17, 512), (64, 512), (1_000, 512)];
        for (processors, kib) in hosts {
            assert_eq!(largest(LockableMemory { processors, ..USUAL }), kib * KIB, "{processors} processors");
        }
        // The default limit of systemd before version 250.
        assert_eq!(largest(LockableMemory { limit: Some(64 << 10), ..USUAL }), 512 * KIB);
        assert_eq!(largest(LockableMemory { limit: None, processors: 1_000, ..USUAL }), 2048 * KIB);
    }

    #[test]
    fn one_page_less_or_one_processor_more_halves_the_ring() {
        // Eight rings of 257 pages are 2,056 pages. 516 KiB a processor, 8 x 129 = 1,032 pages, are allowed to every user
        // (`perf_event_mlock_kb`); the other 1,024 count against the limit of locked memory.
        let exact = LockableMemory { limit: Some(1_024 * 4096), ..USUAL };
        assert_eq!(largest(exact), 1024 * KIB);
        assert_eq!(largest(LockableMemory { limit: Some(1_023 * 4096), ..exact }), 512 * KIB);
        assert_eq!(largest(LockableMemory { limit: Some(1_024 * 4096 - 1), ..exact }), 512 * KIB);
        assert_eq!(largest(LockableMemory { processors: 9, ..exact }), 512 * KIB);
        assert_eq!(largest(LockableMemory { each_kib: 512, ..exact }), 512 * KIB);
        // Less than a page of allowance is none (`sysctl_perf_event_mlock >> (PAGE_SHIFT - 10)`).
        assert_eq!(largest(LockableMemory { each_kib: 519, ..exact }), 1024 * KIB);
        assert_eq!(largest(LockableMemory { each_kib: 515, ..exact }), 512 * KIB);
        // The limit lacks one page, for the ring's head and tail. With that page the larger ring passes.
        let tight = LockableMemory { each_kib: 0, processors: 1, limit: Some(512 * 4096), ..USUAL };
        assert_eq!(largest(tight), 1024 * KIB);
        assert_eq!(largest(LockableMemory { limit: Some(513 * 4096), ..tight }), 2048 * KIB);
    }

    #[test]
    fn sizes_are_halved_down_to_the_smallest() {
        let sizes: Vec<_> = USUAL.rings().map(|size| size / KIB).collect();
        assert_eq!(sizes, [1024, 512, 256, 128, 64]);
        // Where no size should pass, the smallest is tried all the same.
        let none = LockableMemory { each_kib: 0, limit: Some(0), ..USUAL };
        assert_eq!(none.rings().collect::<Vec<_>>(), [64 * KIB]);
        assert_eq!(none.least_kib(), 8 * 17 * 4);
    }

    #[test]
    fn large_pages_make_no_larger_rings() {
        let large = LockableMemory { page: 64 << 10, each_kib: 576, ..USUAL };
        let sizes: Vec<_> = large.rings().map(|size| size / KIB).collect();
        assert_eq!(sizes, [1024, 512, 256, 128, 64]);
        assert_eq!(LockableMemory { each_kib: u64::MAX, ..large }.rings().next(), Some(2048 * KIB));
    }
}
