//! A server of the matrix: from the table of the tests, or from the tables of the set-ups.

use linger_testing::servers::{SERVERS, Server, Subject};

use crate::setups::{self, MatrixSetup, Serving};

/// A row of the matrix.
#[derive(Debug)]
pub(super) enum MatrixServer {
    Tested(&'static Server),
    Setup(Box<MatrixSetup>),
}

/// A server that runs. It ends when it is dropped, in the thread that started it.
#[derive(Debug)]
pub(super) struct RunningRow {
    pub(super) url: String,
    pub(super) websocket: Option<String>,
    pub(super) pid: u32,
    /// Whether another server is behind it.
    pub(super) is_gateway: bool,
    _keep: Keep,
}

#[derive(Debug)]
#[expect(dead_code, reason = "kept for their drop")]
enum Keep {
    Subject(Subject),
    Serving(Serving),
}

impl MatrixServer {
    /// All of them, in the order of the rows.
    pub(super) fn all() -> anyhow::Result<Vec<Self>> {
        let setups = setups::for_matrix()?.into_iter().map(|setup| Self::Setup(Box::new(setup)));
        Ok(SERVERS.iter().map(Self::Tested).chain(setups).collect())
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Tested(server) => server.name,
            Self::Setup(setup) => &setup.name,
        }
    }

    pub(super) fn version(&self) -> String {
        match self {
            Self::Tested(server) => server.version(),
            Self::Setup(setup) => setups::version(setup),
        }
    }

    /// Starts it in the calling thread's network namespace.
    ///
    /// # Errors
    /// Returns a sentence that says what is missing.
    pub(super) fn start(&self) -> Result<RunningRow, String> {
        match self {
            Self::Tested(server) => {
                let subject = (server.start)().map_err(|error| error.to_string())?;
                let pid = subject.peers.first().map(|peer| peer.id()).unwrap_or_default();
                let (url, is_gateway) = (subject.url.clone(), subject.peers.len() > 1);
                Ok(RunningRow { url, websocket: None, pid, is_gateway, _keep: Keep::Subject(subject) })
            }
            Self::Setup(setup) => {
                let serving = setups::serve(setup).map_err(|error| format!("{error:#}"))?;
                let (url, websocket) = (serving.url.clone(), serving.websocket.clone());
                let (pid, is_gateway) = (serving.id(), serving.is_gateway);
                Ok(RunningRow { url, websocket, pid, is_gateway, _keep: Keep::Serving(serving) })
            }
        }
    }
}
