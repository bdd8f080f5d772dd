//! The place at a server that a user names: a path, or a sink or source.

use crate::path::{BadPath, RelPath};

/// The port of a server if the user names none.
pub const PORT: u16 = 7117;

/// The place at a server that a user names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination {
    /// A path below the shared directory.
    Path {
        /// The path.
        path: RelPath,
        /// The path is empty or was typed with a final `/`: it names a directory into which something is put.
        into: bool,
    },
    /// A sink or source by name.
    Named(String),
}

impl Destination {
    /// Reads `PATH`, `PATH/` or `@NAME`; a path that begins with `@` is written `./@NAME`.
    ///
    /// # Errors
    /// Returns an error that says what is wrong with the path.
    pub fn typed(text: &[u8]) -> Result<Self, BadPath> {
        Ok(match text {
            [b'@', name @ ..] => Self::Named(String::from_utf8_lossy(name).into_owned()),
            path => Self::Path {
                into: path.is_empty() || path.ends_with(b"/") || path == b".",
                path: RelPath::typed(path)?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_are_read_as_typed() {
        let path =
            |path: &str, into| Destination::Path { path: RelPath::typed(path.as_bytes()).unwrap(), into };
        for (text, place) in [
            ("", path("", true)),
            ("a/b", path("a/b", false)),
            ("a/", path("a", true)),
            (".", path("", true)),
            ("@print", Destination::Named("print".into())),
            ("./@print", path("@print", false)),
            ("a:b", path("a:b", false)),
        ] {
            assert_eq!(Destination::typed(text.as_bytes()), Ok(place), "{text}");
        }
        assert_eq!(Destination::typed(b"/etc"), Err(BadPath::Absolute));
        assert_eq!(Destination::typed(b"../x"), Err(BadPath::Dots));
    }
}
