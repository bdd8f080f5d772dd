//! A schedule and the link on which it happens, and the file that repeats both.

use serde::{Deserialize, Serialize};

use crate::schedule::{Player, Schedule};

/// One trial of a hunt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Story {
    /// The name of the link; `None` for a server that was running before.
    pub link: Option<String>,
    /// What the side does that the hunt plays.
    pub schedule: Schedule,
}

impl Story {
    /// A schedule on a link.
    pub fn new(link: Option<String>, schedule: Schedule) -> Self {
        Self { link, schedule }
    }
}

/// A story as a file, with what it needs to be told again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StoryFile {
    /// Who plays the steps, as in [`Schedule`].
    #[serde(default, skip_serializing_if = "Player::is_client")]
    pub plays: Player,
    /// The path that the requests ask for; empty where the client is somebody else.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The port of the server; `None` for the only one on which it listens, and 80 for a server that the hunt plays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The name of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The receive buffer, as in [`Schedule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receive_buffer: Option<u64>,
    /// The send buffer, as in [`Schedule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    send_buffer: Option<u64>,
    /// As in [`Schedule`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    keep_alive: bool,
    /// As in [`Schedule`].
    #[serde(rename = "step")]
    steps: Vec<crate::schedule::HuntStep>,
}

impl StoryFile {
    /// The file of a story.
    pub fn new(story: &Story, path: String, port: Option<u16>) -> Self {
        let schedule = story.schedule.clone();
        Self {
            plays: schedule.plays,
            path: if schedule.plays.is_client() { path } else { String::new() },
            port,
            link: story.link.clone(),
            receive_buffer: schedule.receive_buffer,
            send_buffer: schedule.send_buffer,
            keep_alive: schedule.keep_alive,
            steps: schedule.steps,
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// Returns a text that says where in the file what is wrong, or which step cannot be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        file.story().schedule.check()?;
        if !file.plays.is_client() {
            if !file.path.is_empty() {
                return Err("`path`: the requests are those of the client that is hunted".to_owned());
            }
        } else if file.path.is_empty() {
            return Err("`path` is missing".to_owned());
        } else if !file.path.starts_with('/') || file.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(format!("`path`: `{}` does not begin with /, or has spaces in it", file.path));
        }
        Ok(file)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// The story in it.
    pub fn story(&self) -> Story {
        let schedule = Schedule {
            plays: self.plays,
            receive_buffer: self.receive_buffer,
            send_buffer: self.send_buffer,
            keep_alive: self.keep_alive,
            steps: self.steps.clone(),
        };
        Story { link: self.link.clone(), schedule }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::HuntStep;

    #[test]
    fn a_story_comes_back_from_its_file() {
        let steps = [
            HuntStep::Request { body: 9, sent: 4 },
            HuntStep::Pause { milliseconds: 5_500 },
            HuntStep::Send { bytes: 8 },
            HuntStep::Read { bytes: 3 },
            HuntStep::HalfClose,
        ];
        let schedule = Schedule { receive_buffer: Some(4096), keep_alive: true, ..Schedule::of(steps) };
        let story = Story::new(Some("wifi".into()), schedule);
        let file = StoryFile::new(&story, "/large".into(), Some(80));
        let back = StoryFile::parse(&file.text()).unwrap();
        assert_eq!((back.story(), &back), (story, &file), "{}", file.text());
    }

    #[test]
    fn the_story_of_a_server_comes_back_from_its_file_and_has_no_path() {
        let steps = [
            HuntStep::Read { bytes: 3 },
            HuntStep::Respond { body: 9, sent: 4 },
            HuntStep::ReadRequest,
            HuntStep::Abort,
        ];
        let story = Story::new(Some("lan".into()), Schedule::of_server(steps));
        let file = StoryFile::new(&story, "/large".into(), None);
        assert_eq!(StoryFile::parse(&file.text()).unwrap().story(), story, "{}", file.text());
        let text = file.text();
        for (changed, told) in [
            (text.replace("plays = \"server\"\n", "path = \"/\"\n"), "step 1"),
            (text.replace("plays = \"server\"\n", "plays = \"server\"\npath = \"/\"\n"), "`path`"),
            (text.replace("\"server\"", "\"umpire\""), "umpire"),
            (text.replace("\"respond\"", "\"request\""), "step 2"),
        ] {
            let wrong = StoryFile::parse(&changed).unwrap_err();
            assert!(wrong.contains(told), "{changed}: {wrong}");
        }
        let missing = StoryFile::parse("[[step]]\ndo = \"request\"\n").unwrap_err();
        assert!(missing.contains("`path` is missing"), "{missing}");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let step = "[[step]]\ndo = \"request\"\n";
        for (text, told) in [
            (format!("path = \"/\"\n{step}x = 1\n"), "x"),
            (format!("path = \"/\"\nspeed = 3\n{step}"), "line 2"),
            (format!("path = \"x\"\n{step}"), "`path`"),
            ("path = \"/\"\nstep = []\n".to_owned(), "no request"),
            (format!("path = \"/\"\n{step}[[step]]\ndo = \"send\"\nbytes = 0\n"), "step 2"),
            (format!("path = \"/\"\n{step}[[step]]\ndo = \"dance\"\n"), "dance"),
        ] {
            let wrong = StoryFile::parse(&text).unwrap_err();
            assert!(wrong.contains(told), "{text}: {wrong}");
        }
    }
}
