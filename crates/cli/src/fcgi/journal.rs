//! What `linger fcgi serve` tells: the access log on standard output, and on standard error what keeps gateways waiting.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use linger_fastcgi::conversation::RequestEnd;
use linger_fastcgi::journal::{Incident, Journal, ServedRequest};
use linger_untrusted::Untrusted;

use crate::output::{Stdout, Stopped, say};

/// Most lines that wait for standard output. Whoever reads it too slowly keeps no request waiting: lines beyond these are counted.
const WAITING: usize = 4096;

/// Counts, and passes lines on.
#[derive(Debug, Default)]
pub(super) struct ServeJournal {
    access: Option<SyncSender<String>>,
    unwritten: AtomicU64,
    evicted: AtomicU64,
    too_slow: AtomicU64,
    turned_away: AtomicU64,
}

/// How long the end of the program waits for standard output.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Pause between two tries to write where standard output refuses: a disk that is full.
const PAUSE: Duration = Duration::from_millis(100);

/// Writes the access log, and tells how that ended.
pub(super) struct AccessLog {
    told: Receiver<Result<(), Stopped>>,
    is_ending: Arc<AtomicBool>,
}

impl ServeJournal {
    /// A journal without an access log.
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A journal, and the thread that writes its access log to standard output.
    ///
    /// # Errors
    /// Returns an error if no thread can be started.
    pub(super) fn with_access_log() -> io::Result<(Arc<Self>, AccessLog)> {
        let (access, lines) = sync_channel(WAITING);
        let (tell, told) = sync_channel(1);
        let is_ending = Arc::new(AtomicBool::new(false));
        let ends = is_ending.clone();
        let writer = move || drop(tell.send(write(&lines, &ends)));
        thread::Builder::new().name("access-log".into()).spawn(writer)?;
        let journal = Self { access: Some(access), ..Self::default() };
        Ok((Arc::new(journal), AccessLog { told, is_ending }))
    }

    /// Says what was counted, and ends the access log.
    pub(super) fn end(self: Arc<Self>) {
        let Self { unwritten, evicted, too_slow, turned_away, .. } = &*self;
        for (count, what) in [
            (evicted, "connections without a request were ended for others"),
            (too_slow, "connections were ended because their gateway sent too slowly"),
            (turned_away, "connections came from addresses that may not connect"),
            (unwritten, "lines of the access log were left out: standard output takes no more"),
        ] {
            let count = count.load(Relaxed);
            if count > 0 {
                say!("{count} {what}");
            }
        }
    }
}

impl AccessLog {
    /// Waits until all lines are written, for a moment. Call this when nobody has the journal any more.
    pub(super) fn end(self) -> Result<(), Stopped> {
        self.is_ending.store(true, Relaxed);
        self.told.recv_timeout(LAST_LINES).unwrap_or_else(|_| {
            say!("the last lines of the access log were left out: standard output takes no more");
            Ok(())
        })
    }
}

impl Journal for ServeJournal {
    fn served(&self, request: &ServedRequest) {
        if let Some(access) = &self.access
            && access.try_send(line(request)).is_err()
        {
            self.unwritten.fetch_add(1, Relaxed);
        }
    }

    fn noted(&self, notice: &Incident<'_>) {
        let count = match notice {
            Incident::CannotAccept(error) => {
                say!(
                    "cannot accept connections: {error}; new ones wait (raise the limit of descriptors: `ulimit -n`, LimitNOFILE)"
                );
                return;
            }
            Incident::AcceptsAgain { after } => {
                say!("accepts connections again, after {:.1} s", after.as_secs_f64());
                return;
            }
            Incident::Evicted => &self.evicted,
            Incident::TooSlow => &self.too_slow,
            Incident::TurnedAway(_) => &self.turned_away,
            _ => return,
        };
        count.fetch_add(1, Relaxed);
    }
}

/// Writes lines until there will be no more, or nobody reads standard output.
fn write(lines: &Receiver<String>, is_ending: &AtomicBool) -> Result<(), Stopped> {
    let mut out = Stdout::new();
    while let Ok(line) = lines.recv() {
        patiently(is_ending, || out.text(format_args!("{line}")))?;
        while let Ok(line) = lines.try_recv() {
            patiently(is_ending, || out.text(format_args!("{line}")))?;
        }
        patiently(is_ending, || out.flush())?;
    }
    Ok(())
}

/// Writes, again and again where the system refuses, until it does not, or the program ends. A write that failed has lost nothing: what it
/// was to write stays in its buffer.
fn patiently(is_ending: &AtomicBool, mut write: impl FnMut() -> Result<(), Stopped>) -> Result<(), Stopped> {
    let mut is_told = false;
    loop {
        match write() {
            Err(Stopped::Failed(error)) if !is_ending.load(Relaxed) => {
                if !std::mem::replace(&mut is_told, true) {
                    say!(
                        "cannot write the access log: {error}; the newest lines wait, and more are left out"
                    );
                }
                thread::sleep(PAUSE);
            }
            Ok(()) if is_told => {
                say!("writes the access log again");
                return Ok(());
            }
            done => return done,
        }
    }
}

/// A word of a line; `-` for what is not there.
struct Word<'a>(&'a [u8]);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("-") } else { write!(f, "{}", Untrusted::from(self.0).plain()) }
    }
}

/// The time, who, what, and what came of it: nine words.
fn line(request: &ServedRequest) -> String {
    let ServedRequest { client, method, target, body_bytes, response_bytes, time, .. } = request;
    let status = request.status.map_or("-".to_owned(), |status| status.to_string());
    let end = match request.end {
        _ if !request.is_sent => "unsent",
        RequestEnd::Complete(_) => "complete",
        RequestEnd::Refused => "failed",
        RequestEnd::Bare => "aborted",
        _ => "cut",
    };
    format!(
        "{} {} {} {} {status} {response_bytes} {body_bytes} {:.3} {end}\n",
        humantime::format_rfc3339_millis(SystemTime::now()),
        Word(client),
        Word(method),
        Word(target),
        time.as_secs_f64(),
    )
}
