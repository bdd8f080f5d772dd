//! The program in the place of the process that was called; the supervisor is a separate process.

use std::os::unix::process::CommandExt;

use crate::job::Job;
use crate::kernel::{Departed, Side, as_at_start, depart, leave, own_pidfd};
use crate::supervise::supervise;
use crate::{Notice, Options, ProgramEnd, RunError, lingerd};

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
    // The supervisor removes the unpacked library.
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
