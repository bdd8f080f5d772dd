//! The recipes of `linger`'s package, compiled and run: servers of other frameworks whose connections linger.
//!
//! For axum, hyper, threads, unix sockets and tokio-rustls crate `linger` itself has what is needed.

#[path = "../../recipes/axum_server.rs"]
pub mod axum_server;
#[path = "../../recipes/poem.rs"]
pub mod poem;
#[path = "../../recipes/salvo.rs"]
pub mod salvo;
#[path = "../../recipes/smol.rs"]
pub mod smol;
#[path = "../../recipes/tonic.rs"]
pub mod tonic;
#[path = "../../recipes/warp.rs"]
pub mod warp;
