//! Checks lines of `--json` against the schema that the program prints.
#![allow(dead_code)] // Each test is compiled with a copy of this file, and uses a part of it.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::{Value, json};

/// The schema of a verb, as the program prints it.
pub(crate) fn schema(verb: &str) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_linger")).args(["schema", verb]).output().unwrap();
    assert!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the lines after a check of each. A field that the schema does not name is an error here: later versions may
/// have new fields, but this version must name all of its own.
#[track_caller]
pub(crate) fn lines(verb: &str, text: &str) -> Vec<Value> {
    text.lines().map(|text| line(verb, text)).collect()
}

/// One line.
#[track_caller]
pub(crate) fn line(verb: &str, text: &str) -> Value {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|error| panic!("linger {verb}: {error}: {text:?}"));
    if let Some(why) = invalid(verb, &value) {
        panic!("linger {verb}: {text}\n{why}");
    }
    let dangerous = |c: char| c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!text.contains(dangerous), "linger {verb}: {text:?}");
    value
}

/// Why a line is not valid for the verb; `None` if it is valid.
pub(crate) fn invalid(verb: &str, value: &Value) -> Option<String> {
    type Compiled = HashMap<String, (Schemas, SchemaIndex)>;
    static KNOWN: OnceLock<Mutex<Compiled>> = OnceLock::new();
    let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    let (schemas, index) = known.entry(verb.to_owned()).or_insert_with(|| {
        let mut schema = schema(verb);
        close(&mut schema);
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.enable_format_assertions();
        let name = format!("http://linger.invalid/{verb}");
        compiler.add_resource(&name, schema).unwrap();
        let index = compiler.compile(&name, &mut schemas).unwrap();
        (schemas, index)
    });
    schemas.validate(value, *index).err().map(|error| format!("{error:#}"))
}

/// Makes every object of the schema refuse fields that it does not name.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".into(), json!(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// The schema of all verbs.
pub(crate) fn schema_of_all() -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_linger")).arg("schema").output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}
