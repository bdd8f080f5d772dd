//! How much a peer may make this side remember.

/// Bounds on the memory of one connection. Plain data; every field may be set directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Most bytes of name-value pairs in one request. A higher limit costs memory for each request that is being received.
    /// Gateways themselves send 1 to 4 KB; cookies and client certificates add to that.
    pub params_bytes: usize,
    /// Most pairs in one request. A pair costs 12 bytes, and each look-up goes through all pairs.
    pub params_count: usize,
    /// Most bytes of name-value pairs of all requests that run on one connection; a request that would exceed it is answered with
    /// `OVERLOADED`. One alone may always have `params_bytes`.
    pub params_held: usize,
    /// Most requests at once on one connection; more are answered with `OVERLOADED`.
    pub multiplexed: usize,
    /// Most bytes of request bodies held in memory for handlers that do not read, for all requests of a connection. At the bound the
    /// connection is not read, so its other requests wait, too: FastCGI has no flow control.
    pub buffered: usize,
    /// Most bytes of request bodies kept in files, beyond `buffered`, for all requests of a connection. They are used only while a
    /// response finds no room: a gateway that writes its whole request before it reads (mod_fcgid) would otherwise wait for this
    /// side, and this side for the gateway. Beyond this the two wait for each other until a timeout.
    pub spooled: u64,
    /// Most bytes in such files for all connections of the process together. On many systems `/tmp` is memory.
    pub spooled_in_all: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            params_bytes: 256 << 10,
            params_count: 1024,
            params_held: 2 << 20,
            multiplexed: 64,
            buffered: 256 << 10,
            spooled: 256 << 20,
            spooled_in_all: 1 << 30,
        }
    }
}
