//! Captures of the lab's links, which appear whole under their names.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use linger_lab::Capture;

use crate::output::{Content, NewFile, Refused};

/// A capture that grows, and the file that it becomes.
pub(super) type Growing = (NewFile, Arc<Mutex<Capture>>);

/// Begins a capture beside its final name.
pub(super) fn begin(path: &Path) -> Result<Growing, Refused> {
    let file = NewFile::create(path, Content::Capture, [])?;
    if let Some(growing) = file.growing() {
        // `Capture::create` replaces nothing. What cannot be removed it says itself.
        let _ = std::fs::remove_file(growing);
    }
    match Capture::create(file.growing().unwrap_or(path)) {
        Ok(capture) => Ok((file, Arc::new(Mutex::new(capture)))),
        Err(error) => Err(file.failed(error)),
    }
}

/// Puts it under its name.
pub(super) fn finish(capture: Option<Growing>) -> io::Result<()> {
    let Some((file, capture)) = capture else { return Ok(()) };
    capture.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
    file.finish().map_err(io::Error::other)
}
