//! Programs and servers under a supervisor, most of which have to be installed or compiled first. One binary: each has the whole of the crate in it.

#[path = "../support/mod.rs"]
mod support;

mod autogroup;
mod before_after;
mod behind_nginx;
mod counted;
mod differential;
mod forks;
mod groups;
mod harm;
mod holders;
mod java;
mod lingerd;
mod outgoing;
mod place;
mod programs;
mod races;
mod seccomp;
mod suites;
