//! Network namespaces without root: creating and entering one, its links and addresses, and the kernel counters in it.
//!
//! Knows nothing about closing connections, and is never a dependency of crate `linger`. The functions of [`net`] change
//! the namespace of the calling thread: call them only in one that this process has made. The kernel removes such a
//! namespace with its last user, so nothing is left behind, even after SIGKILL.

mod counters;
#[allow(unsafe_code)]
mod kernel;

pub use counters::Counters;
pub use kernel::isolate::{Isolation, IsolationRefused};
pub use kernel::namespace::Namespace;
pub use kernel::net;
