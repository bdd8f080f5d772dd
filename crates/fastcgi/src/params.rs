//! Name-value pairs: the environment of a request, and the values of management records.
//!
//! Lengths below 128 take one byte, others four with the high bit set (specification section 3.4).

use crate::error::{Fault, ProtocolError};
use crate::limits::Limits;

/// The pairs of one request, in the order they came. Names are bytes, and may repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params {
    bytes: Vec<u8>,
    /// Where each pair's name and value begin and the value ends, in `bytes`.
    pairs: Vec<[u32; 3]>,
}

impl Params {
    /// Reads pairs out of the whole content of a PARAMS stream or a management record.
    ///
    /// # Errors
    /// Returns an error if a pair reaches past the end of `bytes`, or if a limit is exceeded. The error's `offset` counts
    /// from the beginning of `bytes`.
    pub fn parse(bytes: Vec<u8>, limits: &Limits) -> Result<Self, ProtocolError> {
        if bytes.len() > limits.params_bytes || u32::try_from(bytes.len()).is_err() {
            let fault = Fault::ParamsTooLong(limits.params_bytes);
            return Err(ProtocolError::new(limits.params_bytes as u64, fault));
        }
        let mut pairs = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let cut = ProtocolError::new(at as u64, Fault::ParamCut);
            if pairs.len() == limits.params_count {
                return Err(ProtocolError::new(at as u64, Fault::TooManyParams(limits.params_count)));
            }
            let (name_length, after) = length(&bytes, at).ok_or(cut)?;
            let (value_length, name) = length(&bytes, after).ok_or(cut)?;
            let value = name.checked_add(name_length).ok_or(cut)?;
            let end = value.checked_add(value_length).filter(|end| *end <= bytes.len()).ok_or(cut)?;
            pairs.push([name as u32, value as u32, end as u32]);
            at = end;
        }
        Ok(Self { bytes, pairs })
    }

    /// Every pair, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|[name, value, end]| {
            let [name, value, end] = [*name as usize, *value as usize, *end as usize];
            (&self.bytes[name..value], &self.bytes[value..end])
        })
    }

    /// The value of `name`. If the name repeats, the last value counts, as with `putenv`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mut found = None;
        for (this, value) in self.iter() {
            if this == name.as_bytes() {
                found = Some(value);
            }
        }
        found
    }

    /// The value of `name` if it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// Reads a length at `at`. Returns it, and the position behind it.
fn length(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let first = *bytes.get(at)?;
    if first < 128 {
        return Some((usize::from(first), at + 1));
    }
    let four: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(((u32::from_be_bytes(four) & 0x7fff_ffff) as usize, at + 4))
}

/// Appends one pair to the content of a PARAMS stream. Name and value must each be shorter than 2^31 bytes.
pub fn push_pair(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    for length in [name.len(), value.len()] {
        match u8::try_from(length) {
            Ok(short) if short < 128 => out.push(short),
            _ => out.extend_from_slice(&(length as u32 | 0x8000_0000).to_be_bytes()),
        }
    }
    out.extend_from_slice(name);
    out.extend_from_slice(value);
}
