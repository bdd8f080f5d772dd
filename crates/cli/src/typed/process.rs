//! A process of a server, and perhaps the signal by which it is told to reload or to stop.

use linger_probe::ReloadSignal;

/// `PID` or `PID:SIGNAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerProcess {
    pub(crate) pid: u32,
    pub(crate) signal: Option<ReloadSignal>,
}

/// Reads it.
pub(crate) fn server_process(text: &str) -> Result<ServerProcess, String> {
    let (pid, signal) = match text.split_once(':') {
        Some((pid, signal)) => (pid, Some(signal.parse()?)),
        None => (text, None),
    };
    match pid.parse() {
        Ok(pid @ 1..) => Ok(ServerProcess { pid, signal }),
        _ => Err(format!("`{pid}` is no pid")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_may_have_a_signal() {
        let of = |pid, signal| Ok(ServerProcess { pid, signal });
        assert_eq!(server_process("7"), of(7, None));
        assert_eq!(server_process("7:term"), of(7, Some(ReloadSignal::Term)));
        for text in ["", "0", "-1", "x", ":HUP", "7:", "7:KILL", "7:9", "4294967296", "0:HUP"] {
            assert!(server_process(text).is_err(), "{text}");
        }
    }
}
