//! A set-up that is started bare and serves until it is dropped, for `cargo xtask matrix`.

use std::fs;
use std::process::Child;

use super::place::{PORT, SetupFolder, begin, end_all, lacks, last_lines, listens};
use super::table::{self, Asking, Setup};

/// A running server. Dropping it ends all processes of its network namespace: it is dropped in the thread that started it.
#[derive(Debug)]
pub(crate) struct Serving {
    /// The URL of the large page.
    pub(crate) url: String,
    /// The URL of its WebSocket, if it has one.
    pub(crate) websocket: Option<String>,
    /// Whether one server is in front of another: what the kernel counts is of both.
    pub(crate) is_gateway: bool,
    child: Child,
    _place: SetupFolder,
}

impl Serving {
    /// The pid of the program.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        end_all();
        let _ = self.child.wait();
    }
}

/// Starts a set-up in the calling thread's network namespace.
///
/// # Errors
/// Returns why it cannot be started.
pub(crate) fn serve(setup: &Setup) -> anyhow::Result<Serving> {
    if let Some(why) = lacks(setup) {
        anyhow::bail!("{why} (`cargo xtask matrix --install`)");
    }
    let Asking::Http { path, .. } = &setup.ask else {
        anyhow::bail!("it speaks no HTTP");
    };
    let (place, child) = begin(setup, &[]).inspect_err(|_| end_all())?;
    let scheme = if setup.tls { "https" } else { "http" };
    let url = |path: &str| format!("{scheme}://127.0.0.1:{PORT}{path}");
    let stderr = place.file("stderr");
    let mut serving = Serving {
        url: url(path),
        websocket: setup.websocket.as_deref().map(url),
        is_gateway: setup.behind.is_some(),
        child,
        _place: place,
    };
    let listens = listens(setup, &mut serving.child);
    listens.map_err(|error| error.context(last_lines(&fs::read_to_string(stderr).unwrap_or_default())))?;
    Ok(serving)
}

/// The set-ups that are rows of the matrix, beside those of its own table.
///
/// # Errors
/// Returns an error if a table cannot be read.
pub(crate) fn for_matrix() -> anyhow::Result<Vec<Setup>> {
    let all = table::read(table::SETUPS)?.setup.into_iter().chain(table::read(table::MATRIX)?.setup);
    Ok(all.filter(|one| one.same_as.is_none() && matches!(one.ask, Asking::Http { .. })).collect())
}

/// Installs all servers of the matrix.
///
/// # Errors
/// Returns an error that lists those that could not be installed.
pub(crate) fn matrix_install() -> anyhow::Result<()> {
    let (setups, matrix) = (table::read(table::SETUPS)?, table::read(table::MATRIX)?);
    super::install::all(&[&setups.install, &matrix.install])
}
