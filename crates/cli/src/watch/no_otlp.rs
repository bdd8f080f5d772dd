//! In the place of `otlp` in a program that is built without it.

use std::process::ExitCode;

use clap::Args;
use linger_watch::Notice;
use linger_watch::export::Metrics;

/// No option.
#[derive(Args, Debug)]
pub(super) struct OtlpTo {}

impl OtlpTo {
    pub(super) fn is_asked_for(&self) -> bool {
        false
    }

    pub(super) fn start(&self) -> Result<Option<Otlp>, ExitCode> {
        Ok(None)
    }
}

/// There is none.
#[derive(Debug)]
pub(super) enum Otlp {}

impl Otlp {
    pub(super) fn tell(&mut self, _: &[Notice], _: &Metrics, _: bool) {
        match *self {}
    }

    pub(super) fn finish(self) {
        match self {}
    }
}
