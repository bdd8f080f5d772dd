//! Behind gateways and beside applications that must be installed.

#[path = "../common/mod.rs"]
mod common;

mod duplex;
mod endings;
mod gateway;
mod interop;
mod php;
mod recipe_2014;
mod replies;
mod tower;
