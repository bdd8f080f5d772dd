//! The descriptors in a message that the program is about to send.

use std::os::fd::RawFd;

use crate::kernel::read_memory;

/// The descriptors that a message carries (`SCM_RIGHTS`), by its header in another process.
pub(super) fn passed(thread: u32, header: &[u8]) -> Vec<RawFd> {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let word = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_ne_bytes)
    };
    let int = |bytes: &[u8], at: usize| {
        bytes.get(at..at + 4).and_then(|int| int.try_into().ok()).map_or(0, i32::from_ne_bytes)
    };
    let address = word(header, std::mem::offset_of!(libc::msghdr, msg_control));
    let length = word(header, std::mem::offset_of!(libc::msghdr, msg_controllen));
    // `SCM_MAX_FD` descriptors are one kilobyte; more control data carries other things as well.
    let mut control = vec![0; usize::try_from(length).unwrap_or(0).min(65_536)];
    if address == 0 || control.len() < HEADER || read_memory(thread, address, &mut control).is_err() {
        return Vec::new();
    }
    let mut all = Vec::new();
    let mut rest = &control[..];
    while rest.len() >= HEADER {
        let length = usize::try_from(word(rest, 0)).unwrap_or(0);
        if length < HEADER || length > rest.len() {
            break;
        }
        if (int(rest, 8), int(rest, 12)) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            all.extend(rest[HEADER..length].chunks_exact(4).map(|number| int(number, 0)));
        }
        rest = rest.get(length.next_multiple_of(8)..).unwrap_or_default();
    }
    all
}
