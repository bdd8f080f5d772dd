//! Idle timeouts by their length: which products end or forget a connection after so long a silence.
//!
//! The table only suggests where to look. Defaults of programs stand under the setting's name in their manuals; those of the kernel
//! in its `ip-sysctl` and `nf_conntrack-sysctl`. Defaults of boxes that nobody can ask, from their makers' pages:
//!
//! - 60 s, 350 s: docs.aws.amazon.com/elasticloadbalancing, "Update the TCP idle timeout" (350 s since the beginning, 60 to
//!   6,000 s since September 2024) and "Application Load Balancers"
//! - 240 s: learn.microsoft.com/azure/load-balancer/load-balancer-tcp-idle-timeout
//! - 600 s: cloud.google.com/compute/docs/troubleshooting, "idle connections"
//! - 3,600 s of Envoy: envoyproxy.io/docs, "How do I configure timeouts?"

/// A default, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timeout {
    seconds: u32,
    who: &'static str,
}

const fn of(seconds: u32, who: &'static str) -> Timeout {
    Timeout { seconds, who }
}

/// Sorted by length.
const TIMEOUTS: [Timeout; 20] = [
    of(5, "Node.js server.keepAliveTimeout"),
    of(5, "Apache httpd KeepAliveTimeout"),
    of(5, "uvicorn --timeout-keep-alive"),
    of(20, "Tomcat keepAliveTimeout (connectionTimeout of its server.xml)"),
    of(30, "Jetty idleTimeout"),
    of(60, "AWS Application Load Balancer idle timeout"),
    of(60, "nginx proxy_read_timeout, proxy_send_timeout"),
    of(60, "Linux tcp_fin_timeout"),
    of(75, "nginx keepalive_timeout"),
    of(120, "IIS connectionTimeout"),
    of(120, "Linux conntrack TIME-WAIT (nf_conntrack_tcp_timeout_time_wait)"),
    of(240, "Azure Load Balancer and NAT Gateway idle timeout"),
    of(300, "F5 BIG-IP TCP profile idle timeout"),
    of(350, "AWS Network Load Balancer, Gateway Load Balancer and NAT gateway idle timeout"),
    of(600, "Google Cloud VPC firewall connection tracking"),
    of(3_600, "Cisco ASA timeout conn"),
    of(3_600, "Envoy idle_timeout, Palo Alto and FortiGate TCP session timeout"),
    of(7_200, "Linux tcp_keepalive_time"),
    of(28_800, "MySQL wait_timeout"),
    of(432_000, "Linux conntrack, established (nf_conntrack_tcp_timeout_established)"),
];

/// Whose default timeout a silence of so many nanoseconds is: at most 0.1 % shorter, and at most 1 % or 0.1 s longer.
pub(crate) fn like(nanoseconds: u64) -> impl Iterator<Item = &'static str> {
    TIMEOUTS.iter().filter(move |timeout| fits(nanoseconds, timeout.seconds)).map(|timeout| timeout.who)
}

fn fits(nanoseconds: u64, seconds: u32) -> bool {
    let timeout = u64::from(seconds) * 1_000_000_000;
    // Timers fire late, never early; the clock of the capture may be off by a little.
    let late = (timeout / 100).max(100_000_000);
    (timeout - timeout / 1_000..=timeout + late).contains(&nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_recognised_within_a_hundredth() {
        assert!(TIMEOUTS.is_sorted_by_key(|timeout| timeout.seconds));
        let like = |seconds: f64| like((seconds * 1e9) as u64).count();
        assert_eq!((like(350.04), like(353.5), like(353.6)), (1, 1, 0));
        assert_eq!((like(349.7), like(349.6)), (1, 0));
        assert_eq!((like(5.1), like(5.11)), (3, 0));
    }
}
