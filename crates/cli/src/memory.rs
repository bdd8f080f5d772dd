//! Ends the program in order when there is too little memory.
//!
//! Before a buffer whose size the user chose is used, its memory is asked for; if there is too little, the program ends with
//! a sentence. If a small allocation fails inside std, std prints "memory allocation of N bytes failed" and aborts. A shell
//! would report that as a crash; this module makes the program end with the status for a machine that cannot do it.

use std::io;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGABRT;

use crate::exit;

/// Gives an abort for lack of memory its own exit status. An abort after a panic is a defect and stays an abort.
pub(crate) fn prepare() {
    let is_memory = Arc::new(AtomicBool::new(true));
    // If this fails, the program ends with the status of the abort.
    let _ = signal_hook::flag::register_conditional_shutdown(
        SIGABRT,
        exit::NOT_POSSIBLE_HERE.into(),
        is_memory.clone(),
    );
    name_threads_without_room(move || is_memory.store(false, Ordering::Relaxed));
}

/// Ends the program in order if a new thread has no room for its signal stack: std panics before the thread's code runs, and
/// without memory that panic aborts. Calls `defect` at every other panic.
pub(crate) fn name_threads_without_room(defect: impl Fn() + Send + Sync + 'static) {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let told = info.payload().downcast_ref::<String>();
        if told.is_some_and(|told| told.starts_with("failed to allocate an alternative stack")) {
            let error = io::ErrorKind::OutOfMemory.into();
            exit::io("cannot start a thread", &error);
            std::process::exit(exit::NOT_POSSIBLE_HERE.into());
        }
        defect();
        usual(info);
    }));
}

/// Checks whether a buffer of `bytes` bytes can be had.
///
/// # Errors
/// Returns [`io::ErrorKind::OutOfMemory`] if there is no room for that many bytes.
pub(crate) fn room_for(bytes: u64) -> io::Result<()> {
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    Ok(Vec::<u8>::new().try_reserve_exact(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused() {
        assert!(room_for(0).is_ok() && room_for(1 << 20).is_ok());
        assert_eq!(room_for(u64::MAX).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }
}
