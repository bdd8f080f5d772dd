//! Lines of `linger receipt verify`.

use linger_transfer::{Checked, ReceiptLine};
use schemars::JsonSchema;
use serde::Serialize;

use super::{LineBody, common};

/// The check of one receipt.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CheckedEntry<'a> {
    /// Path below what was sent, in hexadecimal where it is not UTF-8; empty for a single file.
    path: &'a str,
    /// Whether `path` is in hexadecimal.
    path_is_hex: bool,
    /// `same`, `differs`, or `unverified`: there is no hash, and length or kind alone are the same.
    #[schemars(schema_with = "checks")]
    check: &'static str,
    /// What differs, in words.
    text: Option<&'a str>,
}

impl LineBody for CheckedEntry<'_> {
    const KIND: &'static str = "checked";
}

impl<'a> CheckedEntry<'a> {
    pub(crate) fn new(line: &'a ReceiptLine, checked: &'a Checked) -> Self {
        let (check, text) = match checked {
            Checked::Same => ("same", None),
            Checked::Differs(why) => ("differs", Some(why.as_str())),
            _ => ("unverified", None),
        };
        Self { path: &line.path, path_is_hex: line.path_is_hex, check, text }
    }
}

/// The result of all checks.
#[derive(Serialize, JsonSchema)]
pub(crate) struct VerifySummary {
    /// Lines of the receipts.
    pub(crate) checked: u64,
    /// Receipts of which something differs from the file.
    pub(crate) different: u64,
    /// Files whose receipt has no hash, and of which only the length was compared.
    pub(crate) length_only: u64,
    /// Files and directories with other permission bits than the receiver gave them.
    pub(crate) other_mode: u64,
}

impl LineBody for VerifySummary {
    const KIND: &'static str = "receipt";
}

fn checks(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    common::one_of(["same", "differs", "unverified"])
}
