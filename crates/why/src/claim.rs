//! The sentences of evidence, as data: what each says can be checked against the packets.
//!
//! A rule makes a [`Claim`], [`Display`](fmt::Display) words it, and an independent checker (`examples/corpus`) proves or
//! refutes it from the packets alone.

use std::fmt;

use crate::clock::Duration;

/// One end of a connection, as a sentence names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Party {
    /// Whether it sent the reset.
    pub is_resetter: bool,
    /// Whether it opened the connection, if that is known.
    pub is_client: Option<bool>,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.is_client, self.is_resetter) {
            (Some(true), _) => "the client",
            (Some(false), _) => "the server",
            (None, true) => "the sender of the reset",
            (None, false) => "the other side",
        })
    }
}

/// What kind of packet a reset answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Asked {
    /// A SYN-ACK.
    SynAck,
    /// A packet without payload.
    Acknowledgement,
    /// A FIN without payload.
    Fin,
    /// Payload.
    Data {
        /// Bytes of it.
        bytes: u32,
        /// Whether the packet has a FIN too.
        fin: bool,
    },
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SynAck => f.write_str("the SYN-ACK"),
            Self::Acknowledgement => f.write_str("an acknowledgement"),
            Self::Fin => f.write_str("a FIN"),
            Self::Data { bytes, fin: false } => write!(f, "{bytes} bytes of data"),
            Self::Data { bytes, fin: true } => write!(f, "{bytes} bytes of data with FIN"),
        }
    }
}

/// A kind of packet that is sent again and again while nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repeated {
    /// The same bytes.
    Retransmissions,
    /// Probes of a closed window.
    WindowProbes,
}

/// One sentence of evidence.
///
/// "The sender" is the sender of the reset. Times are in nanoseconds, windows unscaled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// The reset answers a SYN, and its sender has sent nothing else.
    AnswersSyn,
    /// The reset has the form of an answer to a SYN, and the capture lacks both.
    AnswersUnseenSyn,
    /// RST+ACK: no packet asked for it.
    Unasked {
        /// Its window; `None` if it was not captured.
        window: Option<u16>,
        /// Whether it has timestamps.
        timestamps: bool,
        /// Whether it stands at the sender's next sequence number.
        at_next: bool,
    },
    /// A bare RST that answers a packet: its number is the packet's acknowledgement.
    Answers {
        /// Its window.
        window: Option<u16>,
        /// What it answers.
        what: Asked,
        /// The frame that it answers.
        frame: u64,
    },
    /// A bare RST, and no packet among the latest is one that it can answer.
    AnswersUnseen {
        /// Its window.
        window: Option<u16>,
    },
    /// A bare RST at the sender's next number, after the sender had acknowledged all that it got.
    BareUnasked {
        /// Its window.
        window: Option<u16>,
    },
    /// The capture holds no packet of the other side.
    OneDirection,
    /// The frame refuses a connection at the same port, after the reset.
    PortRefusesLater,
    /// So many connections of one listener ended within a twentieth of a second.
    EndedTogether(u32),
    /// So many connections of one listener had ended at once, shortly before.
    EndedBefore(u32),
    /// The same port accepts another connection less than two seconds later.
    PortAcceptsLater,
    /// The same port accepted connections before.
    PortAcceptedBefore,
    /// Other clients' handshakes at the same port were refused in the same way.
    OthersTurnedAway(u32),
    /// SYN-ACKs of the same port are repeated in other connections.
    OthersSynAcksRepeated,
    /// Keepalive probes went unanswered.
    KeepaliveProbes {
        /// How many.
        count: u16,
        /// The shortest and the longest pause between two of them, in milliseconds.
        pauses_ms: (u32, u32),
    },
    /// Packets were sent again and went unanswered.
    Unanswered {
        /// What was sent.
        what: Repeated,
        /// How many.
        count: u16,
        /// From the first to the last.
        nanoseconds: u64,
    },
    /// The window of the reset is larger than the last one, at the same acknowledgement.
    WindowReopens {
        /// The last window.
        before: u16,
        /// That of the reset.
        now: u16,
    },
    /// The other side had sent no byte.
    OtherSentNothing,
    /// Neither side had sent a byte.
    NobodySentAnything,
    /// So many bytes arrived after the sender's FIN, and the reset acknowledges them.
    LateAcknowledged(u32),
    /// So many bytes of a request's body were still to come.
    RequestIncomplete(u32),
    /// So many further requests had arrived and got no response.
    RequestsUnanswered(u16),
    /// FastCGI: END_REQUEST was sent while the gateway's records lay unread.
    FastCgiUnread {
        /// Whether the end of STDIN was among them.
        stdin_ended: bool,
    },
    /// HTTP: every request was answered in full, and the client has acknowledged the last byte.
    ExchangeWhole,
    /// This side was the last to send payload, and the other side has acknowledged all of it.
    SpokeLast(Party),
    /// The other side had ended its half, and the sender has acknowledged all of it.
    OtherEnded,
    /// So many bytes of the other side had not been acknowledged by the sender, the reset included.
    Undelivered(u32),
    /// The server had sent no byte.
    ServerSentNothing,
    /// The frame answers the SYN with the acknowledgement of an older connection.
    StaleAnswer,
    /// The handshake was never completed.
    HandshakeIncomplete,
    /// The SYN-ACK was sent again after the client had acknowledged it.
    SynAckRepeated(u16),
    /// SYN-ACKs that nobody answered, the repeated ones included.
    SynAcksUnanswered(u16),
    /// The client sent bytes again, unanswered.
    ClientRepeated(u16),
    /// The client's data was repeated and never acknowledged.
    NeverAcknowledged(u16),
    /// The server had sent nothing but its SYN-ACK.
    NothingButSynAck,
    /// The sender's FIN is in the frame, so long before the reset.
    ClosedBefore {
        /// Between the two.
        nanoseconds: u64,
    },
    /// So many bytes of the other side are not acknowledged by the sender's FIN.
    LateBytes(u32),
    /// What came after the sender's FIN is a farewell: nobody has to read it.
    LateFarewell(Farewell),
    /// Both sides had sent FIN.
    BothClosed,
    /// The default of `tcp_fin_timeout`, 60 s, had passed since the FIN.
    FinTimeoutPassed,
    /// It had not.
    SoonerThanFinTimeout,
    /// The capture lacks part of the connection.
    LacksPart,
    /// The reset's number is so far beyond what the capture holds of its sender.
    BeyondCapture(u32),
    /// The sender had not closed; its last packet is this long ago.
    NeverClosed {
        /// Since the sender's last packet.
        nanoseconds: u64,
    },
    /// Bytes of the sender beyond the reset's number were in flight when it came, and none of its packets had a FIN.
    DataInFlight(u32),
    /// The other side's window had no room: a FIN of the sender would have waited behind it.
    WindowClosed,
    /// The reset's TTL, and that of the sender's other packets.
    TtlDiffers {
        /// Of the reset.
        reset: u8,
        /// Of the others.
        usual: u8,
    },
    /// The same, and both are as far from a common initial value: the same host, with another setting.
    TtlOfSameDistance {
        /// Of the reset.
        reset: u8,
        /// Of the others.
        usual: u8,
    },
    /// The TTL of the port's SYN-ACKs differs from the reset's.
    ListenerTtl {
        /// Of the reset.
        reset: u8,
        /// Of the SYN-ACKs.
        usual: u8,
    },
    /// The reset's IP identification, and the last one of a sender that counts them up.
    IdDiffers {
        /// Of the reset.
        reset: u16,
        /// The sender's last one.
        last: u16,
    },
    /// In the frame the sender acknowledges what came after its reset.
    GoesOnAcknowledging,
    /// In the frame the sender sends beyond its reset.
    GoesOnSending,
    /// The reset came sooner than its sender can have answered.
    TooSoon {
        /// After the packet it answers, in microseconds.
        after_us: u64,
        /// The sender's quickest answer, in microseconds.
        round_trip_us: u64,
    },
    /// The window is a code of a NetScaler.
    NetScaler {
        /// The code.
        code: u16,
        /// What Citrix says of it.
        means: &'static str,
    },
    /// The payload is a BIG-IP's.
    BigIp(String),
    /// The diagnostic payload has a code of the IETF's registry.
    Diagnostic {
        /// The code.
        code: u16,
        /// What it means.
        means: &'static str,
    },
    /// The diagnostic payload has a vendor's code.
    VendorDiagnostic {
        /// The code.
        code: u16,
        /// The vendor's enterprise number.
        enterprise: u32,
    },
    /// The reset carries text.
    Text(String),
    /// This side's last words say that it has nothing more to say.
    SaidFarewell(Party, Farewell),
    /// HTTP: the response was not finished.
    ResponseOpen,
    /// HTTP: bytes of the response that the client has not acknowledged, by its Content-Length.
    ResponseShort(u32),
    /// TLS: bytes of the server's last record that the client has not acknowledged.
    RecordShort(u32),
    /// FastCGI: END_REQUEST was sent.
    EndRequest,
    /// FastCGI: END_REQUEST was not sent.
    NoEndRequest,
    /// SSH: the server had sent its banner.
    SshBanner,
    /// HTTP: the request got no response.
    NoResponse,
    /// Nothing was sent for this long before the reset, or before the packet that it answers.
    Silence {
        /// The silence.
        nanoseconds: u64,
    },
    /// The sender's FIN came after so long a silence.
    SilenceBeforeFin {
        /// The silence.
        nanoseconds: u64,
    },
    /// SYNs that nobody answered, and nothing else of the connection.
    SynsUnanswered {
        /// How many.
        count: u16,
        /// From the first to the last.
        nanoseconds: u64,
    },
    /// What another capture of the same connection shows.
    OtherView(String),
}

/// The last words of a side that has nothing more to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Farewell {
    /// A line: QUIT, LOGOUT, the reply 221.
    Line,
    /// A TLS alert, or a record of an alert's size.
    TlsAlert,
    /// HTTP/2's GOAWAY.
    GoAway,
    /// WebSocket's close frame.
    WebSocketClose,
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Line => "a goodbye",
            Self::TlsAlert => "a TLS alert (close_notify)",
            Self::GoAway => "HTTP/2's GOAWAY",
            Self::WebSocketClose => "WebSocket's close frame",
        })
    }
}

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
            | Self::AnswersUnseenSyn
            | Self::Unasked { .. }
            | Self::Answers { .. }
            | Self::AnswersUnseen { .. }
            | Self::BareUnasked { .. }
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
            | Self::IdDiffers { .. }
            | Self::GoesOnAcknowledging
            | Self::GoesOnSending
            | Self::TooSoon { .. }
            | Self::NetScaler { .. }
            | Self::BigIp(_)
            | Self::Diagnostic { .. }
            | Self::VendorDiagnostic { .. }
            | Self::Text(_) => self.foreign(f),
            Self::SaidFarewell(..)
            | Self::ResponseOpen
            | Self::ResponseShort(_)
            | Self::RecordShort(_)
            | Self::EndRequest
            | Self::NoEndRequest
            | Self::SshBanner
            | Self::NoResponse
            | Self::RequestIncomplete(_)
            | Self::RequestsUnanswered(_)
            | Self::FastCgiUnread { .. }
            | Self::ExchangeWhole => self.application(f),
            _ => self.course(f),
        }
    }
}

impl Claim {
    /// The form of the reset.
    fn form(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::AnswersSyn => f.write_str("RST answers the SYN; no SYN-ACK was ever sent"),
            Self::AnswersUnseenSyn => {
                f.write_str("RST+ACK with sequence number 0, the form of an answer to a SYN")
            }
            Self::Unasked { window, timestamps, at_next } => {
                let place = if at_next { " at the sender's next sequence number" } else { "" };
                let stamps = if timestamps { "with timestamps" } else { "without timestamps" };
                write!(f, "RST+ACK{place}, {}, {stamps}: nobody asked for it", Window(window))
            }
            Self::Answers { window, what, frame } => {
                write!(f, "bare RST, {}: an answer to {what} (frame {frame})", Window(window))
            }
            Self::AnswersUnseen { window } => {
                write!(f, "bare RST, {}: what it answers is not among the latest packets", Window(window))
            }
            Self::BareUnasked { window } => write!(
                f,
                "bare RST at the sender's next sequence number, {}: the sender had acknowledged all it got, and no \
                 later packet asks for it",
                Window(window)
            ),
            _ => f.write_str("no packet of the other side is in the capture"),
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
            Self::ListenerTtl { reset, usual } => write!(
                f,
                "its TTL is {reset}; the SYN-ACKs of the same port have {usual}: another machine answered"
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
        match *self {
            Self::SaidFarewell(party, farewell) => write!(f, "the last words of {party} were {farewell}"),
            Self::ResponseOpen => {
                f.write_str("HTTP: the response was not finished (no last chunk, no end of stream)")
            }
            Self::ResponseShort(bytes) => {
                write!(f, "HTTP: the client lacks {bytes} bytes of the response by its Content-Length")
            }
            Self::RecordShort(bytes) => {
                write!(f, "TLS: the client had not acknowledged the last {bytes} bytes of a record")
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
            _ => f.write_str("the response was whole and acknowledged before it"),
        }
    }

    /// What the course of the connection shows.
    fn course(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeepaliveProbes { count, pauses_ms: (shortest, longest) } => write!(
                f,
                "{count} keepalive probes before it went unanswered, {shortest} to {longest} ms apart"
            ),
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
                write!(f, "{bytes} bytes of the response had not reached it, by its own acknowledgement")
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
            Self::LateBytes(bytes) => {
                write!(f, "{bytes} bytes arrived after that, and nobody was there to read them")
            }
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
                "the other side's window was full: a FIN of the sender would have waited behind it",
            ),
            Self::Silence { nanoseconds } => {
                write!(f, "nothing was sent for {} before it", Duration(*nanoseconds))
            }
            Self::SilenceBeforeFin { nanoseconds } => {
                write!(f, "the sender's FIN came after {} of silence", Duration(*nanoseconds))
            }
            Self::SynsUnanswered { count, nanoseconds } => {
                write!(f, "{count} SYNs within {}, and nothing came back", Duration(*nanoseconds))
            }
            Self::OtherView(says) => f.write_str(says),
            _ => Ok(()),
        }
    }
}
