//! The limit of the stack of this process's first thread. The program that takes this process's place, or is its child, gets the
//! limit that this process was started with.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a program that parses its command line has room in.
const WANTED: u64 = 1 << 20;

/// What such a program cannot do without.
const LEAST: u64 = 256 << 10;

static AT_START: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit of the stack where it is too low for this process. Call it first: the kernel asks for the limit whenever a stack
/// grows.
///
/// # Errors
/// The limit in bytes, and how many are needed: only root may raise it so far.
pub fn enough_stack() -> Result<(), (u64, u64)> {
    let before = getrlimit(Resource::Stack);
    let Some(limit) = before.current.filter(|limit| *limit < WANTED) else { return Ok(()) };
    let maximum = before.maximum.filter(|maximum| *maximum < WANTED);
    let wanted = Rlimit { current: Some(WANTED), maximum: before.maximum.map(|maximum| maximum.max(WANTED)) };
    let most = Rlimit { current: maximum, ..before };
    // Only root may raise the hard limit.
    let raised = setrlimit(Resource::Stack, wanted).or_else(|_| setrlimit(Resource::Stack, most));
    if raised.is_ok() {
        let _ = AT_START.set(before);
    }
    let now = getrlimit(Resource::Stack).current.unwrap_or(WANTED);
    if now < LEAST { Err((limit, LEAST)) } else { Ok(()) }
}

/// The limit that was raised.
pub(crate) fn at_start() -> Option<Rlimit> {
    AT_START.get().copied()
}
