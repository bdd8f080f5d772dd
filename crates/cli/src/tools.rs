//! What this program calls the tools that a remedy may name.

use linger_run::GapRemedy;
use linger_why::Tools;

pub(crate) fn tools() -> Tools {
    let mut tools = Tools::default();
    tools.live = Some("`linger watch`");
    tools.library = Some("the crate `linger`");
    tools.wrapper = Some("`linger run`");
    tools.remember = Some("--flows");
    tools.list = Some("--json");
    tools.select = Some("`linger why CAPTURE --host ADDRESS --port PORT --since TIME --until TIME`");
    tools
}

/// Words what to do about a listener that is not covered.
pub(crate) fn gap_remedy(remedy: GapRemedy) -> &'static str {
    match remedy {
        GapRemedy::Seccomp => "run the whole command with --via seccomp",
        GapRemedy::Environment => {
            "let LD_PRELOAD and LINGER_RUN through to it (an `env -i`, a `sudo` or a setuid program takes them out), or run \
             the whole command with --via seccomp"
        }
        GapRemedy::Trace => {
            "give `linger run` CAP_SYS_PTRACE (--cap-add SYS_PTRACE, AmbientCapabilities=), or run it as the user that the \
             program becomes"
        }
        _ => "put a server that lingers in front of it, such as nginx with `lingering_close always`",
    }
}
