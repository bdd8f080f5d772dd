//! Reproduces responses lost at `close()`, and shows the close that cures it.

mod bed;
mod capture;
mod duration;
mod emulator;
mod identity;
mod link;
mod named;
mod units;
mod wire;

pub use bed::{Bed, BedOptions, IpVersion, any_seed};
pub use capture::Capture;
pub use emulator::{Departure, Emulator, Nanos, Verdict};
pub use identity::{Chance, Identity, Names};
pub use link::{Direction, Fault, Link, PRESETS, Path};
pub use named::Named;
pub use units::{Bytes, Rate};
pub use wire::{Lateness, Wire, WireReport};
