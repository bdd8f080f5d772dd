//! Eighteen ways to lose a response, each with what happens, and what to do.
//!
//! Linux unless it says otherwise; the kernel's functions are named so that they can be looked up.
//!
//! **1. Closing with unread bytes.** Eight bytes of the request that nobody read are enough: `tcp_close` sends a
//! reset at once and frees the send queue (`TCPAbortOnClose`). No call reports it. *Linger.*
//!
//! **2. Closing before the last byte has arrived.** The queue was empty at `close()`; what the client sends next
//! meets a socket without a reader and is answered by a reset (`TCPAbortOnData`). Draining until `EAGAIN` and
//! then closing is this race. *Read until the end of the stream, or a bound.*
//!
//! **3. Believing that the half-close is the cure.** `shutdown(SHUT_WR)` and `close()` leaves small responses whole
//! and loses large ones. *It is the beginning of the cure.*
//!
//! **4. Shutting the read side.** Once both sides are shut (`SHUT_RDWR`, or `SHUT_RD` and a FIN), data that comes is
//! answered with a reset, even with the descriptor open (`tcp_rcv_state_process`). *Never before the drain has ended.*
//!
//! **5. `SO_LINGER` with a time.** The test for unread data comes first, so it protects nothing; where it acts it
//! blocks `close()`, on non-blocking sockets, too, and a whole event loop with it. *Leave it unset; this crate
//! clears it.*
//!
//! **6. `SO_LINGER 0`.** An abort. Some pools and proxies set it to avoid TIME_WAIT, and lose data by it.
//! *[`Policy::abort`](crate::Policy::abort), and only when that is meant.*
//!
//! **7. Exiting.** The kernel closes the descriptors of a dead process by the same rules and lingers for none.
//! *[`Closer::finish`](crate::Closer::finish), then exit.*
//!
//! **8. Dropping in async code.** A cancelled task, a `select!` that takes the other branch, a panic: each drops the
//! stream, and a drop cannot wait. *A `Lingering` stream hands the socket over when it is dropped.*
//!
//! **9. `shutdown().await` and nothing else.** On tokio's `TcpStream` it only half-closes; the drop that follows is
//! pitfall 1. hyper does exactly this at the end of each connection. *A `Lingering` stream: its shutdown is the same
//! FIN, and its drop the beginning of the close.*
//!
//! **10. A cap on bytes that closes.** 64 KiB were read, that must be enough: the next byte resets. *At
//! `max_discard` this crate stops reading and goes on waiting for the acknowledgement.*
//!
//! **11. No bound at all.** With the descriptor open the kernel's FIN_WAIT2 has no timeout; a peer that neither
//! sends nor closes holds the socket for ever (php-fpm). *`idle` and `total`, always both.*
//!
//! **12. Only an idle bound.** A byte every four seconds keeps a bound of five from ever running out. *`total`.*
//!
//! **13. Believing `write()`.** It says only that this side's kernel has the bytes. `SIOCOUTQ` tells how many the peer's
//! kernel has not acknowledged; but a FIN counts as one of them, before the end of the handshake the answer is 0, and a
//! reset leaves the number as it was. *[`Outcome::delivered`](crate::Outcome::delivered).*
//!
//! **14. Trusting a clean end.** If a client's `write()` meets the reset, it consumes the error; the client's `read()` then
//! sees short data and a clean end of the stream. *Clients check for the end: a length, a last chunk, `close_notify`, an
//! end record.*
//!
//! **15. Buffers above the socket.** A `BufWriter`, a compressor, TLS: what they hold at the close was never written.
//! *Flush first; with TLS `linger::rustls::close`, or a shutdown of the TLS stream.*
//!
//! **16. TLS's own bytes.** The client's Finished, its acknowledgement of a key update, a server's session tickets
//! arrive when nobody reads any more, and are unread data like any other. A plain `recv` on kernel TLS that
//! meets `close_notify` fails with `EIO`. *Drain below TLS; take `EIO` for the end.*
//!
//! **17. A second holder of the descriptor.** `dup`, `fork` and `SCM_RIGHTS` share the connection: a `close()` of one
//! ends nothing, and its registration in an epoll lives on and reports events for an fd that is another
//! connection's by then. *The half-close works whoever holds it; the closer deregisters before it closes.*
//!
//! **18. Looking only at TCP, and only at resets.** An AF_UNIX stream closed with unread data gives its peer
//! `ECONNRESET`, too. And resets from FIN_WAIT2 or TIME_WAIT mini-sockets have no `TCPAbort` counter: watch
//! `TcpOutRsts` as well. A client that was reset before it read one byte may be looking at a full accept queue
//! instead: `ListenOverflows`.
