//! Middleboxes that give their reason in the reset itself.

/// The reason that a box gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A NetScaler's code in the window field.
    NetScaler { code: u16, means: &'static str },
    /// A BIG-IP's text in the payload.
    BigIp(String),
    /// The diagnostic payload of draft-ietf-tcpm-rst-diagnostic-payload, with a code of the IETF's registry.
    Diagnostic { code: u16, means: &'static str },
    /// Like the variant before, but with a code of a vendor's own registry.
    Vendor { code: u16, enterprise: u32 },
    /// Other text in the payload; RFC 9293 section 3.5.3 allows it.
    Text(String),
}

/// Codes that Citrix documents (CTX200852), the common ones, paraphrased.
const NETSCALER: &[(u16, &str)] = &[
    (8196, "bad TLS record"),
    (8201, "a packet for a connection it had already closed"),
    (8202, "data on a connection whose SYN cookie had expired"),
    (8204, "a repeated SYN with another sequence number"),
    (8205, "the handshake's last acknowledgement was wrong"),
    (8206, "a bad packet while connecting; perhaps reused ports"),
    (8207, "a SYN inside the window of an open connection"),
    (8208, "too many duplicate retransmissions"),
    (8209, "out of memory"),
    (8210, "HTTP denial-of-service protection"),
    (8211, "idle timeout"),
    (8212, "a SYN for no service"),
    (9100, "orphaned HTTP connection: the request was never completed"),
    (9202, "sequence mismatch on a reused server connection"),
    (9205, "bad chunked encoding from the server"),
    (9206, "invalid HTTP header"),
    (9212, "invalid HTTP request"),
    (9300, "idle timeout, or the service went down"),
    (9301, "idle timeout, or the service went down"),
    (9302, "idle timeout"),
    (9303, "idle timeout"),
    (9304, "gave up retransmitting or probing a closed window"),
    (9305, "the server's acknowledgement did not match"),
    (9310, "keepalive probes unanswered"),
    (9401, "connections flushed: capacity, or a configuration change"),
    (9600, "too many packets that did not match the connection"),
    (9700, "passed on a reset of the other side"),
    (9701, "passed on a reset of the other side"),
    (9702, "data after a FIN"),
    (9800, "a monitor's probe timed out"),
    (9811, "after a fatal TLS alert"),
    (9812, "its address was removed from the configuration"),
    (9814, "a policy's reset action"),
    (9816, "bad TLS record"),
    (9830, "a deny rule"),
    (9838, "bad TLS record"),
    (9845, "application firewall policy"),
    (9875, "the client's connection had closed"),
];

/// The initial registry of the draft.
const DIAGNOSTIC: &[&str] = &[
    "reserved",
    "illegal option length",
    "desynchronised state",
    "new data after close was called",
    "the process aborted",
    "unexpected acknowledgement before the connection was synchronised",
    "unexpected SYN in the window",
    "unexpected security compartment",
    "malformed message",
    "not authorised",
    "resource exceeded",
    "network failure",
    "reset received from the peer",
    "destination unreachable",
    "connection timeout",
    "too much outstanding data",
    "unacceptable performance",
    "middlebox interference",
];

/// Reads the payload of a reset.
pub(crate) fn payload(bytes: &[u8]) -> Option<Said> {
    if let [0x33, 0xaa, code @ .., _, _, _, _] = bytes
        && let &[high, low] = code
    {
        let code = u16::from_be_bytes([high, low]);
        let enterprise = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        return Some(if enterprise == 0 {
            let means =
                DIAGNOSTIC.get(usize::from(code)).copied().unwrap_or("a code this program does not know");
            Said::Diagnostic { code, means }
        } else {
            Said::Vendor { code, enterprise }
        });
    }
    let text: String =
        bytes.iter().take_while(|byte| (0x20..0x7f).contains(*byte)).map(|&byte| char::from(byte)).collect();
    if text.len() < 4 {
        return None;
    }
    let f5 = text.starts_with("BIG-IP") || text.starts_with("F5RST") || text.starts_with("[F5RST");
    Some(if f5 || text.starts_with("[0x") { Said::BigIp(text) } else { Said::Text(text) })
}

/// Reads a window field as a NetScaler's code.
pub(crate) fn window(code: u16) -> Option<Said> {
    let at = NETSCALER.binary_search_by_key(&code, |&(known, _)| known).ok()?;
    Some(Said::NetScaler { code, means: NETSCALER[at].1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_read() {
        assert!(NETSCALER.is_sorted());
        assert_eq!(window(9811), Some(Said::NetScaler { code: 9811, means: "after a fatal TLS alert" }));
        assert_eq!(window(9999), None);
        let timeout = payload(&[0x33, 0xaa, 0, 14, 0, 0, 0, 0]);
        assert_eq!(timeout, Some(Said::Diagnostic { code: 14, means: "connection timeout" }));
        assert_eq!(
            payload(&[0x33, 0xaa, 4, 0xd2, 0, 0, 0x7e, 0xd9]),
            Some(Said::Vendor { code: 1234, enterprise: 32473 })
        );
        assert!(matches!(payload(b"BIG-IP: [0x2409a71:1148] No pool"), Some(Said::BigIp(_))));
        assert_eq!(payload(b"\x01\x02"), None);
        assert_eq!(payload(b""), None);
    }
}
