//! [`Apart`]: a process of its own for work that needs no right of the watcher's.

use std::ffi::CStr;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::kernel::fork;
use crate::privilege::give_up_all_capabilities;

/// Longest wait for its end. If it is held up, the kernel ends it with this process.
const MOMENT: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(2);

/// A process that shares nothing with this one but a socket, and has no capability. The kernel ends it with this process.
#[derive(Debug)]
pub struct Apart(Pid);

impl Apart {
    /// Starts it with this name (15 bytes at most) to run `task` with its end of a socket; the other end is returned. It must be done
    /// while this process has one thread, and before anything is open that the other should not have.
    ///
    /// # Errors
    /// Returns the errors of `socketpair(2)` and `fork(2)`, and an error if this process has other threads.
    pub fn start(name: &CStr, task: impl FnOnce(UnixStream)) -> io::Result<(Self, UnixStream)> {
        let (socket, other) = UnixStream::pair()?;
        let process = fork::start(name, other.into(), |socket| {
            // A process that keeps capabilities is not to do this work.
            if give_up_all_capabilities().is_ok() {
                task(socket.into());
            }
        })?;
        Ok((Self(process), socket))
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.0.as_raw_nonzero().get()
    }

    /// Waits a moment for its end, and takes note of it. Whoever has seen the end of its socket waits for next to nothing.
    pub fn reap(&self) {
        let until = Instant::now() + MOMENT;
        while matches!(waitpid(Some(self.0), WaitOptions::NOHANG), Ok(None)) && Instant::now() < until {
            std::thread::sleep(STEP);
        }
    }
}
