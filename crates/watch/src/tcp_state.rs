//! TCP states as the kernel numbers them (`include/net/tcp_states.h`).

pub(crate) const ESTABLISHED: u8 = 1;
pub(crate) const SYN_SENT: u8 = 2;
pub(crate) const FIN_WAIT1: u8 = 4;
pub(crate) const TIME_WAIT: u8 = 6;
pub(crate) const CLOSE: u8 = 7;
pub(crate) const CLOSE_WAIT: u8 = 8;
pub(crate) const LAST_ACK: u8 = 9;
pub(crate) const LISTEN: u8 = 10;
pub(crate) const NEW_SYN_RECV: u8 = 12;

/// The kernel's name of a state; `None` for a number that no state has.
pub(crate) fn name(state: u8) -> Option<&'static str> {
    const NAMES: [&str; 12] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    NAMES.get(usize::from(state).checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_agree() {
        let names = [FIN_WAIT1, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN].map(name);
        assert_eq!(names, ["FIN_WAIT1", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN"].map(Some));
        assert_eq!((name(0), name(1), name(13)), (None, Some("ESTABLISHED"), None));
    }
}
