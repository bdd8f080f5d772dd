//! What watching needs of this host.

use std::io;

use crate::kernel::locked::LockableMemory;
use crate::kernel::perf;

/// Tracepoints that are opened on each processor; each takes a file descriptor.
const TRACEPOINTS: u64 = 8;
/// Descriptors for everything else: output, netlink, a few network namespaces.
const OTHERS: u64 = 64;

/// What watching needs of this host, and what it allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Needs {
    /// Number of processors that are online; each has a ring for events.
    pub processors: u64,
    /// File descriptors, without those of more than a few network namespaces, which take two each.
    pub descriptors: u64,
    /// Memory that the smallest rings lock, in KiB.
    pub least_kib: u64,
    /// Memory that rings of full size lock, in KiB.
    pub most_kib: u64,
    /// Memory that this process may lock, in KiB, as far as the kernel tells; `None` if there is no bound.
    pub lockable_kib: Option<u64>,
}

impl Needs {
    /// Reads them.
    ///
    /// # Errors
    /// Returns an error if the online processors cannot be read in `/sys`.
    pub fn now() -> io::Result<Self> {
        Ok(Self::of(LockableMemory::now(perf::processors()?.len())))
    }

    fn of(memory: LockableMemory) -> Self {
        Self {
            processors: memory.processors,
            descriptors: memory.processors.saturating_mul(TRACEPOINTS).saturating_add(OTHERS),
            least_kib: memory.least_kib(),
            most_kib: memory.most_kib(),
            lockable_kib: memory.lockable_kib(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_grow_with_processors() {
        let of =
            |processors, limit| Needs::of(LockableMemory { page: 4_096, processors, each_kib: 516, limit });
        let (two, many) = (of(2, Some(8 << 20)), of(512, Some(8 << 20)));
        assert_eq!((two.descriptors, many.descriptors), (80, 4_160));
        assert_eq!((two.least_kib, many.least_kib), (2 * 68, 512 * 68));
        assert_eq!((two.most_kib, two.lockable_kib), (2 * 2_052, Some(2 * 516 + 8_192)));
        assert_eq!(of(2, None).lockable_kib, None);
    }
}
