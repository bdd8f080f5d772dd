//! Servers with the layers of this crate, and clients that notice what is lost.

#[path = "../support/mod.rs"]
mod support;

mod axum;
mod doors;
mod tokio;
mod tunnel;
