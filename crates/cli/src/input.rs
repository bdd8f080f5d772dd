//! Small text files that an option names.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The largest file: more than any scenario, configuration or list of patterns, and little enough for any
/// machine's memory.
const LARGEST: u64 = 4 << 20;

/// Reads a text file.
///
/// # Errors
/// Returns the errors of reading the file, [`io::ErrorKind::InvalidData`] if the text is not UTF-8, and
/// [`io::ErrorKind::FileTooLarge`] if it is over 4 MiB, as `/dev/zero` is.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let mut file = File::open(path)?.take(LARGEST + 1);
    let read = file.read_to_string(&mut text);
    if file.limit() == 0 {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    read.map(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        for (length, fits) in [(LARGEST, true), (LARGEST + 1, false)] {
            std::fs::write(&path, vec![b'x'; length as usize]).unwrap();
            assert_eq!(read_text(&path).is_ok(), fits, "{length} bytes");
        }
        assert_eq!(read_text(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
