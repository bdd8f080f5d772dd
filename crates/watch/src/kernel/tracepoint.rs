//! The layout of tracepoint events, read from the `format` files of the running kernel, since ids and offsets differ
//! between versions.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The layout of one tracepoint's events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// The tracepoint's id.
    pub(crate) id: u64,
    fields: HashMap<String, Field>,
    /// The names that the print format gives to the values of a field.
    symbols: HashMap<String, HashMap<i64, Arc<str>>>,
}

impl Format {
    /// Reads the format of `group/name` below the tracefs at `tracefs`.
    ///
    /// # Errors
    /// Returns `NotFound` if this kernel has no such tracepoint, and `InvalidData` for a format that cannot be parsed.
    pub(crate) fn read(tracefs: &Path, group: &str, name: &str) -> io::Result<Self> {
        let text = std::fs::read_to_string(tracefs.join("events").join(group).join(name).join("format"))?;
        Self::parse(&text).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the format of tracepoint {group}:{name}"))
        })
    }

    /// Parses the text of a `format` file.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let id = text.lines().find_map(|line| line.strip_prefix("ID:"))?.trim().parse().ok()?;
        let mut fields = HashMap::new();
        for line in text.lines().filter_map(|line| line.trim().strip_prefix("field:")) {
            let mut parts = line.split(';').map(str::trim);
            let declaration = parts.next()?;
            let number = |part: Option<&str>, key: &str| part?.strip_prefix(key)?.parse::<usize>().ok();
            let offset = number(parts.next(), "offset:")?;
            let size = number(parts.next(), "size:")?;
            let name = declaration.rsplit([' ', '*']).next()?.split('[').next()?;
            fields.insert(name.to_owned(), Field { offset, size });
        }
        let mut symbols: HashMap<String, HashMap<i64, Arc<str>>> = HashMap::new();
        for part in text.split("__print_symbolic(REC->").skip(1) {
            let (field, rest) = part.split_once(',')?;
            let table = symbols.entry(field.trim().to_owned()).or_default();
            for pair in rest.split("})").next()?.split('{').skip(1) {
                let mut halves = pair.trim_end_matches(['}', ',', ' ']).splitn(2, ',');
                let (Some(value), Some(name)) = (halves.next(), halves.next()) else { continue };
                // Older kernels print the name of the constant instead of its value.
                if let Ok(value) = value.trim().parse() {
                    table.insert(value, name.trim().trim_matches(['"', '}', ' ']).into());
                }
            }
        }
        Some(Self { id, fields, symbols })
    }

    /// Whether the events have a field of this name.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// The place of a field in an event.
    pub(crate) fn field(&self, name: &str) -> Option<Field> {
        self.fields.get(name).copied()
    }

    /// The name that the kernel prints for a field's value.
    pub(crate) fn symbol(&self, field: &str, value: u64) -> Option<&Arc<str>> {
        self.symbols.get(field)?.get(&(value as i64))
    }
}

/// The place of a field in the events of a tracepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    offset: usize,
    size: usize,
}

impl Field {
    /// The field's bytes in an event.
    pub(crate) fn bytes(self, raw: &[u8]) -> Option<&[u8]> {
        raw.get(self.offset..self.offset.checked_add(self.size)?)
    }

    /// The field's value as an integer.
    pub(crate) fn number(self, raw: &[u8]) -> Option<u64> {
        let bytes = self.bytes(raw)?;
        match bytes.len() {
            1 => Some(bytes[0].into()),
            2 => Some(u16::from_ne_bytes(*bytes.first_chunk()?).into()),
            4 => Some(u32::from_ne_bytes(*bytes.first_chunk()?).into()),
            8 => Some(u64::from_ne_bytes(*bytes.first_chunk()?)),
            _ => None,
        }
    }
}

/// The directory of the kernel's tracepoints. Mounts tracefs there if it is not mounted.
///
/// # Errors
/// Returns the errors of `mount`, such as `EPERM`.
pub(crate) fn tracefs() -> io::Result<PathBuf> {
    for path in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        if File::open(format!("{path}/events/header_page")).is_ok() {
            return Ok(path.into());
        }
    }
    let path = "/sys/kernel/tracing";
    // SAFETY: terminated constants and no data; what it changes is the mount table, as systemd does at boot.
    let result = unsafe {
        libc::mount(
            c"tracefs".as_ptr(),
            c"/sys/kernel/tracing".as_ptr(),
            c"tracefs".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            std::ptr::null(),
        )
    };
    if result == 0 { Ok(path.into()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: tcp_send_reset\nID: 2280\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:const void * skbaddr;\toffset:8;\tsize:8;\tsigned:0;\n\
        \tfield:enum sk_rst_reason reason;\toffset:16;\tsize:4;\tsigned:0;\n\
        \tfield:__u8 saddr[28];\toffset:20;\tsize:28;\tsigned:0;\n\n\
        print fmt: \"reason=%s\", REC->state ? __print_symbolic(REC->state, { TCP_CLOSE, \"TCP_CLOSE\" }) : \"?\", \
        __print_symbolic(REC->reason, { 0, \"NOT_SPECIFIED\" }, { 11, \"TCP_ABORT_ON_CLOSE\" })\n";

    #[test]
    fn offsets_and_names_are_read() {
        let format = Format::parse(TEXT).unwrap();
        assert_eq!(format.id, 2280);
        let mut raw = [0; 48];
        raw[16] = 11;
        raw[20] = 7;
        let reason = format.field("reason").unwrap();
        let word = format.symbol("reason", reason.number(&raw).unwrap());
        assert_eq!(word.map(|word| &**word), Some("TCP_ABORT_ON_CLOSE"));
        assert_eq!(format.field("saddr").unwrap().bytes(&raw).unwrap()[0], 7);
        assert_eq!(format.field("skbaddr").unwrap().number(&raw), Some(0));
        assert!(!format.has("cookie") && reason.number(&raw[..10]).is_none());
    }

    #[test]
    fn other_texts_are_refused() {
        assert_eq!(Format::parse(""), None);
        assert_eq!(Format::parse("ID: 3\nfield:int a;\toffset:x;\tsize:4;"), None);
    }
}
