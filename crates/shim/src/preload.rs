//! The root of the preloaded library; `build.rs` compiles it.
#![no_std]

mod preload {
    pub(crate) mod channel;
    pub(crate) mod counts;
    pub(crate) mod ending;
    pub(crate) mod fork;
    pub(crate) mod hooks;
    pub(crate) mod message;
    pub(crate) mod setup;
    pub(crate) mod sys;
    pub(crate) mod table;
}
mod protocol;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    preload::sys::abort()
}
