//! Attributes in OTLP's messages.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};

use crate::event::AttributeValue;

pub(super) fn key_value(key: String, value: AttributeValue) -> KeyValue {
    KeyValue { key, value: Some(any_value(value)), ..KeyValue::default() }
}

pub(super) fn any_value(value: AttributeValue) -> AnyValue {
    let value = match value {
        AttributeValue::Text(text) => Value::StringValue(text),
        AttributeValue::Number(number) => Value::IntValue(number),
        AttributeValue::Texts(texts) => Value::ArrayValue(ArrayValue {
            values: texts.into_iter().map(|text| any_value(text.into())).collect(),
        }),
    };
    AnyValue { value: Some(value) }
}
