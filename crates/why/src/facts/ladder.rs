//! The packets that a finding shows.

use linger_packet::Flags;

use super::Facts;
use crate::finding::Rung;
use crate::key::Dir;
use crate::record::Record;

impl Facts<'_> {
    /// The packets to show: the handshake, FINs, the latest ones, the reset, and what followed.
    pub(crate) fn ladder(&self) -> Vec<Rung> {
        let flow = self.connection();
        let mut rungs = Vec::new();
        let kept_from = flow.records().next().map_or(u32::MAX, |record| record.frame);
        for (dir, side) in flow.sides.iter().enumerate() {
            let (flags, frame, after) = match flow.opening.syn_ack() {
                Some(syn_ack) if flow.opener() != Some(dir) => {
                    ("SYN,ACK", syn_ack.frame, u64::from(syn_ack.after_us) * 1_000)
                }
                _ => ("SYN", flow.opening.syn_frame(), 0),
            };
            if side.syn() && frame < kept_from {
                rungs.push(self.landmark(dir, frame, flow.time_of(after), flags, 0));
            }
            if let Some(fin) = side.fin().filter(|fin| fin.frame < kept_from) {
                let seq = fin.seq.wrapping_sub(side.isn());
                let time = flow.time_of(fin.since.nanoseconds());
                rungs.push(self.landmark(dir, fin.frame, time, "FIN,ACK", seq));
            }
        }
        rungs.sort_by_key(|rung| rung.frame);
        rungs.extend(self.course());
        let reset = self.reset;
        rungs.push(Rung {
            frame: reset.at.frame,
            time_ns: reset.at.time_ns,
            by_resetter: true,
            flags: reset.flags.to_string(),
            seq: reset.seq.wrapping_sub(self.sender.isn()),
            ack: reset.flags.has(Flags::ACK).then(|| reset.ack.wrapping_sub(self.receiver.isn())),
            len: reset.payload.len() as u32,
            window: reset.window,
            note: Some("the reset".into()),
        });
        rungs.extend(reset.after.records.iter().map(|record| self.rung(record)));
        rungs
    }

    /// The latest packets, and before them those up to a SYN-ACK that came late.
    pub(crate) fn late_course(&self, opening: &[Record]) -> Vec<Rung> {
        let kept_from = self.connection().records().next().map_or(0, |record| record.frame);
        let before = opening.iter().take_while(|record| record.frame < kept_from);
        before.map(|record| self.rung(record)).chain(self.course()).collect()
    }

    /// The latest packets.
    pub(crate) fn course(&self) -> Vec<Rung> {
        self.connection().records().map(|record| self.rung(record)).collect()
    }

    fn landmark(&self, dir: Dir, frame: u32, time_ns: u64, flags: &str, seq: u32) -> Rung {
        Rung {
            frame: self.frame_at(frame),
            time_ns,
            by_resetter: dir == self.reset.by,
            flags: flags.into(),
            seq,
            ack: None,
            len: 0,
            window: None,
            note: None,
        }
    }

    fn rung(&self, record: &Record) -> Rung {
        let (own, other) =
            (&self.connection().sides[record.dir()], &self.connection().sides[1 - record.dir()]);
        let frame = self.frame_of(record);
        let genuine = self.reset.after.genuine.filter(|&(at, _)| at == frame);
        let note = if genuine.is_some() {
            Some("not from a side that has reset".into())
        } else if self.trigger.is_some_and(|trigger| trigger.frame == record.frame) {
            Some("answered by the reset".into())
        } else if record.repeated() {
            Some("sent again".into())
        } else {
            None
        };
        Rung {
            frame,
            time_ns: self.connection().time_of(record.since_first()),
            by_resetter: record.dir() == self.reset.by,
            flags: record.flags.to_string(),
            seq: record.seq.wrapping_sub(own.isn()),
            ack: record.flags.has(Flags::ACK).then(|| record.ack.wrapping_sub(other.isn())),
            len: record.len,
            window: Some(record.window),
            note,
        }
    }
}
