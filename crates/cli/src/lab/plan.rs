//! What was typed becomes cells: the three of the default run, a grid, or scenarios.

use std::path::PathBuf;

use clap::Args;
use linger_lab::{
    BacklogPlan, CellClient, CellPlan, Ending, LARGEST_RESPONSE, Link, Named, NetworkPlan, Peer, Scenario,
    Trials,
};
use linger_why::Cause;

use super::results::{Plan, Task};
use crate::exit;
use crate::input::read_text;
use crate::options::{ClientSide, Family, ServerSide};
use crate::typed::{Bytes, clients, endings, links, peers};

/// The options that describe a grid of cells. A scenario file contains all these settings, so none of the options may
/// be given together with a file.
#[derive(Args, Debug)]
#[group(skip)]
pub(crate) struct Grid {
    #[command(flatten)]
    pub(crate) cells: Cells,
    #[command(flatten)]
    server: ServerSide,
    #[command(flatten)]
    clients: ClientSide,
    #[command(flatten)]
    family: Family,
}

/// The options that only the lab's cells have.
#[derive(Args, Debug)]
#[group(multiple = true)]
pub(crate) struct Cells {
    /// What the server does after its last write; so-linger=SECS waits that long.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = endings())]
    pub(crate) ending: Vec<Ending>,
    /// What the client does.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = peers())]
    pub(crate) peer: Vec<Peer>,
    /// The client: a model (`+` joins, as in sends-first+discards) or one that people use [default: usual].
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = clients())]
    pub(crate) client: Vec<CellClient>,
    /// The network.
    #[arg(long, value_delimiter = ',', value_name = "LIST", value_parser = links())]
    pub(crate) link: Vec<Link>,
    /// Size of the part of the request that the server reads.
    #[arg(long, value_name = "BYTES", default_value = "100")]
    request: Bytes,
    /// Bytes that the client sends beyond that part; 8 are FastCGI's empty STDIN record.
    #[arg(long, value_name = "BYTES", default_value = "8")]
    extra: Bytes,
    /// Bytes that the peer `upload` sends beyond that part.
    #[arg(long, value_name = "BYTES", default_value = "256KiB")]
    upload: Bytes,
    /// Congestion control of both ends, as cubic, bbr or reno [default: this machine's].
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
}

/// Why there is nothing to run: an exit status, and a sentence.
pub(crate) type RefusedPlan = (u8, String);

impl Grid {
    /// Whether no ending, peer or link was named, so that the default run applies.
    pub(crate) fn names_no_cells(&self) -> bool {
        let Cells { ending, peer, client, link, .. } = &self.cells;
        ending.is_empty() && peer.is_empty() && client.is_empty() && link.is_empty()
    }

    fn check(&self) -> Result<(), RefusedPlan> {
        if self.server.response.0 == 0 || self.server.response.0 > LARGEST_RESPONSE {
            return Err((exit::BAD_USAGE, "--response: name 1 byte to 1GiB".to_owned()));
        }
        Ok(())
    }

    /// One cell with the sizes that were typed.
    pub(crate) fn cell(
        &self,
        ending: Ending,
        (peer, client): (Peer, CellClient),
        link: Link,
        trials: Option<u64>,
        seed: u64,
    ) -> CellPlan {
        let usual = CellPlan::new(ending, peer, link);
        CellPlan {
            client,
            response: self.server.response.0,
            request: self.cells.request.0,
            extra: self.cells.extra.0,
            upload: self.cells.upload.0,
            ip: self.family.version(),
            concurrency: self.clients.concurrency,
            trials: trials.map_or(usual.trials, Trials::Exactly),
            congestion: self.cells.congestion.clone(),
            backlog: self.server.backlog,
            receive_buffer: self.clients.receive_buffer(),
            seed,
            ..usual
        }
    }

    /// The cells of the default run: the usual close, what many take for its cure, and the cure.
    pub(crate) fn three(
        &self,
        link: &Link,
        trials: Option<u64>,
        seed: u64,
    ) -> Result<Vec<Task>, RefusedPlan> {
        self.check()?;
        let cells = [Ending::Close, Ending::SoLinger(5), Ending::Lingering];
        Ok(cells
            .map(|ending| {
                self.cell(ending, (Peer::Unread, CellClient::default()), link.clone(), trials, seed)
            })
            .map(|plan| Task::new(Plan::Cell(Box::new(plan)), None))
            .into())
    }

    /// Every ending against every peer over every link; the accept queue too if nothing was chosen.
    pub(crate) fn all(&self, trials: Option<u64>, seed: u64) -> Result<Vec<Task>, RefusedPlan> {
        self.check()?;
        let mut tasks = Vec::new();
        let endings = or(&self.cells.ending, || {
            vec![Ending::Close, Ending::ShutdownClose, Ending::SoLinger(5), Ending::Exit, Ending::Lingering]
        });
        let peers = or(&self.cells.peer, || vec![Peer::ReadsAll, Peer::Unread, Peer::Late, Peer::Upload]);
        let clients = or(&self.cells.client, || vec![CellClient::default()]);
        let links = or(&self.cells.link, || {
            ["loopback", "wifi", "overtake"].into_iter().filter_map(Link::by_name).collect()
        });
        if self.names_no_cells() {
            // Start these first: they mostly wait.
            let wifi = Link::named("wifi").map_err(|error| (exit::BAD_USAGE, error))?;
            for (backlog, abort) in [(128, false), (8, false), (8, true)] {
                let plan = BacklogPlan::new(wifi.clone(), backlog, abort);
                tasks.push(Task::new(Plan::Backlog(Box::new(plan)), None));
            }
        }
        for link in &links {
            for ending in &endings {
                for (peer, client) in peers.iter().flat_map(|peer| clients.iter().map(move |it| (*peer, *it)))
                {
                    let plan = self.cell(*ending, (peer, client), link.clone(), trials, seed);
                    plan.validate().map_err(|error| (exit::BAD_USAGE, error))?;
                    tasks.push(Task::new(Plan::Cell(Box::new(plan)), None));
                }
            }
        }
        Ok(tasks)
    }
}

fn or<T: Clone>(given: &[T], usual: impl FnOnce() -> Vec<T>) -> Vec<T> {
    if given.is_empty() { usual() } else { given.to_vec() }
}

/// The cells of scenario files, and the files' titles. `trials` overrides the number of trials in the files. `seed` is used for
/// all cells if the user gave one (`typed_seed`), else only for those whose file gives none.
pub(crate) fn scenarios(
    files: &[PathBuf],
    trials: Option<u64>,
    typed_seed: Option<u64>,
    seed: u64,
) -> Result<(Vec<Task>, Vec<String>), RefusedPlan> {
    let (mut tasks, mut titles) = (Vec::new(), Vec::new());
    for file in files {
        let name = file.display().to_string();
        let unreadable =
            |error| (exit::COULD_NOT_TELL, format!("cannot read {name}: {error}{}", exit::file_hint(&error)));
        let text = read_text(file).map_err(unreadable)?;
        if NetworkPlan::is_in(&text) {
            let plan = network(&name, &text, trials, typed_seed, seed)?;
            titles.push(plan.title.clone());
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            tasks.push(Task { name: stem, ..Task::new(Plan::Network(Box::new(plan)), None) });
            continue;
        }
        let scenario = Scenario::parse(&name, &text).map_err(|error| (exit::BAD_USAGE, error))?;
        titles.push(scenario.title);
        for (mut plan, expect) in scenario.cells {
            if typed_seed.is_some() || plan.seed == 0 {
                plan.seed = seed;
            }
            if let Some(trials) = trials {
                plan.trials = Trials::Exactly(trials);
            }
            tasks.push(Task::new(Plan::Cell(Box::new(plan)), expect));
        }
    }
    Ok((tasks, titles))
}

/// The experiment of a scenario with hosts.
pub(crate) fn network(
    name: &str,
    text: &str,
    requests: Option<u64>,
    typed_seed: Option<u64>,
    seed: u64,
) -> Result<NetworkPlan, RefusedPlan> {
    let mut plan = NetworkPlan::parse(name, text).map_err(|error| (exit::BAD_USAGE, error))?;
    let causes = plan.expect.why.as_ref().map(|why| why.causes.as_slice()).unwrap_or_default();
    if let Some(unknown) = causes.iter().find(|cause| Cause::ALL.iter().all(|known| known.name() != **cause))
    {
        let known = Cause::ALL.map(Cause::name).join(", ");
        let told =
            format!("{name}: [expect] why: `{}` is no cause; there are {known}", unknown.escape_debug());
        return Err((exit::BAD_USAGE, told));
    }
    if typed_seed.is_some() || plan.seed == 0 {
        plan.seed = seed;
    }
    plan.client.requests = requests.unwrap_or(plan.client.requests);
    Ok(plan)
}
