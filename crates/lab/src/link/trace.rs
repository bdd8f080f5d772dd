//! Traces of mahimahi: when a link can deliver packets.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

/// The times at which a link delivers up to 1500 bytes each, from a file in mahimahi's format: a line for each, in
/// milliseconds since the beginning, none before the one above it. The last time is the trace's length, after which it begins
/// again (`link_queue.cc` in mahimahi).
#[derive(Clone)]
pub struct Trace {
    /// The file, as it was named.
    pub file: String,
    /// Milliseconds. Empty only until the file is read.
    times: Arc<[u32]>,
}

impl PartialEq for Trace {
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file && (Arc::ptr_eq(&self.times, &other.times) || self.times == other.times)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({}, {} times)", self.file, self.times.len())
    }
}

/// Most lines of a trace; so many are more than two hours at a gigabit a second.
const MOST_LINES: usize = 10_000_000;

/// Longest line that is read; longer ones are no times.
const LONGEST_LINE: u64 = 64;

const MS: u64 = 1_000_000;

impl Trace {
    /// A trace of this file, which is not read yet.
    pub(crate) fn unread(file: String) -> Self {
        Self { file, times: [].into() }
    }

    /// Reads the file; a relative name counts from `directory`.
    pub(crate) fn read(&mut self, directory: &Path) -> Result<(), String> {
        let file = directory.join(&self.file);
        let failed = |error: std::io::Error| format!("cannot read the trace {}: {error}", file.display());
        // A pipe would wait for its writer.
        if !std::fs::metadata(&file).map_err(failed)?.is_file() {
            return Err(format!("the trace {} is not a regular file", file.display()));
        }
        let lines = BufReader::new(File::open(&file).map_err(failed)?);
        self.times =
            parse(lines).map_err(|(line, what)| format!("{}, line {line}: {what}", file.display()))?;
        Ok(())
    }

    /// The trace of this text, for tests.
    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Self { file: "test".to_owned(), times: parse(text.as_bytes()).unwrap() }
    }

    /// When the opportunity of this number comes, in nanoseconds since the beginning.
    pub(crate) fn time(&self, number: u64) -> u64 {
        let Some(last) = self.times.last() else { return 0 };
        let count = self.times.len() as u64;
        let within = self.times[(number % count) as usize];
        (number / count).saturating_mul(u64::from(*last)).saturating_add(u64::from(within)).saturating_mul(MS)
    }

    /// The number of the first opportunity that is not before this time.
    pub(crate) fn first_at(&self, nanos: u64) -> u64 {
        let Some(last) = self.times.last() else { return 0 };
        let period = u64::from(*last) * MS;
        // The last opportunity of a round may come at the same time as the first of the next.
        let round = (nanos / period).saturating_sub(1);
        let count = self.times.len() as u64;
        let mut first = round * count;
        loop {
            let base = self.time(first) - u64::from(self.times[0]) * MS;
            let before = self.times.partition_point(|time| base + u64::from(*time) * MS < nanos) as u64;
            first += before;
            if before < count {
                return first;
            }
        }
    }

    /// Whether the file has been read.
    pub(crate) fn is_read(&self) -> bool {
        !self.times.is_empty()
    }
}

const EXPECTED: &str =
    "a mahimahi trace has a whole number of milliseconds on each line, none smaller than the one before";

/// Reads a trace, or says in which line what is wrong.
fn parse(mut lines: impl BufRead) -> Result<Arc<[u32]>, (usize, String)> {
    let mut times: Vec<u32> = Vec::new();
    let mut line = Vec::new();
    loop {
        let number = times.len() + 1;
        line.clear();
        let read = (&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line);
        if read.map_err(|error| (number, error.to_string()))? == 0 {
            break;
        }
        if times.len() == MOST_LINES {
            return Err((number, format!("a trace of more than {MOST_LINES} lines")));
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let time = milliseconds(text).ok_or_else(|| {
            let shown = String::from_utf8_lossy(&text[..text.len().min(32)]);
            (number, format!("`{}` is no time: {EXPECTED}", shown.escape_default()))
        })?;
        if let Some(before) = times.last().filter(|before| time < **before) {
            return Err((number, format!("{time} stands behind {before}: {EXPECTED}")));
        }
        times.push(time);
    }
    match times.last() {
        None => Err((1, format!("an empty file: {EXPECTED}"))),
        Some(0) => Err((times.len(), format!("all times are 0, so the trace has no length: {EXPECTED}"))),
        Some(_) => Ok(times.into()),
    }
}

/// A number of digits alone. By hand, because traces have millions of lines.
fn milliseconds(text: &[u8]) -> Option<u32> {
    let digits = (!text.is_empty() && text.len() <= 10).then_some(text)?;
    let number = digits
        .iter()
        .try_fold(0u64, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0')))?;
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_trace_that_is_no_trace_is_refused_with_its_line() {
        let refused = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert_eq!(refused("1\n2\nfast\n").0, 3);
        assert!(refused("1\nfast\n").1.contains("`fast` is no time"), "{:?}", refused("1\nfast\n"));
        assert_eq!(refused("5\n4\n").0, 2);
        assert!(refused("5\n4\n").1.contains("4 stands behind 5"));
        assert!(refused("").1.contains("an empty file"));
        assert!(refused("0\n0\n").1.contains("no length"));
        assert_eq!(refused("1\n\n2\n").0, 2, "an empty line, as mahimahi has it");
        for text in ["-1\n", "+1\n", " 1\n", "1.5\n", "4294967296\n", "\u{1b}[31m\n", "1 2\n"] {
            assert_eq!(refused(text).0, 1, "{text:?}");
        }
        assert!(refused("\u{1b}[31m\n").1.is_ascii(), "nothing that a terminal obeys");
        assert_eq!(refused(&"1".repeat(1 << 20)).0, 1);
    }

    #[test]
    fn a_trace_begins_again_at_its_end() {
        let trace = Trace::of("0\n0\n7\r\n10");
        let times: Vec<u64> = (0..9).map(|number| trace.time(number) / MS).collect();
        assert_eq!(times, [0, 0, 7, 10, 10, 10, 17, 20, 20]);
        assert_eq!(trace.first_at(10 * MS), 3);
        assert_eq!(trace.first_at(10 * MS + 1), 6);
    }

    proptest! {
        #[test]
        fn the_first_opportunity_is_the_first(
            mut times in proptest::collection::vec(0u32..50, 1..20), nanos in 0u64..500 * MS,
        ) {
            times.sort_unstable();
            times.push(50);
            let text: String = times.iter().map(|time| format!("{time}\n")).collect();
            let trace = Trace::of(&text);
            let slow = (0..).find(|number| trace.time(*number) >= nanos).unwrap();
            prop_assert_eq!(trace.first_at(nanos), slow);
        }
    }
}
