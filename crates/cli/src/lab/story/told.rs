//! What is said of each act.

use std::fmt::Write as _;

use super::act::{Backlogged, CROWD, Causes, QUEUE, Theatre, Uploads};
use super::cast::{BYTES, Gateway};
use crate::lab::look::in_words;

pub(super) fn opening(stage: &Theatre<'_>) -> String {
    let cast = &stage.cast;
    let gateways: Vec<&str> = cast.gateways().map(Gateway::name).collect();
    let mut text = String::new();
    if cast.is_real() {
        let _ = writeln!(
            text,
            "The application: uWSGI, which answers {BYTES} bytes to an upload of {BYTES} bytes, reads nothing of it and closes.\n\
             In front of it: {}. Between them {}. The client: ab, 100 uploads, 20 at a time.",
            gateways.join(", then "),
            in_words(&stage.link),
        );
    } else {
        let _ = writeln!(
            text,
            "The application: `linger fcgi serve --ending close`, which reads all of a request but the empty record behind it, answers {BYTES} bytes \
             and closes.\nThe client: `linger fcgi get`, 20 times. Between them {}.",
            in_words(&stage.link),
        );
    }
    for lack in &cast.lacks {
        let _ = writeln!(text, "Missing for the whole story: {lack}.");
    }
    text
}

/// The first act.
pub(super) fn loss(served: &[(Gateway, Uploads)]) -> String {
    let mut text = "\n1. The loss: every write() succeeded, and so did every close()\n\n".to_owned();
    let _ = writeln!(
        text,
        "   {:<16} {:>22} {:>12} {:>17} {:>32}",
        "gateway", "bytes that came", "ab: failed", "its log: resets", "the application's kernel: aborts"
    );
    for (gateway, served) in served {
        let came = format!("{} of {}", served.got, served.expected);
        let failed = served.failed.map_or_else(|| "-".to_owned(), |failed| failed.to_string());
        let logged = if *gateway == Gateway::Absent { "-".to_owned() } else { served.logged.to_string() };
        let aborts = format!("{} of {}", served.unread + served.late, served.requests);
        let _ = writeln!(text, "   {:<16} {came:>22} {failed:>12} {logged:>17} {aborts:>32}", gateway.name());
    }
    if served.iter().any(|(_, served)| served.failed.is_some()) {
        text.push_str(
            "   ab takes the length of the first answer for the right one, so it calls fewer failed; mod_proxy_uwsgi logs no reset.\n",
        );
    }
    text
}

/// The second act.
pub(super) fn cause(served: &[(Gateway, Uploads)]) -> String {
    let mut text = "\n2. The cause: the same connections, counted three times\n\n".to_owned();
    for (gateway, served) in served {
        let _ = writeln!(
            text,
            "   behind {}\n     the kernel      {} closed with unread data (TCPAbortOnClose), {} met data after the close (TCPAbortOnData)",
            gateway.name(),
            served.unread,
            served.late
        );
        let _ = writeln!(text, "     linger why      {}", by_cause(&served.causes));
        let _ = match &served.watched {
            Ok(causes) => writeln!(text, "     linger watch    {}", by_cause(causes)),
            Err(why) => writeln!(text, "     linger watch    cannot watch: {why}"),
        };
    }
    text.push_str(
        "   On the wire a close with unread data looks like an abort: there `why` says which of them it may be, and `watch`, which asks the\n   \
         kernel, says which it was.\n",
    );
    text
}

/// The third act.
pub(super) fn cure(served: &[(Gateway, Uploads)]) -> String {
    let mut text = "\n3. The cure: the same application under `linger run`, which half-closes, reads what still comes, and closes then\n\n".to_owned();
    for (gateway, served) in served {
        let _ = writeln!(
            text,
            "   {:<16} {:>22}   aborts {}",
            gateway.name(),
            format!("{} of {} bytes", served.got, served.expected),
            served.unread + served.late
        );
    }
    text
}

/// The fourth act.
pub(super) fn backlog(queue: &Backlogged) -> String {
    let mut text = format!(
        "\n4. The same words from another cause: {CROWD} clients at once, a backlog of {QUEUE}, tcp_abort_on_overflow\n\n"
    );
    for (said, count) in &queue.said {
        let _ = writeln!(text, "   {count:>3} of the clients: {said}");
    }
    let _ = writeln!(
        text,
        "   the kernel      {} connections found no room in the queue (ListenOverflows)",
        queue.overflows
    );
    if let Some(causes) = &queue.causes {
        let _ = writeln!(text, "   linger why      {}", by_cause(causes));
    }
    text.push_str("   A reset before any byte of an answer: look at the backlog first. No other close would have helped.\n");
    text
}

fn by_cause(causes: &Causes) -> String {
    if causes.is_empty() {
        return "no failed connection".to_owned();
    }
    causes.iter().map(|(cause, count)| format!("{count} {cause}")).collect::<Vec<_>>().join("; ")
}
