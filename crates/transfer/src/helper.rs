//! A thread that does jobs for a session.

use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};
use std::thread::Builder;

use rustix::event::EventfdFlags;

use crate::host;

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A thread that works for a session, one job after the other.
#[derive(Debug)]
pub(crate) struct Helper {
    jobs: mpsc::Sender<Job>,
    /// Readable when a job is over.
    pub(crate) over: Arc<OwnedFd>,
}

impl Helper {
    /// Starts the thread.
    pub(crate) fn start() -> std::io::Result<Self> {
        let over = Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (jobs, queue) = mpsc::channel::<Job>();
        if host::simulated().is_some() {
            return Ok(Self { jobs, over });
        }
        let its = over.clone();
        // It ends after its present job once the session has dropped the sender.
        Builder::new().name("disk".into()).spawn(move || {
            for job in queue {
                job();
                tell(&its);
            }
        })?;
        Ok(Self { jobs, over })
    }

    /// Gives the thread a job. Returns false if the thread has ended.
    pub(crate) fn does(&self, job: Job) -> bool {
        let Some(host) = host::simulated() else { return self.jobs.send(job).is_ok() };
        let its = self.over.clone();
        host.start(Box::new(move || {
            job();
            tell(&its);
        }));
        true
    }
}

fn tell(over: &OwnedFd) {
    // write(2) can fail only if the counter would overflow.
    let _ = rustix::io::write(over, &1u64.to_ne_bytes());
}
