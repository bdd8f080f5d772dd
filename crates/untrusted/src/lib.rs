//! Text that strangers chose, and the forms in which it may be shown.
//!
//! The name of a process, a `Server` header, a file's name, a message of the other side: whoever chose it may have
//! put an escape sequence for the operator's terminal into it, or a newline and a forged line of a log. [`Untrusted`]
//! has no `Display`: each place where such text is shown says which form it needs.
//!
//! | place | form |
//! |---|---|
//! | a terminal, and the sentences of logs | [`Untrusted::terminal`] |
//! | a word of a line that scripts split at blanks | [`Untrusted::plain`] |
//! | JSON | [`serde::Serialize`], written by [`to_json`] |
//! | the value of a Prometheus label | [`Untrusted::label`] |
//! | HTML text and quoted attributes | [`Untrusted::html`] |
//!
//! No form loses anything of a text that is UTF-8: every escape can be read back, and two different texts never look
//! alike. In JSON, bytes that are not UTF-8 become U+FFFD.
//!
//! The crate does no I/O and depends on serde and serde_json only, so that every crate of the workspace can use it.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

mod escape;
mod json;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

pub use escape::{EscapedLine, Html, Terminal, message};
pub use json::to_json;

/// Text that a stranger chose.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Untrusted(Box<[u8]>);

impl Untrusted {
    /// The bytes as they came. For comparing and for handing on, never for showing.
    pub fn raw(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For terminals and for sentences in a log: the backslash and all characters that are not printable are escaped as in
    /// a Rust string (`\n`, `\u{1b}`), and a byte that is not UTF-8 as `\xff`.
    pub fn terminal(&self) -> Terminal<'_> {
        Terminal(&self.0)
    }

    /// Escaped as [`terminal`](Self::terminal) does, with all white space escaped too, so that the text is exactly one
    /// word of a line, or none if the text is empty.
    pub fn plain(&self) -> EscapedLine<'_> {
        EscapedLine(&self.0)
    }

    /// For the value of a Prometheus label: escaped as [`terminal`](Self::terminal) does, so that no dashboard shows a
    /// newline or an escape sequence. The encoder of the exposition format still has to escape quotes and backslashes.
    pub fn label(&self) -> String {
        self.terminal().to_string()
    }

    /// For HTML text and quoted attributes.
    pub fn html(&self) -> Html<'_> {
        Html(&self.0)
    }

    /// The text for a JSON string, not yet escaped: [`to_json`] does that. Bytes that are not UTF-8 become U+FFFD.
    pub fn json(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl fmt::Debug for Untrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.terminal())
    }
}

impl Serialize for Untrusted {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.json())
    }
}

impl From<&[u8]> for Untrusted {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for Untrusted {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for Untrusted {
    fn from(text: String) -> Self {
        Self(text.into_bytes().into())
    }
}

impl From<Vec<u8>> for Untrusted {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&OsStr> for Untrusted {
    fn from(text: &OsStr) -> Self {
        text.as_bytes().into()
    }
}

impl From<OsString> for Untrusted {
    fn from(text: OsString) -> Self {
        Self(text.into_vec().into())
    }
}

impl From<&Path> for Untrusted {
    fn from(path: &Path) -> Self {
        path.as_os_str().into()
    }
}

impl From<PathBuf> for Untrusted {
    fn from(path: PathBuf) -> Self {
        path.into_os_string().into()
    }
}

impl PartialEq<str> for Untrusted {
    fn eq(&self, other: &str) -> bool {
        *self.0 == *other.as_bytes()
    }
}
