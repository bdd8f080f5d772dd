//! What the options and the variables of `--otlp` come to.

use super::*;

fn settings(
    url: &str,
    protocol: Option<&str>,
    variables: &[(&str, &str)],
) -> Result<(SendOptions, Duration), String> {
    let to = OtlpTo { otlp: Some(url.into()), otlp_protocol: protocol.map(str::to_owned) };
    let variable = |name: &str| {
        let found = variables.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    to.settings(url, &variable).map_err(|BadSetting(why)| why)
}

fn endpoint(url: &str, protocol: Option<&str>, variables: &[(&str, &str)]) -> String {
    settings(url, protocol, variables).map_or_else(|why| why, |(options, _)| options.endpoint.to_string())
}

#[test]
fn the_option_comes_before_the_variable() {
    let set = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://set:1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    assert_eq!(endpoint("", None, &set), "grpc://set:1");
    assert_eq!(endpoint("", Some("http/protobuf"), &set), "http://set:1");
    assert_eq!(endpoint("http://given:2", None, &set), "grpc://given:2");
    assert_eq!(
        endpoint("grpc://given:2", None, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]),
        "grpc://given:2"
    );
    assert_eq!(endpoint("http://given:2", None, &[]), "http://given:2");
    // Wherever the URL stands.
    let set =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://set:1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")];
    assert_eq!(endpoint("", None, &set), "grpc://set:1");
}

#[test]
fn what_is_wrong_is_said_with_where_it_stands() {
    for (said, variables) in [
        ("--otlp: give a URL, or set OTEL_EXPORTER_OTLP_ENDPOINT", &[][..]),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT: its scheme is none of http, https, grpc and grpcs",
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://x")],
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL: \"http/json\" is not spoken; http/protobuf and grpc are",
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://x"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
        ),
    ] {
        assert_eq!(endpoint("", None, variables), said);
    }
    for (name, value) in [
        ("OTEL_EXPORTER_OTLP_HEADERS", "no pair"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x=forged%0d%0ay: z"),
        ("OTEL_RESOURCE_ATTRIBUTES", "=x"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0"),
    ] {
        let said = endpoint("http://x", None, &[(name, value)]);
        assert!(said.starts_with(&format!("{name}: ")), "{said}");
    }
    // A secret is not repeated, and what no request can have is no surprise of the first event.
    for (value, said) in [
        ("x-a=1,Authorization: Bearer secret", "part 2 is not NAME=VALUE"),
        ("authorization=Bearer%20secret%01", "the value of `authorization` is none that a field can have"),
        ("my header=secret", "`my header` is no name of a field"),
        ("content-length=5", "`content-length` belongs to the request itself"),
    ] {
        let found = endpoint("http://x", None, &[("OTEL_EXPORTER_OTLP_HEADERS", value)]);
        assert_eq!(found, format!("OTEL_EXPORTER_OTLP_HEADERS: {said}"));
    }
    let said = endpoint("https://x", None, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere")]);
    assert!(
        said.starts_with("OTEL_EXPORTER_OTLP_CERTIFICATE: cannot read certificates from \"/nowhere\""),
        "{said}"
    );
}

#[test]
fn variables_say_the_rest() {
    let variables = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abc, x-tenant = 7 ,"),
        ("OTEL_RESOURCE_ATTRIBUTES", "k8s.node.name=n1,service.name=ignored"),
        ("OTEL_SERVICE_NAME", "mine"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "15000"),
    ];
    let (options, every) = settings("http://x", None, &variables).unwrap();
    let headers = [("authorization", "Bearer abc"), ("x-tenant", "7")];
    assert_eq!(options.headers, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let resource = |name: &str| options.resource.get(name).map(String::as_str);
    assert_eq!((resource("service.name"), resource("k8s.node.name")), (Some("mine"), Some("n1")));
    assert!(resource("host.name").is_some_and(|name| !name.is_empty()));
    assert_eq!((options.timeout, every), (Duration::from_millis(2_500), Duration::from_secs(15)));
}
