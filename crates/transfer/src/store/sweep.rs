//! Removes what abandoned transfers have left in a work directory.
//!
//! A partial file and its log are removed if neither was changed for [`KEPT`], both belong to this user, the log is one of this
//! program, and no session has locked it. A temporary file is removed if it is as old, belongs to this user, and has a name
//! that this program makes. Anything else in the directory stays. The sweep runs when a transfer first needs the directory, and
//! when a server starts.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat};

use crate::state::is_log;

/// How long a partial file is kept for a client to resume its transfer: a fortnight covers a holiday.
pub(crate) const KEPT: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Removes from a work directory what was abandoned for [`KEPT`] at `now`. Returns the number of partial files among it.
pub(crate) fn sweep(work: BorrowedFd<'_>, now: SystemTime) -> usize {
    let oldest =
        now.checked_sub(KEPT).and_then(|then| then.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let is_dead = |stat: &Stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_uid == rustix::process::geteuid().as_raw()
            && stat.st_mtime < oldest.as_secs() as i64
            // A restored backup has old modification times, but a new ctime.
            && stat.st_ctime < oldest.as_secs() as i64
    };
    let Ok(dir) = Dir::read_from(work) else { return 0 };
    let mut removed = 0;
    for entry in dir.flatten() {
        let name = entry.file_name();
        let Ok(text) = name.to_str() else { continue };
        let Ok(stat) = rustix::fs::statat(work, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if !is_dead(&stat) {
            continue;
        }
        if let Some(token) = text.strip_suffix(".state") {
            let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(log) = rustix::fs::openat(work, name, flags, Mode::empty()) else { continue };
            let part = format!("{token}.part");
            let part_is_dead = match rustix::fs::statat(work, &*part, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => is_dead(&stat),
                Err(error) => error == rustix::io::Errno::NOENT,
            };
            // The lock is held until the end of this round: a session that resumes meanwhile is refused as busy, and its
            // client tries again.
            let is_free = rustix::fs::flock(&log, FlockOperation::NonBlockingLockExclusive).is_ok();
            if is_token(token) && is_log(log.as_fd()) && is_free && part_is_dead {
                let _ = rustix::fs::unlinkat(work, &*part, AtFlags::empty());
                removed += usize::from(rustix::fs::unlinkat(work, name, AtFlags::empty()).is_ok());
            }
        } else if let Some(rest) = text.strip_prefix("tmp-")
            && rest.split('-').next().is_some_and(|random| random.len() == 16 && is_hex(random))
        {
            let _ = rustix::fs::unlinkat(work, name, AtFlags::empty());
        }
    }
    if removed > 0 {
        tracing::info!(removed, "partial files that nobody went on with are removed");
    }
    removed
}

fn is_token(text: &str) -> bool {
    text.len() == 32 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::Path;

    use super::*;
    use crate::hash::Hashing;
    use crate::state::PartLog;

    const NAME: &str = "00112233445566778899aabbccddeeff";

    fn leave(dir: &Path) -> PartLog {
        let work = File::open(dir).unwrap();
        let (part, state) = (format!("{NAME}.part"), format!("{NAME}.state"));
        PartLog::create(work.as_fd(), [7; 16], Hashing::Whole, &part, &state).unwrap().0
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What the sweep of `days` from now leaves.
    fn after(dir: &Path, days: u64) -> Vec<String> {
        let work = File::open(dir).unwrap();
        sweep(work.as_fd(), SystemTime::now() + Duration::from_secs(days * 24 * 60 * 60));
        names(dir)
    }

    #[test]
    fn what_is_dead_is_removed_and_what_is_another_s_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let held = leave(dir);
        fs::write(dir.join("tmp-0011223344556677-1"), "x").unwrap();
        let others = ["00112233445566778899aabbccddee00.state", "precious.state", "tmp-mine", "z.part"];
        for name in others {
            fs::write(dir.join(name), "not a log of ours, but as long as the beginning of one").unwrap();
        }
        std::os::unix::fs::symlink("precious.state", dir.join("00112233445566778899aabbccddee01.state"))
            .unwrap();
        let all = names(dir);
        assert_eq!(all.len(), 8);
        assert_eq!(after(dir, 13), all, "somebody may still go on with it");
        let without_temporary: Vec<_> =
            all.iter().filter(|name| *name != "tmp-0011223344556677-1").cloned().collect();
        assert_eq!(after(dir, 15), without_temporary, "a session holds it");
        drop(held);
        let left = after(dir, 15);
        assert_eq!(left.len(), 5, "{left:?}");
        assert!(left.iter().all(|name| !name.starts_with(NAME)), "{left:?}");
        assert!(others.iter().all(|name| left.iter().any(|left| left == name)), "{left:?}");
    }
}
