//! A terminal with a view that keeps nobody waiting: a thread writes to it.
//!
//! A terminal may stop (Ctrl-S in tmux, a connection that hangs). Whoever draws on it then neither reads events nor ends when it is asked
//! to. The view is drawn again once everything before is written.

use std::io::{self, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::{Frame, Terminal};

use super::queue::OutputQueue;

/// Most bytes that wait: more than a large terminal has cells.
const MOST: usize = 4 << 20;
/// Longest wait at the end for a terminal that takes nothing.
const END: Duration = Duration::from_millis(500);

/// A terminal that belongs to the view until it is closed.
pub(crate) struct ViewTerminal {
    terminal: Terminal<CrosstermBackend<Frames>>,
    queue: Rc<OutputQueue>,
}

/// What is drawn, on its way to the thread that writes it.
struct Frames {
    queue: Rc<OutputQueue>,
    bytes: Vec<u8>,
}

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return self.queue.check();
        }
        // There is room: it is drawn only when nothing waits.
        self.queue.push(std::mem::take(&mut self.bytes), Instant::now()).map(drop)
    }
}

impl ViewTerminal {
    pub(crate) fn open() -> io::Result<Self> {
        // What a panic says is to be seen.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            ratatui::restore();
            before(panic);
        }));
        let queue = Rc::new(OutputQueue::start("terminal", MOST, io::stdout())?);
        let frames = Frames { queue: queue.clone(), bytes: Vec::new() };
        enable_raw_mode()?;
        let mut terminal = Terminal::new(CrosstermBackend::new(frames))?;
        execute!(terminal.backend_mut(), EnterAlternateScreen)?;
        Ok(Self { terminal, queue })
    }

    /// Draws, unless the terminal has not taken what was drawn before. Returns whether it was drawn.
    pub(crate) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> io::Result<bool> {
        self.queue.check()?;
        let is_free = self.queue.is_empty();
        if is_free {
            self.terminal.draw(draw)?;
        }
        Ok(is_free)
    }

    /// Gives the terminal back.
    pub(crate) fn close(mut self) {
        // A terminal that is gone needs nothing.
        let _ = execute!(self.terminal.backend_mut(), LeaveAlternateScreen);
        let _ = self.terminal.show_cursor();
        let _ = self.queue.settle(|still| still < END);
        let _ = disable_raw_mode();
    }
}
