//! Patterns for the files of a tree that are left out.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::Error;
use crate::path::RelPath;

/// Which files of a tree are left out, as in `.gitignore`.
#[derive(Clone, Debug)]
pub struct Patterns(Option<Gitignore>);

impl Patterns {
    /// Leaves nothing out.
    pub const fn none() -> Self {
        Self(None)
    }

    /// Reads lines of `.gitignore` syntax. The last line that matches a file decides; a line with `!` includes the file.
    ///
    /// # Errors
    /// Returns [`Error::Usage`], which names the line that cannot be read.
    pub fn new<S: AsRef<str>>(lines: &[S]) -> Result<Self, Error> {
        if lines.is_empty() {
            return Ok(Self(None));
        }
        let mut builder = GitignoreBuilder::new("");
        for line in lines {
            builder.add_line(None, line.as_ref()).map_err(|error| Error::Usage(error.to_string().into()))?;
        }
        builder
            .build()
            .map(|patterns| Self(Some(patterns)))
            .map_err(|error| Error::Usage(error.to_string().into()))
    }

    pub(super) fn leave_out(&self, path: &RelPath, is_dir: bool) -> bool {
        self.0.as_ref().is_some_and(|patterns| patterns.matched(path.as_path(), is_dir).is_ignore())
    }
}
