//! Captures that this program makes, and what is to be seen in them.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use linger_lab::Capture;
use linger_why::{AnalyzerLimits, Claim, Finding, compare, examine};

/// A capture without a name: the kernel removes it with the process, whatever ends that.
pub(crate) struct NamelessCapture {
    file: File,
    path: PathBuf,
}

impl NamelessCapture {
    pub(crate) fn create() -> io::Result<Self> {
        let file = tempfile::tempfile()?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(Self { file, path })
    }

    /// Begins to write it.
    pub(crate) fn begin(&self) -> io::Result<Capture> {
        Capture::begin(self.file.try_clone()?)
    }

    /// Begins to write it, with these names for the interfaces at the server's end and at the client's.
    pub(crate) fn begin_between(&self, ends: [&str; 2]) -> io::Result<Capture> {
        Capture::between(self.file.try_clone()?, ends)
    }

    /// By which it can be read, as long as this is there.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The first failure that a capture of both ends of a link shows, of this client if one is named. `name` stands in the place of the
/// capture's path.
///
/// # Errors
/// Why the capture cannot be read, in a sentence.
pub(crate) fn failure_in(
    capture: &Path,
    client: Option<SocketAddr>,
    name: &str,
) -> Result<Option<Finding>, String> {
    let mut findings = Vec::new();
    let examined = examine(capture, AnalyzerLimits::default(), |finding| findings.push(finding));
    let findings = examined
        .and_then(|_| compare(&[capture], findings))
        .map_err(|error| format!("the capture: {error}"))?;
    let is_of = |finding: &Finding| client.is_none_or(|client| [finding.from, finding.to].contains(&client));
    let mut found = findings.into_iter().find(|finding| !finding.harmless && is_of(finding));
    if let Some(finding) = &mut found {
        rename(finding, capture, name);
    }
    Ok(found)
}

/// Names the capture otherwise: it may be gone when the finding is read.
fn rename(finding: &mut Finding, capture: &Path, name: &str) {
    name.clone_into(&mut finding.file);
    let path = capture.display().to_string();
    for evidence in &mut finding.evidence {
        if let Claim::OtherView(says) = &mut evidence.says {
            *says = says.replace(&path, name);
        }
    }
}
