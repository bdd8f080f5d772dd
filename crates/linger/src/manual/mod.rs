//! The manual: how to close, why the defaults are what they are, and what goes wrong elsewhere.
//!
//! Nothing here but text; what it says is tested in `tests/` or measured by `cargo xtask bench close`.

pub mod defaults;
pub mod howto;
pub mod pitfalls;
