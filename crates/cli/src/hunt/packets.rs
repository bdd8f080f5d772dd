//! The packets of a story: captured over a link, and explained as `linger why` explains them.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use linger_hunt::{HuntPlan, Retold, Story, retell};
use linger_lab::Stop;
use linger_why::Finding;

use crate::captured::{NamelessCapture, failure_in};
use crate::lines;
use crate::output::{NewFile, Refused};

/// A story that was played once more, and what its packets show.
pub(super) struct Packets {
    pub(super) retold: Retold,
    /// Of the connection whose response was lost; `None` if none was, or if nothing is to be seen in its packets.
    pub(super) finding: Option<Finding>,
    /// Whether the capture was written to the file that the user has named.
    pub(super) is_written: bool,
    /// Why it could not be written to that file.
    pub(super) refused: Option<String>,
}

impl Packets {
    pub(super) fn told(&self) -> lines::ToldPackets {
        lines::ToldPackets::new(&self.retold, self.finding.as_ref(), self.is_written)
    }
}

/// Plays a story once more for its packets. The capture is written to `pcap` if the response was lost.
///
/// # Errors
/// Why there are no packets, in a sentence. The story is as true without them.
pub(super) fn packets(
    plan: &HuntPlan,
    story: &Story,
    pcap: Option<NewFile>,
    stop: &Stop,
) -> Result<Packets, String> {
    let file = |error: io::Error| format!("a temporary file for the capture: {error}");
    let temporary = NamelessCapture::create().map_err(file)?;
    let capture = temporary.begin().map_err(file)?;
    let capture = Arc::new(Mutex::new(capture));
    let retold = retell(plan, story, &capture, stop).map_err(|error| error.to_string())?;
    capture.lock().unwrap_or_else(PoisonError::into_inner).finish().map_err(file)?;
    if retold.lost.is_none() {
        return Ok(Packets { retold, finding: None, is_written: false, refused: None });
    }
    let written = pcap.map(|pcap| write(temporary.path(), pcap));
    let is_written = matches!(written, Some(Ok(())));
    let refused = written.and_then(|written| written.err()).map(|refused| refused.to_string());
    let failure = |client| failure_in(temporary.path(), Some(client), &retold.link);
    let finding = retold.client.map(failure).transpose()?.flatten();
    Ok(Packets { retold, finding, is_written, refused })
}

fn write(capture: &Path, mut pcap: NewFile) -> Result<(), Refused> {
    match File::open(capture).and_then(|mut from| io::copy(&mut from, &mut pcap)) {
        Ok(_) => pcap.finish(),
        Err(error) => Err(pcap.failed(error)),
    }
}
