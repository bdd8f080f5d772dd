//! Lines of `linger fcgi get`.

use schemars::JsonSchema;
use serde::Serialize;

use super::LineBody;

/// How a request went.
#[derive(Default, Serialize, JsonSchema)]
pub(crate) struct Fcgi {
    /// Whether the response came with its end.
    pub(crate) complete: bool,
    /// Bytes of the response; null where it was cut or could not be written.
    pub(crate) response_bytes: Option<u64>,
    /// The application's exit status.
    pub(crate) app_status: Option<u32>,
    /// The HTTP status of the response's header block; null without one.
    pub(crate) http_status: Option<u16>,
    /// Why the request was not read to its end.
    pub(crate) write_error: Option<String>,
    /// Why there is no whole response.
    pub(crate) error: Option<String>,
    /// What the application wrote to STDERR, at most 64 KB of it; null for nothing.
    pub(crate) log: Option<String>,
}

impl LineBody for Fcgi {
    const KIND: &'static str = "fcgi";
}
