//! Over HTTP/2: servers that are played here frame by frame, both verdicts of each, and targets that speak something else.

mod common;
mod given_back;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::{ask, close_well, config, quiet, respond, serve};
use linger_probe::{
    Check, CheckAnswer, CheckFinding, ConnectionEnd, Doubt, ProbeConfig, ProbeError, QUIET, Verdict,
};
use linger_testing::sandboxed;

const BODY: usize = 100_000;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const INTERNAL_ERROR: u32 = 2;
const CANCEL: u32 = 8;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = length[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

/// The settings, and a head of status 200 (HPACK's static table, index 8) and a length (index 28, RFC 7541 section 6.2.2).
fn head(length: usize) -> Vec<u8> {
    let length = length.to_string();
    let mut fields = vec![0x88, 0x0f, 0x0d, u8::try_from(length.len()).unwrap()];
    fields.extend(length.as_bytes());
    [frame(SETTINGS, 0, 0, &[]), frame(HEADERS, END_HEADERS, 1, &fields)].concat()
}

/// A body of so many bytes, whose last frame ends the stream if `end`.
fn body(length: usize, end: bool) -> Vec<u8> {
    let body = vec![b'r'; length];
    let mut frames: Vec<Vec<u8>> = body.chunks(16_384).map(|piece| frame(DATA, 0, 1, piece)).collect();
    if end {
        frames.push(frame(DATA, END_STREAM, 1, &[]));
    }
    frames.concat()
}

fn whole() -> Vec<u8> {
    [head(BODY), body(BODY, true)].concat()
}

fn reset(code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, 1, &code.to_be_bytes())
}

fn goaway(code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[1u32.to_be_bytes(), code.to_be_bytes()].concat())
}

/// Reads the preface (24 bytes, RFC 9113 section 3.4) and frames to the request's head.
fn request(stream: &mut TcpStream) {
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).is_err() {
        return;
    }
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let _ = std::io::copy(&mut (&mut *stream).take(length.into()), &mut std::io::sink());
        if head[3] == HEADERS {
            return;
        }
    }
}

#[derive(Clone, Copy)]
enum Leaving {
    Well,
    /// A close that resets.
    Abort,
    Never,
}

/// Answers the plain request well, and every other one with `frames`. Returns the URL.
fn plays(frames: Vec<u8>, end: Leaving) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (mut stream, frames) = (stream.unwrap(), frames.clone());
            thread::spawn(move || {
                request(&mut stream);
                let (frames, end) = if number == 0 { (whole(), Leaving::Well) } else { (frames, end) };
                let _ = stream.write_all(&frames);
                match end {
                    Leaving::Well => _ = close_well(&mut stream),
                    Leaving::Abort => {
                        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                    }
                    Leaving::Never => _ = std::io::copy(&mut stream, &mut std::io::sink()),
                }
            });
        }
    });
    url
}

fn http2(only: &[Check]) -> ProbeConfig {
    let mut config = config(only);
    (config.http2, config.repeat) = (true, 1);
    config.patience = Duration::from_secs(3);
    config
}

/// What an upload that is answered with `frames` comes to.
fn upload(frames: Vec<u8>, end: Leaving) -> CheckFinding {
    let url = plays(frames, end);
    ask(&url, &http2(&[Check::UploadInProgress])).unwrap().findings.remove(0)
}

fn found(finding: &CheckFinding) -> (CheckAnswer, Option<Verdict>, Option<ConnectionEnd>) {
    (finding.answer, finding.verdict, finding.ended)
}

const KEPT: (CheckAnswer, Option<Verdict>) = (CheckAnswer::Keeps, Some(Verdict::Kept));
const AT_RISK: (CheckAnswer, Option<Verdict>) = (CheckAnswer::AtRisk, Some(Verdict::AtRisk));
const LOST: (CheckAnswer, Option<Verdict>) = (CheckAnswer::Loses, Some(Verdict::Lost));

/// Checks what is found, the end included, and what the sentence says.
fn expect(
    finding: &CheckFinding,
    (answer, verdict): (CheckAnswer, Option<Verdict>),
    ended: ConnectionEnd,
    says: &str,
) {
    assert_eq!(found(finding), (answer, verdict, Some(ended)), "{}", finding.sentence);
    assert!(finding.sentence.contains(says), "{}", finding.sentence);
}

#[test]
fn a_stream_may_be_reset_without_error_behind_a_complete_response_and_not_before() {
    sandboxed(|| {
        let kept = upload([whole(), reset(NO_ERROR)].concat(), Leaving::Never);
        expect(&kept, KEPT, ConnectionEnd::Open, "all 100000 bytes arrived");
        assert_eq!((kept.got, kept.expected, kept.status), (100_000, Some(100_000), Some(200)));
        // One field away each: the code, the frame that ends the response, the number of bytes.
        let code = upload([whole(), reset(CANCEL)].concat(), Leaving::Never);
        expect(&code, AT_RISK, ConnectionEnd::StreamReset, "reset the stream (CANCEL)");
        let end = upload([head(BODY), body(BODY, false), reset(NO_ERROR)].concat(), Leaving::Never);
        expect(&end, LOST, ConnectionEnd::StreamReset, "reset the stream (NO_ERROR)");
        let bytes = upload([head(BODY), body(BODY / 2, false), reset(NO_ERROR)].concat(), Leaving::Never);
        expect(&bytes, LOST, ConnectionEnd::StreamReset, "50000 of 100000 bytes arrived before");
    });
}

#[test]
fn a_server_that_leaves_in_order_keeps_and_one_that_leaves_with_an_error_does_not() {
    sandboxed(|| {
        let kept = upload([whole(), goaway(NO_ERROR)].concat(), Leaving::Well);
        expect(&kept, KEPT, ConnectionEnd::Closed, "closed in order");
        let error = upload([whole(), goaway(INTERNAL_ERROR)].concat(), Leaving::Well);
        expect(&error, AT_RISK, ConnectionEnd::StreamReset, "INTERNAL_ERROR");
        let cut = upload([head(BODY), body(BODY / 2, false), goaway(NO_ERROR)].concat(), Leaving::Well);
        let silently = (CheckAnswer::LosesSilently, Some(Verdict::Lost));
        expect(&cut, silently, ConnectionEnd::Closed, "50000 of 100000 bytes arrived");
    });
}

#[test]
fn a_reset_of_the_connection_loses_what_is_on_its_way() {
    sandboxed(|| {
        let url = plays(whole(), Leaving::Abort);
        let report = ask(&url, &http2(&[Check::LargeResponse])).unwrap();
        assert_eq!((report.protocol, report.framing), ("HTTP/2", "end-stream"));
        expect(&report.findings[0], LOST, ConnectionEnd::Reset, "before the server reset the connection");
        assert!(report.findings[0].counters.get("OutRsts").is_some_and(|count| *count > 0));
        // One field away: the same bytes, and a close that reads on.
        let report = ask(&plays(whole(), Leaving::Well), &http2(&[Check::LargeResponse])).unwrap();
        assert_eq!((report.findings[0].answer, report.findings[0].verdict), KEPT, "{report:#?}");
        assert!(report.findings[0].counters.is_empty(), "{:?}", report.findings[0].counters);
    });
}

/// Refuses each upload with a response whose end comes when the upload has ended; and resets the stream if it ends short of
/// `announced` bytes, as h2 does, unless `lenient`.
fn refuses(announced: usize, lenient: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            request(&mut stream);
            if number == 0 {
                let _ = stream.write_all(&whole());
                close_well(&mut stream);
                continue;
            }
            // `:status: 413` with the static table's name at index 8.
            let fields = [&[0x08, 3][..], b"413", &[0x0f, 0x0d, 4], b"1000"].concat();
            let window = (10u32 << 20).to_be_bytes();
            let opening = [
                frame(SETTINGS, 0, 0, &[]),
                frame(WINDOW_UPDATE, 0, 0, &window),
                frame(WINDOW_UPDATE, 0, 1, &window),
                frame(HEADERS, END_HEADERS, 1, &fields),
                body(500, false),
            ];
            let _ = stream.write_all(&opening.concat());
            let mut came = 0;
            loop {
                let mut head = [0; 9];
                if stream.read_exact(&mut head).is_err() {
                    break;
                }
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let _ = std::io::copy(&mut (&mut stream).take(length.into()), &mut std::io::sink());
                came += if head[3] == DATA { length as usize } else { 0 };
                if head[3] == DATA && head[4] & END_STREAM != 0 {
                    break;
                }
            }
            let last = if came < announced && !lenient { reset(PROTOCOL_ERROR) } else { body(500, true) };
            let _ = stream.write_all(&last);
            close_well(&mut stream);
        }
    });
    url
}

#[test]
fn an_upload_that_ends_short_at_a_refusal_may_cost_the_response() {
    sandboxed(|| {
        let config = http2(&[Check::UploadInProgress]);
        let found = ask(&refuses(config.upload, false), &config).unwrap().findings.remove(0);
        expect(&found, LOST, ConnectionEnd::StreamReset, "500 of 1000 bytes arrived before");
        assert!(found.sentence.contains("(PROTOCOL_ERROR); it answered 413"), "{}", found.sentence);
        assert_eq!((found.trials, found.with_this_answer, found.forms.len()), (2, 1, 2), "{found:#?}");
        assert!(found.form.as_ref().is_some_and(|form| form.contains("ends short")), "{:?}", found.form);
        // One field away: the end that is short is taken for an end.
        let found = ask(&refuses(config.upload, true), &config).unwrap().findings.remove(0);
        assert_eq!((found.answer, found.verdict), KEPT, "{}", found.sentence);
        assert_eq!((found.trials, found.with_this_answer), (2, 2), "{found:#?}");
    });
}

#[test]
fn an_end_short_of_the_announced_length_is_a_silent_loss_and_no_end_a_stall() {
    sandboxed(|| {
        let short = upload([head(BODY), body(BODY - 1, true)].concat(), Leaving::Never);
        let silently = (CheckAnswer::LosesSilently, Some(Verdict::Lost));
        expect(&short, silently, ConnectionEnd::Closed, "99999 of 100000 bytes arrived");
        let endless = upload([head(BODY), body(BODY, false)].concat(), Leaving::Never);
        assert_eq!(endless.answer, CheckAnswer::Stalls, "{}", endless.sentence);
        assert_eq!(endless.ended, Some(ConnectionEnd::Silent));
    });
}

#[test]
fn what_has_no_meaning_over_http2_is_told_to_those_who_ask_it_and_to_no_others() {
    sandboxed(|| {
        let url = plays([whole(), reset(NO_ERROR)].concat(), Leaving::Never);
        let report = ask(&url, &http2(&[Check::LateByte, Check::LargeResponse])).unwrap();
        let late = report.of(Check::LateByte).unwrap();
        assert_eq!((late.answer, late.trials), (CheckAnswer::CannotTell, 0), "{}", late.sentence);
        assert_eq!(report.of(Check::LargeResponse).unwrap().answer, CheckAnswer::Keeps);
        let all = ask(&url, &http2(&[])).unwrap();
        let asked: Vec<Check> = all.findings.iter().map(|finding| finding.check).collect();
        let meant = [Check::LargeResponse, Check::UnreadBody, Check::UploadInProgress, Check::Stall];
        assert_eq!((asked, all.overall()), (meant.to_vec(), CheckAnswer::Keeps), "{:#?}", all.findings);
        // And of FastCGI nothing is asked in HTTP/2.
        let fcgi = url.replace("http://", "fcgi://");
        assert!(matches!(ask(&fcgi, &http2(&[])), Err(ProbeError::NotHttp(_))));
    });
}

#[test]
fn a_quiet_probe_keeps_its_budget_over_http2_too() {
    sandboxed(|| {
        let url = plays([whole(), reset(NO_ERROR)].concat(), Leaving::Never);
        let mut quiet = quiet(&[]);
        quiet.http2 = true;
        let report = ask(&url, &quiet).unwrap();
        assert!(report.sent_bytes <= QUIET && report.received_bytes <= QUIET, "{report:#?}");
        let upload = report.of(Check::UploadInProgress).unwrap();
        assert!(upload.left_out.is_some(), "{}", upload.sentence);
        assert_eq!(report.of(Check::UnreadBody).unwrap().answer, CheckAnswer::Keeps);
        assert_ne!(report.doubt(), Some(Doubt::Empty));
    });
}

/// Says `opening` to each client, again and again if `endless`, and reads nothing else.
fn says(opening: Vec<u8>, endless: bool, close: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            while stream.write_all(&opening).is_ok() && endless && !opening.is_empty() {}
            if !close {
                held.push(stream);
            }
        }
    });
    url
}

#[test]
fn targets_that_speak_something_else_are_named() {
    sandboxed(|| {
        let mut config = http2(&[]);
        (config.patience, config.longest) = (Duration::from_secs(1), Duration::from_secs(2));
        let began = Instant::now();
        let http1 = serve(|stream, _, _| respond(stream, "400 Bad Request", "", 5));
        let error = ask(&http1, &config).unwrap_err();
        assert!(matches!(&error, ProbeError::NotThisProtocol { http2: true, .. }), "{error}");
        assert!(error.to_string().ends_with("HTTP/1, and this asks in HTTP/2"), "{error}");
        let error = ask(&says(b"220 mail.example ESMTP\r\n".to_vec(), false, false), &config).unwrap_err();
        assert!(error.to_string().contains("it begins with `220 mail"), "{error}");
        // Nothing at all, and then the end, or not even that.
        let error = ask(&says(Vec::new(), false, true), &config).unwrap_err();
        assert!(matches!(error, ProbeError::NoAnswer { .. } | ProbeError::Connect { .. }), "{error}");
        let error = ask(&says(Vec::new(), false, false), &config).unwrap_err();
        assert!(matches!(error, ProbeError::Silent { bytes: 0, .. }), "{error}");
        // Frames without end: settings, and fields of a head that does not end.
        let settings = frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100].repeat(100));
        let error = ask(&says(settings.clone(), true, false), &config).unwrap_err();
        assert!(matches!(error, ProbeError::TooLong { .. } | ProbeError::NoAnswer { .. }), "{error}");
        let head = [settings, frame(HEADERS, 0, 1, &[0x88])].concat();
        let continued = frame(9, 0, 1, &[0x0f, 0x0d, 1, b'1'].repeat(4_000));
        let mut opening = head;
        opening.extend(continued.repeat(200));
        let error = ask(&says(opening, false, false), &config).unwrap_err();
        assert!(
            matches!(
                error,
                ProbeError::TooLong { .. } | ProbeError::NoAnswer { .. } | ProbeError::Silent { .. }
            ),
            "{error}"
        );
        assert!(began.elapsed() < Duration::from_secs(60), "each ends within its bounds");
        // The other way round: asked in HTTP/1.1, a server of HTTP/2 is recognized.
        let mut http1 = config.clone();
        http1.http2 = false;
        let error = ask(&says(frame(SETTINGS, 0, 0, &[]), false, false), &http1).unwrap_err();
        assert!(error.is_http2(), "{error}");
        let error = ask(&says(b"220 mail.example ESMTP\r\n".to_vec(), false, true), &http1).unwrap_err();
        assert!(!error.is_http2(), "{error}");
    });
}
