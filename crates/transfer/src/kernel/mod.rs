//! Calls of the kernel for which no library has a safe function.

use std::ffi::c_long;
use std::os::fd::AsFd;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `FS_IOC_GETVERSION` of linux/fs.h.
const GET_VERSION: Opcode = opcode::read::<c_long>(b'v', 1);

/// The generation of a file's inode: it changes each time that the inode is used for a new file. `None` if the file system
/// has no generations, as tmpfs.
pub(crate) fn generation(file: impl AsFd) -> Option<u64> {
    // File systems write an `int` (`ext4_ioctl`, `xfs_file_ioctl`, `btrfs_ioctl`); FUSE writes the size that the request's
    // number states, a `long`. There is room for either, and bytes that are not written stay 0.
    let mut generation = 0u64;
    // SAFETY: the number is that of a request that writes a `long` at most; `generation` is at least that long, and every
    // pattern of bits is a value of it.
    let request = unsafe { Updater::<GET_VERSION, u64>::new(&mut generation) };
    // SAFETY: this request reads an inode's number and changes nothing; the kernel writes to `generation` alone.
    let read = unsafe { ioctl(file, request) };
    read.is_ok().then_some(generation)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// `EXT4_SUPER_MAGIC` of linux/magic.h.
    const EXT4: i64 = 0xEF53;

    #[test]
    fn an_inode_has_one_generation_where_its_file_system_has_generations() {
        let mut seen = Vec::new();
        for above in [std::env::temp_dir(), "/dev/shm".into()] {
            let Ok(dir) = tempfile::tempdir_in(above) else { continue };
            let path = dir.path().join("file");
            let (made, other) =
                (File::create(&path).unwrap(), File::create(dir.path().join("other")).unwrap());
            let found = generation(&made);
            assert_eq!(found, generation(File::open(&path).unwrap()), "by another descriptor, too");
            let kind = rustix::fs::fstatfs(&made).unwrap().f_type;
            if kind == EXT4 {
                // It chooses 32 bits at random.
                assert!(found.is_some() && found != generation(other));
            }
            seen.push(kind);
        }
        assert!(!seen.is_empty());
    }

    #[test]
    fn what_is_no_file_of_a_file_system_has_none() {
        let memory = rustix::fs::memfd_create("file", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        assert_eq!(generation(memory), None);
        let (inlet, _outlet) = rustix::pipe::pipe().unwrap();
        assert_eq!(generation(inlet), None);
    }
}
