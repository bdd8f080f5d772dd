//! What every page has: the head with its policy and style, and the one script at the end.

use std::fmt::Display;
use std::io::{self, Write};

use linger_untrusted::Untrusted;

pub(super) const STYLE: &str = include_str!("page.css");
pub(super) const SCRIPT: &str = include_str!("page.js");
/// The browser is told to load nothing and to run no script but the one above, of which this is the SHA-256: a stranger's text
/// that became markup would still do nothing. `openssl dgst -sha256 -binary page.js | base64` makes it anew.
pub(super) const SCRIPT_HASH: &str = "HSAgU1E6nBxF0JJ1E5QmY/CJeGDo5Ier4bZZfAMy4Zw=";

/// Begins a page, up to its first element. `title` is what the browser calls it.
///
/// # Errors
/// Returns the errors of `out`.
pub fn begin(out: &mut impl Write, title: &str) -> io::Result<()> {
    writeln!(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(
        out,
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'sha256-{SCRIPT_HASH}'\">"
    )?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">")?;
    writeln!(out, "<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>", escape(title))
}

/// Ends a page.
///
/// # Errors
/// Returns the errors of `out`.
pub fn end(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "<script>{SCRIPT}</script>\n</body>\n</html>")
}

/// A stranger's text, or ours, for text and quoted attributes.
pub fn escape(text: impl AsRef<str>) -> impl Display {
    Untrusted::from(text.as_ref()).html().to_string()
}

/// One row of a list of terms: a name of ours, and any text.
///
/// # Errors
/// Returns the errors of `out`.
pub fn row(out: &mut impl Write, name: &str, value: &str) -> io::Result<()> {
    writeln!(out, "<dt>{name}</dt><dd>{}</dd>", escape(value))
}
