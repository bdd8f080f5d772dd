//! The sentences in words.

mod fingerprint;
mod queue;
mod streams;

use std::fmt;

use super::parts::alert_name;
use super::{Claim, Repeated};
use crate::clock::Duration;

struct Window(Option<u16>);

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(window) => write!(f, "window {window}"),
            None => f.write_str("window cut off"),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnswersSyn
            | Self::RefusedAgain(_)
            | Self::AskedInVain(_)
            | Self::AnswersUnseenSyn
            | Self::Unasked { .. }
            | Self::AcknowledgesLate
            | Self::Answers { .. }
            | Self::AnswersUnseen { .. }
            | Self::BareUnasked { .. }
            | Self::BareOfItsOwn { .. }
            | Self::BareWithWindow { .. }
            | Self::OneDirection => self.form(f),
            Self::PortRefusesLater
            | Self::EndedTogether(_)
            | Self::EndedBefore(_)
            | Self::PortAcceptsLater
            | Self::PortAcceptedBefore
            | Self::OthersTurnedAway(_)
            | Self::OthersSynAcksRepeated => self.listener(f),
            Self::TtlDiffers { .. }
            | Self::TtlOfSameDistance { .. }
            | Self::ListenerTtl { .. }
            | Self::TtlAlone
            | Self::IdDiffers { .. }
            | Self::GoesOnAcknowledging
            | Self::GoesOnSending
            | Self::OwnResetBehind
            | Self::TooSoon { .. }
            | Self::NetScaler { .. }
            | Self::BigIp(_)
            | Self::Diagnostic { .. }
            | Self::VendorDiagnostic { .. }
            | Self::Text(_) => self.foreign(f),
            Self::SeveralOfItsOwn { .. }
            | Self::LacksTimestamps { .. }
            | Self::WindowInAnswer { .. }
            | Self::AcknowledgesTooSoon { .. }
            | Self::MptcpEnded(_)
            | Self::WrongChecksum
            | Self::BeatsAnsweredHere { .. } => self.fingerprint(f),
            Self::SaidFarewell(..)
            | Self::OnlyFarewellLeft(..)
            | Self::Alert(..)
            | Self::ServerName(_)
            | Self::Request { .. }
            | Self::ResponseOpen
            | Self::ResponseShort(_)
            | Self::RecordShort(_)
            | Self::RecordsShort(_)
            | Self::FrameShort(..)
            | Self::EndRequest
            | Self::NoEndRequest
            | Self::SshBanner
            | Self::NoResponse
            | Self::RequestIncomplete(_)
            | Self::RequestsUnanswered(_)
            | Self::FastCgiUnread { .. }
            | Self::ExchangeWhole => self.application(f),
            Self::Icmp { .. }
            | Self::ClosedShort(_)
            | Self::ClosedInChunks
            | Self::RecordCut(_)
            | Self::FrameCut(..)
            | Self::ClosedInHead
            | Self::ClosedBeforeEndRequest
            | Self::RequestCut(_)
            | Self::RequestCutInChunks
            | Self::ClosedUnanswered
            | Self::ClientClosedFirst
            | Self::CrossedByRequest(_)
            | Self::RestedBeforeFin { .. }
            | Self::WindowStuck { .. }
            | Self::SentAgain { .. }
            | Self::NoneSoLongTaken { .. }
            | Self::ShorterTaken { .. } => self.failure(f),
            _ => self.course(f),
        }
    }
}

impl Claim {
    /// The form of the reset.
    fn form(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::AnswersSyn => f.write_str("RST answers the SYN; no SYN-ACK was ever sent"),
            Self::RefusedAgain(1) => f.write_str("the same SYN was sent again, and refused again"),
            Self::RefusedAgain(count) => {
                write!(f, "the same SYN was sent {count} times more, and refused each time")
            }
            Self::AskedInVain(count) => {
                write!(f, "the client took no note of it: SYNs with that number went unanswered {count} times")
            }
            Self::AnswersUnseenSyn => {
                f.write_str("RST+ACK with sequence number 0, the form of an answer to a SYN")
            }
            Self::Unasked { window, timestamps, at_next } => {
                let place = if at_next { " at the sender's next sequence number" } else { "" };
                let stamps = if timestamps { "with timestamps" } else { "without timestamps" };
                write!(f, "RST+ACK{place}, {}, {stamps}: nobody asked for it", Window(window))
            }
            Self::AcknowledgesLate => f.write_str(
                "RST+ACK, window 0, without timestamps, the sender's first packet after its FIN: it acknowledges what came \
                 after that, as Windows does for a closed socket",
            ),
            Self::Answers { window, what, frame, or_earlier } => {
                let or = if or_earlier { ", or to an earlier one, since only the latest are kept" } else { "" };
                write!(f, "bare RST, {}: an answer to {what} (frame {frame}){or}", Window(window))
            }
            Self::AnswersUnseen { window } => {
                write!(f, "bare RST, {}: what it answers is not among the latest packets", Window(window))
            }
            Self::BareUnasked { window } => write!(
                f,
                "bare RST at the sender's next sequence number, {}: the sender had acknowledged all it got, and no \
                 later packet of the last 3 s asks for it",
                Window(window)
            ),
            Self::BareOfItsOwn { window } => write!(
                f,
                "bare RST at the sender's next sequence number, with its last {}: nobody had acknowledged that number, so that it \
                 answers no packet",
                Window(window)
            ),
            Self::BareWithWindow { window } => write!(
                f,
                "bare RST at the sender's next sequence number, with its last {}: an answer to the acknowledgement before it would \
                 have no window",
                Window(window)
            ),
            _ => f.write_str("the capture holds no packet of the other side, or none after an earlier reset"),
        }
    }

    /// What other connections of the same listener show.
    fn listener(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PortRefusesLater => {
                f.write_str("soon after, the same port refuses connections: nobody listens any more")
            }
            Self::EndedTogether(count) => {
                write!(f, "{count} connections of the same port ended within a twentieth of a second")
            }
            Self::EndedBefore(count) => {
                write!(f, "shortly before, {count} connections of the same port ended at once")
            }
            Self::PortAcceptsLater => {
                f.write_str("the same port accepts another connection less than two seconds later")
            }
            Self::PortAcceptedBefore => f.write_str("the same port accepted connections before"),
            Self::OthersTurnedAway(count) => {
                write!(f, "{count} connections of the same port were refused right after the handshake")
            }
            _ => f.write_str("SYN-ACKs of the same port are repeated in other connections"),
        }
    }

    /// What shows another sender.
    fn foreign(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TtlDiffers { reset, usual } => {
                write!(f, "its TTL is {reset}; the sender's other packets have {usual}")
            }
            Self::TtlOfSameDistance { reset, usual } => write!(
                f,
                "its TTL is {reset}, the sender's other packets have {usual}: as many hops from another initial value, \
                 as where a program sets its own TTL"
            ),
            Self::ListenerTtl { reset, usual } => {
                write!(f, "its TTL is {reset}; the SYN-ACKs of the same port have {usual}")
            }
            Self::TtlAlone => f.write_str(
                "nothing else shows another sender, and a TTL proves little: another path, a program that sets its own, and \
                 a tool that makes its own packets look the same",
            ),
            Self::IdDiffers { reset, last } => {
                write!(f, "its IP identification is {reset}; the sender counts up and was at {last}")
            }
            Self::GoesOnAcknowledging => {
                f.write_str("the same sender then acknowledges what came later: it knows nothing of a reset")
            }
            Self::GoesOnSending => {
                f.write_str("the same sender goes on sending beyond the reset: it knows nothing of it")
            }
            Self::OwnResetBehind => f.write_str(
                "an RST+ACK of its own accord stands behind it, which only a connection that still exists sends: it was sent first",
            ),
            Self::TooSoon { after_us, round_trip_us } => write!(
                f,
                "it came {after_us} us after the packet it answers; the way to the sender and back takes \
                 {round_trip_us} us"
            ),
            Self::NetScaler { code, means } => {
                write!(f, "window {code} is a NetScaler's reset code: {means}")
            }
            Self::BigIp(text) => write!(f, "the payload is a BIG-IP's: \"{text}\""),
            Self::Diagnostic { code, means } => {
                write!(f, "the diagnostic payload gives reason {code}: {means}")
            }
            Self::VendorDiagnostic { code, enterprise } => {
                write!(f, "the diagnostic payload gives reason {code} of enterprise {enterprise}")
            }
            Self::Text(text) => write!(f, "the reset carries text: \"{text}\""),
            _ => Ok(()),
        }
    }

    /// What the payload shows.
    fn application(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alert(party, alert) => {
                return write!(
                    f,
                    "the last words of {party} were the TLS alert {} ({alert})",
                    alert_name(*alert)
                );
            }
            Self::ServerName(name) => return write!(f, "TLS: the client asks for \"{name}\""),
            Self::Request { method, host, status } => {
                write!(f, "HTTP: the last request is {method}")?;
                if let Some(host) = host {
                    write!(f, ", Host \"{host}\"")?;
                }
                return match status {
                    Some(status) => write!(f, ", the last response {status}"),
                    None => Ok(()),
                };
            }
            _ => {}
        }
        match *self {
            Self::SaidFarewell(party, farewell) => write!(f, "the last words of {party} were {farewell}"),
            Self::OnlyFarewellLeft(party, farewell) => {
                write!(f, "all that {party} had left to say was {farewell}, to a peer that had said all")
            }
            Self::ResponseOpen => {
                f.write_str("HTTP: the response was not finished (no last chunk, no end of stream)")
            }
            Self::ResponseShort(bytes) => {
                write!(f, "HTTP: the client lacks {bytes} bytes of the response by its Content-Length")
            }
            Self::RecordShort(bytes) => {
                write!(f, "TLS: the client had not acknowledged the last {bytes} bytes of a record")
            }
            Self::RecordsShort(bytes) => write!(
                f,
                "TLS: the client had not acknowledged the last {bytes} bytes of the server's records, a whole record or \
                 more"
            ),
            Self::FrameShort(protocol, bytes) => {
                write!(f, "{protocol}: the client had not acknowledged the last {bytes} bytes of a frame")
            }
            Self::EndRequest => f.write_str("FastCGI: END_REQUEST was sent"),
            Self::NoEndRequest => f.write_str(
                "FastCGI: no END_REQUEST was sent: the gateway must not take the response for whole",
            ),
            Self::SshBanner => f.write_str("SSH: the server had sent its banner"),
            Self::NoResponse => f.write_str("HTTP: the request got no response"),
            Self::RequestIncomplete(bytes) => {
                write!(f, "the request still lacked {bytes} bytes: the response came early")
            }
            Self::RequestsUnanswered(count) => {
                write!(f, "{count} further request(s) had arrived and got no response")
            }
            Self::FastCgiUnread { stdin_ended } => {
                let stdin = if stdin_ended { "its STDIN had ended" } else { "STDIN was still open" };
                write!(f, "FastCGI: END_REQUEST was sent, {stdin}: records of the gateway lay unread")
            }
            _ => f.write_str("the response was whole and acknowledged by then"),
        }
    }

    /// What shows a failure without a reset.
    fn failure(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp { problem, reporter } => write!(f, "ICMP from {reporter}: {problem}"),
            Self::ClosedShort(bytes) => {
                write!(
                    f,
                    "HTTP: the server closed {bytes} bytes before the end of the response by its Content-Length"
                )
            }
            Self::ClosedInChunks => {
                f.write_str("HTTP: the server closed before the last chunk of the response")
            }
            Self::RecordCut(bytes) => {
                write!(f, "TLS: the server closed {bytes} bytes before the end of a record")
            }
            Self::FrameCut(protocol, bytes) => {
                write!(f, "{protocol}: the server closed {bytes} bytes before the end of a frame")
            }
            Self::ClosedInHead => {
                f.write_str("HTTP: the server closed within the head of its response: no empty line ended it")
            }
            Self::ClosedBeforeEndRequest => {
                f.write_str("FastCGI: the application closed and had sent no END_REQUEST")
            }
            Self::RequestCut(bytes) => write!(
                f,
                "HTTP: the server closed while {bytes} bytes of the request were still to come, and sent no response"
            ),
            Self::RequestCutInChunks => f.write_str(
                "HTTP: the server closed before the last chunk of the request, and sent no response",
            ),
            Self::ClosedUnanswered => {
                f.write_str("the request had arrived whole, and the server closed without a response to it")
            }
            Self::ClientClosedFirst => f.write_str("the client had ended its side before"),
            Self::CrossedByRequest(bytes) => write!(
                f,
                "the server closed with every earlier request answered, and does not acknowledge the next one: {bytes} \
                 bytes, which crossed the FIN"
            ),
            Self::RestedBeforeFin { nanoseconds } => {
                write!(f, "the connection had rested for {} by then", Duration(*nanoseconds))
            }
            Self::WindowStuck { probes, nanoseconds } => write!(
                f,
                "the window stayed closed for the last {}, while {probes} probes asked for it",
                Duration(*nanoseconds)
            ),
            Self::SentAgain { bytes, count, nanoseconds } => write!(
                f,
                "the first segment without an acknowledgement, {bytes} bytes, was sent again {count} times in the last {}",
                Duration(*nanoseconds)
            ),
            Self::NoneSoLongTaken { bytes } => {
                write!(f, "no segment of {bytes} bytes or more was ever acknowledged")
            }
            Self::ShorterTaken { bytes } => write!(
                f,
                "{bytes} bytes that were sent after it were acknowledged (SACK), in shorter pieces: short packets of the \
                 same side arrive"
            ),
            _ => Ok(()),
        }
    }

    /// What the course of the connection shows.
    fn course(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepaliveProbes { count, pauses_ms: (shortest, longest) } => {
                write!(f, "{count} keepalive probes before it went unanswered, {shortest} ")?;
                if longest > shortest {
                    write!(f, "to {longest} ")?;
                }
                f.write_str("ms apart")
            }
            Self::Unanswered { what, count, nanoseconds } => {
                let what = match what {
                    Repeated::Retransmissions => "retransmissions",
                    Repeated::WindowProbes => "window probes",
                };
                write!(f, "{count} {what} over {:.1} s went unanswered before it", *nanoseconds as f64 / 1e9)
            }
            Self::WindowReopens { before, now } => write!(
                f,
                "the window re-opens from {before} to {now} at the same acknowledgement: close() threw away bytes that \
                 lay unread"
            ),
            Self::WindowGrows { before, now } => write!(
                f,
                "the window grows from {before} to {now} at the same acknowledgement: bytes left the receive queue, and the sender \
                 had sent its FIN"
            ),
            Self::OtherSentNothing => {
                f.write_str("the other side had sent no byte, so none can have been unread")
            }
            Self::NobodySentAnything => f.write_str("no byte was sent either way: a health check, or a scan"),
            Self::LateAcknowledged(bytes) => {
                write!(f, "{bytes} bytes arrived after the sender's half-close, and close() met them")
            }
            Self::SpokeLast(party) => {
                write!(f, "{party} was the last to send data, and all of it was acknowledged")
            }
            Self::OtherEnded => {
                f.write_str("the other side had ended its half, and the sender had acknowledged all of it")
            }
            Self::Undelivered(bytes) => {
                write!(f, "{bytes} bytes of the response had not reached it, by its own acknowledgements")
            }
            Self::ArrivedAfter => {
                f.write_str("data of the other side arrived after it, and nobody was there to read them")
            }
            Self::ServerSentNothing => f.write_str("the server had not begun to answer"),
            Self::StaleAnswer => f.write_str(
                "the SYN was answered with the acknowledgement of an older connection on the same ports",
            ),
            Self::HandshakeIncomplete => f.write_str("the handshake was never completed"),
            Self::SynAckRepeated(count) => {
                write!(f, "the SYN-ACK was sent again {count} times after the client had acknowledged it")
            }
            Self::SynAcksUnanswered(count) => {
                write!(f, "{count} SYN-ACKs went unanswered before it: the handshake was never completed")
            }
            Self::ClientRepeated(count) => {
                write!(f, "the client repeated its data {count} times unanswered")
            }
            Self::NeverAcknowledged(count) => write!(
                f,
                "the client's data was repeated {count} times and never acknowledged, as behind SYN cookies"
            ),
            Self::NothingButSynAck => f.write_str(
                "the server had completed the handshake, and refused the client's very next packet",
            ),
            _ => self.closing(f),
        }
    }

    /// What FINs, silence and other views show.
    fn closing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClosedBefore { nanoseconds } => {
                write!(f, "the sender had closed {:.3} s before", *nanoseconds as f64 / 1e9)
            }
            Self::LateBytes { bytes, defied: true } => write!(
                f,
                "{bytes} bytes arrived after that, and nobody was there to read them: the other side sent on after it had \
                 acknowledged the FIN"
            ),
            Self::LateBytes { bytes, .. } => {
                write!(f, "{bytes} bytes crossed it on the way, and nobody was there to read them")
            }
            Self::UnseenBeforeFin(bytes) => write!(
                f,
                "the other side's FIN stands {bytes} further on than the sender has acknowledged: as many bytes before it never came past \
                 here"
            ),
            Self::LateFarewell(farewell) => {
                write!(f, "what came after it is {farewell}, which nobody has to read")
            }
            Self::BothClosed => f.write_str("both sides had sent their FIN"),
            Self::FinTimeoutPassed => f.write_str("tcp_fin_timeout (60 s) had passed"),
            Self::SoonerThanFinTimeout => {
                f.write_str("sooner than tcp_fin_timeout, unless that was lowered from its 60 s")
            }
            Self::LacksPart => {
                f.write_str("the capture lacks part of this connection: a FIN may have gone before")
            }
            Self::BeyondCapture(bytes) => write!(
                f,
                "the reset's number is {bytes} beyond what the capture holds of its sender: data or a FIN are missing \
                 here"
            ),
            Self::NeverClosed { nanoseconds } => write!(
                f,
                "no FIN of the sender is in the capture, and its last packet was {} before",
                Duration(*nanoseconds)
            ),
            Self::DataInFlight(bytes) => write!(
                f,
                "{bytes} bytes of the sender were still unacknowledged: a FIN would have waited behind what was queued"
            ),
            Self::WindowClosed => f.write_str(
                "the other side's window had no room: a FIN of the sender would have waited for some",
            ),
            Self::Silence { nanoseconds } => {
                write!(f, "no data was sent for {} before it", Duration(*nanoseconds))
            }
            Self::SilenceBeforeFin { nanoseconds } => {
                write!(f, "the sender's FIN came after {} of silence", Duration(*nanoseconds))
            }
            Self::SynsUnanswered { count: 1, .. } => f.write_str("1 SYN, and no answer to it came back"),
            Self::SynsUnanswered { count, nanoseconds } => {
                write!(f, "{count} SYNs within {}, and no answer to them came back", Duration(*nanoseconds))
            }
            Self::OtherView(says) => f.write_str(says),
            Self::SentIn(tags) => write!(f, "it was sent in {tags}"),
            Self::InFile { says, file } => write!(f, "{says} (in {file})"),
            _ => self.queue(f),
        }
    }
}
