//! OpenMetrics text, as this program writes it for `/metrics`, as metrics of OTLP: what is scraped and what is sent are the same.
//!
//! Counters become cumulative sums since the start of the program, and gauges gauges. Other types are left out.

use std::collections::HashMap;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, Gauge, Metric, NumberDataPoint, Sum, exemplar, metric,
    number_data_point,
};

use super::values::key_value;
use crate::event::AttributeValue;

/// What metrics and labels are called in OTLP.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct MetricNaming {
    /// The name of a metric, of the family's name in the text; `None` leaves it out.
    pub metric: fn(&str) -> Option<String>,
    /// The attributes of a label with this value.
    pub attributes: fn(&str, &str) -> Vec<(String, AttributeValue)>,
}

impl MetricNaming {
    /// A naming by these two rules.
    pub fn new(
        metric: fn(&str) -> Option<String>,
        attributes: fn(&str, &str) -> Vec<(String, AttributeValue)>,
    ) -> Self {
        Self { metric, attributes }
    }

    fn key_values(self, labels: &[(&str, String)]) -> Vec<KeyValue> {
        let attributes = labels.iter().flat_map(|(name, value)| (self.attributes)(name, value));
        attributes.map(|(name, value)| key_value(name, value)).collect()
    }
}

/// The metrics of a text. A line that cannot be read is left out.
pub(super) fn metrics(text: &str, naming: MetricNaming, started_ns: u64, time_ns: u64) -> Vec<Metric> {
    let mut all: Vec<Metric> = Vec::new();
    let mut help: HashMap<&str, &str> = HashMap::new();
    // The family whose samples follow, and whether it is a counter.
    let mut family: Option<(&str, bool)> = None;
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("HELP"), Some(name), Some(words)) => drop(help.insert(name, words)),
                (Some("TYPE"), Some(name), Some(kind)) => {
                    family = match kind {
                        "counter" => Some((name, true)),
                        "gauge" => Some((name, false)),
                        _ => None,
                    };
                    if let Some((name, is_counter)) = family {
                        match (naming.metric)(name) {
                            Some(own) => all.push(empty(own, help.get(name).copied(), is_counter)),
                            None => family = None,
                        }
                    }
                }
                _ => {}
            }
            continue;
        }
        let (Some((name, is_counter)), Some(last)) = (family, all.last_mut()) else { continue };
        let Some(sample) = Sample::parse(line) else { continue };
        let rest = sample.name.strip_prefix(name);
        if rest != Some(if is_counter { "_total" } else { "" }) {
            continue;
        }
        let point = NumberDataPoint {
            attributes: naming.key_values(&sample.labels),
            start_time_unix_nano: if is_counter { started_ns } else { 0 },
            time_unix_nano: time_ns,
            exemplars: sample.exemplar.iter().map(|one| one.message(naming, time_ns)).collect(),
            flags: 0,
            value: Some(number(sample.value)),
        };
        match &mut last.data {
            Some(metric::Data::Sum(sum)) => sum.data_points.push(point),
            Some(metric::Data::Gauge(gauge)) => gauge.data_points.push(point),
            _ => {}
        }
    }
    all.retain(|metric| points(metric) > 0);
    all
}

/// How many points a metric has.
pub(super) fn points(metric: &Metric) -> usize {
    match &metric.data {
        Some(metric::Data::Sum(sum)) => sum.data_points.len(),
        Some(metric::Data::Gauge(gauge)) => gauge.data_points.len(),
        _ => 0,
    }
}

fn empty(name: String, help: Option<&str>, is_counter: bool) -> Metric {
    let data = if is_counter {
        metric::Data::Sum(Sum {
            data_points: Vec::new(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        })
    } else {
        metric::Data::Gauge(Gauge { data_points: Vec::new() })
    };
    // The encoder of the text puts a full stop behind each.
    let description = help.map_or(String::new(), |help| help.trim_end_matches('.').to_owned());
    Metric { name, description, unit: String::new(), metadata: Vec::new(), data: Some(data) }
}

fn number(text: &str) -> number_data_point::Value {
    match text.parse() {
        Ok(whole) => number_data_point::Value::AsInt(whole),
        Err(_) => number_data_point::Value::AsDouble(text.parse().unwrap_or(f64::NAN)),
    }
}

/// A line such as `name{label="value"} 3 # {label="value"} 1 1795356992.6`.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, String)>,
    value: &'a str,
    exemplar: Option<ExemplarText<'a>>,
}

#[derive(Debug, PartialEq)]
struct ExemplarText<'a> {
    labels: Vec<(&'a str, String)>,
    value: &'a str,
    seconds: Option<&'a str>,
}

impl<'a> Sample<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let name_end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(name_end);
        let (labels, rest) = labels(rest)?;
        let (sample, exemplar) = match rest.trim_start().split_once(" # ") {
            Some((sample, exemplar)) => (sample, Some(ExemplarText::parse(exemplar)?)),
            None => (rest.trim_start(), None),
        };
        let value = sample.split(' ').next()?;
        value.parse::<f64>().ok()?;
        Some(Self { name, labels, value, exemplar })
    }
}

impl<'a> ExemplarText<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (labels, rest) = labels(text)?;
        let mut words = rest.trim_start().split(' ');
        let value = words.next()?;
        value.parse::<f64>().ok()?;
        Some(Self { labels, value, seconds: words.next() })
    }

    fn message(&self, naming: MetricNaming, time_ns: u64) -> Exemplar {
        // The encoder of the text writes `1.0` for what was counted.
        let value = match number(self.value.trim_end_matches(".0")) {
            number_data_point::Value::AsInt(whole) => exemplar::Value::AsInt(whole),
            number_data_point::Value::AsDouble(part) => exemplar::Value::AsDouble(part),
        };
        let seconds = self.seconds.and_then(|seconds| seconds.parse::<f64>().ok());
        Exemplar {
            filtered_attributes: naming.key_values(&self.labels),
            time_unix_nano: seconds.map_or(time_ns, |seconds| (seconds * 1e9) as u64),
            span_id: Vec::new(),
            trace_id: Vec::new(),
            value: Some(value),
        }
    }
}

/// Labels in braces, if there are any, and what follows them.
fn labels(text: &str) -> Option<(Vec<(&str, String)>, &str)> {
    let mut labels = Vec::new();
    let Some(mut rest) = text.strip_prefix('{') else { return Some((labels, text)) };
    loop {
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, behind) = rest.split_once("=\"")?;
        let (value, behind) = quoted(behind)?;
        labels.push((name, value));
        rest = behind.strip_prefix(',').unwrap_or(behind);
    }
}

/// A text up to its quote, with escapes read back, and what follows the quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naming() -> MetricNaming {
        MetricNaming::new(
            |name| (name != "left_out").then(|| name.replace('_', ".")),
            |label, value| {
                if value.is_empty() { Vec::new() } else { vec![(format!("of.{label}"), value.into())] }
            },
        )
    }

    const TEXT: &str = r##"# HELP resets Resets, by cause.
# TYPE resets counter
resets_total{cause="a, b=\"c\" } 9",process="back\\slash\n",unit=""} 3 # {remote="10.0.0.1:80"} 1.0 1795.5
resets_total{cause="other"} 0
# HELP queue Waiting.
# TYPE queue gauge
queue 7
# HELP cpu_seconds Processor.
# TYPE cpu_seconds counter
cpu_seconds_total 0.25
# HELP left_out Nothing.
# TYPE left_out gauge
left_out 1
# HELP build Version.
# TYPE build info
build_info{version="1"} 1
# HELP none Empty.
# TYPE none counter
# EOF
"##;

    #[test]
    fn text_is_read_as_it_was_meant() {
        let metrics = metrics(TEXT, naming(), 5, 9);
        let names: Vec<&str> = metrics.iter().map(|metric| metric.name.as_str()).collect();
        assert_eq!(names, ["resets", "queue", "cpu.seconds"]);
        let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
        assert!(sum.is_monotonic && sum.aggregation_temporality == 2);
        assert_eq!(metrics[0].description, "Resets, by cause");
        let first = &sum.data_points[0];
        assert_eq!((first.start_time_unix_nano, first.time_unix_nano), (5, 9));
        let expected = [("of.cause", "a, b=\"c\" } 9"), ("of.process", "back\\slash\n")];
        let expected = expected.map(|(name, value)| key_value(name.to_owned(), value.into()));
        assert_eq!(first.attributes, expected);
        assert_eq!(first.value, Some(number_data_point::Value::AsInt(3)));
        let exemplar = &first.exemplars[0];
        let remote = [key_value("of.remote".to_owned(), "10.0.0.1:80".into())];
        assert_eq!(exemplar.filtered_attributes, remote);
        assert_eq!(
            (exemplar.time_unix_nano, exemplar.value),
            (1_795_500_000_000, Some(exemplar::Value::AsInt(1)))
        );
        assert_eq!(sum.data_points[1].value, Some(number_data_point::Value::AsInt(0)));
        assert!(sum.data_points[1].exemplars.is_empty());
        let Some(metric::Data::Gauge(gauge)) = &metrics[1].data else { panic!("{metrics:?}") };
        assert_eq!(gauge.data_points[0].start_time_unix_nano, 0, "a gauge has no start");
        assert_eq!(points(&metrics[2]), 1);
    }

    #[test]
    fn what_is_no_line_is_left_out() {
        for line in ["", "name", "name{a=\"b 1", "name{a} 1", "name x", "name{a=\"b\"}", "name 1 # {a=\"b\"}"]
        {
            assert_eq!(Sample::parse(line), None, "{line}");
        }
        let text = "# TYPE resets counter\nresets 4\nresets_created 5\nresets_total 6\n";
        let metrics = metrics(text, naming(), 0, 0);
        assert_eq!(points(&metrics[0]), 1);
    }
}
