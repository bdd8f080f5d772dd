//! What is said of each act.

use std::fmt::Write as _;

use super::act::{Backlogged, CROWD, Causes, QUEUE, Theatre, Uploads};
use super::cast::{BYTES, Gateway};
use crate::lab::look::in_words;
use crate::lines::{StoryBacklog, StoryUploads};

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
    let short: Vec<&str> = names(served, |served| served.is_short());
    let title = match short.len() {
        0 => "No loss here: whatever the application wrote has arrived".to_owned(),
        some if some == served.len() => {
            "The loss: the application wrote every answer, and what arrived is less".to_owned()
        }
        _ => format!("The loss: behind {} less arrived than the application wrote", short.join(", ")),
    };
    let mut text = format!("\n1. {title}\n\n");
    let _ = writeln!(
        text,
        "   {:<16} {:>22} {:>12} {:>17} {:>32}",
        "gateway", "bytes that came", "ab: failed", "its log: resets", "the application's kernel: aborts"
    );
    for (gateway, served) in served {
        let came = format!("{} of {}", served.got, served.expected);
        let failed = served.failed.map_or_else(|| "-".to_owned(), |failed| failed.to_string());
        let logged = if *gateway == Gateway::Absent { "-".to_owned() } else { served.logged.to_string() };
        let aborts = format!("{} of {}", served.aborts(), served.requests);
        let _ = writeln!(text, "   {:<16} {came:>22} {failed:>12} {logged:>17} {aborts:>32}", gateway.name());
    }
    // It compares lengths: what it was told of the others is how many answers were cut at least.
    let spares =
        |served: &Uploads| served.is_short() && served.failed.is_some_and(|failed| failed < served.aborts());
    if served.iter().any(|(_, served)| spares(served)) {
        text.push_str(
            "   ab takes the length of the first answer for the right one, so it calls fewer failed.\n",
        );
    }
    let is_silent = |gateway: Gateway, served: &Uploads| {
        gateway != Gateway::Absent && served.is_short() && served.logged == 0
    };
    for (gateway, _) in served.iter().filter(|(gateway, served)| is_silent(*gateway, served)) {
        let _ = writeln!(text, "   {}'s log has no word of it.", gateway.name());
    }
    text
}

/// The second act.
pub(super) fn cause(served: &[(Gateway, Uploads)]) -> String {
    let aborts: u64 = served.iter().map(|(_, served)| served.aborts()).sum();
    let title = if aborts > 0 {
        "The cause"
    } else {
        "No cause to look for: the application's kernel aborted nothing"
    };
    let mut text = format!("\n2. {title}: the same connections, counted three times\n\n");
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
        let counts =
            [Some(served.aborts()), Some(total(&served.causes)), served.watched.as_ref().ok().map(total)];
        if aborts > 0 && counts.iter().flatten().any(|count| *count != served.aborts()) {
            text.push_str("     They do not agree: one of them has seen what another has not.\n");
        }
    }
    let is_open = |served: &Uploads| {
        served.unread > 0 && served.causes.keys().any(|cause| cause.starts_with("unknown"))
    };
    if served.iter().any(|(_, served)| is_open(served)) {
        text.push_str("   On the wire a close with unread data looks like an abort: there `why` says which of them it may be");
        let has_watched = served.iter().all(|(_, served)| served.watched.is_ok());
        text.push_str(if has_watched {
            ", and `watch`, which asks the\n   kernel, says which it was.\n"
        } else {
            ".\n"
        });
    }
    text
}

/// The third act.
pub(super) fn cure(bare: &[(Gateway, Uploads)], served: &[(Gateway, Uploads)]) -> String {
    let short = names(served, |served| served.is_short());
    let title = if !short.is_empty() {
        format!("Not cured behind {}: the same application under `linger run`", short.join(", "))
    } else if bare.iter().any(|(_, bare)| bare.is_short()) {
        "The cure: the same application under `linger run`, which half-closes, reads what still comes, and closes then"
            .to_owned()
    } else {
        "Nothing to cure: the same application under `linger run`".to_owned()
    };
    let mut text = format!("\n3. {title}\n\n");
    for (gateway, served) in served {
        let _ = writeln!(
            text,
            "   {:<16} {:>22}   aborts {}",
            gateway.name(),
            format!("{} of {} bytes", served.got, served.expected),
            served.aborts()
        );
    }
    text
}

/// The fourth act.
pub(super) fn backlog(queue: &Backlogged) -> String {
    let was_reset = queue.said.keys().any(|said| said.contains("reset"));
    let title = if was_reset { "The same words from another cause" } else { "A short queue" };
    let mut text =
        format!("\n4. {title}: {CROWD} clients at once, a backlog of {QUEUE}, tcp_abort_on_overflow\n\n");
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
    text.push_str(match (was_reset, queue.overflows > 0) {
        (true, true) => "   A reset before any byte of an answer: look at the backlog first. No other close would have helped.\n",
        (false, true) => "   Their systems tried again, and nobody was reset: it took longer, and no close had a part in it.\n",
        (true, false) => "   The queue had room: these resets have another cause.\n",
        (false, false) => "   The queue had room, and nobody was reset.\n",
    });
    text
}

/// The line of one gateway's uploads.
pub(super) fn uploads(gateway: Gateway, served: &Uploads, cured: bool) -> StoryUploads {
    StoryUploads {
        gateway: gateway.name(),
        cured,
        requests: served.requests,
        expected_bytes: served.expected,
        got_bytes: served.got,
        client_failed: served.failed,
        gateway_log_resets: (gateway != Gateway::Absent).then_some(served.logged),
        closed_with_unread_data: served.unread,
        data_after_close: served.late,
        why: served.causes.clone(),
        watch: served.watched.as_ref().ok().cloned(),
        watch_refused: served.watched.as_ref().err().cloned(),
    }
}

/// The line of the short queue.
pub(super) fn queue(queue: &Backlogged) -> StoryBacklog {
    let Backlogged { said, overflows, causes } = queue;
    StoryBacklog {
        clients: CROWD,
        backlog: QUEUE,
        said: said.clone(),
        overflows: *overflows,
        why: causes.clone(),
    }
}

fn names(served: &[(Gateway, Uploads)], which: impl Fn(&Uploads) -> bool) -> Vec<&'static str> {
    served.iter().filter(|(_, served)| which(served)).map(|(gateway, _)| gateway.name()).collect()
}

fn total(causes: &Causes) -> u64 {
    causes.values().sum()
}

fn by_cause(causes: &Causes) -> String {
    if causes.is_empty() {
        return "no failed connection".to_owned();
    }
    causes.iter().map(|(cause, count)| format!("{count} {cause}")).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(got: u64, unread: u64, late: u64) -> Uploads {
        let causes = [("unknown (possible)", unread), ("data-after-close (likely)", late)];
        let causes: Causes = causes
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(cause, count)| (cause.to_owned(), count))
            .collect();
        Uploads {
            requests: 100,
            expected: 6_700_000,
            got,
            failed: Some(0),
            logged: 0,
            unread,
            late,
            watched: Ok(causes.clone()),
            causes,
        }
    }

    const WHOLE: u64 = 6_700_000;

    #[test]
    fn a_loss_is_claimed_where_bytes_are_missing() {
        let text = loss(&[(Gateway::Nginx, served(9, 40, 60)), (Gateway::Httpd, served(WHOLE, 0, 0))]);
        assert!(text.starts_with("\n1. The loss: behind nginx less arrived"), "{text}");
        assert!(
            text.contains("ab takes the length") && text.contains("nginx's log has no word of it."),
            "{text}"
        );
        assert!(!text.contains("httpd's log"), "{text}");
        let text = loss(&[(Gateway::Nginx, Uploads { failed: Some(100), logged: 100, ..served(9, 40, 60) })]);
        assert!(text.starts_with("\n1. The loss: the application wrote every answer"), "{text}");
        assert!(!text.contains("ab takes") && !text.contains("no word"), "{text}");
        // A server that closes well in the place of uWSGI.
        let text = loss(&[(Gateway::Nginx, served(WHOLE, 0, 0))]);
        assert!(text.starts_with("\n1. No loss here") && !text.contains("ab takes"), "{text}");
    }

    #[test]
    fn a_cause_is_told_where_something_was_aborted() {
        let text = cause(&[(Gateway::Nginx, served(9, 40, 60))]);
        assert!(text.starts_with("\n2. The cause: ") && text.contains("says which it was."), "{text}");
        assert!(!text.contains("do not agree"), "{text}");
        let unwatched = Uploads { watched: Err("no rights".to_owned()), ..served(9, 40, 60) };
        let text = cause(&[(Gateway::Nginx, unwatched)]);
        assert!(text.contains("which of them it may be.\n") && !text.contains("says which it was"), "{text}");
        assert!(text.contains("cannot watch: no rights") && !text.contains("do not agree"), "{text}");
        let blind = Uploads { watched: Ok(Causes::new()), ..served(9, 0, 60) };
        let text = cause(&[(Gateway::Nginx, blind)]);
        assert!(text.contains("do not agree") && !text.contains("looks like an abort"), "{text}");
        let text = cause(&[(Gateway::Nginx, served(WHOLE, 0, 0))]);
        assert!(text.starts_with("\n2. No cause to look for") && !text.contains("looks like"), "{text}");
    }

    #[test]
    fn a_cure_is_claimed_where_something_was_lost_and_nothing_is() {
        let title = |bare, cured| {
            let text =
                cure(&[(Gateway::Nginx, served(bare, 0, 0))], &[(Gateway::Nginx, served(cured, 0, 0))]);
            text.lines().nth(1).unwrap().to_owned()
        };
        assert!(title(9, WHOLE).starts_with("3. The cure: "));
        assert!(title(WHOLE, WHOLE).starts_with("3. Nothing to cure: "));
        assert!(title(9, 9).starts_with("3. Not cured behind nginx: "));
    }

    #[test]
    fn a_queue_is_blamed_for_resets_where_it_overflowed() {
        let told = |said: &str, overflows| {
            let said = [(said.to_owned(), 3)].into_iter().collect();
            backlog(&Backlogged { said, overflows, causes: None })
        };
        let text = told("Recv failure: Connection reset by peer", 3);
        assert!(text.contains("4. The same words") && text.contains("look at the backlog first"), "{text}");
        let text = told("200 whole", 3);
        assert!(text.contains("4. A short queue") && text.contains("Their systems tried again"), "{text}");
        assert!(told("reset, or no answer", 0).contains("these resets have another cause"));
        assert!(told("200 whole", 0).contains("The queue had room, and nobody was reset"));
    }
}
