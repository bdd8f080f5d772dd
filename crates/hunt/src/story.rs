//! A schedule and the link on which it happens, and the file that repeats both.

use serde::{Deserialize, Serialize};

use crate::schedule::Schedule;

/// One trial of a hunt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Story {
    /// The name of the link; `None` for a server that was running before.
    pub link: Option<String>,
    /// What the client does.
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
    /// The path that the requests ask for.
    pub path: String,
    /// The port of the server; `None` for the only one on which it listens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The name of the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The client's receive buffer, as in [`Schedule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    receive_buffer: Option<u64>,
    /// The client's send buffer, as in [`Schedule`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    send_buffer: Option<u64>,
    /// As in [`Schedule`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    keep_alive: bool,
    /// As in [`Schedule`].
    #[serde(rename = "step")]
    steps: Vec<crate::schedule::ClientStep>,
}

impl StoryFile {
    /// The file of a story.
    pub fn new(story: &Story, path: String, port: Option<u16>) -> Self {
        let schedule = story.schedule.clone();
        Self {
            path,
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
        if !file.path.starts_with('/') || file.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
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
    use crate::schedule::ClientStep;

    #[test]
    fn a_story_comes_back_from_its_file() {
        let steps = [
            ClientStep::Request { body: 9, sent: 4 },
            ClientStep::Pause { milliseconds: 5_500 },
            ClientStep::Send { bytes: 8 },
            ClientStep::Read { bytes: 3 },
            ClientStep::HalfClose,
        ];
        let schedule = Schedule { receive_buffer: Some(4096), keep_alive: true, ..Schedule::of(steps) };
        let story = Story::new(Some("wifi".into()), schedule);
        let file = StoryFile::new(&story, "/large".into(), Some(80));
        let back = StoryFile::parse(&file.text()).unwrap();
        assert_eq!((back.story(), &back), (story, &file), "{}", file.text());
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
