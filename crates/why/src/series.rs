//! The files of a rotated series, which are read as one stream.

use crate::{Claim, Finding};

/// The files so far, and how their frames are counted: over the whole series while it is read, and from the beginning of its own
/// file in a finding.
#[derive(Debug)]
pub(crate) struct SeriesFiles {
    /// Each file, and the number of frames before it.
    files: Vec<(u64, String)>,
    /// The number of frames before the present file.
    before: u64,
    /// The number of frames up to the latest packet.
    latest: u64,
    /// No packet of the present file has come.
    is_fresh: bool,
    /// The time of the present file's first packet; 0 in the first file.
    border: u64,
}

impl SeriesFiles {
    pub(crate) fn new(file: String) -> Self {
        Self { files: vec![(0, file)], before: 0, latest: 0, is_fresh: false, border: 0 }
    }

    pub(crate) fn next(&mut self, file: String) {
        self.before = self.latest;
        self.files.push((self.before, file));
        self.is_fresh = true;
    }

    /// Notes that a packet has come. Returns whether it is the first one of a further file.
    #[inline]
    pub(crate) fn note(&mut self, frame: u64) -> bool {
        self.latest = self.before + frame;
        self.is_fresh
    }

    #[cold]
    pub(crate) fn begin(&mut self, time_ns: u64) {
        self.is_fresh = false;
        self.border = time_ns;
    }

    /// The number in the series of a frame of the present file.
    #[inline]
    pub(crate) fn frame(&self, frame: u64) -> u64 {
        self.before + frame
    }

    /// Whether a time is before the present file. A connection that was last seen there is continued only by a packet with fitting
    /// sequence numbers: files that look like a series may be of two networks.
    #[inline]
    pub(crate) fn is_before(&self, time_ns: u64) -> bool {
        time_ns < self.border
    }

    /// The file of a frame, and the frame's number there.
    fn place(&self, frame: u64) -> (&str, u64) {
        let after = self.files.partition_point(|(before, _)| *before < frame);
        match self.files.get(after.saturating_sub(1)) {
            Some((before, file)) => (file, frame - before),
            None => ("", frame),
        }
    }

    /// Names the file of the finding, counts its frames from the beginning of their files, and says of those in earlier files
    /// where they are.
    pub(crate) fn localise(&self, finding: &mut Finding) {
        let (file, frame) = self.place(finding.frame);
        (finding.file, finding.frame) = (file.to_owned(), frame);
        if self.files.len() == 1 {
            return;
        }
        for evidence in &mut finding.evidence {
            let mut elsewhere = None;
            for frame in evidence.frames_mut() {
                let (there, number) = self.place(*frame);
                *frame = number;
                if there != file {
                    elsewhere.get_or_insert(there);
                }
            }
            if let Some(there) = elsewhere {
                let says = Box::new(evidence.says.clone());
                evidence.says = Claim::InFile { says, file: there.to_owned() };
            }
        }
        for rung in &mut finding.ladder {
            let (there, number) = self.place(rung.frame);
            rung.frame = number;
            if there != file {
                let note = rung.note.take().map_or(String::new(), |note| format!("{note}, "));
                rung.note = Some(format!("{note}in {there}"));
            }
        }
    }
}
