//! The lab's results for machines: one object a line.

use linger_lab::{BacklogReport, Blame, CellReport, Fate, IpVersion, Tally};
use serde_json::{Map, Value, json};

use super::results::Results;
use crate::counters::counters;

fn fates(tally: &Tally) -> Value {
    Fate::ALL
        .iter()
        .map(|fate| (fate.name().to_owned(), tally.of(*fate).into()))
        .collect::<Map<_, _>>()
        .into()
}

pub(crate) fn cell(report: &CellReport) -> Value {
    let plan = &report.plan;
    let (low, high) = report.tally.interval();
    json!({
        "type": "cell",
        "ending": plan.ending.to_string(),
        "peer": plan.peer.name(),
        "link": plan.link.name,
        "ip": if plan.ip == IpVersion::V4 { 4 } else { 6 },
        "response": plan.response,
        "request": plan.request,
        "trials": report.tally.trials,
        "lost": report.tally.lost,
        "silent": report.tally.silent,
        "reset_before_any": report.tally.of(Fate::ResetBeforeAny),
        "timed_out": report.tally.of(Fate::TimedOut),
        "wilson_low": low,
        "wilson_high": high,
        "fates": fates(&report.tally),
        "blame": Blame::find(&report.tally, &report.counters).name(),
        "server_errors": report.server_errors,
        "closes": report.endings.iter().map(|(ended, count)| (ended.to_string(), (*count).into()))
            .collect::<Map<String, Value>>(),
        "counters": counters(&report.counters),
        "link_lost": report.wire.as_ref().map(|wire| wire.lost),
        "link_queue_full": report.wire.as_ref().map(|wire| wire.queue_full),
        "link_accidents": report.wire.as_ref().map(|wire| wire.accidents),
        "link_late_p99_us": report.wire.as_ref().map(|wire| wire.lateness.quantile(0.99)),
        "seed": plan.seed,
        "seconds": report.elapsed.as_secs_f64(),
    })
}

pub(crate) fn backlog(report: &BacklogReport) -> Value {
    let (low, high) = report.tally.interval();
    json!({
        "type": "backlog",
        "backlog": report.plan.backlog,
        "clients": report.plan.clients,
        "abort_on_overflow": report.plan.abort_on_overflow,
        "link": report.plan.link.name,
        "trials": report.tally.trials,
        "lost": report.tally.lost,
        "reset_before_any": report.tally.of(Fate::ResetBeforeAny),
        "timed_out": report.tally.of(Fate::TimedOut),
        "wilson_low": low,
        "wilson_high": high,
        "fates": fates(&report.tally),
        "blame": Blame::find(&report.tally, &report.counters).name(),
        "counters": counters(&report.counters),
        "seconds": report.elapsed.as_secs_f64(),
    })
}

pub(crate) fn summary(results: &Results) -> Value {
    json!({
        "type": "summary",
        "seed": results.seed,
        "verdict": results.verdict(),
        "cells": results.done().count(),
        "planned": results.tasks.len(),
        "again": results.again,
        "namespaces": !results.shared,
    })
}
