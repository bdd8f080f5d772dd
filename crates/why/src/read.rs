//! Reads a capture and hands out its findings.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use linger_packet::Layer;
use linger_packet::capture::{self, CaptureReader, ReadError, Source, Stopper};
use serde::Serialize;

use crate::{Analyzer, AnalyzerLimits, Finding, PacketCounts};

/// What was read of a capture.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Examined {
    /// The capture.
    pub file: String,
    /// What went by.
    #[serde(flatten)]
    pub counts: PacketCounts,
    /// The layers that were not understood, each with its number of packets, the commonest first.
    #[serde(skip)]
    pub not_understood: Vec<(Layer, u64)>,
    /// Why reading stopped before the end, if it did.
    pub stopped: Option<String>,
    /// Whether more packets may follow after the point where reading stopped: the capture is damaged there, or reading
    /// was stopped on request. False if the capture is only cut off.
    pub unread: bool,
}

impl Examined {
    /// Whether more than half of the packets have a layer that is not understood. Then the findings say little about
    /// the capture.
    pub fn is_mostly_not_understood(&self) -> bool {
        self.counts.not_understood > self.counts.packets / 2
    }
}

/// Stops an examination from another thread. Clones stop the same examination.
#[derive(Clone, Debug, Default)]
pub struct ReadStop(Arc<Mutex<Reading>>);

#[derive(Debug, Default)]
struct Reading {
    asked: bool,
    /// The examination waits for the first bytes of a pipe, and cannot be stopped there.
    opening: bool,
    stopper: Option<Stopper>,
}

impl ReadStop {
    /// Requests the stop. Returns false if the examination waits for the first bytes of a pipe and cannot stop.
    pub fn request(&self) -> bool {
        let mut reading = self.lock();
        reading.asked = true;
        if let Some(stopper) = &reading.stopper {
            stopper.stop();
        }
        !reading.opening
    }

    /// Whether a stop was requested.
    pub fn requested(&self) -> bool {
        self.lock().asked
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, path: &Path) -> Result<CaptureReader, ReadError> {
        {
            let mut reading = self.lock();
            if reading.asked {
                let source = io::Error::new(io::ErrorKind::Interrupted, "stopped on request");
                return Err(ReadError::Io { offset: 0, source });
            }
            reading.opening = true;
        }
        let opened = capture::open(path);
        let mut reading = self.lock();
        reading.opening = false;
        let reader = opened?;
        let stopper = reader.stopper();
        if reading.asked {
            stopper.stop();
        }
        reading.stopper = Some(stopper);
        Ok(reader)
    }
}

/// Does what [`examine`] does until `stop` is requested, and returns what was found by then.
///
/// # Errors
/// Returns the errors of [`examine`].
pub fn examine_until(
    path: &Path,
    limits: AnalyzerLimits,
    stop: &ReadStop,
    on_finding: impl FnMut(Finding),
) -> Result<Examined, ReadError> {
    let reader = stop.open(path)?;
    let mut examined = examine_reader(reader, &path.display().to_string(), limits, on_finding);
    if stop.requested() {
        examined.stopped = Some("stopped on request".to_owned());
        examined.unread = true;
    }
    Ok(examined)
}

/// Reads a capture (`-` for standard input) and gives every finding to `on_finding`, as it becomes final.
///
/// # Errors
/// Returns an error if the file cannot be opened or is no capture. A later error ends the reading and is in
/// [`Examined::stopped`].
pub fn examine(
    path: &Path,
    limits: AnalyzerLimits,
    on_finding: impl FnMut(Finding),
) -> Result<Examined, ReadError> {
    let reader = capture::open(path)?;
    Ok(examine_reader(reader, &path.display().to_string(), limits, on_finding))
}

/// Does what [`examine`] does, for a capture that is open already.
pub fn examine_reader(
    mut reader: CaptureReader<impl Source>,
    file: &str,
    limits: AnalyzerLimits,
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
    let not_understood = analyzer.not_understood();
    let (findings, counts) = analyzer.finish();
    findings.into_iter().for_each(on_finding);
    Examined { file: file.to_owned(), counts, not_understood, stopped, unread }
}
