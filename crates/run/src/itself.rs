//! The program in the place of the process that was called; the supervisor is a separate process.

use std::os::unix::process::CommandExt;

use crate::job::Job;
use crate::kernel::{Departed, Side, as_at_start, depart, leave, own_pidfd};
use crate::seccomp::{Watch, filter_refused};
use crate::supervise::{Supervised, supervise};
use crate::{Notice, Options, Place, ProgramEnd, RunError, lingerd};

pub(crate) fn run(
    mut job: Job,
    options: &Options,
    notify: impl FnMut(Notice<'_>),
) -> Result<ProgramEnd, RunError> {
    let program = own_pidfd().map_err(RunError::system("cannot watch for the program's end"))?;
    if job.parts.way.seccomp().is_some() {
        let (limit, filters) = (job.parts.limit, job.parts.means.filters);
        job.parts.watch = Some(Watch::new(&mut job.command, options, limit, Place::Itself, filters)?);
    }
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
                Ok(Supervised::Ended(report)) => Ok(ProgramEnd { status: None, report }),
                Ok(Supervised::Lost(error)) => Err(error),
                // The caller has been told why, and reports it.
                Ok(Supervised::NotStarted) | Err(_) => leave(0),
            }
        }
    }
}

/// Becomes the program. Returns only if that fails.
fn become_program(job: Job, supervisor: Departed, options: &Options) -> RunError {
    let Job { program, mut command, mut parts, .. } = job;
    let refusal = parts.watch.take().map(Watch::leave);
    // The supervisor removes the unpacked library.
    let parts = std::mem::ManuallyDrop::new(parts);
    if let Some(preload) = parts.way.preload() {
        preload.put_into(&mut command, &options.preloaded);
    }
    // Nothing was blocked or ignored on the way here but by Rust's runtime.
    as_at_start(&mut command, None, Vec::new());
    let error = command.exec();
    supervisor.not_started();
    match refusal.and_then(|refusal| refusal.error()) {
        Some(refused) => filter_refused(refused),
        None => RunError::NotExecutable { path: program.path, reason: error.to_string() },
    }
}
