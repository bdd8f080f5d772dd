//! Tasks of the project itself.
fn main() {}
