//! [`ExportedEvent`]: what a log record says, before it is one.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Severity {
    /// What happens on a host that is well.
    Info,
    /// What somebody should look into.
    Warning,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum AttributeValue {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
}

impl From<String> for AttributeValue {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Vec<String>> for AttributeValue {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

impl From<u64> for AttributeValue {
    fn from(number: u64) -> Self {
        Self::Number(number.try_into().unwrap_or(i64::MAX))
    }
}

impl From<u32> for AttributeValue {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<u16> for AttributeValue {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

/// An event, which becomes a log record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExportedEvent {
    /// Its name, such as `linger.reset`. Events with one name have the same attributes.
    pub name: Cow<'static, str>,
    /// When it happened, in nanoseconds since 1970.
    pub time_ns: u64,
    /// How much it matters.
    pub severity: Severity,
    /// What happened, in words.
    pub body: String,
    /// What is known of it.
    pub attributes: Vec<(Cow<'static, str>, AttributeValue)>,
}

impl ExportedEvent {
    /// An event without attributes.
    pub fn new(name: &'static str, time_ns: u64, severity: Severity, body: String) -> Self {
        Self { name: name.into(), time_ns, severity, body, attributes: Vec::new() }
    }

    /// Adds an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<AttributeValue>) {
        self.attributes.push((name.into(), value.into()));
    }

    /// Adds an attribute if its value is known.
    pub fn set_known(&mut self, name: &'static str, value: Option<impl Into<AttributeValue>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }
}
