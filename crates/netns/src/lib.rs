//! Network namespaces without root: creating and entering one, its links and addresses, and the kernel counters in it.
//!
//! Knows nothing about closing connections, and is never a dependency of crate `linger`. It only changes namespaces that
//! this process has made. The kernel removes them with their last user, so nothing is left behind, even after SIGKILL.

mod counters;
#[allow(unsafe_code)]
mod kernel;

pub use counters::Counters;
pub use kernel::isolate::{Isolation, IsolationRefused};
pub use kernel::namespace::Namespace;
pub use kernel::net;
