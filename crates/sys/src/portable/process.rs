//! Which process this is.

/// A process, equal in all threads of one process, different in its children: here its process id.
///
/// A process whose ancestor's id was given anew would take itself for that ancestor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u32);

impl Process {
    /// The calling process.
    pub fn current() -> Self {
        Self(std::process::id())
    }
}
