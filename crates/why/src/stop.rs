//! Ends the reading of captures from another thread.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use linger_packet::capture::{self, CaptureReader, ReadError, Stopper};

/// Stops an examination from another thread. Clones stop the same examination.
#[derive(Clone, Debug, Default)]
pub struct ReadStop(Arc<Mutex<Reading>>);

#[derive(Debug, Default)]
struct Reading {
    asked: bool,
    /// How many captures wait for the first bytes of a pipe, where they cannot be stopped.
    opening: usize,
    /// One for each capture that is being read.
    stoppers: HashMap<u64, Stopper>,
    latest: u64,
}

/// A capture that is being read, as its [`ReadStop`] knows it.
pub(crate) struct Stoppable<'a> {
    stop: &'a ReadStop,
    number: u64,
}

impl Drop for Stoppable<'_> {
    fn drop(&mut self) {
        self.stop.lock().stoppers.remove(&self.number);
    }
}

impl ReadStop {
    /// Requests the stop. Returns false if the examination waits for the first bytes of a pipe and cannot stop.
    pub fn request(&self) -> bool {
        let mut reading = self.lock();
        reading.asked = true;
        reading.stoppers.values().for_each(Stopper::stop);
        reading.opening == 0
    }

    /// Whether a stop was requested.
    pub fn requested(&self) -> bool {
        self.lock().asked
    }

    fn lock(&self) -> MutexGuard<'_, Reading> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a capture. As long as the returned [`Stoppable`] lives, a request ends the reading.
    pub(crate) fn open(&self, path: &Path) -> Result<(CaptureReader, Stoppable<'_>), ReadError> {
        let may_wait = usize::from(!path.is_file());
        {
            let mut reading = self.lock();
            if reading.asked {
                let source = io::Error::new(io::ErrorKind::Interrupted, "stopped on request");
                return Err(ReadError::Io { offset: 0, source });
            }
            reading.opening += may_wait;
        }
        let opened = capture::open(path);
        let mut reading = self.lock();
        reading.opening -= may_wait;
        let reader = opened?;
        let stopper = reader.stopper();
        if reading.asked {
            stopper.stop();
        }
        reading.latest += 1;
        let number = reading.latest;
        reading.stoppers.insert(number, stopper);
        drop(reading);
        Ok((reader, Stoppable { stop: self, number }))
    }
}
