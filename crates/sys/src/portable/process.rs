//! A number of the process.

/// The number of the calling process: its id.
pub(crate) fn process_number() -> u64 {
    std::process::id().into()
}
