//! The program in the place of the process that was called; the supervisor is a process apart.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use crate::command::{Job, Parts, Supervision, raise_descriptor_limit};
use crate::kernel::{Caller, Departed, Mask, Side, Signals, as_at_start, depart, leave, own_pidfd};
use crate::{Notice, Options, ProgramEnd, RunError, RunReport, leftovers, lingerd};

pub(crate) fn run(
    job: Job,
    options: &Options,
    notify: impl FnMut(Notice<'_>),
) -> Result<ProgramEnd, RunError> {
    let program = own_pidfd().map_err(RunError::system("cannot watch for the program's end"))?;
    let lingerd =
        options.lingerd.as_ref().map(|address| lingerd::ask(address, &program, &job.parts, options));
    match lingerd {
        Some(Ok(supervisor)) => {
            tracing::info!("supervised by lingerd, which has a unit of its own");
            return Err(become_program(job, supervisor, options));
        }
        Some(Err(error)) => tracing::info!(%error, "supervised by a process of its own: there is no lingerd"),
        None => {}
    }
    match depart().map_err(RunError::system("cannot make the supervisor"))? {
        Side::Caller(mut departed) => Err(match departed.ready() {
            Ok(()) => become_program(job, departed, options),
            Err(error) => RunError::system("the supervisor cannot start")(error),
        }),
        Side::Apart(caller) => {
            let Job { command, parts, .. } = job;
            drop(command);
            match supervise(parts, &program, caller, options, notify) {
                Ok(Some(report)) => Ok(ProgramEnd { status: None, report }),
                // The caller has been told why, and tells it.
                Ok(None) | Err(_) => leave(0),
            }
        }
    }
}

/// Becomes the program. Returns only if that fails.
fn become_program(job: Job, supervisor: Departed, options: &Options) -> RunError {
    let Job { program, mut command, parts, .. } = job;
    // What was unpacked is the supervisor's to remove.
    let parts = std::mem::ManuallyDrop::new(parts);
    let address = &parts.address;
    let error = match parts.way.put_into(&mut command, &address.name, address.token, options, parts.limit) {
        Err(error) => error,
        Ok(_) => {
            // Nothing was blocked or ignored on the way here but by Rust's runtime.
            as_at_start(&mut command, None, Vec::new());
            let error = command.exec();
            RunError::NotExecutable { path: program.path, reason: error.to_string() }
        }
    };
    supervisor.not_started();
    error
}

/// Supervises a program to its end, and to that of its connections. `None` if the program was not started.
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
