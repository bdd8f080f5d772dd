//! Directories that are shared, or received into, with something mounted below them: a disk, or a directory of the same disk
//! once more (a bind mount, as containers have them). Neither rename(2) nor link(2) crosses a mount.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;
use linger_testing::secluded;
use linger_transfer::*;
use rustix::mount::{MountFlags, mount, mount_bind};
use tempfile::{TempDir, tempdir};

/// Mounts an empty file system, or a directory of the same one, at `place`, which is made.
fn mounted(place: &Path, same_disk: Option<&TempDir>) {
    fs::create_dir_all(place).unwrap();
    match same_disk {
        Some(elsewhere) => mount_bind(elsewhere.path(), place).unwrap(),
        None => mount("none", place, "tmpfs", MountFlags::empty(), None).unwrap(),
    }
}

/// Another directory of the disk, and none.
fn disks() -> [Option<TempDir>; 2] {
    [None, Some(tempdir().unwrap())]
}

/// The work directories below a directory.
fn works(top: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = picture(top).into_keys().filter(|path| path.ends_with(".linger")).collect();
    found.sort();
    found
}

/// Files in several directories: large enough to be kept in parts, small, and replaced.
#[test]
fn nothing_is_left_over_where_something_is_mounted() {
    secluded(|| {
        for same_disk in disks() {
            let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
            let source = from.path().join("tree");
            for name in ["a", "b", "b/c"] {
                fs::create_dir_all(source.join(name)).unwrap();
                fs::write(source.join(name).join("large"), bytes(2 * BLOCK + 7, 1)).unwrap();
                fs::write(source.join(name).join("small"), b"x").unwrap();
            }
            let place = to.path().join("mounted");
            mounted(&place, same_disk.as_ref());
            share(
                to.path(),
                |_| {},
                |shared| {
                    shared.put(&source, "mounted/inner/copy");
                    assert_eq!(picture(&place.join("inner/copy")), picture(&source));
                    for name in ["a/large", "b/c/large", "b/small"] {
                        fs::write(source.join(name), bytes(3 * BLOCK, 2)).unwrap();
                    }
                    let mut options = PutOptions::default();
                    options.if_exists = IfExists::Replace;
                    shared.put_with(&source, "mounted/inner/copy", &options);
                    assert_eq!(picture(&place.join("inner/copy")), picture(&source));
                },
            );
            assert_eq!(works(to.path()), Vec::<PathBuf>::new(), "{same_disk:?}");
            // The same where it is fetched, and what is mounted is what was named.
            let here = tempdir().unwrap();
            let same_disk = same_disk.map(|_| tempdir().unwrap());
            mounted(&here.path().join("mounted"), same_disk.as_ref());
            share(
                &source,
                |_| {},
                |shared| {
                    shared.get("", here.path().join("mounted"));
                },
            );
            assert_eq!(picture(&here.path().join("mounted")), picture(&source));
            assert_eq!(works(here.path()), Vec::<PathBuf>::new(), "{same_disk:?}");
        }
    });
}

/// Whether a partial file in this directory has a verified block: its log has a record of 96 bytes for each, behind as long a header.
fn has_block(place: &Path) -> bool {
    let logs = fs::read_dir(place.join(".linger")).into_iter().flatten().flatten();
    let mut logs =
        logs.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "state"));
    logs.any(|log| log.metadata().is_ok_and(|found| found.len() > 96))
}

/// What is kept of a file lies at the top of what is mounted, where the next session finds it, whichever file it begins with.
#[test]
fn a_transfer_to_what_is_mounted_goes_on_where_it_was() {
    secluded(|| {
        for same_disk in disks() {
            let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
            let file = from.path().join("file");
            fs::write(&file, bytes(128 * BLOCK, 1)).unwrap();
            let place = to.path().join("mounted");
            mounted(&place, same_disk.as_ref());
            share(
                to.path(),
                |_| {},
                |shared| {
                    let client = shared.client();
                    let cancel = client.canceller();
                    let (summary, _) = client.put(
                        Input::Path(file.clone()),
                        &crate::common::place("mounted/inner/file"),
                        &PutOptions::default(),
                        &mut |progress| {
                            if matches!(progress, Progress::Moved { .. }) && has_block(&place) {
                                cancel.cancel();
                            }
                        },
                    );
                    assert_eq!(summary.confirmed, 0);
                    shared.wait_for_sessions(1);
                    assert_eq!(works(to.path()), [Path::new("mounted/.linger")]);
                    let mut goes_on = 0;
                    let (summary, error) = shared.client().put(
                        Input::Path(file.clone()),
                        &crate::common::place("mounted/inner/file"),
                        &PutOptions::default(),
                        &mut |progress| {
                            if let Progress::Started { resumed, .. } = progress {
                                goes_on = resumed;
                            }
                        },
                    );
                    assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::Confirmed);
                    assert!(goes_on >= BLOCK as u64, "{goes_on}");
                },
            );
            assert!(fs::read(place.join("inner/file")).unwrap() == bytes(128 * BLOCK, 1));
            assert_eq!(works(to.path()), Vec::<PathBuf>::new());
        }
    });
}

/// On a full disk, what is kept of a file is worth its room: whole blocks, and the log that makes them worth something.
#[test]
fn nothing_useless_stays_on_a_full_disk() {
    secluded(|| {
        let (from, to) = (tempdir().unwrap(), tempdir().unwrap());
        for number in 0..12 {
            fs::write(from.path().join(number.to_string()), bytes(BLOCK + BLOCK / 2, number)).unwrap();
        }
        for limits in [c"size=8m", c"size=64m,nr_inodes=9"] {
            mount("none", to.path(), "tmpfs", MountFlags::empty(), Some(limits)).unwrap();
            share(
                to.path(),
                |_| {},
                |shared| {
                    let (summary, error) = shared.try_put(from.path(), "copy", &PutOptions::default());
                    assert_eq!(summary.verdict(error.as_ref()), ItemVerdict::NotDelivered);
                    shared.wait_for_sessions(1);
                },
            );
            let mut kept = 0;
            for entry in fs::read_dir(to.path().join(".linger")).into_iter().flatten() {
                let part = entry.unwrap().path();
                let log = part.with_extension("state");
                assert!(log.exists() && fs::metadata(&log).unwrap().len() >= 2 * 96, "{part:?}");
                let length = fs::metadata(part.with_extension("part")).unwrap().len();
                assert!(length >= BLOCK as u64, "{part:?} {length}");
                kept += 1;
            }
            assert_eq!(kept % 2, 0, "each has its log");
            rustix::mount::unmount(to.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    });
}
