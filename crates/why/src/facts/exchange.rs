//! Whether each side had said all it had to say, and what did not arrive.

use super::{Facts, INITIAL_TTLS, Losses};
use crate::app::Protocol;
use crate::claim::{Claim, Farewell};
use crate::names::AskedName;
use crate::recorded_reset::LatePayload;
use crate::sacked::Sacked;
use crate::side::{RunKind, Side};

/// Bytes of a TLS record before its content.
const RECORD_HEADER: u64 = 5;

impl Facts<'_> {
    /// What shows that the request, or part of it, was never read.
    pub(crate) fn request_left_unread(&self) -> Option<(u64, Claim)> {
        let (s, r) = (self.sender, self.receiver);
        let last = self.frame_at(r.last_frame);
        if r.app.is_http() && s.app.messages() > 0 {
            if let Some(missing) = r.app.missing_after(r.next).filter(|&missing| missing > 0) {
                return Some((last, Claim::RequestIncomplete(missing)));
            }
            if r.app.is_followed() && s.app.messages() < r.app.messages() && self.acknowledges_all() {
                return Some((last, Claim::RequestsUnanswered(r.app.messages() - s.app.messages())));
            }
        }
        if let (true, Protocol::FastCgi { stdin_ended, .. }) = (s.app.fastcgi_ended(), r.app.protocol) {
            return Some((self.frame_at(s.last_frame), Claim::FastCgiUnread { stdin_ended }));
        }
        None
    }

    /// Every request was answered, and the client has acknowledged the last byte.
    pub(crate) fn exchange_complete(&self) -> bool {
        if self.streams.is_some() {
            return self.streams_whole().is_some();
        }
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

    /// [`Self::exchange_complete`] as a sentence.
    pub(crate) fn exchange_whole(&self) -> Claim {
        self.streams_whole().map_or(Claim::ExchangeWhole, Claim::StreamsWhole)
    }

    /// The client lacks part of a response, by the response's own length.
    pub(crate) fn response_is_short(&self) -> bool {
        let Some(dir) = self.client() else { return false };
        let (client, server) = (&self.connection().sides[dir], &self.connection().sides[1 - dir]);
        let at = self.acknowledged_by(client, server);
        server.app.is_http() && server.app.missing_after(at).is_some_and(|missing| missing > 0)
    }

    /// HTTP, and a response is not whole at the client, or has not begun. Of HTTP/2 only where its streams are known.
    pub(crate) fn http_open(&self) -> bool {
        if self.streams.is_some() {
            return self.streams_open();
        }
        let http = self.connection().sides.iter().any(|side| side.app.is_http());
        http && !self.exchange_complete()
    }

    /// The client's last words were a farewell.
    pub(crate) fn client_said_farewell(&self) -> bool {
        self.client().is_some_and(|client| self.connection().sides[client].app.farewell().is_some())
    }

    /// The client has ended its side, by a FIN or by this reset, after the server's last word had reached it. No record of
    /// TLS or FastCGI and no frame of HTTP/2 or WebSocket is cut, and no HTTP exchange is open, as far as they can be followed.
    pub(crate) fn client_left_content(&self) -> bool {
        let Some(dir) = self.client() else { return false };
        let server = &self.connection().sides[1 - dir];
        let left = self.reset.by == dir || self.connection().sides[dir].has_fin();
        let cut = match server.app.protocol {
            Protocol::Cut => true,
            Protocol::FastCgi { ended, .. } => !ended,
            Protocol::Tls { .. } | Protocol::Http2 { .. } | Protocol::WebSocket { .. } => {
                server.app.missing_after(server.next).is_some_and(|missing| missing > 0)
            }
            _ => false,
        };
        left && !cut && !self.http_open() && self.server_spoke_last()
    }

    /// Every byte that one side has sent was acknowledged by the other, at the latest by the reset.
    pub(crate) fn delivered(&self, from: &Side, to: &Side) -> bool {
        from.payload_after(self.acknowledged_by(to, from)) == 0
    }

    /// What `receiver` has acknowledged selectively beyond `at`; nothing if `at` is not its last acknowledgement.
    pub(crate) fn sacked_by(&self, receiver: &Side, at: u32) -> Sacked {
        if receiver.ack() == Some(at) { receiver.sacked() } else { Sacked::default() }
    }

    /// The last acknowledgement of `receiver`: the reset's and later ones included.
    pub(super) fn acknowledged_by(&self, receiver: &Side, of: &Side) -> u32 {
        let resetter = std::ptr::eq(receiver, self.sender);
        let before = if resetter && self.active() {
            self.reset.ack
        } else {
            receiver.ack().unwrap_or(of.isn().wrapping_add(1))
        };
        let dir = if resetter { self.reset.by } else { 1 - self.reset.by };
        match self.reset.after.acks[dir] {
            Some(later) if later.wrapping_sub(before) < 1 << 31 => later,
            _ => before,
        }
    }

    /// The farewell of `from`, if everything that `to` has not taken is part of it.
    pub(crate) fn only_farewell_left(&self, from: &Side, to: &Side) -> Option<Farewell> {
        let taken = match to.fin() {
            // What the FIN does not acknowledge came too late, whatever was acknowledged afterwards.
            Some(fin) if fin.late > 0 => {
                from.next.wrapping_sub(fin.late).wrapping_sub(u32::from(from.has_fin()))
            }
            _ => self.acknowledged_by(to, from),
        };
        let (app, end) = match self.arrived() {
            Some(arrived) if std::ptr::eq(from, self.receiver) => (arrived.app, arrived.end),
            _ => (from.app, from.next),
        };
        let whole = app.missing_after(end) == Some(0);
        let goaway = || {
            let both = to.app.farewell() == Some(Farewell::TlsAlert) && app.ends_with_goaway_size(taken);
            both.then_some(Farewell::TlsAlert)
        };
        app.farewell_from(taken).or_else(goaway).filter(|_| whole)
    }

    /// How many bytes lie between the sender's last acknowledgement and the other side's FIN, if there are any.
    pub(crate) fn unseen_before_fin(&self) -> Option<u32> {
        let bytes = self.receiver.fin()?.seq.wrapping_sub(self.sender.ack()?);
        (1..1 << 31).contains(&bytes).then_some(bytes)
    }

    /// The farewell that came after the sender's FIN, if nothing else came.
    pub(crate) fn farewell_after_fin(&self) -> Option<Farewell> {
        if self.sender.late() == 0 { None } else { self.only_farewell_left(self.receiver, self.sender) }
    }

    /// The frame of the first payload of the other side that arrived after the reset, unless all of it was a farewell.
    pub(crate) fn arrived_after(&self) -> Option<u64> {
        let arrived = self.arrived()?;
        self.only_farewell_left(self.receiver, self.sender).is_none().then_some(arrived.frame)
    }

    /// Payload of the other side that arrived after the reset and was never acknowledged.
    pub(crate) fn arrived(&self) -> Option<LatePayload> {
        let taken = self.acknowledged_by(self.sender, self.receiver);
        self.reset.after.arrived.filter(|arrived| taken.wrapping_sub(arrived.end) >= 1 << 31)
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
        // If the capture was taken at the client, everything it shows of the server has arrived there, acknowledged or not.
        let arrived = self.sender_is_client() == Some(false) && self.sender.run.is_none();
        let at = if arrived && self.is_at(client, server) {
            server.next
        } else {
            self.acknowledged_by(client, server)
        };
        let sacked = self.sacked_by(client, at);
        let under_way =
            if self.may_have_arrived(server) { 0 } else { u64::from(server.payload_beyond(at, sacked)) };
        let declared = server.app.missing_after(at).filter(|_| server.app.is_http()).unwrap_or(0);
        let declared = declared.saturating_sub(sacked.bytes.into());
        let at = self.acknowledged_by(server, client);
        let request = u64::from(client.payload_beyond(at, self.sacked_by(server, at)));
        // Nobody reads what comes after a reset.
        let after = self.arrived().map_or(0, |arrived| u64::from(arrived.bytes));
        let (response, request) = match self.sender_is_client() {
            Some(true) => (under_way + after, request),
            _ => (under_way, request + after),
        };
        Losses { response: Some(response.max(declared)), request: Some(request) }
    }

    /// Whether a side that resets has just sent its last bytes three times, and the other side has been silent since: the path is
    /// dead, in one direction at least, so that it is not known whether they arrived. After more of them the path is taken to be
    /// gone for good, as the kernel takes it ([`RunKind::Retransmissions`], `Class::AfterRetransmissions`).
    fn may_have_arrived(&self, side: &Side) -> bool {
        let run = side.run.filter(|run| run.kind == RunKind::Retransmissions);
        std::ptr::eq(side, self.sender) && run.is_some_and(|run| run.count == 2)
    }

    /// Whether the capture was taken at `side`: its packets have an initial TTL, those of the `other` side have been routed.
    fn is_at(&self, side: &Side, other: &Side) -> bool {
        INITIAL_TTLS.contains(&side.ttl[0]) && !INITIAL_TTLS.contains(&other.ttl[0])
    }

    /// What the client has asked for: the last request and the last status of HTTP/1, or the name of TLS.
    pub(crate) fn asked_for(&self, name: Option<AskedName<&str>>) -> Option<Claim> {
        let dir = self.client()?;
        let (client, server) = (&self.connection().sides[dir], &self.connection().sides[1 - dir]);
        let name = name.filter(|_| client.payload > 0);
        match (client.app.protocol, name) {
            (Protocol::Http { message, .. }, host) if client.app.is_followed() => {
                let method = message.method()?;
                let status = match server.app.protocol {
                    Protocol::Http { status, .. } if server.app.is_followed() && status > 0 => Some(status),
                    _ => None,
                };
                let host = match host {
                    Some(AskedName::Host(host)) => Some(host.to_owned()),
                    _ => None,
                };
                Some(Claim::Request { method, host, status })
            }
            (Protocol::Tls { .. }, Some(AskedName::Tls(name))) => Some(Claim::ServerName(name.to_owned())),
            _ => None,
        }
    }

    /// The TLS alert with which a side ends, if it is in clear.
    pub(crate) fn alerts(&self) -> Option<Claim> {
        let alert = |dir: usize| {
            let app = &self.connection().sides[dir].app;
            app.alert().filter(|_| app.is_followed()).map(|alert| Claim::Alert(self.party(dir), alert))
        };
        alert(0).or_else(|| alert(1))
    }

    /// What the payload shows about the exchange, in one sentence.
    pub(crate) fn application(&self) -> Option<Claim> {
        let dir = self.client()?;
        let (client, server) = (&self.connection().sides[dir], &self.connection().sides[1 - dir]);
        let at = self.acknowledged_by(client, server);
        let sacked = self.sacked_by(client, at);
        let known = |missing: &u64| *missing > 0 && !sacked.is_partial;
        let missing = server.app.missing_after(at).map(|missing| missing.saturating_sub(sacked.bytes.into()));
        let missing = missing.filter(known);
        if let Some(alert) = self.alerts() {
            return Some(alert);
        }
        for (side, dir) in [(client, dir), (server, 1 - dir)] {
            if let Some(farewell) = side.app.farewell() {
                return Some(Claim::SaidFarewell(self.party(dir), farewell));
            }
        }
        match server.app.protocol {
            Protocol::Http { .. } if server.app.open_ended() && !server.has_fin() => {
                Some(Claim::ResponseOpen)
            }
            Protocol::Http { .. } => missing.map(Claim::ResponseShort),
            Protocol::Tls { length, .. } => missing.map(|bytes| {
                let inside = server.app.missing_after(at) < Some(RECORD_HEADER + u64::from(length));
                if inside { Claim::RecordShort(bytes) } else { Claim::RecordsShort(bytes) }
            }),
            Protocol::Http2 { .. } | Protocol::WebSocket { .. } => {
                server.app.framed().zip(missing).map(|(protocol, bytes)| Claim::FrameShort(protocol, bytes))
            }
            Protocol::FastCgi { ended: true, .. } => Some(Claim::EndRequest),
            Protocol::FastCgi { .. } if server.app.is_followed() => Some(Claim::NoEndRequest),
            Protocol::Ssh => Some(Claim::SshBanner),
            Protocol::Unseen if client.app.is_http() && server.payload == 0 => Some(Claim::NoResponse),
            _ => None,
        }
    }
}
