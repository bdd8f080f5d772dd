//! Which captures to read: files, folders and patterns; and which of them are the files of one rotated capture.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use linger_packet::LinkType;
use linger_packet::capture::{self, Beginning, ReadError};

/// Endings of capture files. A file in a folder with another ending is passed over if it is no capture.
const ENDINGS: [&str; 7] = ["pcap", "pcapng", "cap", "ntar", "dmp", "trc", "trace"];
/// Endings of compressed files.
const COMPRESSED: [&str; 5] = ["gz", "zst", "xz", "lz4", "bz2"];
/// How many levels of folders below a named one are searched.
const MAX_DEPTH: usize = 16;

/// A set of captures.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CaptureSet {
    /// The captures: each is one file, or the files of one rotated capture in the order of their times.
    pub series: Vec<Vec<SetFile>>,
    /// What cannot be read, and why.
    pub unreadable: Vec<(PathBuf, ReadError)>,
    /// How many entries of folders were not read: files that are no captures, pipes, links to folders, folders that lie too
    /// deep.
    pub passed_over: u64,
}

/// A capture file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SetFile {
    /// Where it is; `-` for standard input.
    pub path: PathBuf,
    /// The first packet's time, in nanoseconds since 1970-01-01 00:00 UTC. `None` if it has no packet, or if it is not a regular file,
    /// of which nothing is read in advance.
    pub begins: Option<u64>,
}

impl CaptureSet {
    /// Looks for the captures that `paths` name. A path is a file (`-`: standard input), a folder, whose captures are read with those in
    /// its folders, or a pattern (`*`, `?`, `[...]`, `**`) if there is no file of that name.
    ///
    /// A file that is named twice is read once.
    pub fn of(paths: &[PathBuf]) -> Self {
        let mut found = FoundCaptures::default();
        for path in paths {
            found.add(path);
        }
        let series = in_series(found.files);
        Self { series, unreadable: found.unreadable, passed_over: found.passed_over }
    }

    /// The paths of all captures.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.series.iter().flatten().map(|file| &*file.path)
    }
}

/// A file with its first packet.
struct FoundFile {
    path: PathBuf,
    beginning: Option<Beginning>,
    /// Whether it can be read twice. Only then was its beginning read.
    is_regular: bool,
}

impl FoundFile {
    fn stream(path: &Path) -> Self {
        Self { path: path.to_owned(), beginning: None, is_regular: false }
    }

    fn regular(path: &Path, beginning: Option<Beginning>) -> Self {
        Self { path: path.to_owned(), beginning, is_regular: true }
    }
}

#[derive(Default)]
struct FoundCaptures {
    files: Vec<FoundFile>,
    known: HashSet<PathBuf>,
    unreadable: Vec<(PathBuf, ReadError)>,
    passed_over: u64,
    /// Those of them that are in `known`.
    passed_over_files: usize,
}

impl FoundCaptures {
    fn add(&mut self, path: &Path) {
        if path == Path::new("-") {
            return self.files.push(FoundFile::stream(path));
        }
        match path.metadata() {
            Ok(kind) if kind.is_dir() => self.named_folder(path),
            Ok(kind) if kind.is_file() => self.file(path, true),
            // A pipe or a device: what is read of it is gone.
            Ok(_) => self.files.push(FoundFile::stream(path)),
            Err(error) => self.pattern(path, error),
        }
    }

    fn pattern(&mut self, path: &Path, error: io::Error) {
        let text = path.to_str().filter(|text| text.contains(['*', '?', '[']));
        let Some(matches) = text.and_then(|text| glob::glob(text).ok()) else {
            return self.unreadable.push((path.to_owned(), ReadError::Open { source: error }));
        };
        let before = self.known.len();
        for found in matches {
            match found {
                Ok(path) if path.is_dir() => self.named_folder(&path),
                Ok(path) => self.file(&path, true),
                Err(error) => {
                    let path = error.path().to_owned();
                    self.unreadable.push((path, ReadError::Open { source: error.into() }));
                }
            }
        }
        if self.known.len() == before {
            self.unreadable.push((path.to_owned(), ReadError::Open { source: error }));
        }
    }

    fn named_folder(&mut self, folder: &Path) {
        let before = (self.known.len() - self.passed_over_files, self.unreadable.len());
        self.folder(folder, 0);
        if before == (self.known.len() - self.passed_over_files, self.unreadable.len()) {
            let source = io::Error::new(io::ErrorKind::NotFound, "no capture is in it");
            self.unreadable.push((folder.to_owned(), ReadError::Open { source }));
        }
    }

    fn folder(&mut self, folder: &Path, depth: usize) {
        let entries = std::fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = match entries {
            Ok(entries) => entries,
            Err(source) => return self.unreadable.push((folder.to_owned(), ReadError::Open { source })),
        };
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            // A link to a folder may lead back here, and a pipe may never end.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => self.folder(&path, depth + 1),
                Ok(kind) if kind.is_file() || kind.is_symlink() && path.is_file() => self.file(&path, false),
                _ => self.passed_over += 1,
            }
        }
    }

    fn file(&mut self, path: &Path, is_named: bool) {
        let identity = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if !self.known.insert(identity) {
            return;
        }
        match capture::beginning(path) {
            Ok(beginning) => self.files.push(FoundFile::regular(path, beginning)),
            // Damage in the first packet is reported with what can be read.
            Err(ReadError::Damaged { .. } | ReadError::CutOff { .. }) => {
                self.files.push(FoundFile::regular(path, None));
            }
            Err(ReadError::NotACapture { .. } | ReadError::Empty) if !is_named && !has_ending(path) => {
                self.passed_over += 1;
                self.passed_over_files += 1;
            }
            Err(error) => self.unreadable.push((path.to_owned(), error)),
        }
    }
}

/// Whether a file's name is that of a capture: `a.pcap`, `a.pcap.gz`, `a.pcap12` (`tcpdump -C`).
fn has_ending(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let name = COMPRESSED.iter().find_map(|ending| name.strip_suffix(&format!(".{ending}"))).unwrap_or(&name);
    let name = name.trim_end_matches(|character: char| character.is_ascii_digit());
    ENDINGS.iter().any(|ending| name.ends_with(&format!(".{ending}")))
}

/// The name that the files of a rotated capture have in common: counters and times are replaced by `#`.
///
/// `tcpdump -C` appends a counter to the name and `-G` writes a time into it; Wireshark writes both. So these numbers are replaced: the
/// last one, those of five digits or more, and those that are parts of a time, two or four digits beside another such number.
fn series_name(name: &str) -> String {
    let mut parts: Vec<(bool, &str)> = Vec::new();
    let mut rest = name;
    while let Some(first) = rest.chars().next() {
        let digit = first.is_ascii_digit();
        let end = rest.find(|character: char| character.is_ascii_digit() != digit).unwrap_or(rest.len());
        parts.push((digit, &rest[..end]));
        rest = &rest[end..];
    }
    let is_of_time = |at: usize| {
        let length = |at: usize| parts.get(at).filter(|(digit, _)| *digit).map_or(0, |(_, part)| part.len());
        let beside = |at: usize, separator: usize| {
            matches!(length(at), 2 | 4)
                && parts
                    .get(separator)
                    .is_some_and(|(_, part)| matches!(*part, "-" | "_" | ":" | "." | "T" | " "))
        };
        matches!(length(at), 2 | 4) && (beside(at + 2, at + 1) || at >= 2 && beside(at - 2, at - 1))
    };
    let last = parts.iter().rposition(|(digit, _)| *digit);
    let mut pattern = String::new();
    for (at, (digit, part)) in parts.iter().enumerate() {
        let replaced = *digit && (Some(at) == last || part.len() >= 5 || is_of_time(at));
        pattern += if replaced { "#" } else { part };
    }
    // The first file of `tcpdump -C` has no counter.
    pattern.strip_suffix('#').map_or(pattern.clone(), str::to_owned)
}

/// Joins the files of rotated captures: those of one folder with one series name and one link type. Captures stay in the order
/// in which they were named.
///
/// A file without a packet is joined with any other by its name: the last one of a rotated capture may have none yet.
fn in_series(files: Vec<FoundFile>) -> Vec<Vec<SetFile>> {
    let mut series: Vec<(Option<LinkType>, Vec<SetFile>)> = Vec::new();
    let mut known: HashMap<_, Vec<usize>> = HashMap::new();
    for FoundFile { path, beginning, is_regular } in files {
        let link = beginning.map(|beginning| beginning.link);
        let file = SetFile { begins: beginning.map(|beginning| beginning.time_ns), path };
        if !is_regular {
            series.push((None, vec![file]));
            continue;
        }
        let name = file.path.file_name().map(|name| series_name(&name.to_string_lossy())).unwrap_or_default();
        let alike = known.entry((file.path.parent().map(Path::to_owned), name)).or_default();
        let same = alike.iter().find(|&&at| series[at].0.is_none() || link.is_none() || series[at].0 == link);
        match same {
            Some(&at) => {
                series[at].0 = series[at].0.or(link);
                series[at].1.push(file);
            }
            None => {
                alike.push(series.len());
                series.push((link, vec![file]));
            }
        }
    }
    let in_order = |(_, mut files): (Option<LinkType>, Vec<SetFile>)| {
        let key = |file: &SetFile| (file.begins.is_none(), file.begins);
        files.sort_by(|one, other| (key(one), &one.path).cmp(&(key(other), &other.path)));
        files
    };
    series.into_iter().map(in_order).collect()
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
