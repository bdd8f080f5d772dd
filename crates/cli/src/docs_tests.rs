//! Checks that this program understands every command of its own that a document shows.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory, Parser};

use crate::args::Arguments;

/// Blocks in these languages hold no commands.
const NO_COMMANDS: [&str; 6] = ["dockerfile", "elisp", "json", "rust", "text", "toml"];

fn documents() -> Vec<PathBuf> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut found = Vec::new();
    for folder in ["", "docs", "deploy"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md" || extension == "service") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The command lines in a document's code blocks, each with its line number; continued lines are joined. In a
/// block with prompts, a line without a prompt is output.
fn command_lines(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut block: Option<Vec<(usize, String)>> = None;
    let mut has_commands = true;
    for (place, line) in text.lines().enumerate() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            let Some(lines) = &mut block else { continue };
            match lines.last_mut().filter(|(_, last)| last.ends_with('\\')) {
                Some((_, last)) => {
                    last.pop();
                    last.push_str(line);
                }
                None => lines.push((place + 1, line.to_owned())),
            }
            continue;
        };
        match block.take() {
            None => {
                has_commands = !NO_COMMANDS.iter().any(|none| language.starts_with(none));
                block = Some(Vec::new());
            }
            Some(_) if !has_commands => {}
            Some(lines) if lines.iter().any(|(_, line)| line.starts_with("$ ")) => {
                let prompted = lines
                    .into_iter()
                    .filter_map(|(place, line)| Some((place, line.strip_prefix("$ ")?.to_owned())));
                found.extend(prompted);
            }
            Some(lines) => found.extend(lines),
        }
    }
    found
}

/// The commands of this program in a line of shell, also those that are arguments of other commands.
fn commands(line: &str) -> Vec<Vec<String>> {
    // A line that is not shell, for example because it has an odd number of quotes, contains no command of this
    // program.
    let Some(words) = shlex::split(&line.replace("$LINGER_SERVER", "10.0.0.1")) else { return Vec::new() };
    let mut found: Vec<Vec<String>> = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let is_own = word.trim_start_matches('!') == "linger" || word.ends_with("/linger");
        let is_cargo_run = word == "cargo" && words.peek().is_some_and(|next| next == "run");
        // The words before `--` are cargo's. An example is a program of its own.
        let cargos: Vec<String> = match is_cargo_run {
            true => words.by_ref().take_while(|word| word != "--").collect(),
            false => Vec::new(),
        };
        let is_own =
            is_own || is_cargo_run && words.peek().is_some() && !cargos.contains(&"--example".to_owned());
        if !is_own {
            if word.contains(' ') {
                found.extend(commands(&word));
            }
            continue;
        }
        let is_end = |word: &String| ["|", "||", "&", "&&", ";", ">", "<", "2>"].contains(&word.as_str());
        let mut command = vec!["linger".to_owned()];
        while let Some(word) = words.next_if(|word| !is_end(word)) {
            if word.contains("linger ") {
                found.extend(commands(&word));
            }
            if word.starts_with("2>") {
                break;
            }
            command.push(word);
        }
        found.push(command);
    }
    found
}

/// What is wrong with a command in a sentence, where values may be left out or replaced by placeholders.
fn fault_in_sentence(span: &str, program: &Command) -> Option<String> {
    let mut words = span.split_whitespace().skip(1).peekable();
    let mut command = program;
    while let Some(next) = words.peek().and_then(|word| command.find_subcommand(word)) {
        command = next;
        words.next();
    }
    if std::ptr::eq(command, program) {
        let verb = words.next()?;
        let is_word = verb.chars().all(|c| c.is_ascii_lowercase());
        return is_word.then(|| format!("there is no verb `{verb}`"));
    }
    for word in words.take_while(|word| *word != "--") {
        let Some(long) = word.strip_prefix("--") else { continue };
        let long = long.split('=').next().unwrap_or_default();
        let is_known = command.get_arguments().any(|argument| {
            argument.get_long() == Some(long)
                || argument.get_all_aliases().is_some_and(|aliases| aliases.contains(&long))
        });
        if !is_known && long != "help" && long.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
            return Some(format!("`{}` has no `--{long}`", command.get_name()));
        }
    }
    None
}

/// What is wrong with the commands of one document.
fn faults(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (place, line) in command_lines(text) {
        for command in commands(&line) {
            if let Err(error) = Arguments::try_parse_from(&command) {
                // clap reports `--help` and `--version` as such errors, too.
                if error.use_stderr() {
                    wrong.push(format!("{place}: {}: {error}", command.join(" ")));
                }
            }
        }
    }
    let mut program = Arguments::command();
    program.build();
    for (place, line) in text.lines().enumerate() {
        for span in line.split('`').skip(1).step_by(2).filter(|span| span.starts_with("linger ")) {
            if let Some(fault) = fault_in_sentence(span, &program) {
                wrong.push(format!("{}: `{span}`: {fault}", place + 1));
            }
        }
    }
    wrong
}

#[test]
fn documents_show_commands_that_there_are() {
    let (mut shown, mut wrong) = (0, String::new());
    for path in documents() {
        let mut text = fs::read_to_string(&path).unwrap();
        if path.extension().is_some_and(|extension| extension == "service") {
            // A unit is treated as one block; its line numbers are one too high.
            text = format!("```\n{text}```\n");
        }
        shown += command_lines(&text).iter().flat_map(|(_, line)| commands(line)).count();
        for fault in faults(&text) {
            wrong += &format!("{}:{fault}\n", path.display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(shown >= 10, "{shown} commands were found: they are not where this test looks");
}

#[test]
fn a_wrong_command_is_found() {
    let block = |line: &str| faults(&format!("text\n```console\n{line}\nits output: linger nothing\n```\n"));
    assert_eq!(block("$ linger lab --seed 7 | head -1    # quick"), Vec::<String>::new());
    assert_eq!(block("$ cargo run --release -- lab --seed 7"), Vec::<String>::new());
    assert_eq!(block("$ linger lab --no-such-option").len(), 1);
    assert_eq!(block("$ cargo run --release -- lap").len(), 1);
    assert_eq!(block("$ cargo run --release --example lap -- lap"), Vec::<String>::new());
    assert_eq!(block("$ linger lab exec --server 'linger share --no-such-option .' --client true").len(), 1);
    assert_eq!(block("$ linger lab \\\n  --no-such-option").len(), 1);
}

#[test]
fn a_wrong_command_in_a_sentence_is_found() {
    for (span, count) in [
        ("linger lab --link", 0),
        ("linger run --via seccomp -- CMD --anything", 0),
        ("linger lab exec --server", 0),
        ("linger lab --no-such-option", 1),
        ("linger lap", 1),
        ("linger VERB", 0),
    ] {
        assert_eq!(faults(&format!("say `{span}` here")).len(), count, "{span}");
    }
}
