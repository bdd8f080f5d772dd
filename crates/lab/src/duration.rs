//! Durations in scenario files: `"30ms"`, `"1.5s"` is written `"1s 500ms"`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        D::Error::custom(format!("`{text}` is no duration ({error}): write \"500us\", \"30ms\" or \"2s\""))
    })
}
