//! Captures of the lab's links: written under a temporary name, renamed when complete.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use linger_lab::Capture;

use crate::output::{Content, NewFile, Refused};

/// A capture that is being written, and its file.
pub(super) type Growing = (NewFile, Arc<Mutex<Capture>>);

/// Begins a capture under a temporary name in the same directory.
pub(super) fn begin(path: &Path) -> Result<Growing, Refused> {
    let file = NewFile::create(path, Content::Capture, [])?;
    match file.try_clone().and_then(Capture::begin) {
        Ok(capture) => Ok((file, Arc::new(Mutex::new(capture)))),
        Err(error) => Err(file.failed(error)),
    }
}

/// Renames the capture to its final name.
pub(super) fn finish(capture: Option<Growing>) -> io::Result<()> {
    let Some((file, capture)) = capture else { return Ok(()) };
    capture.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
    file.finish().map_err(io::Error::other)
}
