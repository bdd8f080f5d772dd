//! Options that several verbs have: declared once, and flattened into each.

mod experiment;
mod listen;
mod output;
mod time;

pub(crate) use experiment::{Chance, ClientSide, Family, ServerSide};
pub(crate) use listen::ListenAt;
pub(crate) use output::{AtRisk, Json, JsonBeside, MetricsAt};
pub(crate) use time::{RunFor, Silence};
