//! Paths of this machine: what is to be sent, and where what is fetched lands.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use linger_untrusted::Untrusted;

use crate::error::Error;
use crate::message::{Kind, Refusal};
use crate::options::PutOptions;
use crate::path::{BadPath, RelPath};
use crate::reason::{Reason, Remedy};
use crate::root::{self, Links, Root};
use crate::walk::{Walk, WalkedEntry};

/// The directory in which the received files land, and the name there, if the user gave one. With `make`, makes the
/// directory if it is missing.
///
/// A link of this user's own that leads to a directory stands for that directory, as with cp(1). (A `/` at the end makes
/// the kernel follow it.)
pub(super) fn landing_place(dest: &Path, make: bool) -> Result<(Root, Option<RelPath>), Error> {
    let real = linked_directory(dest);
    let dest = real.as_deref().unwrap_or(dest);
    let typed = dest.as_os_str().as_bytes();
    let parents = if typed.ends_with(b"/") { Some(dest) } else { dest.parent() };
    if let Some(missing) = parents.filter(|parent| make && !parent.as_os_str().is_empty() && !parent.exists())
    {
        std::fs::create_dir_all(missing)
            .map_err(|error| Error::io("make the directory", missing.display().to_string(), error))?;
    }
    if typed.is_empty() || typed.ends_with(b"/") || dest.file_name().is_none() || typed == b"." {
        return Ok((Root::open(if typed.is_empty() { Path::new(".") } else { dest })?, None));
    }
    let (root, name) = parent_and_name(dest)?;
    Ok((root, Some(name)))
}

/// The directory to which a link leads, by its own name; `None` if the path is no link, or leads elsewhere.
///
/// For whoever may write to as little as [`Client::get`](crate::Client::get) needs.
pub fn linked_directory(path: &Path) -> Option<PathBuf> {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    (is_link && path.is_dir()).then(|| std::fs::canonicalize(path).ok()).flatten()
}

/// The name of the local file: the given one, else the last component of the requested path.
pub(super) fn landing_name(
    root: &Root,
    given: Option<&RelPath>,
    asked: &[u8],
    directory: bool,
) -> Result<RelPath, Error> {
    let is_taken = |name: &RelPath| root.directory(name, Links::Follow).is_ok();
    match given {
        // As with cp(1): a file goes into the directory that has the name.
        Some(name) if !directory && !asked.is_empty() && is_taken(name) => name
            .child(asked)
            .map_err(|why| Error::Usage(format!("{}: {why}", Untrusted::from(asked).terminal()).into())),
        Some(name) => Ok(name.clone()),
        // The shared directory itself has no name.
        None if asked.is_empty() => Ok(RelPath::root()),
        None => RelPath::root().child(asked).map_err(|why| {
            Error::Usage(format!("the name {} {why}", Untrusted::from(asked).terminal()).into())
        }),
    }
}

/// What is to be sent: a directory as its own root, or a file below its parent.
pub(super) fn local(path: &Path) -> Result<(Root, RelPath), Error> {
    if path.as_os_str().is_empty() {
        return Err(Error::Usage("what is to be sent has an empty name".into()));
    }
    let found =
        std::fs::metadata(path).map_err(|error| Error::io("find", path.display().to_string(), error))?;
    if found.is_dir() {
        return Ok((Root::open(path)?, RelPath::root()));
    }
    if !found.is_file() {
        let told = Reason::from(format!("{} is neither file nor directory", path.display()));
        return Err(Error::Refused(Refusal::Source, told.with(Remedy::SendAsPipe)));
    }
    if path.file_name().is_some_and(|name| root::is_work_name(name.as_bytes())) {
        let told = format!("{}: receivers use this name themselves; give it another one", path.display());
        return Err(Error::Refused(Refusal::Source, Reason::from(told).with(Remedy::SendAsPipe)));
    }
    // A link named on the command line is followed; links inside a tree are sent as links.
    match std::fs::canonicalize(path) {
        Ok(real) => parent_and_name(&real),
        Err(_) => parent_and_name(path),
    }
}

fn parent_and_name(path: &Path) -> Result<(Root, RelPath), Error> {
    let usage = |why: BadPath| Error::Usage(format!("{}: {why}", path.display()).into());
    let name =
        path.file_name().ok_or_else(|| Error::Usage(format!("{} names no file", path.display()).into()))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok((Root::open(parent)?, RelPath::root().child(name.as_bytes()).map_err(usage)?))
}

pub(super) fn walk<'a>(root: &'a Root, top: RelPath, options: &PutOptions) -> Walk<'a> {
    Walk::local(root, top, options.patterns.clone(), options.selection, options.chmod.clone())
}

/// Walks through what [`Client::put`](crate::Client::put) would send: each entry's kind and length, as it would be announced.
///
/// # Errors
/// Returns [`Error::Io`] if there is nothing at `path`.
pub fn scan(path: &Path, options: &PutOptions, each: &mut dyn FnMut(Kind, u64)) -> Result<(), Error> {
    let (root, top) = local(path)?;
    let mut steps = walk(&root, top, options);
    while let Some(found) = steps.next() {
        if let WalkedEntry::Entry(entry, _) = found {
            each(entry.kind, entry.size.unwrap_or(0));
        }
    }
    Ok(())
}

/// The name that a path gets at the other side. For `.` and `dir/..` the real path is looked up.
pub(super) fn name_of(path: &Path) -> Vec<u8> {
    let name = path.file_name().map(|name| name.as_bytes().to_vec());
    name.or_else(|| std::fs::canonicalize(path).ok()?.file_name().map(|name| name.as_bytes().to_vec()))
        .unwrap_or_default()
}
