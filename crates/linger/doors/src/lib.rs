//! Servers of other frameworks whose connections linger: one file a framework, each as short as its door allows.
//!
//! axum, hyper, threads, unix sockets and tokio-rustls have doors in crate `linger` itself.

pub mod axum_server;
pub mod poem;
pub mod salvo;
pub mod smol;
pub mod tonic;
pub mod warp;
