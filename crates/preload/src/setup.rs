//! What the supervisor has set, read once before `main`.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicBool, Ordering};

use super::{counts, ending, fork, sys, table};

const NAME: usize = 32;
const PORTS: usize = 64;

/// As `protocol::VARIABLE` says them.
pub(crate) struct Settings {
    name: [u8; NAME],
    name_length: usize,
    pub(crate) token: [u8; 16],
    pub(crate) hold: bool,
    pub(crate) outgoing: bool,
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

    fn read(&mut self, text: &'static [u8]) -> bool {
        let mut counts = None;
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
                b"counts" => counts = Some(value),
                b"hold" => self.hold = true,
                b"outgoing" => self.outgoing = true,
                b"ports" => read_ports(&mut self.only, value),
                b"exclude" => read_ports(&mut self.except, value),
                _ => {}
            }
        }
        map_counts(counts.unwrap_or_default());
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

fn read_ports(ports: &mut Ports, text: &[u8]) {
    for (place, word) in ports.ports.iter_mut().zip(text.split(|byte| *byte == b',')) {
        *place = word
            .iter()
            .fold(0, |port: u16, digit| port.wrapping_mul(10).wrapping_add(u16::from(digit_of(*digit))));
        ports.count += 1;
    }
}

fn map_counts(path: &[u8]) {
    let mut whole = [0u8; 512];
    // One byte less, so that a zero ends it.
    if let Some(place) = whole[..511].get_mut(..path.len()) {
        place.copy_from_slice(path);
    }
    if let Ok(path) = CStr::from_bytes_until_nul(&whole) {
        counts::prepare(path);
    }
}

static READY: AtomicBool = AtomicBool::new(false);
static SETTINGS: Once = Once(UnsafeCell::new(Settings::NONE));

/// Written once, by the only thread there is.
struct Once(UnsafeCell<Settings>);

// SAFETY: `start` writes before it sets READY, and everybody else reads after READY is set.
unsafe impl Sync for Once {}

/// What is set; `None` where there is no supervisor, and before the library is set up.
pub(crate) fn settings() -> Option<&'static Settings> {
    // SAFETY: written once, before READY, and never after.
    READY.load(Ordering::Acquire).then(|| unsafe { &*SETTINGS.0.get() })
}

/// Runs before `main`, when the program has one thread.
extern "C" fn start(_: c_int, _: *const (), _: *const ()) {
    super::hooks::resolve();
    let Some(text) = sys::environment(c"LINGER_RUN") else { return };
    // SAFETY: nobody reads it before READY is set, and there is one thread.
    let settings = unsafe { &mut *SETTINGS.0.get() };
    if !settings.read(text.to_bytes()) {
        return;
    }
    table::prepare();
    ending::this_process();
    sys::at_fork(fork::prepare, fork::parent, fork::child);
    READY.store(true, Ordering::Release);
}

/// Runs in `exit`, after what the program registered with `atexit`.
extern "C" fn stop() {
    if settings().is_some() {
        ending::exit();
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn(c_int, *const (), *const ()) = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static STOP: extern "C" fn() = stop;
