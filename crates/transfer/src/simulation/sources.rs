//! The files that are sent, and what becomes of them.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use crate::hash::BLOCK;

/// The files that are sent, with their paths below `source`.
pub(super) const SOURCES: [&str; 4] = ["file", "tree/a", "tree/inner/b", "large"];

/// What is in one of them.
pub(super) fn content(source: &str) -> Vec<u8> {
    match source {
        "file" => b"one page for the printer\n".repeat(8),
        "tree/a" => b"the file a".to_vec(),
        "tree/inner/b" => vec![b'b'; 700],
        _ => {
            static LARGE: OnceLock<Vec<u8>> = OnceLock::new();
            let byte = |at| (at / 251 + at % 253) as u8;
            LARGE.get_or_init(|| (0..2 * BLOCK + 5000).map(byte).collect()).clone()
        }
    }
}

/// What is in a file once its source has changed: as long as before, and every byte another.
pub(super) fn changed(content: &[u8]) -> Vec<u8> {
    content.iter().map(|byte| byte.wrapping_add(1)).collect()
}

/// Makes the files anew as they are at first.
pub(super) fn make(base: &Path) -> io::Result<()> {
    SOURCES.iter().try_for_each(|name| replace(&base.join("source").join(name), &content(name)))
}

/// Gives all files their other content; with `renamed`, in new files that take the place of the old ones.
pub(super) fn change(base: &Path, renamed: bool) -> io::Result<()> {
    for name in SOURCES {
        let path = base.join("source").join(name);
        let new = changed(&content(name));
        if renamed {
            replace(&path, &new)?;
            continue;
        }
        // The clock of a file system may be too coarse for the time between two writes of one schedule.
        let later = fs::metadata(&path)?.modified()? + Duration::from_secs(1);
        fs::write(&path, &new)?;
        File::options().write(true).open(&path)?.set_modified(later)?;
    }
    Ok(())
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    fs::rename(&new, path)
}
