//! What a reset and its connection show. Each method answers one question; `verdict` judges.

use linger_packet::Flags;

use crate::app::Protocol;
use crate::connection::ObservedConnection;
use crate::finding::Rung;
use crate::key::Dir;
use crate::record::Record;
use crate::reset::RecordedReset;
use crate::side::Side;

/// A reset with the two sides of its connection: the sender of the reset and its receiver.
#[derive(Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) reset: &'a RecordedReset,
    pub(crate) sender: &'a Side,
    pub(crate) receiver: &'a Side,
    /// The packet that the reset answers, if it is among those kept.
    pub(crate) trigger: Option<Record>,
}

/// Bytes that never arrived: of the response at the client, of the request at the server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Losses {
    pub(crate) response: Option<u64>,
    pub(crate) request: Option<u64>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(reset: &'a RecordedReset) -> Self {
        let sender = &reset.connection.sides[reset.by];
        let receiver = &reset.connection.sides[1 - reset.by];
        let answers = |record: &&Record| {
            record.dir() != reset.by && record.flags.has(Flags::ACK) && record.ack == reset.seq
        };
        let trigger = if reset.flags.has(Flags::ACK) {
            None
        } else {
            reset.connection.records().rev().find(answers).copied()
        };
        Self { reset, sender, receiver, trigger }
    }

    pub(crate) fn connection(&self) -> &'a ObservedConnection {
        &self.reset.connection
    }

    pub(crate) fn frame_at(&self, relative: u32) -> u64 {
        self.connection().first_frame + u64::from(relative)
    }

    pub(crate) fn frame_of(&self, record: &Record) -> u64 {
        self.frame_at(record.frame)
    }

    pub(crate) fn describe_record(&self, record: &Record) -> String {
        match (record.len, record.flags.has(Flags::FIN), record.flags.has(Flags::SYN)) {
            (_, _, true) => "the SYN-ACK".into(),
            (0, false, _) => "an acknowledgement".into(),
            (0, true, _) => "a FIN".into(),
            (len, false, _) => format!("{len} bytes of data"),
            (len, true, _) => format!("{len} bytes of data with FIN"),
        }
    }

    /// RST+ACK to a SYN, from a side that sent nothing before.
    pub(crate) fn answers_syn(&self) -> bool {
        let r = self.receiver;
        let expected = r.isn().wrapping_add(1);
        // In a capture of one direction the form is enough: no other reset has both ACK and sequence number 0.
        if !r.seen() && !self.sender.seen() && self.reset.flags.has(Flags::ACK) && self.reset.seq == 0 {
            return true;
        }
        !self.sender.seen()
            && r.syn()
            && r.ack.is_none()
            && self.reset.flags.has(Flags::ACK)
            && (self.reset.ack == expected || self.reset.ack == r.next)
    }

    /// A bare RST to a SYN-ACK, or to an acknowledgement out of place, from a client that never acknowledged.
    pub(crate) fn answers_syn_ack(&self) -> bool {
        let (s, r) = (self.sender, self.receiver);
        // Where the capture lacks the SYN-ACK, the server may seem never to have acknowledged.
        !self.reset.flags.has(Flags::ACK)
            && s.ack.is_none()
            && r.ack == Some(self.reset.seq)
            && self.connection().opener() == Some(self.reset.by)
    }

    /// The acknowledgement of an older connection with which a SYN was answered.
    pub(crate) fn stale_answer(&self) -> Option<Record> {
        if self.sender.syn() && !self.receiver.syn() { self.trigger } else { None }
    }

    /// RST+ACK that answers no SYN: the sender's own decision (`tcp_send_active_reset`).
    pub(crate) fn active(&self) -> bool {
        self.reset.flags.has(Flags::ACK) && !self.answers_syn()
    }

    pub(crate) fn handshake_seen(&self) -> bool {
        self.sender.syn() && self.receiver.syn()
    }

    /// Both directions, from the beginning.
    pub(crate) fn whole(&self) -> bool {
        self.handshake_seen()
    }

    /// The sender has acknowledged payload of the receiver.
    pub(crate) fn acknowledged_data(&self) -> bool {
        let (s, r) = (self.sender, self.receiver);
        let Some(ack) = s.ack.filter(|_| r.seen()) else { return false };
        let beyond = ack.wrapping_sub(r.isn().wrapping_add(1));
        beyond != 0 && beyond < 1 << 31
    }

    /// The reset acknowledges every byte the receiver has sent.
    pub(crate) fn acknowledges_all(&self) -> bool {
        self.delivered(self.receiver, self.sender)
    }

    /// Whether the sender is the client. The handshake tells; if the capture lacks it, payload and ports do.
    pub(crate) fn sender_is_client(&self) -> Option<bool> {
        self.client().map(|client| client == self.reset.by)
    }

    /// The side that opened the connection, or that seems to have opened it.
    pub(crate) fn client(&self) -> Option<Dir> {
        self.connection().client()
    }

    /// The sender's usual TTL, if the reset has another.
    pub(crate) fn foreign_ttl(&self) -> Option<u8> {
        let s = self.sender;
        (s.seen() && !s.ttl.contains(&self.reset.ttl)).then_some(s.ttl[0])
    }

    /// The sender's last IP identification and that of the reset, if the sender counts them up and the reset's is out of order.
    ///
    /// Only for active resets: Linux gives answers the identification 0.
    pub(crate) fn foreign_id(&self) -> Option<(u16, u16)> {
        let (last, id) = (self.sender.counted_id()?, self.reset.id?);
        let step = id.wrapping_sub(last);
        (self.active() && !(1..=1024).contains(&step)).then_some((last, id))
    }

    /// If the reset came sooner than its alleged sender can have answered, returns two times in nanoseconds: how long
    /// after its trigger (the packet that it answers) the reset came, and the sender's quickest answer of all.
    pub(crate) fn answered_too_fast(&self) -> Option<(u64, u64)> {
        let trigger = self.trigger?;
        let s = self.sender;
        let answered =
            self.reset.at.time_ns.saturating_sub(self.connection().first_time + trigger.since_first());
        let round_trip = u64::from(s.quickest_us) * 1_000;
        (s.replies >= 3 && round_trip >= 2_000_000 && answered < round_trip / 4)
            .then_some((answered, round_trip))
    }

    /// The sender's last window and that of the reset, both unscaled, if the reset has a larger window at the same
    /// acknowledgement.
    ///
    /// `tcp_close` frees the receive queue before it sends the reset. Had the application read the bytes, the kernel
    /// would have announced the larger window at once (`tcp_cleanup_rbuf`, when it at least doubles). The window of a
    /// reset that differs otherwise from the sender's packets proves nothing.
    pub(crate) fn window_reopened(&self) -> Option<(u16, u16)> {
        let s = self.sender;
        let (before, now) = (s.window?, self.reset.window?);
        let room = u32::from(now.saturating_sub(before)) << s.scale;
        (self.active()
            && s.ack == Some(self.reset.ack)
            && self.receiver.payload > 0
            && self.reset.timestamps == s.timestamps
            && self.foreign_id().is_none()
            && u32::from(before) * 2 <= u32::from(s.greatest_window)
            && u32::from(now) >= 2 * u32::from(before)
            && room >= 512)
            .then_some((before, now))
    }

    /// What shows that the request, or part of it, was never read.
    pub(crate) fn request_left_unread(&self) -> Option<(Option<u64>, String)> {
        let (s, r) = (self.sender, self.receiver);
        let last = Some(self.frame_at(r.last_frame));
        if r.app.is_http() && s.app.messages() > 0 {
            if let Some(missing) = r.app.missing_after(r.next).filter(|&missing| missing > 0) {
                return Some((
                    last,
                    format!("the request still lacked {missing} bytes: the response came early"),
                ));
            }
            if r.app.is_followed() && s.app.messages() < r.app.messages() && self.acknowledges_all() {
                let more = r.app.messages() - s.app.messages();
                return Some((last, format!("{more} further request(s) had arrived and got no response")));
            }
        }
        if let (true, Protocol::FastCgi { stdin_ended, .. }) = (s.app.fastcgi_ended(), r.app.protocol) {
            let stdin = if stdin_ended { "its STDIN had ended" } else { "STDIN was still open" };
            return Some((
                Some(self.frame_at(s.last_frame)),
                format!("FastCGI: END_REQUEST was sent, {stdin}: records of the gateway lay unread"),
            ));
        }
        None
    }

    /// Every request was answered, and the client has acknowledged the last byte.
    pub(crate) fn exchange_complete(&self) -> bool {
        let Some(client) = self.client() else { return false };
        let (client, server) = (&self.connection().sides[client], &self.connection().sides[1 - client]);
        let whole = |side: &Side, at| {
            side.app.is_http() && side.app.missing_after(at) == Some(0)
                || side.app.until_close() && side.has_fin() && side.payload_after(at) == 0
        };
        server.app.messages() >= client.app.messages()
            && whole(client, client.next)
            && whole(server, self.acknowledged_by(client, server))
    }

    /// Every byte that one side has sent was acknowledged by the other, at the latest by the reset.
    pub(crate) fn delivered(&self, from: &Side, to: &Side) -> bool {
        from.payload_after(self.acknowledged_by(to, from)) == 0
    }

    /// The last acknowledgement of `receiver`, the reset's included.
    fn acknowledged_by(&self, receiver: &Side, of: &Side) -> u32 {
        if std::ptr::eq(receiver, self.sender) && self.active() {
            self.reset.ack
        } else {
            receiver.ack.unwrap_or(of.isn().wrapping_add(1))
        }
    }

    /// Only a TLS alert came after the sender's FIN.
    pub(crate) fn alert_after_fin(&self) -> bool {
        let r = self.receiver;
        (1..=64).contains(&self.sender.late())
            && r.app.ends_with_alert()
            && r.app.missing_after(r.next) == Some(0)
    }

    /// The bytes that never arrived, as far as this capture shows.
    pub(crate) fn losses(&self) -> Losses {
        let Some(client) = self.client() else { return Losses::default() };
        let (client, server) = (&self.connection().sides[client], &self.connection().sides[1 - client]);
        if !client.seen() || !server.seen() {
            return if self.answers_syn() {
                Losses { response: Some(0), request: Some(0) }
            } else {
                Losses::default()
            };
        }
        let at = self.acknowledged_by(client, server);
        let under_way = u64::from(server.payload_after(at));
        let declared = server.app.missing_after(at).filter(|_| server.app.is_http()).map_or(0, u64::from);
        let at = self.acknowledged_by(server, client);
        let request = u64::from(client.payload_after(at));
        Losses { response: Some(under_way.max(declared)), request: Some(request) }
    }

    /// What the payload shows about the exchange, in one sentence.
    pub(crate) fn application(&self) -> Option<String> {
        let client = self.client()?;
        let (client, server) = (&self.connection().sides[client], &self.connection().sides[1 - client]);
        let at = self.acknowledged_by(client, server);
        let missing = server.app.missing_after(at).filter(|&missing| missing > 0);
        for (side, name) in [(client, "client"), (server, "server")] {
            if side.app.has_said_goodbye() {
                return Some(format!("the last line of the {name} was a goodbye"));
            }
        }
        match server.app.protocol {
            Protocol::Http { .. } if server.app.open_ended() && !server.has_fin() => {
                Some("HTTP: the response was not finished (no last chunk, no end of stream)".into())
            }
            Protocol::Http { .. } => missing.map(|missing| {
                format!("HTTP: the client lacks {missing} bytes of the response by its Content-Length")
            }),
            Protocol::Tls { .. } if server.app.tls_alert() || client.app.tls_alert() => {
                Some("TLS: an alert was sent".into())
            }
            Protocol::Tls { .. } => missing
                .map(|missing| format!("TLS: the last record is cut, {missing} bytes short at the client")),
            Protocol::FastCgi { ended: true, .. } => Some("FastCGI: END_REQUEST was sent".into()),
            Protocol::FastCgi { .. } if server.app.is_followed() => Some(
                "FastCGI: no END_REQUEST was sent: the gateway must not take the response for whole".into(),
            ),
            Protocol::Ssh => Some("SSH: the server had sent its banner".into()),
            Protocol::Unseen if client.app.is_http() => Some("HTTP: the request got no response".into()),
            _ => None,
        }
    }

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
                rungs.push(self.landmark(dir, frame, flow.first_time + after, flags, 0));
            }
            if let Some(fin) = side.fin().filter(|fin| fin.frame < kept_from) {
                let seq = fin.seq.wrapping_sub(side.isn());
                let time = flow.first_time + fin.since.nanoseconds();
                rungs.push(self.landmark(dir, fin.frame, time, "FIN,ACK", seq));
            }
        }
        rungs.sort_by_key(|rung| rung.frame);
        rungs.extend(flow.records().map(|record| self.rung(record)));
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
            time_ns: self.connection().first_time + record.since_first(),
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
