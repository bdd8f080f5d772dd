//! A thread that does jobs for a session.

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::Builder;

use rustix::event::EventfdFlags;

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A thread that works for a session, one job after the other.
#[derive(Debug)]
pub(crate) struct Helper {
    pub(crate) jobs: mpsc::Sender<Job>,
    /// Readable when a job is over.
    pub(crate) over: Arc<OwnedFd>,
}

impl Helper {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let over = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (jobs, queue) = mpsc::channel::<Job>();
        let its = over.clone();
        // It ends after its present job once the session has dropped the sender.
        Builder::new().name("disk".into()).spawn(move || {
            for job in queue {
                job();
                // write(2) can fail only if the counter would overflow.
                let _ = rustix::io::write(&*its, &1u64.to_ne_bytes());
            }
        })?;
        Ok(Self { jobs, over })
    }
}
