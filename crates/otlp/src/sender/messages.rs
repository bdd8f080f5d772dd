//! OTLP's messages: events as log records, metrics in requests of bounded size, and what an answer says.

use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber};
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics, ScopeMetrics};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::Message;

use super::SendOptions;
use super::open_metrics::points;
use super::values::{any_value, key_value};
use crate::event::{ExportedEvent, Severity};

/// Most data points in one request, about: a few hundred kilobytes.
const POINTS: usize = 2_000;

/// A kind of request.
pub(super) trait OtlpRequest: Message + Clone + Default + 'static {
    type Answer: Message + Default + 'static;
    /// Behind the endpoint's own path.
    const HTTP_PATH: &'static str;
    const GRPC_PATH: &'static str;
    /// How many records the collector has left out, and its words.
    fn rejected(answer: &Self::Answer) -> (i64, &str);
}

impl OtlpRequest for ExportLogsServiceRequest {
    type Answer = ExportLogsServiceResponse;
    const HTTP_PATH: &'static str = "/v1/logs";
    const GRPC_PATH: &'static str = "/opentelemetry.proto.collector.logs.v1.LogsService/Export";

    fn rejected(answer: &Self::Answer) -> (i64, &str) {
        let partial = answer.partial_success.as_ref();
        partial.map_or((0, ""), |partial| (partial.rejected_log_records, &partial.error_message))
    }
}

impl OtlpRequest for ExportMetricsServiceRequest {
    type Answer = ExportMetricsServiceResponse;
    const HTTP_PATH: &'static str = "/v1/metrics";
    const GRPC_PATH: &'static str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";

    fn rejected(answer: &Self::Answer) -> (i64, &str) {
        let partial = answer.partial_success.as_ref();
        partial.map_or((0, ""), |partial| (partial.rejected_data_points, &partial.error_message))
    }
}

/// The log records of a batch. `observed_ns` is now.
pub(super) fn logs(
    events: Vec<ExportedEvent>,
    options: &SendOptions,
    observed_ns: u64,
) -> ExportLogsServiceRequest {
    let scope_logs = ScopeLogs {
        scope: Some(scope(options)),
        log_records: events.into_iter().map(|event| log_record(event, observed_ns)).collect(),
        schema_url: String::new(),
    };
    let resource = Some(resource(options));
    let resource_logs = ResourceLogs { resource, scope_logs: vec![scope_logs], schema_url: String::new() };
    ExportLogsServiceRequest { resource_logs: vec![resource_logs] }
}

fn log_record(event: ExportedEvent, observed_ns: u64) -> LogRecord {
    let (severity, severity_text) = match event.severity {
        Severity::Info => (SeverityNumber::Info, "INFO"),
        Severity::Warning => (SeverityNumber::Warn, "WARN"),
    };
    LogRecord {
        time_unix_nano: event.time_ns,
        observed_time_unix_nano: observed_ns,
        severity_number: severity.into(),
        severity_text: severity_text.into(),
        body: Some(any_value(event.body.into())),
        attributes: event.attributes.into_iter().map(|(name, value)| key_value(name.into(), value)).collect(),
        event_name: event.name.into(),
        ..LogRecord::default()
    }
}

/// Requests that have all of these metrics.
pub(super) fn metrics(metrics: Vec<Metric>, options: &SendOptions) -> Vec<ExportMetricsServiceRequest> {
    let mut parts: Vec<(usize, Vec<Metric>)> = Vec::new();
    for metric in metrics {
        let count = points(&metric);
        match parts.last_mut().filter(|(before, _)| before + count <= POINTS) {
            Some((before, part)) => {
                *before += count;
                part.push(metric);
            }
            None => parts.push((count, vec![metric])),
        }
    }
    let request = |metrics| {
        let scope_metrics = ScopeMetrics { scope: Some(scope(options)), metrics, schema_url: String::new() };
        let resource = Some(resource(options));
        let one = ResourceMetrics { resource, scope_metrics: vec![scope_metrics], schema_url: String::new() };
        ExportMetricsServiceRequest { resource_metrics: vec![one] }
    };
    parts.into_iter().map(|(_, part)| request(part)).collect()
}

fn scope(options: &SendOptions) -> InstrumentationScope {
    let (name, version) = options.scope.clone();
    InstrumentationScope { name, version, attributes: Vec::new(), dropped_attributes_count: 0 }
}

fn resource(options: &SendOptions) -> Resource {
    let attributes = options.resource.iter();
    let attributes = attributes.map(|(name, value)| key_value(name.clone(), value.as_str().into())).collect();
    Resource { attributes, dropped_attributes_count: 0, entity_refs: Vec::new() }
}
