//! What several tests of the program share.

pub(crate) mod contract;
pub(crate) mod host;
pub(crate) mod junit;
pub(crate) mod program;
pub(crate) mod ready;
pub(crate) mod share;
