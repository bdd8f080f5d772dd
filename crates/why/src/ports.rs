//! The names of well-known ports, as an operator calls the service. A name is a guess: another service may listen there.

/// Ports and names, sorted.
const NAMES: [(u16, &str); 58] = [
    (20, "ftp-data"),
    (21, "ftp"),
    (22, "ssh"),
    (23, "telnet"),
    (25, "smtp"),
    (53, "dns"),
    (80, "http"),
    (88, "kerberos"),
    (110, "pop3"),
    (111, "rpcbind"),
    (119, "nntp"),
    (135, "msrpc"),
    (139, "netbios"),
    (143, "imap"),
    (179, "bgp"),
    (389, "ldap"),
    (443, "https"),
    (445, "smb"),
    (465, "smtps"),
    (502, "modbus"),
    (514, "syslog"),
    (554, "rtsp"),
    (587, "submission"),
    (631, "ipp"),
    (636, "ldaps"),
    (853, "dns over tls"),
    (873, "rsync"),
    (993, "imaps"),
    (995, "pop3s"),
    (1080, "socks"),
    (1433, "sql server"),
    (1521, "oracle"),
    (1723, "pptp"),
    (1883, "mqtt"),
    (2049, "nfs"),
    (2181, "zookeeper"),
    (2379, "etcd"),
    (3128, "http proxy"),
    (3306, "mysql"),
    (3389, "rdp"),
    (5060, "sip"),
    (5222, "xmpp"),
    (5432, "postgresql"),
    (5671, "amqps"),
    (5672, "amqp"),
    (5900, "vnc"),
    (6379, "redis"),
    (6443, "kubernetes api"),
    (6667, "irc"),
    (8080, "http"),
    (8443, "https"),
    (8883, "mqtts"),
    (9042, "cassandra"),
    (9092, "kafka"),
    (9200, "elasticsearch"),
    (10250, "kubelet"),
    (11211, "memcached"),
    (27017, "mongodb"),
];

/// The service that usually listens on this port.
pub(crate) fn name_of(port: u16) -> Option<&'static str> {
    let at = NAMES.binary_search_by_key(&port, |&(known, _)| known).ok()?;
    Some(NAMES[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_ports_have_names() {
        assert!(NAMES.is_sorted());
        assert_eq!((name_of(443), name_of(444), name_of(27_017)), (Some("https"), None, Some("mongodb")));
    }
}
