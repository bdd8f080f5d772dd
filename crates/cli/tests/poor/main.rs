//! Each verb on a machine that has run out of threads, file descriptors, memory or disk space, or run by a user
//! without the needed rights: it ends with a sentence and an exit status of its own, never in a panic and never by a
//! signal.
//!
//! The faults come from the kernel: a seccomp filter or a tracer answers a system call with an error, a limit of the
//! process is reached, or a directory is missing. Each verb meets each fault.

mod calls;
mod limits;
mod machine;
mod places;
