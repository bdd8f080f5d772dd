//! A policy as a person writes it: seconds as numbers, everything optional, checked when read.

use std::time::Duration;

use super::{AtLimit, InvalidPolicy, Mode, Policy};

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Written {
    idle: f64,
    total: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_discard: Option<u64>,
    grace: f64,
    at_limit: AtLimit,
    mode: Mode,
}

impl Default for Written {
    fn default() -> Self {
        Policy::default().into()
    }
}

impl From<Policy> for Written {
    fn from(policy: Policy) -> Self {
        Self {
            idle: policy.idle.as_secs_f64(),
            total: policy.total.as_secs_f64(),
            max_discard: policy.max_discard,
            grace: policy.grace.as_secs_f64(),
            at_limit: policy.at_limit,
            mode: policy.mode,
        }
    }
}

impl TryFrom<Written> for Policy {
    type Error = InvalidPolicy;

    fn try_from(written: Written) -> Result<Self, InvalidPolicy> {
        let seconds = |field, value| {
            Duration::try_from_secs_f64(value)
                .map_err(|_| InvalidPolicy { field, reason: "is no time: write seconds, such as 5 or 0.5" })
        };
        let policy = Self {
            idle: seconds("idle", written.idle)?,
            total: seconds("total", written.total)?,
            max_discard: written.max_discard,
            grace: seconds("grace", written.grace)?,
            at_limit: written.at_limit,
            mode: written.mode,
        };
        policy.validate()?;
        Ok(policy)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_the_default() {
        let policy: Policy = serde_json::from_str(r#"{"total": 7.5, "at_limit": "abort"}"#).unwrap();
        let wanted =
            Policy { total: Duration::from_millis(7_500), at_limit: AtLimit::Abort, ..Policy::default() };
        assert_eq!(policy, wanted);
        let text = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy, "{text}");
    }

    #[test]
    fn nonsense_is_refused_with_the_name_of_the_field() {
        let cases = [
            (r#"{"idle": 40}"#, "`idle`"),
            (r#"{"total": 0}"#, "`total`"),
            (r#"{"total": -1}"#, "`total`"),
            (r#"{"total": 1e300}"#, "`total`"),
            (r#"{"grace": 31}"#, "`grace`"),
            (r#"{"max_discard": 0}"#, "`max_discard`"),
            (r#"{"patience": 1}"#, "`patience`"),
            (r#"{"at_limit": "explode"}"#, "`explode`"),
        ];
        for (text, named) in cases {
            let error = serde_json::from_str::<Policy>(text).unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
