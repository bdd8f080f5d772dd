//! How to close: which function for which server.
//!
//! | your server | what to do |
//! |---|---|
//! | a thread for each connection | [`linger::close(stream, &policy)`](crate::close) where the stream was dropped |
//! | an event loop, or threads that must not wait | a [`Closer`](crate::Closer); `closer.close(stream, &policy)` |
//! | tokio, own protocol | [`linger::tokio::serve(listener, handler)`](../../tokio/index.html), or a `Lingering` stream around each accepted one |
//! | axum, any tower service | `linger::http::serve(listener, app)` instead of `axum::serve(listener, app)` |
//! | axum on `axum::serve` | `linger::axum::listen_until(listener, policy, sigterm)`, and `app.layer(linger::http::layer())` |
//! | hyper, hyper-util | `linger::hyper::io(stream, policy)` instead of `TokioIo::new(stream)`, and `linger::http::layer()` around the service |
//! | tonic | a `Lingering` stream in what `serve_with_incoming` gets (see the module `hyper`) |
//! | TLS with threads | `linger::rustls::close(&mut connection, socket, &policy)` |
//! | axum over TLS | `linger::http::serve(listener, app).above(move \|stream\| tls.accept(stream))` |
//! | TLS with tokio-rustls | the `Lingering` stream below, `shutdown().await` on the TLS stream, then the drop |
//! | something else altogether | drive a [`Machine`](crate::Machine): it owns no socket and reads no clock |
//!
//! # What a close does
//!
//! It sends a FIN after the last byte written, reads and discards what the peer still sends, and closes when
//! the peer has closed, or has acknowledged everything and been silent for `grace`, or a bound of the
//! [`Policy`](crate::Policy) has run out (RFC 9112 section 9.6). A peer that does not read is told from a dead one by the
//! answers of its kernel. The [`Outcome`](crate::Outcome) says which of these it was, whether every byte was
//! acknowledged, and whether the peer closed after that.
//!
//! On an async stream the close begins at the drop. A shutdown before it is a FIN and no more, so that tunnels and
//! upgraded connections keep the other direction.
//!
//! # Prefork servers
//!
//! Threads do not survive a `fork`. [`Closer::global`](crate::Closer::global), and with it each adapter for which
//! no closer was named, gives every process a closer of its own. A closer that a worker has from its parent closes at
//! once what it is given there: half-closed, emptied once. So make it after the fork.
//!
//! # At the end of the process
//!
//! The kernel closes every descriptor of a process that exits and lingers for none of them, and resets what is in the
//! accept queue of a listener. So, when told to stop: take what is in the queue, stop accepting, let the handlers end,
//! wait for the closer, exit. `linger::http::serve` and `linger::tokio::serve` do all of it in one call, within one
//! deadline: `.stop_when(sigterm).within(deadline)`. `linger::axum::listen_until` and
//! `linger::tokio::Listener::stop_when` accept the connections in the queue before another server stops. Where they are
//! not used, the last part is:
//!
//! ```
//! use std::time::Duration;
//!
//! let closer = linger::Closer::new(linger::Budget::default())?;
//! // ... SIGTERM: the listener is closed, the handlers have ended ...
//! let summary = closer.finish(Duration::from_secs(10));
//! if summary.undelivered > 0 {
//!     eprintln!("{} connections may have lost bytes", summary.undelivered);
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! The deadline has to fit into what the supervisor allows (systemd's `TimeoutStopSec`, Kubernetes'
//! `terminationGracePeriodSeconds`). `examples/sigterm.rs` is the whole of it with tokio. After `SIGKILL` nothing
//! helps but another process that holds the descriptors.
//!
//! # One connection that deserves less
//!
//! A policy belongs to a close, not to the server: [`Policy::short`](crate::Policy::short) for requests that
//! were refused, [`Policy::none`](crate::Policy::none) where nothing is owed, [`Policy::abort`](crate::Policy::abort)
//! for a peer that misbehaves; and [`Policy::patient`](crate::Policy::patient) for one that deserves more. In an axum handler, `linger::axum::Peer::close_with`, or a policy as an extension of
//! the response; on a stream, `Lingering::set_policy`; while the stream is somewhere else, `Lingering::connection`.
//!
//! # When descriptors run out
//!
//! A [`Budget`](crate::Budget) bounds what lingers, by default to half of the descriptors; above it the closer evicts,
//! first those whose peers have everything, then those whose peers answer the kernel's probes and read nothing, then the
//! oldest. A server whose `accept` fails with `EMFILE` calls
//! [`Closer::evict`](crate::Closer::evict) and tries again; `linger::tokio::Listener`, and with it all that this crate
//! accepts, does. [`linger::close`](crate::close) needs no descriptor of its own.
//!
//! # Watching it
//!
//! [`Closer::snapshot`](crate::Closer::snapshot) has the numbers; with the feature `metrics` a closer is a
//! Prometheus collector, with `tracing` each end is an event of the target `linger`: at `warn` where bytes may
//! have been lost. A growing `linger_undelivered_total` with `timed_out_idle` are peers that vanish or never
//! read; with `evicted`, a budget too small.
