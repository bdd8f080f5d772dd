//! Network namespaces without root: making one, living in it, its links and addresses, and what the kernel counts there.
//!
//! It knows nothing about closing connections and is never a dependency of crate `linger`. What it changes, it changes
//! inside namespaces that this process made; they end with the last process that uses them, so nothing is left
//! behind, also after SIGKILL.

mod counters;
#[allow(unsafe_code)]
mod kernel;

pub use counters::Counters;
pub use kernel::isolate::{Isolation, IsolationRefused};
pub use kernel::namespace::Namespace;
pub use kernel::net;
