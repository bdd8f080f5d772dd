//! A server that is told to reload, and what it says then of requests on connections that it has kept.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;

use linger_probe::{Check, CheckAnswer, CheckFinding, ReloadBy};
use linger_testing::sandboxed;

use super::{
    BODY, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, NO_ERROR, RST_STREAM, SETTINGS, frame, http2,
};
use crate::common::{ask, close_well};

/// What it does with a request on a kept connection once it has been told.
#[derive(Clone, Copy)]
enum OnceTold {
    /// GOAWAY: it has worked on the streams before this one.
    GivesBack,
    /// GOAWAY: it has worked on this one, too. It has not.
    Drops,
    /// The stream is reset with this code.
    Resets(u32),
}

/// Reads to the head of the next request. Returns its stream.
fn next_request(stream: &mut TcpStream) -> Option<u32> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        std::io::copy(&mut (&mut *stream).take(length.into()), &mut std::io::sink()).ok()?;
        if head[3] == HEADERS {
            return Some(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
}

fn response(stream: u32) -> Vec<u8> {
    let mut frames = frame(HEADERS, END_HEADERS, stream, &[0x88]);
    for piece in vec![b'r'; BODY].chunks(16_384) {
        frames.extend(frame(DATA, 0, stream, piece));
    }
    frames.extend(frame(DATA, END_STREAM, stream, &[]));
    frames
}

fn serve_connection(stream: &mut TcpStream, told: &Path, once_told: OnceTold, met: &AtomicU32) {
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).is_err() || stream.write_all(&frame(SETTINGS, 0, 0, &[])).is_err() {
        return;
    }
    let is_old = !told.exists();
    while let Some(number) = next_request(stream) {
        if !is_old || !told.exists() {
            if stream.write_all(&response(number)).is_err() {
                return;
            }
            continue;
        }
        met.fetch_add(1, SeqCst);
        let goaway = |last: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), NO_ERROR.to_be_bytes()].concat());
        let says = match once_told {
            OnceTold::GivesBack => goaway(number.saturating_sub(2)),
            OnceTold::Drops => goaway(number),
            OnceTold::Resets(code) => frame(RST_STREAM, 0, number, &code.to_be_bytes()),
        };
        let _ = stream.write_all(&says);
        close_well(stream);
        return;
    }
}

/// Asks about a reload, of which the server hears by a file. Returns also how many requests met what it says then.
fn reloads(once_told: OnceTold) -> (CheckFinding, u32) {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let met = Arc::new(AtomicU32::new(0));
    let (file, count) = (told.clone(), met.clone());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, file, count) = (stream.unwrap(), file.clone(), count.clone());
            thread::spawn(move || serve_connection(&mut stream, &file, once_told, &count));
        }
    });
    let mut config = http2(&[Check::Reload]);
    config.reload = Some(ReloadBy::Command(format!("touch {}", told.display())));
    let found = ask(&url, &config).unwrap().findings.remove(0);
    (found, met.load(SeqCst))
}

#[test]
fn a_request_that_is_given_back_at_a_reload_is_made_again_and_one_that_is_dropped_is_lost() {
    sandboxed(|| {
        for gives_back in [OnceTold::GivesBack, OnceTold::Resets(7)] {
            let (kept, met) = reloads(gives_back);
            let counts = kept.reload.unwrap();
            assert_eq!(
                (kept.answer, counts.during.lost + counts.after.lost),
                (CheckAnswer::Keeps, 0),
                "{kept:#?}"
            );
            assert!(met > 0 && counts.before.kept > 0 && counts.after.kept > 0, "{met} {counts:?}");
        }
        // One field away: the last stream that it names; the code.
        for drops in [OnceTold::Drops, OnceTold::Resets(8)] {
            let (lost, met) = reloads(drops);
            let counts = lost.reload.unwrap();
            assert!(lost.answer.is_fault() && lost.answer != CheckAnswer::Refuses, "{lost:#?}");
            let missed =
                counts.during.lost + counts.after.lost + counts.during.at_risk + counts.after.at_risk;
            assert!(met > 0 && missed == met, "{met} {counts:?}");
            assert_eq!((counts.before.lost, counts.before.at_risk), (0, 0));
        }
    });
}
