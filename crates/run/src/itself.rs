//! The program in the place of the process that was called; the supervisor is a process apart.

use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;

use rustix::event::{PollFd, PollFlags, poll};

use crate::command::{Job, Supervision, raise_descriptor_limit};
use crate::kernel::{Caller, Departed, Mask, Side, Signals, as_at_start, depart, leave, own_pidfd};
use crate::{Notice, Options, ProgramEnd, RunError, leftovers};

pub(crate) fn run(
    job: Job,
    options: &Options,
    notify: impl FnMut(Notice<'_>),
) -> Result<ProgramEnd, RunError> {
    let program = own_pidfd().map_err(RunError::system("cannot watch for the program's end"))?;
    match depart().map_err(RunError::system("cannot make the supervisor"))? {
        Side::Caller(departed) => Err(become_program(job, departed, options)),
        Side::Apart(caller) => supervise(job, &program, caller, options, notify),
    }
}

/// Becomes the program. Returns only if that fails.
fn become_program(job: Job, mut departed: Departed, options: &Options) -> RunError {
    let Job { program, mut command, limit, address, way, .. } = job;
    // The files that were unpacked are the supervisor's to remove, whose memory has the same value.
    let way = std::mem::ManuallyDrop::new(way);
    if let Err(error) = departed.ready() {
        return RunError::system("the supervisor cannot start")(error);
    }
    let error = match way.put_into(&mut command, &address.name, address.token, options, limit) {
        Err(error) => error,
        Ok(_) => {
            // Nothing was blocked or ignored on the way here but by Rust's runtime.
            as_at_start(&mut command, None, Vec::new());
            let error = command.exec();
            RunError::NotExecutable { path: program.path, reason: error.to_string() }
        }
    };
    departed.not_started();
    error
}

fn supervise(
    job: Job,
    program: &OwnedFd,
    caller: Caller,
    options: &Options,
    mut notify: impl FnMut(Notice<'_>),
) -> Result<ProgramEnd, RunError> {
    let Job { command, limit, address, metrics, way, .. } = job;
    drop(command);
    // Before there are threads, which inherit it: a service manager that ends the whole control group signals this process,
    // too, which is needed until the last connection has ended.
    let signals =
        Mask::block_all().and_then(|_| Signals::new()).map_err(RunError::system("cannot take signals"));
    let started = signals
        .and_then(|signals| Ok((signals, Supervision::start(address, metrics, &way, limit, options)?)));
    let (signals, supervision) = match started {
        Ok(started) => started,
        Err(error) => {
            way.remove();
            caller.refuse(&std::io::Error::from_raw_os_error(error.number()));
            leave(1);
        }
    };
    raise_descriptor_limit(limit);
    tracing::info!(
        supervisor = std::process::id(),
        "the program takes the place of the process that was called"
    );
    if !caller.go() {
        way.remove();
        leave(0);
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
    let report = supervision.finish(options);
    Ok(ProgramEnd { status: None, report })
}
