//! `linger schema`: the contract of `--json` as JSON Schema.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::common::{self, LineKind};
use super::{
    LineBody, Origin, SCHEMA, Verb, experiment, fcgi, hunt, network, peers, probe, receipt, recorded, reset,
    run, story, transfer, watch, why,
};
use crate::exit;
use crate::output::{Stdout, Stopped};

/// Prints the JSON Schema of the lines that a verb prints with --json.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  linger schema watch > watch.schema.json\n  linger schema\n\n\
    Each line validates by itself. New fields, kinds of lines and values may come without a new version of\n\
    the schema; what is there keeps its name, type and meaning.")]
pub(crate) struct Schema {
    /// The verb; without it, one schema for all.
    verb: Option<Verb>,
}

impl Schema {
    pub(crate) fn run(&self) -> ExitCode {
        match self.print() {
            Ok(()) => ExitCode::from(exit::NOTHING_LOST),
            Err(stopped) => stopped.end(None),
        }
    }

    fn print(&self) -> Result<(), Stopped> {
        let verbs = match self.verb {
            Some(verb) => vec![verb],
            None => <Verb as clap::ValueEnum>::value_variants().to_vec(),
        };
        let mut out = Stdout::new();
        out.text(format_args!("{:#}\n", of(&verbs)))?;
        out.flush()
    }
}

fn kinds(verb: Verb) -> Vec<LineKind> {
    macro_rules! kinds {
        ($($body:ty),* $(,)?) => { vec![$((<$body>::KIND, <$body as JsonSchema>::json_schema as _)),*] };
    }
    let progress = transfer::kinds_of_progress;
    match verb {
        Verb::Client => kinds![experiment::ClientSummary],
        Verb::Fcgi => kinds![fcgi::Fcgi],
        Verb::Get | Verb::Put => [progress(), kinds![transfer::Transferred]].concat(),
        Verb::Hunt => kinds![hunt::Hunt, hunt::Replay],
        Verb::Lab => {
            kinds![
                experiment::Cell,
                experiment::Backlog,
                experiment::Lab,
                experiment::One,
                experiment::Exec,
                network::Network,
                network::ExecHosts,
                story::StoryUploads,
                story::StoryBacklog,
                story::Story
            ]
        }
        Verb::Ls => kinds![transfer::ListedEntry],
        Verb::Peers => kinds![peers::KnownPeer, peers::OwnKey],
        Verb::Probe => kinds![probe::Finding, probe::Probe, probe::WouldAsk],
        Verb::Receipt => kinds![receipt::CheckedEntry<'_>, receipt::VerifySummary],
        Verb::Run => kinds![run::Report, run::Coverage, run::Refused],
        Verb::Server => kinds![experiment::Hosting],
        Verb::Share => [
            kinds![transfer::Listening, transfer::Code],
            progress(),
            kinds![transfer::ServedLine, common::LeftOut],
        ]
        .concat(),
        Verb::Watch => {
            kinds![
                reset::Reset,
                watch::FurtherResets,
                watch::Warned,
                watch::Counters,
                common::LeftOut,
                watch::NeedLine<'_>,
                recorded::Recording
            ]
        }
        Verb::Why => kinds![reset::Reset, recorded::RecordedLine, why::Group, why::CauseEntry, why::Summary],
    }
}

/// One schema for every line of these verbs.
fn of(verbs: &[Verb]) -> Value {
    // Nullable fields are always serialised, so they are required.
    let mut generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    // By type: some verbs have kinds of lines in common.
    let mut lines = BTreeMap::new();
    for (name, body) in verbs.iter().flat_map(|verb| kinds(*verb)) {
        let body = body(&mut generator).to_value();
        lines.insert(name, with_origin(name, body, Origin::json_schema(&mut generator).to_value()));
    }
    let title = match verbs {
        [verb] => format!("A line of `linger {} --json`", verb.name()),
        _ => "A line of `linger VERB --json`".to_owned(),
    };
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": format!("Version {SCHEMA} of the schema."),
        "oneOf": lines.into_values().collect::<Vec<_>>(),
        "$defs": generator.take_definitions(true),
    })
}

/// Adds `type` and the fields common to all lines.
fn with_origin(kind: &str, mut body: Value, origin: Value) -> Value {
    let mut properties = Map::from_iter([("type".to_owned(), json!({ "const": kind }))]);
    let mut required = vec![json!("type")];
    for part in [&mut body, &mut origin.clone()] {
        if let Some(Value::Object(own)) = part.get_mut("properties").map(Value::take) {
            properties.extend(own);
        }
        if let Some(Value::Array(own)) = part.get_mut("required").map(Value::take) {
            required.extend(own);
        }
    }
    properties.insert(
        "schema".to_owned(),
        json!({ "description": "The version of this schema.", "const": SCHEMA }),
    );
    let description = body.get("description").cloned().unwrap_or_default();
    json!({
        "title": kind,
        "description": description,
        "type": "object",
        "properties": properties,
        "required": required,
    })
}
