//! One connection in a bed of its own, with notes of every step.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};

use linger_netns::Counters;

use crate::bed::{Bed, BedOptions};
use crate::cell::{CellPlan, Setting};
use crate::client::attempt_noted;
use crate::fate::Attempt;
use crate::server::{ServerReport, listen, serve_one};
use crate::steps::{Step, Steps};
use crate::stop::Stop;

/// The result of one connection, with its steps.
#[derive(Debug)]
pub struct OneReport {
    /// What both ends and the link did, in order of time.
    pub steps: Vec<Step>,
    /// The client's result. `expected` is the number of bytes that the server wrote, or was to write if it wrote none.
    pub attempt: Attempt,
    /// Whether the server wrote anything.
    pub is_answered: bool,
    /// The error of a call of the server, if one failed.
    pub server_error: Option<io::Error>,
    /// The kernel's counters of the server's namespace.
    pub counters: Counters,
}

/// The server's port in a network of its own.
const PORT: u16 = 8_080;

/// Makes one connection as a cell would, and notes its steps. The numbers of trials and workers are ignored.
///
/// # Errors
/// Returns an error if the bed cannot be built or the server cannot listen.
pub fn one(plan: &CellPlan, setting: &Setting, stop: &Stop) -> io::Result<OneReport> {
    let steps = Arc::new(Steps::default());
    let options = BedOptions {
        ip: plan.ip,
        seed: plan.seed,
        capture: setting.capture.clone(),
        keep_log: false,
        shared: setting.shared,
        steps: Some(steps.clone()),
    };
    let bed = Bed::new(&plan.link, options)?;
    let port = if setting.shared { 0 } else { PORT };
    let address = SocketAddr::new(bed.server_address, port);
    let listener = bed.server.run(|| listen(address, plan.backlog, plan.congestion.as_deref()))??;
    let address = listener.local_addr()?;
    let before = bed.server.run(Counters::read)??;
    let (report, reported) = mpsc::channel::<ServerReport>();
    let finished = Arc::new(Stop::new()?);
    let server = {
        let (plan, finished, steps) = (plan.server(), finished.clone(), steps.clone());
        bed.server.spawn("server", move || -> io::Result<()> {
            if let Some(served) = serve_one(&listener, &plan, &finished, &steps)? {
                // The receiver is gone: the run was stopped.
                let _ = report.send(served);
            }
            Ok(())
        })?
    };
    let client = plan.client(address, SocketAddr::new(bed.client_address, 0));
    let notes = &steps;
    let (attempt, served, reported) = bed.client.run(move || {
        let mut served = None;
        let until_ended = |timeout| served = reported.recv_timeout(timeout).ok();
        (attempt_noted(&client, notes, stop, until_ended), served, reported)
    })?;
    // Wakes a server that still waits for a client. A server that is serving ends by itself.
    finished.request();
    server.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
    let served = served.or_else(|| reported.try_recv().ok());
    let counters = bed.server.run(Counters::read)??.since(&before);
    bed.stop()?;
    let mut attempt = attempt.ok_or_else(|| io::Error::from(io::ErrorKind::Interrupted))?;
    if let Some(served) = &served {
        attempt.served(served.written);
    }
    let is_answered = served.as_ref().is_some_and(|served| served.written > 0);
    let server_error = served.and_then(|served| served.error);
    Ok(OneReport { steps: steps.take(), attempt, is_answered, server_error, counters })
}
