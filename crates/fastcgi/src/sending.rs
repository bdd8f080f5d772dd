//! Sends records on a connection to which several requests write, without mixing them.

use std::io::{self, ErrorKind, IoSlice};

/// Whether the output ends between two records.
#[derive(Debug)]
pub(crate) enum Output {
    Whole,
    /// A write failed, or was cancelled in the middle.
    Torn,
}

impl Output {
    /// Begins to send these parts without a gap between them.
    ///
    /// # Errors
    /// Returns `BrokenPipe` if an earlier write was not finished: nobody knows how much of it arrived.
    pub(crate) fn begin<'a, 'b>(&'a mut self, parts: &'a mut [IoSlice<'b>]) -> io::Result<Sending<'a, 'b>> {
        match std::mem::replace(self, Self::Torn) {
            Self::Whole => Ok(Sending { output: self, parts }),
            Self::Torn => Err(ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Parts that are being sent. If this is dropped before all of them are sent, the output stays torn.
#[derive(Debug)]
pub(crate) struct Sending<'a, 'b> {
    output: &'a mut Output,
    parts: &'a mut [IoSlice<'b>],
}

impl<'b> Sending<'_, 'b> {
    /// The parts that are not sent yet.
    pub(crate) fn left(&mut self) -> Option<&[IoSlice<'b>]> {
        // An empty part at the front would never advance.
        self.sent(0);
        if self.parts.is_empty() {
            *self.output = Output::Whole;
            return None;
        }
        Some(self.parts)
    }

    /// Notes that this many bytes were sent.
    pub(crate) fn sent(&mut self, bytes: usize) {
        IoSlice::advance_slices(&mut self.parts, bytes);
    }
}

/// The error that a handler gets if the gateway leaves no room for the response.
pub(crate) fn stopped() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "the gateway stopped reading the response")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(texts: &[&'a str]) -> Vec<IoSlice<'a>> {
        texts.iter().map(|text| IoSlice::new(text.as_bytes())).collect()
    }

    /// Sends `texts`, with the numbers of bytes in `at_once` for the single writes. Returns what was sent.
    fn sent(output: &mut Output, texts: &[&str], at_once: &[usize]) -> io::Result<String> {
        let mut parts = parts(texts);
        let mut sending = output.begin(&mut parts)?;
        let (mut all, mut turns) = (String::new(), at_once.iter());
        while let Some(left) = sending.left() {
            assert!(!left[0].is_empty(), "a part that would never advance");
            let Some(bytes) = turns.next() else { return Err(stopped()) };
            let left: String = left.iter().map(|part| std::str::from_utf8(part).unwrap()).collect();
            all.push_str(&left[..*bytes]);
            sending.sent(*bytes);
        }
        Ok(all)
    }

    #[test]
    fn a_piece_goes_out_whole_however_it_is_cut() {
        let mut output = Output::Whole;
        for at_once in [&[6][..], &[1, 1, 1, 1, 1, 1], &[2, 4], &[3, 3]] {
            assert_eq!(sent(&mut output, &["", "ab", "", "cdef", ""], at_once).unwrap(), "abcdef");
        }
        assert_eq!(sent(&mut output, &["", ""], &[]).unwrap(), "");
    }

    #[test]
    fn what_was_not_sent_to_its_end_is_the_last() {
        let mut output = Output::Whole;
        assert_eq!(sent(&mut output, &["ab"], &[1]).unwrap_err().kind(), ErrorKind::TimedOut);
        for _ in 0..2 {
            assert_eq!(sent(&mut output, &["cd"], &[2]).unwrap_err().kind(), ErrorKind::BrokenPipe);
        }
        // Also a write of which nothing was sent tears the output if it is dropped.
        let mut output = Output::Whole;
        let _ = output.begin(&mut parts(&["ab"])).unwrap();
        assert!(output.begin(&mut parts(&["cd"])).is_err());
    }
}
