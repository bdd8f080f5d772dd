//! Links in a walk: kept, followed or left out.

use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use linger_untrusted::Untrusted;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{Walk, WalkedEntry, describe};
use crate::message::{Kind, Refusal};
use crate::path::RelPath;
use crate::root::Links;
use crate::selection::LinkMode;

impl Walk<'_> {
    /// A symbolic link below the top. `None` if it is put off.
    pub(super) fn link(&mut self, path: RelPath, name: &Path) -> Option<WalkedEntry> {
        let read = self.parent().and_then(|parent| {
            let target = rustix::fs::readlinkat(parent.as_fd(), name, Vec::new())?;
            let stat = rustix::fs::statat(parent.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok((target.into_bytes(), stat))
        });
        let (target, stat) = match read {
            Ok(read) => read,
            Err(error) => return Some(self.problem(path, "read the link", error)),
        };
        Some(match self.selection.links {
            LinkMode::Skip => {
                let text = format!("{path} is a link: left out");
                WalkedEntry::Problem { path, refusal: Refusal::Skipped, text }
            }
            LinkMode::Follow => self.follow(path, name, &target),
            LinkMode::Keep if path.link_stays_inside(&target) => {
                let passes = !path.left_by_link(&target).is_empty();
                if passes && self.levels.last_mut()?.puts_off(name.as_os_str().as_bytes()) {
                    return None;
                }
                let mut entry = self.entry(Kind::Link, path, None, &stat);
                entry.target = target;
                WalkedEntry::Entry(entry, None)
            }
            LinkMode::Keep => {
                let to = Untrusted::from(&*target);
                let told = format!("is a link to {}, outside of what is sent", to.terminal());
                self.leave_out(path, &told)
            }
        })
    }

    /// The entry for a link's target, in the place of the link.
    fn follow(&mut self, path: RelPath, name: &Path, target: &[u8]) -> WalkedEntry {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // Looked at first: opening a device or a named pipe has effects.
        let found = if self.roams {
            self.parent().and_then(|parent| {
                let stat = rustix::fs::statat(parent.as_fd(), name, AtFlags::empty())?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile | FileType::Directory => {
                        let fd = rustix::fs::openat(parent.as_fd(), name, flags, Mode::empty())?;
                        Ok((rustix::fs::fstat(&fd)?, Some(fd)))
                    }
                    _ => Ok((stat, None)),
                }
            })
        } else {
            let full = self.top.join(&path).map_err(|_| Errno::NAMETOOLONG);
            full.and_then(|full| {
                let stat = self.root.stat(&full, Links::Follow)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::RegularFile => self.root.file(&full).map(|(fd, stat)| (stat, Some(fd))),
                    FileType::Directory => {
                        self.root.directory(&full, Links::Follow).map(|fd| (stat, Some(fd)))
                    }
                    _ => Ok((stat, None)),
                }
            })
        };
        match found {
            Ok((stat, Some(fd))) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                self.enter(path, fd)
            }
            Ok((stat, Some(fd))) => self.file(path, fd, stat),
            Ok((stat, None)) => {
                let kind = describe(FileType::from_raw_mode(stat.st_mode));
                self.leave_out(path, &format!("is a link to {kind}, which cannot be sent"))
            }
            Err(Errno::NOENT | Errno::LOOP | Errno::XDEV) => {
                let to = Untrusted::from(target);
                let told = format!("is a link to {}, where nothing can be reached", to.terminal());
                self.leave_out(path, &told)
            }
            Err(error) => self.problem(path, "follow the link", error),
        }
    }
}
