//! Whether somebody listens.

/// Whether a TCP socket of the calling thread's namespace listens (state 0A in `proc_net_tcp`), on this port if one is named.
pub(crate) fn is_listening(port: Option<u16>) -> bool {
    let wanted = port.map(|port| format!(":{port:04X}"));
    ["tcp", "tcp6"].into_iter().any(|file| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state) = (words.next().unwrap_or_default(), words.nth(1));
            state == Some("0A") && wanted.as_ref().is_none_or(|port| local.ends_with(&**port))
        })
    })
}
