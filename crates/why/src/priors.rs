//! How often each cause was named over public captures, by class: `cargo xtask corpus FOLDER... --priors` prints these rows.
//!
//! They order the causes that remain where none is named, and those that fit beside a likely one. The captures are the test captures of
//! zeek, suricata-verify, nDPI, arkime, tcpdump and libpcap, 3,923 files.

use crate::{Cause, Class};

static SEEN: [(Cause, Class, u32); 25] = [
    (Cause::Aborted, Class::Active, 242),
    (Cause::Aborted, Class::ActiveAfterFin, 6),
    (Cause::BothClosed, Class::PassiveAfterFin, 24),
    (Cause::ClientGaveUp, Class::Active, 24),
    (Cause::ClientGaveUp, Class::ActiveAfterFin, 9),
    (Cause::ClientGaveUp, Class::AnswerToSynAck, 10),
    (Cause::ClientGaveUp, Class::ClosedEarly, 12),
    (Cause::ClientGaveUp, Class::PassiveAfterFin, 117),
    (Cause::ClosedUnanswered, Class::ClosedEarly, 4),
    (Cause::ClosedWithUnreadData, Class::Active, 2),
    (Cause::ClosedWithUnreadData, Class::ActiveAfterFin, 1),
    (Cause::CutShort, Class::ClosedEarly, 2),
    (Cause::DataAfterClose, Class::ActiveAfterFin, 15),
    (Cause::DataAfterClose, Class::PassiveAfterFin, 155),
    (Cause::Forged, Class::AnswerToSyn, 2),
    (Cause::Forged, Class::Foreign, 15),
    (Cause::HalfOpen, Class::AnswerToSynAck, 12),
    (Cause::HalfOpen, Class::PassiveAfterData, 4),
    (Cause::KeepaliveTimeout, Class::AfterKeepalive, 2),
    (Cause::NoAnswer, Class::Unanswered, 89),
    (Cause::PortClosed, Class::AnswerToSyn, 54),
    (Cause::RetransmissionTimeout, Class::Active, 5),
    (Cause::RetransmissionTimeout, Class::AfterRetransmissions, 5),
    (Cause::RetransmissionTimeout, Class::Stalled, 9),
    (Cause::Unreachable, Class::Unanswered, 25),
];

/// How often `cause` was named for findings of `class`.
pub(crate) fn seen(cause: Cause, class: Class) -> u32 {
    let row = SEEN.iter().find(|(known, of, _)| *known == cause && *of == class);
    row.map_or(0, |(.., count)| *count)
}
