//! Machines that have no more threads, descriptors, memory or room, and users who may not: every verb ends with a
//! sentence and a status of its own, never in a panic and never by a signal.
//!
//! The faults come from the kernel: a seccomp filter or a tracer answers a system call with an error, a limit of the
//! process does, or a directory is not there. Each verb meets each fault.

mod calls;
mod limits;
mod machine;
mod places;
