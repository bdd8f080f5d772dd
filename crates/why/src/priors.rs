//! How often each cause was named over public captures, by class: `cargo xtask corpus FOLDER... --priors` prints these rows.
//!
//! They order the causes that remain where none is named, and those that fit beside a likely one. The captures are the test captures of
//! zeek, suricata-verify, nDPI, arkime, tcpdump and libpcap, and three collections, 4,204 files.

use crate::{Cause, Class};

static SEEN: [(Cause, Class, u32); 27] = [
    (Cause::Aborted, Class::Active, 266),
    (Cause::Aborted, Class::ActiveAfterFin, 6),
    (Cause::BothClosed, Class::ActiveAfterFin, 1),
    (Cause::BothClosed, Class::PassiveAfterFin, 30),
    (Cause::ClientGaveUp, Class::Active, 31),
    (Cause::ClientGaveUp, Class::ActiveAfterFin, 9),
    (Cause::ClientGaveUp, Class::AnswerToSynAck, 10),
    (Cause::ClientGaveUp, Class::ClosedEarly, 12),
    (Cause::ClientGaveUp, Class::PassiveAfterFin, 117),
    (Cause::ClosedUnanswered, Class::ClosedEarly, 6),
    (Cause::ClosedWithUnreadData, Class::Active, 2),
    (Cause::ClosedWithUnreadData, Class::ActiveAfterFin, 2),
    (Cause::CutShort, Class::ClosedEarly, 2),
    (Cause::DataAfterClose, Class::ActiveAfterFin, 17),
    (Cause::DataAfterClose, Class::PassiveAfterFin, 155),
    (Cause::Forged, Class::AnswerToSyn, 2),
    (Cause::Forged, Class::Foreign, 16),
    (Cause::HalfOpen, Class::AnswerToSynAck, 12),
    (Cause::HalfOpen, Class::PassiveAfterData, 1),
    (Cause::KeepaliveTimeout, Class::AfterKeepalive, 2),
    (Cause::NoAnswer, Class::Unanswered, 269),
    (Cause::PortClosed, Class::AnswerToSyn, 221),
    (Cause::RetransmissionTimeout, Class::Active, 5),
    (Cause::RetransmissionTimeout, Class::AfterRetransmissions, 8),
    (Cause::RetransmissionTimeout, Class::Stalled, 10),
    (Cause::Unreachable, Class::Unanswered, 25),
    (Cause::WindowStuck, Class::Stalled, 1),
];

/// How often `cause` was named for findings of `class`.
pub(crate) fn seen(cause: Cause, class: Class) -> u32 {
    let row = SEEN.iter().find(|(known, of, _)| *known == cause && *of == class);
    row.map_or(0, |(.., count)| *count)
}
