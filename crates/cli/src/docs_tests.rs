//! Checks that this program understands every command of its own that a document, a comment or a help text shows.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory, Parser};

use crate::args::Arguments;

/// Blocks in these languages hold no commands.
const NO_COMMANDS: [&str; 6] = ["dockerfile", "elisp", "json", "rust", "text", "toml"];

/// Other programs, with those of their options that documents name without the program.
const OTHERS: [(&str, &[&str]); 6] = [
    ("cargo, rustc", &["--cfg", "--lib", "--test"]),
    ("cargo mutants", &["--in-diff", "--list"]),
    ("the transfer's bench", &["--only"]),
    ("docker", &["--cap-add", "--cap-drop", "--read-only", "--stop-timeout"]),
    ("rsync", &["--fsync"]),
    ("uwsgi", &["--daemonize", "--die-on-term", "--fastcgi-socket", "--http", "--http-socket", "--socket"]),
];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Every file of the tree with one of these endings, except generated ones and this one.
fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if name != "target" && name != "recorded" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) && name != "docs_tests.rs" {
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

/// The program with all verbs, each with its own options and those of every verb.
fn program() -> Command {
    let mut program = Arguments::command();
    program.build();
    program
}

/// What is wrong with a text between back-ticks in a sentence, where values may be left out or replaced by placeholders:
/// a whole command, one that begins with the verb, or an option alone.
fn fault_in_sentence(span: &str, program: &Command) -> Option<String> {
    let words: Vec<&str> =
        span.split_whitespace().take_while(|word| !["--", "|", ">"].contains(word)).collect();
    let is_verb = |word: &str| program.find_subcommand(word).is_some();
    match *words.first()? {
        "linger" => fault_in_command(&words[1..], program),
        verb if is_verb(verb) && words.iter().any(|word| word.starts_with("--")) => {
            fault_in_command(&words, program)
        }
        option if option.starts_with("--") => {
            let name = option.split('=').next().unwrap_or_default();
            let is_of_others = OTHERS.iter().any(|(_, options)| options.contains(&name));
            // An option of several verbs is right if one of them takes it so.
            let faults: Vec<_> = commands_below(program)
                .into_iter()
                .map(|command| fault_in_options(&words, command))
                .collect();
            (!is_of_others && faults.iter().all(Option::is_some)).then(|| format!("no verb takes {name} so"))
        }
        _ => None,
    }
}

/// A command, and all of its subcommands.
fn commands_below(command: &Command) -> Vec<&Command> {
    std::iter::once(command).chain(command.get_subcommands().flat_map(commands_below)).collect()
}

fn is_name(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
}

/// What is wrong with the words behind `linger`.
fn fault_in_command(words: &[&str], program: &Command) -> Option<String> {
    let (mut command, mut rest) = (program, words);
    while let Some(next) = rest.first().and_then(|word| command.find_subcommand(word)) {
        (command, rest) = (next, &rest[1..]);
    }
    // Of a verb that is a placeholder nothing is known.
    if std::ptr::eq(command, program)
        && rest.first().is_some_and(|word| !word.starts_with('-') && !is_name(word))
    {
        return None;
    }
    // Where a command has subcommands, a name that is none of them is a wrong one, unless it takes operands as well.
    match rest.first().filter(|word| is_name(word)) {
        Some(verb) if command.has_subcommands() && command.get_positionals().next().is_none() => {
            Some(format!("`{}` has no verb `{verb}`", command.get_name()))
        }
        _ => fault_in_options(rest, command),
    }
}

/// What is wrong with the options among some words of a command, and with values that must be one of a few.
fn fault_in_options(words: &[&str], command: &Command) -> Option<String> {
    let none = |option: &str| Some(format!("`{}` has no `{option}`", command.get_name()));
    for (at, word) in words.iter().enumerate() {
        let (option, inline) =
            word.split_once('=').map_or((*word, None), |(option, value)| (option, Some(value)));
        let argument = if let Some(long) = option.strip_prefix("--") {
            if !long.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
                continue;
            }
            command.get_arguments().find(|argument| {
                let aliases = argument.get_all_aliases().unwrap_or_default();
                argument.get_long() == Some(long) || aliases.contains(&long)
            })
        } else if let Some(short) = option.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            // A negative number, or letters in one word.
            if !short.chars().all(|c| c.is_ascii_alphabetic()) {
                continue;
            }
            command.get_arguments().find(|argument| argument.get_short() == short.chars().next())
        } else {
            continue;
        };
        let Some(argument) = argument else { return none(option) };
        let value = inline.or_else(|| words.get(at + 1).copied()).filter(|value| !value.starts_with('-'));
        let values = argument.get_possible_values();
        if !argument.get_action().takes_values() || values.is_empty() {
            continue;
        }
        for value in value.iter().flat_map(|value| value.split(['|', ',', '\\'])) {
            let is_known = values.iter().any(|known| known.matches(value, false));
            if !value.is_empty() && is_name(value) && !is_known {
                return Some(format!("`{option}` takes no `{value}`"));
            }
        }
    }
    None
}

/// What is wrong with the commands that a line of shell contains.
fn faults_of_line(line: &str) -> Vec<String> {
    let faults = commands(line).into_iter().filter_map(|command| {
        // clap reports `--help` and `--version` as such errors, too.
        let error = Arguments::try_parse_from(&command).err().filter(clap::Error::use_stderr)?;
        Some(format!("{}: {error}", command.join(" ")))
    });
    faults.collect()
}

/// What is wrong with the texts between back-ticks, line by line.
fn faults_of_spans(text: &str, of_document: bool) -> Vec<String> {
    let program = program();
    let mut wrong = Vec::new();
    for (place, line) in text.lines().enumerate() {
        let spans = line.split('`').skip(1).step_by(2);
        // In comments an option alone may be of any program.
        for span in spans.filter(|span| of_document || span.starts_with("linger ")) {
            if let Some(fault) = fault_in_sentence(span, &program) {
                wrong.push(format!("{}: `{span}`: {fault}", place + 1));
            }
        }
    }
    wrong
}

/// What is wrong with the commands of one document.
fn faults(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for (place, line) in command_lines(text) {
        wrong.extend(faults_of_line(&line).into_iter().map(|fault| format!("{place}: {fault}")));
    }
    wrong.extend(faults_of_spans(text, true));
    wrong
}

#[test]
fn documents_show_commands_that_there_are() {
    let (mut shown, mut wrong) = (0, String::new());
    for path in files(&[".md", ".service"]) {
        let mut text = fs::read_to_string(&path).unwrap();
        if path.extension().is_some_and(|extension| extension == "service") {
            // A unit is treated as one block; its line numbers are one too high.
            text = format!("```\n{text}```\n");
        }
        shown += command_lines(&text).iter().flat_map(|(_, line)| commands(line)).count();
        for fault in faults(&text) {
            wrong += &format!("{}:{fault}\n", path.strip_prefix(root()).unwrap().display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(shown >= 10, "{shown} commands were found: they are not where this test looks");
}

#[test]
fn comments_and_messages_name_commands_that_there_are() {
    let mut wrong = String::new();
    for path in files(&[".rs", ".toml", ".c"]) {
        for fault in faults_of_spans(&fs::read_to_string(&path).unwrap(), false) {
            wrong += &format!("{}:{fault}\n", path.strip_prefix(root()).unwrap().display());
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn help_shows_commands_that_there_are() {
    let (mut shown, mut wrong) = (0, String::new());
    for command in commands_below(&program()) {
        let texts = [command.get_after_help(), command.get_after_long_help(), command.get_long_about()];
        for text in texts.into_iter().flatten().map(ToString::to_string) {
            // Examples are indented; a sentence may say "linger" without a command.
            for line in text.lines().filter(|line| line.starts_with("  ")) {
                shown += commands(line).len();
                wrong += &faults_of_line(line).concat();
            }
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
        ("linger lab -v", 0),
        ("linger lab -y", 1),
        ("linger run --via seccomp -- CMD --anything", 0),
        ("linger run --via seccomb -- CMD --anything", 1),
        ("linger lab exec --server", 0),
        ("linger lab --no-such-option", 1),
        ("linger lap", 1),
        ("linger VERB --json", 0),
        ("linger --json", 1),
        ("linger receipt verify FILE", 0),
        ("linger receipt verity FILE", 1),
        ("linger put FILE host:name", 0),
        ("lab --one", 0),
        ("lab --won", 1),
        ("run time", 0),
        ("--until-reset", 0),
        ("--until-rest", 1),
        ("--links keep\\|follow\\|skip", 0),
        ("--links keep\\|follow\\|skips", 1),
    ] {
        assert_eq!(faults(&format!("say `{span}` here")).len(), count, "{span}");
        let is_whole = span.starts_with("linger ");
        let of_comment = faults_of_spans(&format!("/// say `{span}` here"), false);
        assert_eq!(of_comment.len(), if is_whole { count } else { 0 }, "{span} in a comment");
    }
}
