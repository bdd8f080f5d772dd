//! Verbs as users call them.

#[path = "../common/mod.rs"]
mod common;

mod again;
mod errors;
mod fcgi;
mod fcgi_load;
mod limits;
mod output;
mod probe;
mod resets;
mod unix;
mod why;
