//! The packets of a story: captured over a link, and explained as `linger why` explains them.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use linger_hunt::{HuntPlan, Retold, Story, retell};
use linger_lab::{Capture, Stop};
use linger_why::{AnalyzerLimits, Claim, Finding, compare, examine};

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
    let temporary = tempfile::NamedTempFile::new().map_err(file)?;
    let capture = temporary.reopen().and_then(Capture::begin).map_err(file)?;
    let capture = Arc::new(Mutex::new(capture));
    let retold = retell(plan, story, &capture, stop).map_err(|error| error.to_string())?;
    capture.lock().unwrap_or_else(PoisonError::into_inner).finish().map_err(file)?;
    if retold.lost.is_none() {
        return Ok(Packets { retold, finding: None, is_written: false, refused: None });
    }
    let written = pcap.map(|pcap| write(temporary.path(), pcap));
    let is_written = matches!(written, Some(Ok(())));
    let refused = written.and_then(|written| written.err()).map(|refused| refused.to_string());
    let mut finding = retold.client.map(|client| finding_of(temporary.path(), client)).transpose()?.flatten();
    if let Some(finding) = &mut finding {
        rename(finding, temporary.path(), &retold.link);
    }
    Ok(Packets { retold, finding, is_written, refused })
}

fn write(capture: &Path, mut pcap: NewFile) -> Result<(), Refused> {
    match File::open(capture).and_then(|mut from| io::copy(&mut from, &mut pcap)) {
        Ok(_) => pcap.finish(),
        Err(error) => Err(pcap.failed(error)),
    }
}

/// Names the capture after its link: the temporary file is gone when the finding is read.
fn rename(finding: &mut Finding, temporary: &Path, link: &str) {
    link.clone_into(&mut finding.file);
    let path = temporary.display().to_string();
    for evidence in &mut finding.evidence {
        if let Claim::OtherView(says) = &mut evidence.says {
            *says = says.replace(&path, link);
        }
    }
}

/// What a capture of both ends of the link shows of a client's connection.
fn finding_of(capture: &Path, client: SocketAddr) -> Result<Option<Finding>, String> {
    let mut findings = Vec::new();
    let examined = examine(capture, AnalyzerLimits::default(), |finding| findings.push(finding));
    examined
        .and_then(|_| compare(&[capture], findings))
        .map(|findings| {
            findings
                .into_iter()
                .find(|finding| [finding.from, finding.to].contains(&client) && !finding.harmless)
        })
        .map_err(|error| format!("the capture: {error}"))
}
