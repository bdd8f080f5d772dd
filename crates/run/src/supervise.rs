//! Supervises a program that another process has become.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use crate::job::{Parts, Supervision, raise_descriptor_limit};
use crate::kernel::{Caller, Mask, Signals};
use crate::{Notice, Options, RunError, RunReport, leftovers};

/// Supervises a program until it and its connections have ended. `None` if the program was not started.
pub(crate) fn supervise(
    parts: Parts,
    program: &OwnedFd,
    caller: Caller,
    options: &Options,
    mut notify: impl FnMut(Notice<'_>),
) -> Result<Option<RunReport>, RunError> {
    let (limit, way) = (parts.limit, Arc::clone(&parts.way));
    // Before there are threads, which inherit it: a service manager that ends the whole control group signals this process,
    // too, which is needed until the last connection has ended.
    let signals =
        Mask::block_all().and_then(|_| Signals::new()).map_err(RunError::system("cannot take signals"));
    let started = signals.and_then(|signals| Ok((signals, Supervision::start(parts, options)?)));
    let (signals, supervision) = match started {
        Ok(started) => started,
        Err(error) => {
            way.remove();
            caller.refuse(&io::Error::from_raw_os_error(error.number()));
            return Err(error);
        }
    };
    raise_descriptor_limit(limit);
    tracing::info!(
        supervisor = std::process::id(),
        "the program takes the place of the process that was called"
    );
    if !caller.go() {
        way.remove();
        return Ok(None);
    }
    let mut wait = |ends: &[OwnedFd]| {
        let mut fds = vec![PollFd::new(&signals, PollFlags::IN)];
        fds.extend(ends.iter().map(|end| PollFd::new(end, PollFlags::IN)));
        while fds[1..].iter().all(|end| end.revents().is_empty()) {
            // An interruption is impossible: every signal is blocked.
            let _ = poll(&mut fds, None);
            while let Some(arrived) = signals.next() {
                if arrived.signal == libc::SIGUSR1 {
                    notify(Notice::Report(&supervision.report()));
                    notify(Notice::Coverage(&supervision.coverage()));
                }
                if let Some(coverage) = supervision.coverage_news() {
                    notify(Notice::Coverage(&coverage));
                }
                if let Some(refusal) = supervision.refusal() {
                    notify(Notice::Refused(&refusal));
                }
            }
        }
    };
    wait(std::slice::from_ref(program));
    tracing::debug!("the program has ended");
    if let Some(mark) = way.mark() {
        loop {
            let left = leftovers::find(&mark);
            tracing::debug!(processes = left.len(), "left behind by the program");
            if left.is_empty() {
                break;
            }
            wait(&left);
        }
    }
    Ok(Some(supervision.finish(options)))
}
