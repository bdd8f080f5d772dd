//! In the place of `otlp` in a program that is built without it.

use std::process::ExitCode;

use clap::Args;
use linger_watch::export::Metrics;
use linger_watch::{Notice, OwnClient};

/// No option.
#[derive(Args, Debug)]
pub(super) struct OtlpTo {}

impl OtlpTo {
    pub(super) fn is_asked_for(&self) -> bool {
        false
    }

    pub(super) fn check(&self) -> Result<Option<TriedCollector>, ExitCode> {
        Ok(None)
    }

    pub(super) fn start(&self) -> Result<Option<Otlp>, ExitCode> {
        Ok(None)
    }
}

/// There is none.
#[derive(Debug)]
pub(super) struct TriedCollector {
    pub(super) name: String,
    pub(super) trouble: Option<String>,
}

/// There is none.
#[derive(Debug)]
pub(super) enum Otlp {}

impl Otlp {
    pub(super) fn own(&self) -> OwnClient {
        match *self {}
    }

    pub(super) fn tell(&mut self, _: &[Notice], _: &Metrics, _: bool) {
        match *self {}
    }

    pub(super) fn finish(self) {
        match self {}
    }
}
