//! The supervisor's settings, read once before `main`.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use crate::sandbox;

const NAME: usize = 32;
const PORTS: usize = 64;

/// The settings, as described at [`VARIABLE`](crate::protocol::VARIABLE).
pub(crate) struct Settings {
    name: [u8; NAME],
    name_length: usize,
    pub(crate) token: [u8; 16],
    pub(crate) hold: bool,
    pub(crate) outgoing: bool,
    /// The number of seccomp filters of the process that became the program.
    pub(crate) filters: u32,
    only: Ports,
    except: Ports,
}

struct Ports {
    ports: [u16; PORTS],
    count: usize,
}

impl Ports {
    const NONE: Self = Self { ports: [0; PORTS], count: 0 };

    fn has(&self, port: u16) -> bool {
        self.ports.iter().take(self.count).any(|one| *one == port)
    }
}

impl Settings {
    const NONE: Self = Self {
        name: [0; NAME],
        name_length: 0,
        token: [0; 16],
        hold: false,
        outgoing: false,
        filters: u32::MAX,
        only: Ports::NONE,
        except: Ports::NONE,
    };

    /// The supervisor's abstract address.
    pub(crate) fn name(&self) -> &[u8] {
        self.name.get(..self.name_length).unwrap_or_default()
    }

    pub(crate) fn filters_ports(&self) -> bool {
        self.only.count > 0 || self.except.count > 0
    }

    pub(crate) fn wants(&self, port: u16) -> bool {
        !self.except.has(port) && (self.only.count == 0 || self.only.has(port))
    }

    /// Parses the variable's text. True if it names a supervisor.
    fn read(&mut self, text: &[u8]) -> bool {
        for part in text.split(|byte| *byte == b';') {
            let at = part.iter().position(|byte| *byte == b'=').unwrap_or(part.len());
            let (key, value) = (part.get(..at).unwrap_or_default(), part.get(at + 1..).unwrap_or_default());
            match key {
                b"name" => {
                    let Some(name) = self.name.get_mut(..value.len()) else { return false };
                    name.copy_from_slice(value);
                    self.name_length = value.len();
                }
                b"token" => {
                    for (byte, digits) in self.token.iter_mut().zip(value.chunks(2)) {
                        *byte = digits.iter().fold(0, |byte, digit| byte << 4 | digit_of(*digit));
                    }
                }
                b"hold" => self.hold = true,
                b"filters" => self.filters = decimal(value),
                b"outgoing" => self.outgoing = true,
                b"ports" => read_ports(&mut self.only, value),
                b"exclude" => read_ports(&mut self.except, value),
                _ => {}
            }
        }
        self.name_length > 0
    }
}

fn digit_of(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => 0,
    }
}

fn decimal(digits: &[u8]) -> u32 {
    digits
        .iter()
        .fold(0, |number: u32, digit| number.wrapping_mul(10).wrapping_add(u32::from(digit_of(*digit))))
}

fn read_ports(ports: &mut Ports, text: &[u8]) {
    for (place, word) in ports.ports.iter_mut().zip(text.split(|byte| *byte == b',')) {
        *place = decimal(word) as u16;
        ports.count += 1;
    }
}

static READY: AtomicBool = AtomicBool::new(false);
static SETTINGS: Once = Once(UnsafeCell::new(Settings::NONE));

/// Written once, before `main`.
struct Once(UnsafeCell<Settings>);

// SAFETY: `read` writes before it sets READY, and everybody else reads after READY is set.
unsafe impl Sync for Once {}

/// The settings; `None` without a supervisor, before the library is set up, and in a sandbox.
pub(crate) fn settings() -> Option<&'static Settings> {
    if sandbox::is_entered() {
        return None;
    }
    // SAFETY: written once, before READY, and never after.
    READY.load(Ordering::Acquire).then(|| unsafe { &*SETTINGS.0.get() })
}

/// Reads the variable's text, before `main`. If it names a supervisor, and the process has no additional seccomp
/// filter, runs `then`, and afterwards makes the settings visible.
pub(crate) fn read(text: &[u8], then: impl FnOnce()) {
    // SAFETY: nobody reads it before READY is set, and this is called once.
    let settings = unsafe { &mut *SETTINGS.0.get() };
    if settings.read(text) && !sandbox::has_more_filters_than(settings.filters) {
        then();
        READY.store(true, Ordering::Release);
    }
}

/// Sets what the next test runs under: a supervisor, or none. Its tests take turns.
#[cfg(test)]
pub(crate) fn set_for_test(text: Option<&str>) {
    READY.store(false, Ordering::Release);
    // SAFETY: the tests that have settings take turns, and one thread of theirs is here.
    let settings = unsafe { &mut *SETTINGS.0.get() };
    *settings = Settings::NONE;
    if let Some(text) = text {
        assert!(settings.read(text.as_bytes()));
        READY.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Settings, bool) {
        let mut settings = Settings::NONE;
        let named = settings.read(text.as_bytes());
        (settings, named)
    }

    #[test]
    fn settings_are_read_in_any_order() {
        let (all, named) = read("ports=80,443;name=0af;hold=1;token=00ff10;outgoing=1;exclude=22");
        assert!(named && all.hold && all.outgoing && all.filters_ports());
        assert_eq!((all.name(), &all.token[..4]), (&b"0af"[..], &[0, 0xff, 0x10, 0][..]));
        assert_eq!([80, 443, 22, 8080].map(|port| all.wants(port)), [true, true, false, false]);
        assert_eq!((all.filters, read("name=1;filters=12").0.filters), (u32::MAX, 12));
        let (few, named) = read("name=1;exclude=22");
        assert!(named && !few.hold && !few.outgoing && few.filters_ports());
        assert_eq!([80, 22].map(|port| few.wants(port)), [true, false]);
        assert!(!read("name=1").0.filters_ports());
    }

    #[test]
    fn without_a_name_there_is_no_supervisor() {
        let long = format!("name={}", "x".repeat(NAME + 1));
        for text in ["", "name=", "hold=1;token=00", &long, ";;=;"] {
            assert!(!read(text).1, "{text}");
        }
    }
}
