//! FastCGI for HTTP programs: an axum or tower application behind a FastCGI gateway, and a FastCGI
//! application as a `tower` service.

mod appetite;
mod application;
mod environment;
mod gateway;
mod outbox;

pub use application::{Body, serve, serve_until};
pub use environment::Variables;
pub use gateway::Gateway;
pub use outbox::ResponseBody;
