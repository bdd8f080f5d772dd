//! A number of the process that no child made by `fork` can mistake for its own.

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::SetOnce;

/// The number of the calling process: see [`Process`](crate::Process).
///
/// A process id is reused, and a child in a new pid namespace may have the id of its parent. So the number is in a page
/// that the kernel sets to zero in a child (`MADV_WIPEONFORK`, Linux 4.14), and asking costs loads instead of a system
/// call. If the kernel has no such pages, the number is the process id.
pub(crate) fn process_number() -> u64 {
    static PAGE: SetOnce<Page> = SetOnce::new();
    /// A child continues its parent's count, so no ancestor has had the same number.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    if PAGE.get().is_none() {
        // Two threads may race here; the loser's page is unmapped.
        let _ = Page::new().map(|page| PAGE.set(Box::new(page)));
    }
    match PAGE.get() {
        Some(page) => number_in(page, &NEXT),
        None => NO_PAGE | u64::from(std::process::id()),
    }
}

/// A bit that is set if a [`Process`](crate::Process) is a process id. Numbers from the page never become that large.
const NO_PAGE: u64 = 1 << 63;

/// Returns the number of this process. The first thread that asks takes it from `next` and stores it in `page`.
///
/// Relaxed is enough: the threads only have to agree on the number; no other memory is read because of it.
fn number_in(page: &AtomicU64, next: &AtomicU64) -> u64 {
    match page.load(Ordering::Relaxed) {
        0 => {
            let fresh = next.fetch_add(1, Ordering::Relaxed);
            match page.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => fresh,
                // Another thread of this process was first.
                Err(number) => number,
            }
        }
        number => number,
    }
}

/// A number that the kernel sets to 0 in a child.
struct Page(NonNull<AtomicU64>);

// SAFETY: what it points to is mapped as long as it exists, and is accessed as an atomic only. The kernel's zeroing
// concerns a child's copy, before that child runs.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// The kernel rounds up to a page.
    const LENGTH: usize = size_of::<AtomicU64>();

    /// Maps a page that the kernel sets to zero in every child.
    ///
    /// # Errors
    /// Returns the errors of `mmap(2)` and `madvise(2)`, and `Unsupported` if `madvise` accepts even advice that does not
    /// exist, as qemu's user mode does.
    fn new() -> io::Result<Self> {
        // SAFETY: a new private mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        let page = match NonNull::new(address) {
            Some(page) if address != libc::MAP_FAILED => Self(page.cast()),
            _ => return Err(io::Error::last_os_error()),
        };
        page.advise(libc::MADV_WIPEONFORK)?;
        // qemu's user mode accepts every advice, even advice that it does not implement. No advice has the number -1: if
        // -1 is accepted, the success of MADV_WIPEONFORK means nothing.
        match page.advise(-1) {
            Err(_) => Ok(page),
            Ok(()) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: advice on a mapping of our own; the kernel refuses what it does not know
        // (`madvise_behavior_valid`), and wiping on fork changes nothing in this process.
        match unsafe { libc::madvise(self.0.as_ptr().cast(), Self::LENGTH, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Deref for Page {
    type Target = AtomicU64;

    fn deref(&self) -> &AtomicU64 {
        // SAFETY: mapped, aligned to a page, initialised by the kernel with zeros.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: nobody borrows it any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), Self::LENGTH) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::Process;
    use crate::testing::forked;

    #[test]
    fn threads_are_one_process_and_children_are_others() {
        let here = Process::current();
        assert_eq!(std::thread::spawn(Process::current).join().unwrap(), here);
        // A child, a second child, and a grandchild of each.
        for _ in 0..2 {
            let said = forked(move || {
                let child = Process::current();
                assert_ne!(child, here);
                assert_eq!(child, Process::current());
                forked(move || {
                    let grandchild = Process::current();
                    assert!(grandchild != child && grandchild != here);
                    "three processes".to_owned()
                })
                .unwrap()
            });
            assert_eq!(said.as_deref(), Ok("three processes"));
        }
        assert_eq!(Process::current(), here);
    }

    #[test]
    fn all_threads_that_ask_first_get_one_number() {
        let (page, next) = (AtomicU64::new(0), AtomicU64::new(7));
        let numbers: Vec<u64> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| number_in(&page, &next))).collect();
            asking.into_iter().map(|asking| asking.join().unwrap()).collect()
        });
        assert!(numbers[0] >= 7 && numbers.iter().all(|number| *number == numbers[0]), "{numbers:?}");
        // As after a fork: the page is empty, the counter is not.
        page.store(0, Ordering::Relaxed);
        assert!(!numbers.contains(&number_in(&page, &next)));
    }

    #[test]
    fn a_page_is_empty_in_a_child_only() {
        let page = Page::new().unwrap();
        page.store(7, Ordering::Relaxed);
        assert_eq!(forked(|| page.load(Ordering::Relaxed).to_string()).as_deref(), Ok("0"));
        assert_eq!(page.load(Ordering::Relaxed), 7);
    }
}
