//! What is counted of a capture, and how much of it may be remembered.

/// How much may be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnalyzerLimits {
    /// The largest number of connections that are remembered at a time. If there are more, connections that have ended are
    /// forgotten first, the oldest before the others; then the connections that were silent for longest. A connection takes
    /// about 600 bytes.
    pub flows: usize,
}

impl Default for AnalyzerLimits {
    fn default() -> Self {
        Self { flows: 100_000 }
    }
}

/// Counts of packets and connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct PacketCounts {
    /// Packets read, without those that `outside` counts.
    pub packets: u64,
    /// Packets that were not looked at, because their time was not asked for.
    pub outside: u64,
    /// Of those read, TCP segments of hosts or ports that were not asked for.
    pub unselected: u64,
    /// Of those read, TCP segments.
    pub segments: u64,
    /// IP fragments, which are not reassembled.
    pub fragments: u64,
    /// Packets cut so short that the TCP flags are missing.
    pub cut: u64,
    /// Packets whose headers contradict each other.
    pub malformed: u64,
    /// Packets with a layer that is not understood, in which there may be TCP.
    pub not_understood: u64,
    /// Packets captured twice.
    pub duplicates: u64,
    /// Connections seen.
    pub connections: u64,
    /// Connections forgotten while alive, because there were too many.
    pub forgotten: u64,
    /// Connections with a reset.
    pub resets: u64,
    /// The first packet's time, in nanoseconds since 1970-01-01 00:00 UTC.
    pub first: u64,
    /// The last packet's time, in the same unit.
    pub last: u64,
}
