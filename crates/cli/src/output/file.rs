//! Files that an option names: they appear whole or not at all, and never in place of something else.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use linger_untrusted::Untrusted;

use super::place::{WritePlace, directory_of};
use crate::exit;

/// The kind of file that a verb writes. It may replace an existing file of the same kind, and no other.
///
/// In `linger why --html *.pcap` the shell expands the pattern, so `--html` gets the first capture as the name of the
/// page. Without this check the page would overwrite that capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Text, as a page or a log: replaces text.
    Text,
    /// Receipts, one JSON object a line: replaces the like.
    Receipts,
    /// A capture.
    Capture,
}

impl Content {
    fn name(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Receipts => "a file of receipts",
            Self::Capture => "a capture",
        }
    }

    /// Whether a file that begins with `head` is of this kind.
    fn is_begun_by(self, head: &[u8]) -> bool {
        match self {
            _ if head.is_empty() => true,
            // A character may be cut at the end of what was read.
            Self::Text => {
                !head.contains(&0)
                    && head.utf8_chunks().all(|chunk| chunk.invalid().len() < 4)
                    && head.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count() <= 1
            }
            // A receipt's first key; other JSON is somebody else's.
            Self::Receipts => head.starts_with(b"{\"path\":"),
            Self::Capture => {
                // pcapng, pcap in both byte orders and both resolutions.
                let magics = [0x0a0d_0d0a, 0xa1b2_c3d4, 0xd4c3_b2a1, 0xa1b2_3c4d, 0x4d3c_b2a1];
                head.first_chunk().is_some_and(|first| magics.contains(&u32::from_be_bytes(*first)))
            }
        }
    }
}

/// Why a file may not be written.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The file is one of those that are to be read.
    Input(PathBuf),
    /// The file holds something else than the verb writes.
    Other(PathBuf, Content),
    /// The system refuses.
    System(PathBuf, io::Error),
    /// Its directory can have no new file.
    Directory(PathBuf, io::Error),
}

impl Refused {
    /// Prints the refusal and returns the exit status.
    pub(crate) fn end(&self) -> ExitCode {
        match self {
            Self::System(path, error) => exit::file(format_args!("cannot write {}", shown(path)), error),
            Self::Directory(path, error) => exit::file(NoNewFile(path), error),
            refused => exit::fail(exit::BAD_USAGE, refused),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(path) => {
                write!(f, "{} is to be read and cannot be written as well; name another file", shown(path))
            }
            Self::Other(path, content) => write!(
                f,
                "{} is not {}, and would be lost; name another file, or remove it first",
                shown(path),
                content.name()
            ),
            Self::System(path, error) => {
                write!(f, "cannot write {}: {error}{}", shown(path), exit::file_hint(error))
            }
            Self::Directory(path, error) => {
                write!(f, "{}: {error}{}", NoNewFile(path), exit::file_hint(error))
            }
        }
    }
}

/// That a file cannot be made in its directory.
struct NoNewFile<'a>(&'a Path);

impl fmt::Display for NoNewFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, directory) = (shown(self.0), shown(directory_of(self.0)));
        write!(f, "cannot write {path}: no file can be made in {directory}")
    }
}

fn shown(path: &Path) -> String {
    Untrusted::from(path).terminal().to_string()
}

impl std::error::Error for Refused {}

/// A file that is being written. Dropped without [`finish`](Self::finish), it leaves what was there before.
#[derive(Debug)]
pub(crate) struct NewFile {
    out: BufWriter<WritePlace>,
    path: PathBuf,
    content: Content,
}

impl NewFile {
    /// Begins a file. It must not be one of `inputs`, which the verb reads.
    pub(crate) fn create<'a>(
        path: &Path,
        content: Content,
        inputs: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Self, Refused> {
        let there = match fs::metadata(path) {
            Ok(there) => Some(there),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Refused::System(path.to_owned(), error)),
        };
        if let Some(there) = &there {
            let is_there = |input: &Path| fs::metadata(input).is_ok_and(|input| is_same(&input, there));
            if inputs.into_iter().any(is_there) {
                return Err(Refused::Input(path.to_owned()));
            }
        }
        let place = place(path, content, there.as_ref())?;
        Ok(Self { out: BufWriter::new(place), path: path.to_owned(), content })
    }

    /// Another handle to the same file, for a writer with a buffer of its own.
    pub(crate) fn try_clone(&self) -> io::Result<File> {
        self.out.get_ref().file().try_clone()
    }

    /// Writes a text, and finishes the file.
    pub(crate) fn write_whole(mut self, text: &str) -> Result<(), Refused> {
        match self.write_all(text.as_bytes()) {
            Ok(()) => self.finish(),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// The refusal for a failed write.
    pub(crate) fn failed(self, error: io::Error) -> Refused {
        Refused::System(self.path, error)
    }

    /// Flushes the file and gives it its name, which may be that of another file by then.
    pub(crate) fn finish(self) -> Result<(), Refused> {
        let Self { out, path, content } = self;
        let place = match out.into_inner() {
            Ok(place) => place,
            Err(error) => return Err(Refused::System(path, error.into_error())),
        };
        if let Some(last) = place.last().filter(|last| last.is_file()) {
            replaceable(last, content)?;
        }
        place.finish().map_err(|error| Refused::System(path, error))
    }
}

fn place(path: &Path, content: Content, there: Option<&Metadata>) -> Result<WritePlace, Refused> {
    let system = |error| Refused::System(path.to_owned(), error);
    let kind = there.map(Metadata::file_type);
    if kind.is_some_and(|kind| kind.is_dir()) {
        return Err(system(io::ErrorKind::IsADirectory.into()));
    }
    let is_device =
        kind.is_some_and(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_block_device());
    // `/dev/stdout` may be a regular file: renaming over it would detach it from processes that have it open.
    let open_elsewhere = ["/dev/stdout", "/dev/stderr", "/dev/fd", "/proc"];
    if is_device || open_elsewhere.iter().any(|one| path.starts_with(one)) {
        return WritePlace::direct(path, kind.is_some_and(|kind| kind.is_fifo())).map_err(system);
    }
    let mut mode = 0o666;
    let mut last = end_of_links(path);
    if let Some(there) = there {
        replaceable(path, content)?;
        mode = there.permissions().mode();
        // Replace a symlink's target, not the link.
        last = fs::canonicalize(path).map_err(system)?;
    }
    WritePlace::of(last, mode).map_err(|error| Refused::Directory(path.to_owned(), error))
}

/// Refuses to replace a file of another kind.
fn replaceable(path: &Path, content: Content) -> Result<(), Refused> {
    let mut head = Vec::new();
    match File::open(path).and_then(|file| file.take(4_096).read_to_end(&mut head)) {
        Ok(_) if content.is_begun_by(&head) => Ok(()),
        Ok(_) => Err(Refused::Other(path.to_owned(), content)),
        Err(error) => Err(Refused::System(path.to_owned(), error)),
    }
}

/// The name at the end of symlinks that lead to no file yet; of others, the name itself.
pub(super) fn end_of_links(path: &Path) -> PathBuf {
    /// As many as the kernel follows (`MAXSYMLINKS`).
    const MOST: usize = 40;
    let mut last = path.to_owned();
    for _ in 0..MOST {
        let Ok(next) = fs::read_link(&last) else { break };
        // An absolute one takes the place of all.
        last = last.parent().unwrap_or(Path::new("")).join(next);
    }
    last
}

/// Whether two names are of one file: a hard link, a symlink, or another spelling of the path.
pub(super) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    fn write(path: &Path, content: Content, inputs: &[&Path]) -> Result<(), Refused> {
        let mut file = NewFile::create(path, content, inputs.iter().copied())?;
        file.write_all(b"<!doctype html>").unwrap();
        file.finish()
    }

    #[test]
    fn an_input_is_never_an_output_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["in", "other"] {
            fs::write(at(name), "text").unwrap();
        }
        fs::hard_link(at("in"), at("hard")).unwrap();
        std::os::unix::fs::symlink(at("in"), at("soft")).unwrap();
        for name in ["in", "hard", "soft", "../nowhere/../in"] {
            let path = if name.starts_with("..") { folder.path().join("./in") } else { at(name) };
            let refused = write(&path, Content::Text, &[&at("other"), &at("in")]);
            assert!(matches!(refused, Err(Refused::Input(_))), "{name}: {refused:?}");
            assert_eq!(fs::read(at("in")).unwrap(), b"text");
        }
        // A file of the same content that is no input may be replaced.
        write(&at("other"), Content::Text, &[&at("in")]).unwrap();
        assert_eq!(fs::read(at("other")).unwrap(), b"<!doctype html>");
    }

    #[test]
    fn only_the_like_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let pcap = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        let pcapng = [0x0a, 0x0d, 0x0d, 0x0a, 0x1c, 0, 0, 0];
        let gzip = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0];
        let zstd = [0x28, 0xb5, 0x2f, 0xfd, 4, 0x88, 0xff, 0xfe, 0xfd];
        for (old, content, taken) in [
            (&pcap[..], Content::Text, false),
            (&pcapng, Content::Text, false),
            (&gzip, Content::Text, false),
            (&zstd, Content::Text, false),
            (b"last week's page", Content::Text, true),
            ("naïve".as_bytes(), Content::Text, true),
            (b"", Content::Text, true),
            (b"{\"path\":\"\"}", Content::Receipts, true),
            (b"{\"my\":\"configuration\"}", Content::Receipts, false),
            (b"last week's page", Content::Receipts, false),
            (&pcapng, Content::Capture, true),
            (&pcap, Content::Capture, true),
            (b"last week's page", Content::Capture, false),
        ] {
            fs::write(&path, old).unwrap();
            let result = write(&path, content, &[]);
            assert_eq!(result.is_ok(), taken, "{old:x?} for {content:?}: {result:?}");
            let now = if taken { b"<!doctype html>" } else { old };
            assert_eq!(fs::read(&path).unwrap(), now);
        }
    }

    #[test]
    fn what_is_not_finished_leaves_the_old_one_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let mut file = NewFile::create(&path, Content::Text, []).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old", "not before it is whole");
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        write(&path, Content::Text, &[]).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_came_meanwhile_is_replaced_only_by_the_like() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("page");
        for (came, taken) in [(&b"a page"[..], true), (b"\0", false)] {
            let _ = fs::remove_file(&path);
            let file = NewFile::create(&path, Content::Text, []).unwrap();
            fs::write(&path, came).unwrap();
            assert_eq!(file.write_whole("new").is_ok(), taken);
            assert_eq!(fs::read(&path).unwrap(), if taken { b"new" } else { came });
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_directory_that_can_have_no_file_is_named_and_so_is_the_file() {
        for (path, directory) in [
            ("/nonexistent/x.html", "/nonexistent"),
            ("/sys/x.html", "/sys"),
            ("nonexistent/x", "nonexistent"),
        ] {
            let refused = NewFile::create(Path::new(path), Content::Text, []).unwrap_err();
            let said = refused.to_string();
            assert!(
                said.starts_with(&format!("cannot write {path}: no file can be made in {directory}: ")),
                "{said}"
            );
            assert!(!said.contains(".linger-"), "{said}");
        }
    }

    #[test]
    fn a_link_that_leads_to_nothing_yet_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("deeper")).unwrap();
        std::os::unix::fs::symlink("deeper/page", at("link")).unwrap();
        std::os::unix::fs::symlink("link", at("second")).unwrap();
        write(&at("second"), Content::Text, &[]).unwrap();
        assert!(at("second").is_symlink() && at("link").is_symlink());
        assert_eq!(fs::read(at("deeper/page")).unwrap(), b"<!doctype html>");
    }

    #[test]
    fn a_full_device_is_an_error_of_that_name() {
        let mut file = NewFile::create(Path::new("/dev/full"), Content::Text, []).unwrap();
        file.write_all(b"text").unwrap();
        let Err(refused) = file.finish() else { panic!("it took it") };
        assert!(refused.to_string().starts_with("cannot write /dev/full: No space"), "{refused}");
    }

    #[test]
    fn a_name_below_dev_may_be_a_file_like_others() {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("page");
        let file = NewFile::create(&path, Content::Text, []).unwrap();
        assert!(!matches!(file.out.get_ref(), WritePlace::Direct(_)));
        drop(file);
        // What a process has open is written to in place.
        let open = File::create(&path).unwrap();
        let name = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
        let file = NewFile::create(Path::new(&name), Content::Text, []).unwrap();
        assert!(matches!(file.out.get_ref(), WritePlace::Direct(_)));
    }

    #[test]
    fn a_fifo_that_nobody_reads_is_an_error_and_no_wait() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
            .unwrap();
        let refused = write(&path, Content::Text, &[]).unwrap_err();
        assert!(refused.to_string().contains("start its reader first"), "{refused}");
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let mut reader = File::options().read(true).custom_flags(nonblocking).open(&path).unwrap();
        write(&path, Content::Text, &[]).unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "<!doctype html>");
    }
}
