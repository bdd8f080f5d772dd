//! Captures of the lab's links: they have their names once they are complete.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use linger_lab::Capture;

use crate::output::{Content, NewFile, Refused};

/// A capture that is being written, and its file.
pub(super) type Growing = (NewFile, Arc<Mutex<Capture>>);

/// Begins a capture of this name.
pub(super) fn begin(path: &Path) -> Result<Growing, Refused> {
    let file = NewFile::create(path, Content::Capture, [])?;
    match file.try_clone().and_then(Capture::begin) {
        Ok(capture) => Ok((file, Arc::new(Mutex::new(capture)))),
        Err(error) => Err(file.failed(error)),
    }
}

/// Gives the capture its name.
pub(super) fn finish(capture: Option<Growing>) -> io::Result<()> {
    let Some((file, capture)) = capture else { return Ok(()) };
    capture.lock().unwrap_or_else(PoisonError::into_inner).finish()?;
    file.finish().map_err(io::Error::other)
}
