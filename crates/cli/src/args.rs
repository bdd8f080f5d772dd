//! The command line: the verbs, and what each is given.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::logger::Verbosity;
use crate::output::Stdout;
use crate::{
    client, exit, fcgi, generate, hunt, interrupt, lab, lines, memory, probe, run, server, transfer, watch,
    why,
};

/// Shows, finds, explains and cures responses lost at close().
#[derive(Debug, Parser)]
#[command(name = "linger", version, max_term_width = 100)]
#[command(after_help = "Exit status: 0 nothing lost, 1 loss found or an expectation not met, 2 bad usage,\n\
    3 could not tell, 4 not possible on this machine.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    verbosity: Verbosity,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Client(client::ClientArguments),
    Completions(generate::Completions),
    Fcgi(fcgi::FcgiArguments),
    Get(Box<transfer::get::GetArguments>),
    Hunt(Box<hunt::HuntArguments>),
    Lab(Box<lab::LabArguments>),
    Lingerd(run::LingerdArguments),
    Ls(transfer::get::ListArguments),
    Man(generate::Man),
    Peers(transfer::peers::PeersArguments),
    Probe(Box<probe::ProbeArguments>),
    Put(Box<transfer::put::PutArguments>),
    Receipt(transfer::receipt::ReceiptArguments),
    Run(Box<run::RunArguments>),
    Schema(lines::Schema),
    Server(server::ServerArguments),
    Share(transfer::share::ShareArguments),
    Watch(watch::WatchArguments),
    Why(why::WhyArguments),
}

/// Parses the command line and runs the verb. clap reports mistakes, with status 2.
pub(crate) fn run() -> ExitCode {
    match Arguments::try_parse() {
        Ok(arguments) => arguments.run(),
        Err(error) if error.use_stderr() => {
            // If stderr is closed there is nowhere to report it.
            let _ = error.print();
            ExitCode::from(exit::BAD_USAGE)
        }
        // Help and version. clap's own printing would not notice a full disk.
        Err(error) => {
            let mut out = Stdout::new();
            match out.text(format_args!("{}", error.render().ansi())).and_then(|()| out.flush()) {
                Ok(()) => ExitCode::from(exit::NOTHING_LOST),
                Err(stopped) => stopped.end(None),
            }
        }
    }
}

impl Arguments {
    fn run(self) -> ExitCode {
        self.verbosity.start(matches!(self.verb, Verb::Fcgi(_)));
        // Not for the supervisor: systemd's watchdog sends SIGABRT to it and expects a core dump.
        if matches!(self.verb, Verb::Run(_)) {
            memory::name_threads_without_room(|| {});
        } else {
            memory::prepare();
            // SIGXFSZ would kill the program at a write beyond `ulimit -f`, and leave the temporary file behind.
            let _ = interrupt::outlive_file_limit();
        }
        match self.verb {
            Verb::Client(arguments) => client::run(arguments),
            Verb::Completions(arguments) => arguments.run(Self::command()),
            Verb::Fcgi(arguments) => fcgi::run(arguments),
            Verb::Get(arguments) => transfer::get::run(&arguments),
            Verb::Hunt(arguments) => hunt::run(*arguments),
            Verb::Lab(arguments) => lab::run(*arguments),
            Verb::Lingerd(arguments) => run::serve(arguments),
            Verb::Ls(arguments) => transfer::get::list(&arguments),
            Verb::Man(arguments) => arguments.run(Self::command()),
            Verb::Peers(arguments) => transfer::peers::run(&arguments),
            Verb::Probe(arguments) => probe::run(*arguments),
            Verb::Put(arguments) => transfer::put::run(&arguments),
            Verb::Receipt(arguments) => transfer::receipt::run(&arguments),
            Verb::Run(arguments) => run::run(*arguments),
            Verb::Schema(arguments) => arguments.run(),
            Verb::Server(arguments) => server::run(arguments),
            Verb::Share(arguments) => transfer::share::run(&arguments),
            Verb::Watch(arguments) => watch::run(&arguments),
            Verb::Why(arguments) => why::run(&arguments),
        }
    }
}
