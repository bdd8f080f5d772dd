//! Standard error: sentences for people.

use std::fmt::Arguments;
use std::io::{self, Write as _};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use linger_untrusted::{message, to_json};
use serde::Serialize;

use super::queue::OutputQueue;

/// Writes a line with one call, control characters escaped.
pub(crate) fn say_line(text: Arguments<'_>) {
    write(message(&text.to_string()));
}

/// Writes a line of JSON, for verbs whose stdout belongs to another program.
pub(crate) fn say_json(line: &impl Serialize) {
    if let Ok(line) = to_json(line) {
        write(line);
    }
}

/// The queue to standard error, if it is written by a thread.
static QUEUE: OnceLock<OutputQueue> = OnceLock::new();
/// Most bytes that wait.
const MOST: usize = 64 << 10;
/// How long the end of the program waits for a reader that takes nothing.
const END: Duration = Duration::from_millis(500);

/// From now on a thread writes to standard error, if one can be had, and nobody waits for whoever reads it. What finds no room is
/// dropped. To be called where the program's own work must not stop; [`settle_stderr`] belongs to it.
pub(crate) fn queue_stderr() {
    if let Ok(queue) = OutputQueue::start("stderr", MOST, io::stderr()) {
        // A second call changes nothing.
        let _ = QUEUE.set(queue);
    }
}

/// Waits until what was said is written, if it is written by a thread and somebody reads.
pub(crate) fn settle_stderr() {
    if let Some(queue) = QUEUE.get() {
        // If stderr is closed there is nowhere to report it.
        let _ = queue.settle(|still| still < END);
    }
}

fn write(mut line: String) {
    line.push('\n');
    write_bytes(line.as_bytes());
}

/// Writes text as it is.
pub(crate) fn write_bytes(text: &[u8]) {
    // If stderr is closed there is nowhere to report it.
    match QUEUE.get() {
        Some(queue) => drop(queue.push(text.to_vec(), Instant::now())),
        None => drop(io::stderr().write_all(text)),
    }
}
