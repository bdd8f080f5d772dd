//! Behind gateways and beside applications that must be installed.

#[path = "../common/mod.rs"]
mod common;

mod duplex;
mod endings;
mod gateway;
mod interop;
mod one_worker;
mod php;
mod recipe_2014;
mod replies;
mod stop_load;
mod tower;
