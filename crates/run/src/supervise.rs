//! Supervises a program that another process has become.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use crate::job::{Parts, Supervision, raise_descriptor_limit};
use crate::kernel::{Caller, Mask, Signals};
use crate::seccomp::Seccomp;
use crate::{Notice, Options, RunError, RunReport, leftovers};

/// What became of a program.
pub(crate) enum Supervised {
    /// It and its connections have ended.
    Ended(RunReport),
    /// It was not started.
    NotStarted,
    /// It was ended, since the supervisor had told it to go and could not supervise it.
    Lost(RunError),
}

/// Supervises a program until it and its connections have ended.
///
/// # Errors
/// It could not be supervised, and the caller has been told so.
pub(crate) fn supervise(
    mut parts: Parts,
    program: &OwnedFd,
    caller: Caller,
    options: &Options,
    notify: impl FnMut(Notice<'_>),
) -> Result<Supervised, RunError> {
    let (limit, way) = (parts.limit, Arc::clone(&parts.way));
    // Blocked before the first thread is started, because threads inherit the mask. A service manager that ends the
    // whole control group signals this process, too, which is needed until the last connection has ended.
    let signals =
        Mask::block_all().and_then(|_| Signals::new()).map_err(RunError::system("cannot take signals"));
    let (name, token, watch) = (parts.address.name.clone(), parts.address.token, parts.watch.take());
    let started = signals.and_then(|signals| {
        let supervision = Supervision::start(parts, options)?;
        // Raised first, because the seccomp thread chooses its fds by the limit (`least_of_own`).
        raise_descriptor_limit(limit);
        let watched = watch.zip(way.seccomp()).map(|(watch, counts)| watch.begin(&name, token, counts));
        Ok((signals, supervision, watched.transpose()?))
    });
    let (signals, supervision, watched) = match started {
        Ok(started) => started,
        Err(error) => {
            way.remove();
            caller.refuse(&io::Error::from_raw_os_error(error.number()));
            return Err(error);
        }
    };
    tracing::info!(
        supervisor = std::process::id(),
        "the program takes the place of the process that was called"
    );
    if !caller.go() {
        way.remove();
        // The process that has the filter already needs answers until it ends.
        watched.into_iter().for_each(Seccomp::finish);
        return Ok(Supervised::NotStarted);
    }
    if let Some(Err(error)) = watched.as_ref().map(Seccomp::check) {
        return Ok(Supervised::Lost(error));
    }
    way.sweep();
    let mut notifier =
        Notifier { supervision: &supervision, watched: watched.as_ref(), signals: &signals, notify };
    notifier.wait(std::slice::from_ref(program));
    tracing::debug!("the program has ended");
    (notifier.notify)(Notice::ProgramEnded);
    if let Some(watched) = &watched {
        notifier.wait(std::slice::from_ref(watched.ended()));
    } else if let Some(mark) = way.mark() {
        loop {
            let left = leftovers::find(&mark);
            tracing::debug!(processes = left.len(), "left behind by the program");
            if left.is_empty() {
                break;
            }
            notifier.wait(&left);
        }
    }
    watched.into_iter().for_each(Seccomp::finish);
    Ok(Supervised::Ended(supervision.finish(options)))
}

/// What the supervisor is told while it waits, and whom it tells.
struct Notifier<'a, N> {
    supervision: &'a Supervision,
    watched: Option<&'a Seccomp>,
    signals: &'a Signals,
    notify: N,
}

impl<N: FnMut(Notice<'_>)> Notifier<'_, N> {
    /// Waits until one of the processes has ended.
    fn wait(&mut self, ends: &[OwnedFd]) {
        let mut fds = vec![PollFd::new(self.signals, PollFlags::IN)];
        fds.extend(ends.iter().map(|end| PollFd::new(end, PollFlags::IN)));
        while fds[1..].iter().all(|end| end.revents().is_empty()) {
            // An interruption is impossible: every signal is blocked.
            let _ = poll(&mut fds, None);
            while let Some(arrived) = self.signals.next() {
                self.signalled(arrived.signal == libc::SIGUSR1);
            }
        }
    }

    /// Passes on what there is to tell; a report only if it was `asked` for.
    fn signalled(&mut self, asked: bool) {
        if asked {
            (self.notify)(Notice::Report(&self.supervision.report()));
            (self.notify)(Notice::Coverage(&self.supervision.coverage()));
        }
        if let Some(coverage) = self.supervision.coverage_news() {
            (self.notify)(Notice::Coverage(&coverage));
        }
        let refusal = self.watched.and_then(Seccomp::refusal);
        if let Some(refusal) = refusal.or_else(|| self.supervision.refusal()) {
            (self.notify)(Notice::Refused(&refusal));
        }
    }
}
