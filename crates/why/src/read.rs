//! Reads captures and hands out their findings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use linger_packet::Layer;
use linger_packet::capture::{self, CaptureReader, ReadError, Source};
use serde::Serialize;

use crate::set::{CaptureSet, SetFile};
use crate::stop::ReadStop;
use crate::surroundings::Drops;
use crate::{Analyzer, AnalyzerLimits, Finding, PacketCounts, Selection};

/// How much before the last packet of one file the next file of a rotated capture may begin, in nanoseconds: packets that
/// several processors have stamped are not quite in order.
const DISORDER: u64 = 1_000_000_000;
/// Events that one thread gives to the other at a time: waking it for each would take longer than what it does with one.
const BATCH: usize = 32;
/// Batches of one capture that wait while an earlier capture is read, about 2 MB.
const WAITING: usize = 16;

/// What was read of a capture.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Examined {
    /// The capture; the first and the last file of a rotated one.
    pub file: String,
    /// The files it consists of.
    #[serde(skip)]
    pub files: Vec<PathBuf>,
    /// The counts of packets and connections.
    #[serde(flatten)]
    pub counts: PacketCounts,
    /// The layers that were not understood, each with its number of packets, the commonest first.
    #[serde(skip)]
    pub not_understood: Vec<(Layer, u64)>,
    /// What clients sent to listeners in vain.
    #[serde(skip)]
    pub drops: BTreeMap<SocketAddr, Drops>,
    /// Why reading stopped before the end, if it did.
    pub stopped: Option<String>,
    /// Whether more packets may follow after the point where reading stopped: the capture is damaged there, or reading
    /// was stopped on request. False if the capture is only cut off in its last packet.
    pub unread: bool,
}

impl Examined {
    /// Whether more than half of the packets could not be read: their layers are not understood, they are fragments, cut, or
    /// contradict themselves. Then the findings say little about the capture.
    pub fn is_mostly_unread(&self) -> bool {
        let counts = &self.counts;
        counts.not_understood + counts.fragments + counts.cut + counts.malformed > counts.packets / 2
    }
}

/// How a set of captures is examined.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ExamineOptions {
    /// How much may be remembered, over all captures.
    pub limits: AnalyzerLimits,
    /// Which packets are looked at.
    pub selection: Selection,
    /// How many captures are read at a time; as many as there are processors if not given.
    pub at_once: Option<NonZeroUsize>,
}

/// What [`examine_set`] finds, in the order of the captures.
#[derive(Debug)]
#[non_exhaustive]
pub enum ExamineEvent {
    /// A reset or another failure, as soon as it is judged.
    Finding(Box<Finding>),
    /// A capture was read; all its findings have come.
    Examined(Box<Examined>),
    /// A file could not be opened.
    Unreadable(PathBuf, ReadError),
    /// Reading stopped before the end of a file. What stands before was read.
    Stopped(PathBuf, String),
    /// A file was not read, because a stop was requested before.
    NotRead(PathBuf),
}

/// Reads all captures of a set, several at a time, and gives what is found to `on_event`.
pub fn examine_set(
    set: &CaptureSet,
    options: &ExamineOptions,
    stop: &ReadStop,
    mut on_event: impl FnMut(ExamineEvent),
) {
    let processors = || std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = options.at_once.unwrap_or_else(processors).get().min(set.series.len());
    if workers <= 1 {
        for files in &set.series {
            examine_series(files, options, stop, &mut on_event);
        }
        return;
    }
    let mut share = options.clone();
    share.limits.flows = (options.limits.flows / workers).max(1);
    let next = Mutex::new(set.series.iter());
    let (order, in_order) = sync_channel(workers);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (next, share, order) = (&next, &share, order.clone());
            scope.spawn(move || {
                while let Some((files, events)) = claim(next, &order) {
                    let mut batch = Vec::new();
                    examine_series(files, share, stop, &mut |event| {
                        batch.push(event);
                        if batch.len() == BATCH {
                            // The receiver is gone only if `on_event` has panicked.
                            drop(events.send(std::mem::take(&mut batch)));
                        }
                    });
                    drop(events.send(batch));
                }
            });
        }
        drop(order);
        for events in in_order {
            events.into_iter().flatten().for_each(&mut on_event);
        }
    });
}

type Batch = Vec<ExamineEvent>;

/// Claims the next capture. Its events are received after those of the captures that were claimed before.
fn claim<'a>(
    next: &Mutex<std::slice::Iter<'a, Vec<SetFile>>>,
    order: &SyncSender<Receiver<Batch>>,
) -> Option<(&'a [SetFile], SyncSender<Batch>)> {
    // The lock is held until the receiver has its place in the order.
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    let files = next.next()?;
    let (events, received) = sync_channel(WAITING);
    order.send(received).ok()?;
    Some((files, events))
}

/// The part of a series that is read as one stream.
struct SeriesStream {
    analyzer: Analyzer,
    files: Vec<PathBuf>,
    stopped: Option<String>,
    unread: bool,
}

impl SeriesStream {
    fn new(path: &Path, options: &ExamineOptions) -> Self {
        let mut analyzer = Analyzer::new(path.display().to_string(), options.limits);
        analyzer.select(&options.selection);
        Self { analyzer, files: vec![path.to_owned()], stopped: None, unread: false }
    }

    fn next_file(&mut self, path: &Path) {
        self.analyzer.next_file(path.display().to_string());
        self.files.push(path.to_owned());
    }

    /// Reads a file. Returns why reading stopped before the end, if it did.
    fn read(
        &mut self,
        mut reader: CaptureReader<impl Source>,
        mut on_finding: impl FnMut(Finding),
    ) -> Option<String> {
        let error = loop {
            match reader.next() {
                Ok(Some(packet)) => {
                    self.analyzer.packet(&packet);
                    self.analyzer.packets(reader.at_hand());
                    if self.analyzer.has_findings() {
                        self.analyzer.take().into_iter().for_each(&mut on_finding);
                    }
                }
                Ok(None) => return None,
                Err(error) => break error,
            }
        };
        self.unread |= !error.is_cut_off();
        self.stop(error.to_string())
    }

    fn stop(&mut self, why: String) -> Option<String> {
        self.stopped = Some(why.clone());
        Some(why)
    }

    fn finish(self, on_finding: impl FnMut(Finding)) -> Examined {
        let not_understood = self.analyzer.not_understood();
        let (findings, counts, drops) = self.analyzer.finish();
        findings.into_iter().for_each(on_finding);
        let file = match &*self.files {
            [first, .., last] => {
                format!("{} ... {} ({} files)", first.display(), last.display(), self.files.len())
            }
            files => files.first().map_or(String::new(), |path| path.display().to_string()),
        };
        let Self { files, stopped, unread, .. } = self;
        Examined { file, files, counts, not_understood, drops, stopped, unread }
    }
}

/// Reads the files of a series as one stream, as long as each begins after the end of the one before.
fn examine_series(
    files: &[SetFile],
    options: &ExamineOptions,
    stop: &ReadStop,
    on_event: &mut dyn FnMut(ExamineEvent),
) {
    let mut stream: Option<SeriesStream> = None;
    for file in files {
        if stop.requested() {
            on_event(ExamineEvent::NotRead(file.path.clone()));
            continue;
        }
        let (reader, _reading) = match stop.open(&file.path) {
            Ok(opened) => opened,
            Err(error) => {
                on_event(ExamineEvent::Unreadable(file.path.clone(), error));
                continue;
            }
        };
        let follows = |stream: &mut SeriesStream| {
            file.begins.is_none_or(|begins| stream.analyzer.latest() <= begins.saturating_add(DISORDER))
        };
        if let Some(ended) = stream.take_if(|stream| !follows(stream)) {
            end(ended, on_event);
        }
        let stream = match &mut stream {
            Some(stream) => {
                stream.next_file(&file.path);
                stream
            }
            none => none.insert(SeriesStream::new(&file.path, options)),
        };
        let mut stopped = stream.read(reader, |finding| on_event(ExamineEvent::Finding(Box::new(finding))));
        if stop.requested() {
            stream.unread = true;
            stopped = stream.stop("stopped on request".to_owned());
        }
        if let Some(stopped) = stopped {
            on_event(ExamineEvent::Stopped(file.path.clone(), stopped));
        }
    }
    if let Some(ended) = stream {
        end(ended, on_event);
    }
}

fn end(stream: SeriesStream, on_event: &mut dyn FnMut(ExamineEvent)) {
    let examined = stream.finish(|finding| on_event(ExamineEvent::Finding(Box::new(finding))));
    on_event(ExamineEvent::Examined(Box::new(examined)));
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
    reader: CaptureReader<impl Source>,
    file: &str,
    limits: AnalyzerLimits,
    mut on_finding: impl FnMut(Finding),
) -> Examined {
    let options = ExamineOptions { limits, ..ExamineOptions::default() };
    let mut stream = SeriesStream::new(Path::new(file), &options);
    stream.read(reader, &mut on_finding);
    stream.finish(on_finding)
}
