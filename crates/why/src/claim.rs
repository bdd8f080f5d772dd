//! The sentences of evidence, as data: what each says can be checked against the packets.
//!
//! A rule makes a [`Claim`], [`Display`](std::fmt::Display) words it, and an independent checker (`examples/corpus`) proves or
//! refutes it from the packets alone.

mod parts;
mod streams;
mod words;

use std::net::IpAddr;

use linger_packet::{IcmpProblem, MptcpEnd};

pub use parts::{Asked, Farewell, Framed, Party, Repeated};
pub(crate) use streams::GREATEST_STREAM;
pub use streams::{StreamFate, StreamList};

/// One sentence of evidence.
///
/// "The sender" is the sender of the reset. Times are in nanoseconds, unless a field's name says otherwise; windows are
/// unscaled.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// The reset answers a SYN, and its sender has sent nothing else.
    AnswersSyn,
    /// The reset has the form of an answer to a SYN, and the capture holds no packet of the other side.
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
    /// RST+ACK without window and timestamps, the sender's first packet after its own FIN, and it acknowledges what came after that.
    AcknowledgesLate,
    /// A bare RST (without ACK) that answers a packet: its sequence number is the packet's acknowledgement number.
    Answers {
        /// Its window.
        window: Option<u16>,
        /// What it answers.
        what: Asked,
        /// The frame that it answers.
        frame: u64,
        /// Whether it may as well answer bytes that came before this frame.
        or_earlier: bool,
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
    /// A bare RST at the sender's next number, with the sender's last window: no packet of the other side acknowledges that number,
    /// so that it answers none.
    BareOfItsOwn {
        /// Its window.
        window: Option<u16>,
    },
    /// The window of a reset after its sender's own FIN is larger than before, at the same acknowledgement.
    WindowGrows {
        /// The sender's last window, unscaled.
        before: u16,
        /// The reset's.
        now: u16,
    },
    /// A bare RST at the sender's next number, with the sender's last window, after a mere acknowledgement: an answer to that has none.
    BareWithWindow {
        /// Its window.
        window: Option<u16>,
    },
    /// The capture holds no packet of the other side; or none since ten seconds after an earlier reset, when the connection was
    /// forgotten.
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
    RequestIncomplete(u64),
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
    /// So many bytes of the other side had not been acknowledged by the sender, neither by the reset nor selectively.
    Undelivered(u32),
    /// The frame brings bytes of the other side that were on their way when the reset was sent.
    ArrivedAfter,
    /// The server had sent no byte.
    ServerSentNothing,
    /// The frame answers the SYN with the acknowledgement of an older connection.
    StaleAnswer,
    /// The handshake was never completed.
    HandshakeIncomplete,
    /// The SYN-ACK was sent again after the client had acknowledged it.
    SynAckRepeated(u16),
    /// The SYN was sent again so often, and refused again.
    RefusedAgain(u32),
    /// The SYN was sent again so often after a refusal, and nothing came back.
    AskedInVain(u32),
    /// SYN-ACKs that nobody answered, the repeated ones included.
    SynAcksUnanswered(u16),
    /// The client sent bytes again, unanswered.
    ClientRepeated(u16),
    /// The client's data was repeated and never acknowledged.
    NeverAcknowledged(u16),
    /// The server had sent nothing but its SYN-ACK.
    NothingButSynAck,
    /// The frame is the sender's FIN, which came before the reset.
    ClosedBefore {
        /// Between the two.
        nanoseconds: u64,
    },
    /// Bytes of the other side are not acknowledged by the sender's FIN.
    LateBytes {
        /// How many.
        bytes: u32,
        /// Whether some were sent by a side that had acknowledged the FIN. Otherwise all crossed it.
        defied: bool,
    },
    /// The frame is the other side's FIN. As many bytes before it are not in the capture, and the sender has not acknowledged them.
    UnseenBeforeFin(u32),
    /// What came after the sender's FIN is a farewell: nobody has to read it.
    LateFarewell(Farewell),
    /// Both sides had sent FIN.
    BothClosed,
    /// The default of `tcp_fin_timeout`, 60 s, had passed since the FIN.
    FinTimeoutPassed,
    /// The default of `tcp_fin_timeout` had not passed since the FIN.
    SoonerThanFinTimeout,
    /// The capture lacks part of the connection.
    LacksPart,
    /// The reset's sequence number is so far beyond what the capture holds of its sender.
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
    /// The TTLs differ, but not the number of hops to the next initial value (32, 64, 128 or 255): a program on the same host
    /// sets its own TTL. Also if the usual TTL is 1, as BGP speakers have it.
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
    /// Nothing else in the packets shows another sender.
    TtlAlone,
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
    /// An RST+ACK of the same sender stands behind this bare reset, and was sent before it.
    OwnResetBehind,
    /// The reset came sooner than its sender can have answered.
    TooSoon {
        /// After the packet it answers, in microseconds.
        after_us: u64,
        /// The sender's quickest answer, in microseconds.
        round_trip_us: u64,
    },
    /// So many resets of the sender's own accord, with numbers ahead of each other.
    SeveralOfItsOwn {
        /// How many, the first one included.
        count: u16,
        /// How far the last number is from the first one.
        furthest: u32,
    },
    /// Both sides had agreed on timestamps, and this reset of its own accord has none.
    LacksTimestamps {
        /// Whether the sender's SYN has the options of Linux, which puts timestamps on such a reset.
        linux: bool,
    },
    /// A bare RST with a window other than 0, by a sender whose SYN has the options of Linux, which answers with a window of 0.
    WindowInAnswer {
        /// The window.
        window: u16,
    },
    /// The reset acknowledges bytes sooner than its sender can have had them.
    AcknowledgesTooSoon {
        /// After those bytes, in microseconds.
        after_us: u64,
        /// The sender's quickest answer, in microseconds.
        round_trip_us: u64,
    },
    /// What Multipath TCP says in the reset.
    MptcpEnded(MptcpEnd),
    /// The reset's checksum is wrong, and that of the sender's SYN is right.
    WrongChecksum,
    /// The sender's last keepalive probes have answers in this capture, and it reset as if there were none.
    BeatsAnsweredHere {
        /// How many.
        count: u16,
        /// The shortest and the longest pause between two of them, or the last one and the reset, in milliseconds.
        pauses_ms: (u64, u64),
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
    /// All that was left unacknowledged of a side is its farewell.
    OnlyFarewellLeft(Party, Farewell),
    /// The last record of this side is a TLS alert in clear, of this description.
    Alert(Party, u8),
    /// The name that the client's ClientHello asks for.
    ServerName(String),
    /// HTTP: the client's last request and the server's last response.
    Request {
        /// Its method.
        method: &'static str,
        /// The Host of the connection's first request.
        host: Option<String>,
        /// The status of the server's last response, if there is one.
        status: Option<u16>,
    },
    /// HTTP: the response was not finished.
    ResponseOpen,
    /// HTTP: bytes of the response that the client has not acknowledged, by its Content-Length.
    ResponseShort(u64),
    /// TLS: bytes that the client has not acknowledged of the server's last record; the record's beginning it has acknowledged.
    RecordShort(u64),
    /// TLS: bytes that the client has not acknowledged, up to the end of the server's last record: at least one whole record.
    RecordsShort(u64),
    /// So many bytes of the server's last frame of HTTP/2 or WebSocket were not acknowledged.
    FrameShort(Framed, u64),
    /// FastCGI: END_REQUEST was sent.
    EndRequest,
    /// FastCGI: END_REQUEST was not sent.
    NoEndRequest,
    /// SSH: the server had sent its banner.
    SshBanner,
    /// HTTP: the request got no response.
    NoResponse,
    /// No data was sent, neither new nor again, for this long before the reset, or before the packet that it answers.
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
    /// The frame, the first SYN-ACK, came after several SYNs.
    OpenedLate {
        /// How many SYNs.
        count: u16,
        /// From the first SYN to the SYN-ACK.
        nanoseconds: u64,
    },
    /// So many connections of the port opened late: three SYNs or more over 1.8 s or more went before the SYN-ACK.
    PortOpenedLate(u32),
    /// Within ten seconds so many connections of the port were accepted.
    PortCrowded {
        /// Those that were accepted at a repeated SYN only.
        again: u32,
        /// Those that were accepted at the first SYN.
        at_first: u32,
        /// Of the latter those that sent their first data three times, or got another SYN-ACK, before they were heard.
        unheard: u32,
    },
    /// The port answered others while two SYNs or more of one of its connections went unanswered.
    ServedOthersMeanwhile,
    /// So many connections of the port were opened before, their clients sent data, and neither a byte nor a FIN came back.
    PortHolds(u32),
    /// The host acknowledged something on one of those connections after the first of these SYNs.
    HostHeardMeanwhile,
    /// An ICMP error about the connection's segments.
    Icmp {
        /// What it says.
        problem: IcmpProblem,
        /// Who sent it.
        reporter: IpAddr,
    },
    /// The server's FIN came so many bytes before the end of the response, by its Content-Length.
    ClosedShort(u64),
    /// The server's FIN came before the last chunk.
    ClosedInChunks,
    /// The server's FIN came so many bytes before the end of a TLS record.
    RecordCut(u64),
    /// The server's FIN came so many bytes before the end of a frame of HTTP/2 or WebSocket.
    FrameCut(Framed, u64),
    /// The server's FIN came within the head of a response.
    ClosedInHead,
    /// FastCGI: the FIN came before END_REQUEST.
    ClosedBeforeEndRequest,
    /// The server's FIN came before the request was whole: so many bytes of it were still to come.
    RequestCut(u64),
    /// The server's FIN came before the last chunk of the request.
    RequestCutInChunks,
    /// The server's FIN came in place of a response to a whole request.
    ClosedUnanswered,
    /// The frame is the client's FIN, sent before the server's.
    ClientClosedFirst,
    /// The next request, of so many bytes, crossed the server's FIN, and every one before had its response.
    CrossedByRequest(u32),
    /// No data was sent for this long before the server's FIN.
    RestedBeforeFin {
        /// The silence.
        nanoseconds: u64,
    },
    /// The window of this finding's sender stayed closed, and was asked for.
    WindowStuck {
        /// Window probes among the packets that are kept.
        probes: u16,
        /// From the first of the kept packets that announces the closed window to the last packet.
        nanoseconds: u64,
    },
    /// The first segment that is not acknowledged was sent again. The numbers are those of the packets that are kept.
    SentAgain {
        /// Bytes of the longest of them.
        bytes: u32,
        /// How many.
        count: u16,
        /// From the first to the last.
        nanoseconds: u64,
    },
    /// No segment of this side with as many bytes was ever acknowledged.
    NoneSoLongTaken {
        /// Bytes of the lost segment.
        bytes: u32,
    },
    /// Bytes beyond the lost segment were acknowledged selectively, in pieces that are shorter than it.
    ShorterTaken {
        /// How many, all together.
        bytes: u32,
    },
    /// HTTP/2: the frame holds this side's latest GOAWAY.
    GoAway {
        /// Who sent it.
        party: Party,
        /// Its error code.
        error: u32,
        /// Its last stream.
        last: u32,
        /// Its debug data, if that is printable; of a long text the beginning.
        debug: Option<String>,
    },
    /// HTTP/2: this side has ended streams of the client by RST_STREAM, before the server had sent END_STREAM; those that
    /// the server's GOAWAY had declined before are left out. The frame holds the first of these.
    StreamsReset {
        /// Who sent it.
        party: Party,
        /// The error code.
        error: u32,
        /// The streams.
        streams: StreamList,
    },
    /// HTTP/2: what became of streams that are not over.
    Streams {
        /// What.
        fate: StreamFate,
        /// All streams of which that is true.
        streams: StreamList,
    },
    /// HTTP/2: the client has opened so many streams, and has acknowledged the END_STREAM of each response.
    StreamsWhole(u32),
    /// HTTP/2: which streams are over is not known, because bytes of this side are missing, out of order, or no frames.
    StreamsUnknown(Party),
    /// What another capture of the same connection shows.
    OtherView(String),
    /// The tags and tunnels around the packet.
    SentIn(String),
    /// The frame is in another file of the series.
    InFile {
        /// What the frame shows.
        says: Box<Claim>,
        /// The file.
        file: String,
    },
}
