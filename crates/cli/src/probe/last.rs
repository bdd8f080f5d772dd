//! The last sentences of a report: who it is, and what to do.

use linger_probe::{
    AFFORDABLE, Check, CheckAnswer, CheckFinding, ConnectionEnd, Doubt, IdleLimit, ProbeReport, QUIET,
    Witnessed,
};

/// What to do about the answers, the most important first.
pub(crate) fn sentences(report: &ProbeReport) -> Vec<String> {
    let mut all = Vec::new();
    if report.proxy.is_some() {
        all.push(
            "What was asked is the proxy: how connections end is its doing, and what it did not get of the server shows as 502, 504 \
             or a short response. Without --proxy the server itself is asked."
                .to_owned(),
        );
    }
    let faults = || report.counting().filter(|finding| finding.answer.is_fault());
    let cut = |finding: &&CheckFinding| {
        !matches!(finding.check, Check::KeepAlive | Check::Reload)
            && matches!(finding.answer, CheckAnswer::Loses | CheckAnswer::LosesSilently | CheckAnswer::AtRisk)
    };
    if faults().any(|finding| cut(&finding)) {
        all.push(who(report));
    }
    let is_stall = |finding: &&CheckFinding| {
        finding.answer == CheckAnswer::Stalls && !matches!(finding.check, Check::Reload | Check::WebSocket)
    };
    let stalls = || faults().filter(is_stall);
    all.extend(faults().find_map(reloading));
    if faults().any(|finding| finding.check == Check::WebSocket && finding.answer == CheckAnswer::Stalls) {
        all.push(WEBSOCKET_LEFT.to_owned());
    }
    if stalls().any(|finding| finding.got == 0 && finding.status.is_none()) {
        all.push(format!(
            "In {} it gave no answer: has it stopped, or is it busy with what it was asked before?",
            names(stalls())
        ));
    } else if stalls().next().is_some() {
        all.push("It waits for bytes that the client holds back: bound the time for which it reads after its answer.".into());
    }
    let risked = report.findings.iter().filter(|finding| finding.answer.is_fault());
    let kept: Vec<String> =
        risked.filter_map(|finding| Some(kept_connections(report, finding.idle_limit?))).collect();
    if all.len() == usize::from(report.proxy.is_some())
        && let Some(doubt) = report.doubt()
    {
        all.push(doubtful(report, &doubt));
    }
    all.extend(kept);
    let unasked = names(report.findings.iter().filter(|finding| {
        finding.left_out == Some(linger_probe::LeftOut::Active) && finding.answer == CheckAnswer::CannotTell
    }));
    if !unasked.is_empty() {
        all.push(format!("Not asked of a server that others use, too: {unasked}. --active asks them."));
    }
    all
}

/// What to do about a WebSocket whose connection the server leaves open.
const WEBSOCKET_LEFT: &str = "On a WebSocket the server answers a Close frame with its own, and is then the first to close (RFC 6455 sections 5.5.1, 7.1.1).";

/// What to do about requests that are lost or refused at a reload, or at a stop.
fn reloading(finding: &CheckFinding) -> Option<String> {
    let found = finding.reload?;
    let text = match finding.answer {
        CheckAnswer::Refuses if found.after.kept == 0 => {
            "It does not come back from what was to be a reload: does it know that signal, and does its new configuration hold?"
        }
        CheckAnswer::Refuses => {
            "At a reload its listening socket should stay open: hand it to the new processes (fork, LISTEN_FDS), or let them listen beside \
             the old ones first (SO_REUSEPORT)."
        }
        CheckAnswer::AtRisk if !found.is_stop => {
            "At a reload it ends kept connections, and a request may meet that end: a client should repeat it if it is idempotent (RFC 9110 \
             section 9.2.2). A server can answer one more request first, and say `Connection: close`."
        }
        _ if found.is_stop => {
            "When it is told to stop it should close its listening socket, answer what it has accepted, and only then end: \
             `KillSignal=SIGQUIT` in systemd's unit for nginx and php-fpm, SIGWINCH for httpd."
        }
        _ => {
            "At a reload its old processes should answer what they have accepted before they end, and the listening socket should stay open: \
             for httpd that is `apachectl graceful` (SIGUSR1), for php-fpm `process_control_timeout`."
        }
    };
    Some(text.to_owned())
}

/// What to do about requests that meet the end of an idle connection.
fn kept_connections(report: &ProbeReport, idle: IdleLimit) -> String {
    let seconds = idle.seconds;
    let nginx = is_nginx(report);
    let announce = if nginx {
        "the second parameter of `keepalive_timeout`"
    } else {
        "`Keep-Alive: timeout=N`, and close half a second later or more"
    };
    let lost = if idle.lost > 0 {
        "It should look once more for a request before it closes an idle connection. "
    } else {
        ""
    };
    format!(
        "{lost}Kept connections: a client should give them up well before {seconds:.1} s, as a gateway in front of it by its own idle \
         limit, and repeat a request that met the end if it is idempotent (RFC 9110 section 9.2.2). The server can announce a \
         shorter limit than its own: {announce}."
    )
}

/// Whether it says so; behind a proxy the server does, and not what was asked.
fn is_nginx(report: &ProbeReport) -> bool {
    report.proxy.is_none() && report.server.as_ref().is_some_and(|server| server.raw().starts_with(b"nginx"))
}

/// Who cut the responses, and the remedy.
fn who(report: &ProbeReport) -> String {
    let kept = "half-close, read until the client closes or a bound is reached, then close";
    let behind = of_process(report.findings.iter().flat_map(|finding| &finding.behind));
    if let Some((name, resets)) = behind {
        let gateway =
            report.server.as_ref().map_or("the gateway".to_owned(), |server| server.plain().to_string());
        return format!(
            "{name} behind {gateway} reset {resets}: it is the one to mend. Start it as `linger run -- COMMAND`."
        );
    }
    let gateway = report.findings.iter().any(|finding| matches!(finding.status, Some(502 | 504)));
    if gateway && !matches!(report.status, Some(502 | 504)) {
        return "The gateway answered for an application whose response it did not get: probe the application itself, \
                or see it on the gateway's host with `linger watch --port GATEWAY,APPLICATION`."
            .into();
    }
    let mut faults = report.counting().filter(|finding| finding.answer.is_fault());
    if faults.all(|finding| finding.ended == Some(ConnectionEnd::StreamReset)) {
        return "It resets the stream of a request that it has not read to its end. It should read on, or send RST_STREAM with \
                NO_ERROR, and that behind the complete response only (RFC 9113 section 8.1)."
            .into();
    }
    let faults = || report.counting().filter(|finding| finding.answer.is_fault());
    if faults().all(|finding| finding.answer == CheckAnswer::LosesSilently) {
        return silent(report).into();
    }
    if faults()
        .all(|finding| finding.answer == CheckAnswer::AtRisk && finding.ended == Some(ConnectionEnd::Closed))
    {
        return "It should end TLS before it closes (close_notify), or say where a response ends: Content-Length or chunked."
            .into();
    }
    let nginx = is_nginx(report);
    let remedy = if nginx {
        "In its configuration: `lingering_close always;`.".to_owned()
    } else {
        format!("In its own code: {kept}. Without a change: `linger run -- COMMAND`.")
    };
    let faults = report.counting().filter(|finding| finding.answer.is_fault());
    match of_process(faults.flat_map(|finding| &finding.resets)) {
        Some((name, resets)) => format!("{name} reset {resets} too early. {remedy}"),
        None => format!("The server closes while bytes of the client are unread or on their way. {remedy}"),
    }
}

/// The remedy where each response that was cut ended in order.
fn silent(report: &ProbeReport) -> &'static str {
    let mut faults = report.counting().filter(|finding| finding.answer.is_fault());
    if faults.any(|finding| finding.check == Check::WebSocket) {
        return "It ends a WebSocket without a Close frame: its clients are told 1006, and not why (RFC 6455 section 7.1.5).";
    }
    if report.counting().filter(|finding| finding.answer.is_fault()).all(|one| one.check == Check::HalfClose)
    {
        return "It takes a client that has shut its sending side for one that has left, which is no matter of how it closes.";
    }
    if report.is_short {
        return "Its plain responses are short as well: what it announces is wrong, or what writes them fails. How the server \
                closes has no part in that.";
    }
    "Its responses end short and in order. A gateway passes on so what it did not get of its application: probe the \
     application itself. Otherwise what writes the response stops when a client behaves so."
}

/// The process that sent most of the resets, and how many.
fn of_process<'r>(seen: impl Iterator<Item = &'r Witnessed>) -> Option<(String, String)> {
    let mut by_process: Vec<(String, u32)> = Vec::new();
    for one in seen {
        let Some(process) = &one.process else { continue };
        let name = process.plain();
        match by_process.iter_mut().find(|(known, _)| *known == name) {
            Some((_, resets)) => *resets += one.resets,
            None => by_process.push((name, one.resets)),
        }
    }
    let (name, resets) = by_process.into_iter().max_by_key(|(_, resets)| *resets)?;
    Some((name, if resets == 1 { "1 connection".into() } else { format!("{resets} connections") }))
}

pub(super) fn doubtful(report: &ProbeReport, doubt: &Doubt) -> String {
    match doubt {
        Doubt::PlainStatus(status @ 300..400) => match &report.location {
            Some(to) => format!(
                "It redirects ({status}), which says nothing of the page itself: probe {}.",
                to.plain()
            ),
            None => format!("It answers {status} to a plain request: name a path that is answered with 200."),
        },
        Doubt::PlainStatus(status) => {
            format!(
                "It answers {status} to a plain request, which says nothing of other pages: name a path that is answered with 200."
            )
        }
        Doubt::Empty => {
            "Its response has no body of which anything could be lost: name a path with more than 64 KB."
                .into()
        }
        Doubt::OtherStatus { status, check } => {
            let why = match status {
                408 | 429 | 503 => {
                    ", as servers do that limit their clients: ask fewer questions at a time with --only"
                }
                _ => "",
            };
            format!("{check} was answered with {status}{why}.")
        }
        Doubt::OtherLength { bytes, check } => format!(
            "{check} was answered with {bytes} bytes, and the plain request with {}: name a path that has the same response \
             each time.",
            report.response_bytes
        ),
        Doubt::NoAnswer(check) => format!(
            "In {check} the server gave no answer, to plain requests either: has it stopped, or does it limit its clients? Ask \
             again, fewer questions at a time with --only."
        ),
        Doubt::Late(checks) => format!(
            "No fault was found, but the time was over before {} could be asked: --within gives more.",
            listed(checks)
        ),
        Doubt::Reload => {
            "No fault was found, but what becomes of requests at the reload, or the stop, could not be told."
                .into()
        }
        Doubt::Unasked(checks) => {
            format!(
                "No fault was found, but {} MB were used up before {} could be asked: name a path with 64 to {} KB, or say --active.",
                QUIET >> 20,
                listed(checks),
                AFFORDABLE / 1000
            )
        }
        _ => String::new(),
    }
}

fn listed(checks: &[Check]) -> String {
    checks.iter().map(|check| check.name()).collect::<Vec<_>>().join(", ")
}

fn names<'f>(findings: impl Iterator<Item = &'f CheckFinding>) -> String {
    findings.map(|finding| finding.check.name()).collect::<Vec<_>>().join(", ")
}
