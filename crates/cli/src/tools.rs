//! What this program calls the tools that a remedy may name.

use linger_why::Tools;

pub(crate) fn tools() -> Tools {
    let mut tools = Tools::default();
    tools.live = Some("`linger watch`");
    tools.library = Some("the crate `linger`");
    tools.wrapper = Some("`linger run`");
    tools.remember = Some("--flows");
    tools.list = Some("--json");
    tools
}
