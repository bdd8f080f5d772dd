//! Names inside a shared directory: what a peer may call a file.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use linger_untrusted::Untrusted;

/// The directory, at the root of a tree that receives, for what is not complete yet.
pub(crate) const WORK: &str = ".linger";

/// Longest name of one component (`NAME_MAX`).
const MAX_NAME: usize = 255;
/// Longest path (`PATH_MAX`, less the final NUL).
pub(crate) const MAX_PATH: usize = 4095;
/// Most components: as many as a path has room for.
pub(crate) const MAX_DEPTH: usize = MAX_PATH.div_ceil(2);

/// A path below the shared directory: components of bytes without `/` and NUL, none of them `.` or `..`.
///
/// Empty means the directory itself. Names need not be UTF-8 and may hold newlines, as on Linux; printing
/// escapes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

/// Why a name was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadPath {
    /// The name begins with `/`.
    #[error("is absolute; name it relative to the shared directory")]
    Absolute,
    /// The name has a component `..` (or, if a peer sent it, `.` or an empty one).
    #[error("has a component `.`, `..` or nothing")]
    Dots,
    /// A NUL byte.
    #[error("has a NUL byte")]
    Nul,
    /// A component over 255 bytes, or all over 4095.
    #[error("is too long: 255 bytes a name, 4095 in all")]
    TooLong,
}

impl RelPath {
    /// The directory itself.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Takes a path as a peer sends it, which must be in its normal form.
    ///
    /// # Errors
    /// Returns an error that says what is wrong with the path.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BadPath> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Ok(Self(bytes));
        }
        if bytes.len() > MAX_PATH {
            return Err(BadPath::TooLong);
        }
        if bytes[0] == b'/' {
            return Err(BadPath::Absolute);
        }
        for name in bytes.split(|byte| *byte == b'/') {
            check(name)?;
        }
        Ok(Self(bytes))
    }

    /// Reads a path as a person types it: `./a//b/` is `a/b`.
    ///
    /// # Errors
    /// Returns an error that says what is wrong with the path. `..` is an error here, too.
    pub fn typed(path: &[u8]) -> Result<Self, BadPath> {
        if path.first() == Some(&b'/') {
            return Err(BadPath::Absolute);
        }
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".");
        Self::new(names.collect::<Vec<_>>().join(&b'/'))
    }

    /// The bytes of the path.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for system calls.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Whether it is the directory itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    /// Returns an error if `name` is no single component, or if the whole path becomes too long.
    pub fn child(&self, name: &[u8]) -> Result<Self, BadPath> {
        check(name)?;
        self.join(&Self(name.to_vec()))
    }

    /// `other` below this path.
    ///
    /// # Errors
    /// Returns an error if the whole path becomes too long.
    pub fn join(&self, other: &Self) -> Result<Self, BadPath> {
        match (self.is_root(), other.is_root()) {
            (true, _) => Ok(other.clone()),
            (_, true) => Ok(self.clone()),
            _ => Self::new([&self.0[..], b"/", &other.0].concat()),
        }
    }

    /// The directory part and the last name; `None` for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Self(self.0[..slash].to_vec()), &self.0[slash + 1..]),
            None => (Self::root(), &self.0),
        })
    }

    /// The last component; empty at the root.
    pub(crate) fn name(&self) -> &[u8] {
        self.0.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }

    /// Whether a symbolic link at this path to `target` stays inside the tree, judged by its text.
    pub(crate) fn link_stays_inside(&self, target: &[u8]) -> bool {
        let mut depth = self.0.iter().filter(|byte| **byte == b'/').count() as i64;
        if self.is_root() || target.is_empty() || target[0] == b'/' || target.contains(&0) {
            return false;
        }
        target.split(|byte| *byte == b'/').all(|name| {
            depth += match name {
                b"" | b"." => 0,
                b".." => -1,
                _ => 1,
            };
            depth >= 0
        })
    }

    /// The directories that the target of a symbolic link at this path enters and leaves again (`a` of `a/../b`). Where one of
    /// them is a link itself, the kernel leaves it from where that leads, and the text of the target says nothing of where
    /// this one does.
    pub(crate) fn left_by_link(&self, target: &[u8]) -> Vec<Self> {
        let above = self.split().map_or_else(Self::root, |(above, _)| above);
        let mut names: Vec<&[u8]> =
            above.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let (mut entered, mut left) = (0, Vec::new());
        for name in target.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    if entered > 0 {
                        entered -= 1;
                        left.push(Self(names.join(&b'/')));
                    }
                    names.pop();
                }
                name => {
                    names.push(name);
                    entered += 1;
                }
            }
        }
        left
    }
}

fn check(name: &[u8]) -> Result<(), BadPath> {
    match name {
        b"" | b"." | b".." => Err(BadPath::Dots),
        _ if name.contains(&0) => Err(BadPath::Nul),
        _ if name.contains(&b'/') => Err(BadPath::Dots),
        _ if name.len() > MAX_NAME => Err(BadPath::TooLong),
        _ => Ok(()),
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { Untrusted::from(&*self.0).terminal().fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_are_refused() {
        for (path, why) in [
            (&b"/etc/passwd"[..], BadPath::Absolute),
            (b"..", BadPath::Dots),
            (b"a/../../b", BadPath::Dots),
            (b"a//b", BadPath::Dots),
            (b"a/", BadPath::Dots),
            (b"./a", BadPath::Dots),
            (b"a\0b", BadPath::Nul),
            (&[b'x'; 256], BadPath::TooLong),
            (&[b"x/".repeat(2048), b"x".to_vec()].concat(), BadPath::TooLong),
        ] {
            assert_eq!(RelPath::new(path), Err(why), "{}", String::from_utf8_lossy(path));
        }
        for path in [&b""[..], b"a", b"a/b", b"...", b"new\nline", b"\xff\xfe", b"-rf", b"~"] {
            assert!(RelPath::new(path).is_ok(), "{}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn what_is_typed_is_brought_into_form() {
        assert_eq!(RelPath::typed(b"./a//b/").unwrap().as_bytes(), b"a/b");
        assert_eq!(RelPath::typed(b"a/../b"), Err(BadPath::Dots));
        assert_eq!(RelPath::typed(b"/a"), Err(BadPath::Absolute));
    }

    #[test]
    fn links_are_judged_by_where_they_lead() {
        let at = RelPath::new(*b"a/b/link").unwrap();
        for (target, inside) in [
            (&b"c"[..], true),
            (b"../../x", true),
            (b"../../../x", false),
            (b"/etc", false),
            (b"", false),
            (b"x/../../../..", false),
        ] {
            assert_eq!(at.link_stays_inside(target), inside, "{}", String::from_utf8_lossy(target));
        }
    }

    #[test]
    fn a_link_passes_what_it_enters_and_leaves() {
        let at = RelPath::new(*b"a/b/link").unwrap();
        for (target, passed) in [
            (&b"../../c/d"[..], &[][..]),
            (b"c/d", &[]),
            (b"./c//../d", &["a/b/c"]),
            (b"../c/../../d/./../e", &["a/c", "d"]),
            (b"c/d/../../../e", &["a/b/c/d", "a/b/c"]),
        ] {
            let found: Vec<String> = at.left_by_link(target).iter().map(ToString::to_string).collect();
            assert_eq!(found, passed, "{}", String::from_utf8_lossy(target));
        }
        assert_eq!(RelPath::new(*b"link").unwrap().left_by_link(b"c/../d"), [RelPath::new(*b"c").unwrap()]);
    }

    #[test]
    fn printing_escapes_what_could_fool_a_terminal() {
        let shown = |path: &[u8]| RelPath::new(path).unwrap().to_string();
        assert_eq!(shown(b"a\n\x1b[2J\xff"), "a\\n\\u{1b}[2J\\xff");
        assert_eq!(shown("gnp\u{202e}.exe é".as_bytes()), "gnp\\u{202e}.exe é");
    }
}
