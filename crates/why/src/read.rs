//! Files in, findings out: one capture, or several of the same connections.

use std::path::Path;

use linger_packet::capture::{self, ReadError, Reader, Source};
use serde::Serialize;

use crate::{Analyzer, Counts, Finding, Limits};

/// What was read of one capture.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Examined {
    /// The capture.
    pub file: String,
    /// What went by.
    #[serde(flatten)]
    pub counts: Counts,
    /// Why reading stopped before the end, if it did.
    pub stopped: Option<String>,
    /// Whether packets may follow there: the capture is damaged, not merely cut off.
    pub unread: bool,
}

/// Reads a capture (`-` for standard input) and gives every finding to `on_finding`, as it becomes final.
///
/// # Errors
/// The capture cannot be opened, or is none. What goes wrong later ends the reading, and is in
/// [`Examined::stopped`].
pub fn examine(path: &Path, limits: Limits, on_finding: impl FnMut(Finding)) -> Result<Examined, ReadError> {
    let reader = capture::open(path)?;
    Ok(examine_reader(reader, &path.display().to_string(), limits, on_finding))
}

/// As [`examine`], for a capture that is open already.
pub fn examine_reader(
    mut reader: Reader<impl Source>,
    file: &str,
    limits: Limits,
    mut on_finding: impl FnMut(Finding),
) -> Examined {
    let mut analyzer = Analyzer::new(file, limits);
    let mut unread = false;
    let stopped = loop {
        match reader.next() {
            Ok(Some(packet)) => {
                analyzer.packet(&packet);
                analyzer.packets(reader.at_hand());
                if analyzer.has_findings() {
                    analyzer.take().into_iter().for_each(&mut on_finding);
                }
            }
            Ok(None) => break None,
            Err(error) => {
                unread = !error.is_cut_off();
                break Some(error.to_string());
            }
        }
    };
    let (findings, counts) = analyzer.finish();
    findings.into_iter().for_each(on_finding);
    Examined { file: file.to_owned(), counts, stopped, unread }
}
