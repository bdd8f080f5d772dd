//! Which side of a connection is the client, where the capture lacks the handshake.

/// Ports of services above 1023, from IANA's registry and from the defaults of programs: databases, queues, caches, proxies,
/// application servers, remote desktops.
const SERVICES: [u16; 60] = [
    1080, 1194, 1433, 1521, 1723, 1883, 1935, 2049, 2181, 2375, 2376, 2379, 2380, 3000, 3128, 3260, 3268,
    3306, 3389, 4222, 4369, 4444, 5000, 5060, 5222, 5269, 5432, 5601, 5671, 5672, 5900, 5984, 5985, 6379,
    6443, 6514, 6667, 7000, 7001, 8000, 8008, 8009, 8080, 8081, 8086, 8088, 8443, 8500, 8883, 8888, 9000,
    9042, 9090, 9092, 9200, 9300, 10250, 11211, 27017, 50051,
];

/// The first port that any system gives to clients by default: Linux gives 32768 and above, others 49152 (RFC 6335); 1024 to
/// 5000 were those of old BSD and Windows.
const EPHEMERAL: u16 = 32_768;

/// How likely a port is that of a server, 0 for most likely.
pub(crate) fn rank(port: u16) -> u8 {
    match port {
        // Ports of rank 0 are equal: a source port below 1024 is that of an old client, as of rsh or NFS.
        1..=1023 => 0,
        _ if SERVICES.binary_search(&port).is_ok() => 1,
        1024..EPHEMERAL => 2,
        _ => 3,
    }
}

/// Whether these bytes, at the beginning of a segment, are those of a client: `Some(false)` if they are those of a server, `None`
/// if they do not tell.
pub(crate) fn speaks(bytes: &[u8]) -> Option<bool> {
    const REQUESTS: [&[u8]; 22] = [
        b"GET ",
        b"POST ",
        b"HEAD ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"CONNECT ",
        b"TRACE ",
        b"PRI * HTTP/2.0",
        b"EHLO ",
        b"HELO ",
        b"LHLO ",
        b"MAIL FROM:",
        b"RCPT TO:",
        b"USER ",
        b"PASS ",
        b"CAPA\r\n",
        b"RETR ",
        b"STARTTLS\r\n",
        b"QUIT\r\n",
        b"*1\r\n$",
    ];
    const ANSWERS: [&[u8]; 12] = [
        b"HTTP/1.", b"220 ", b"220-", b"221 ", b"250 ", b"250-", b"354 ", b"550 ", b"+OK", b"-ERR", b"* OK",
        b"RFB 00",
    ];
    let starts = |words: &[&[u8]]| {
        words.iter().any(|word| bytes.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)))
    };
    match bytes {
        // A TLS handshake record: ClientHello or ServerHello.
        [0x16, 3, 0..=4, _, _, 1, ..] => Some(true),
        [0x16, 3, 0..=4, _, _, 2, ..] => Some(false),
        // FastCGI: BEGIN_REQUEST, PARAMS and STDIN come from the gateway; END_REQUEST, STDOUT and STDERR from the responder.
        [1, 1, _, _, 0, 8, _, 0, ..] => Some(true),
        [1, 3 | 6 | 7, 0, 1, ..] => Some(false),
        _ if starts(&REQUESTS) => Some(true),
        _ if starts(&ANSWERS) => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_ranked() {
        assert!(SERVICES.is_sorted());
        for (server, client) in
            [(443, 40_000), (443, 1025), (27_017, 35_000), (8080, 20_001), (5432, 19_000), (50_051, 40_000)]
        {
            assert!(rank(server) < rank(client), "{server} serves {client}");
        }
        // Nothing tells.
        for (one, other) in [(40_000, 50_000), (22, 1023), (12_000, 19_000), (5432, 6379)] {
            assert_eq!(rank(one), rank(other), "{one} and {other}");
        }
    }

    #[test]
    fn payloads_tell_who_asks() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(true)),
            (b"HTTP/1.1 200 OK\r\n", Some(false)),
            (b"220 mail.example ESMTP\r\n", Some(false)),
            (b"2200 bytes", None),
            (&[0x16, 3, 1, 2, 0, 1, 0], Some(true)),
            (&[0x16, 3, 3, 0, 90, 2, 0], Some(false)),
            // Another handshake message, and another record.
            (&[0x16, 3, 3, 0, 90, 11, 0], None),
            (&[0x17, 3, 3, 0, 90, 1, 0], None),
            (&[1, 1, 0, 1, 0, 8, 0, 0], Some(true)),
            (&[1, 6, 0, 1, 0, 8, 0, 0], Some(false)),
            (b"", None),
            (b"GE", None),
        ] {
            assert_eq!(speaks(bytes), expected, "{bytes:?}");
        }
    }
}
