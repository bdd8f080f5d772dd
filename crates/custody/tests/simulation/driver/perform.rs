//! How the driver carries out the world's actions.

use linger_custody::world::{Action, Answer, Cookie, Kept, Pid, Way};

use super::{AtHand, Driver, Fault, KeptFd, LIMITS};
use crate::kernel::{Call, Kernel};

/// The largest number of questions for one event: a few for each connection that can exist.
const ASKS: u32 = 200;

impl Driver {
    pub(super) fn perform(&mut self, kernel: &mut Kernel, action: Action) -> Result<(), Fault> {
        if self.tracing {
            eprintln!("      -> {action:?}");
        }
        match action {
            Action::Ask(ask) => {
                self.check_asks()?;
                let answer = self.answer(kernel, ask)?;
                if self.tracing {
                    eprintln!("      <- {answer:?}");
                }
                self.tell_answer(answer);
            }
            Action::Keep(kept) => {
                let one = self.at_hand.ok_or("keeps an fd, and none is at hand")?;
                self.keep(kept, one);
            }
            Action::KeepHeld(kept, Cookie(index)) => {
                let connection = index as usize;
                if !self.held.remove(&connection) {
                    return Err(format!("connection {connection} is not held"));
                }
                self.orphans.push(connection);
                self.kept.insert(kept, KeptFd { connection, closed: true, ..KeptFd::default() });
            }
            Action::Drop(kept) => {
                let one = self.kept.remove(&kept).ok_or(format!("{kept:?} is dropped and not kept"))?;
                self.check_dropped(kernel, &one)?;
            }
            Action::Release(Cookie(index)) => {
                if !self.held.remove(&(index as usize)) {
                    return Err(format!("connection {index} is released and not held"));
                }
                self.check_released(kernel, index as usize)?;
                kernel.connections[index as usize].unheld |= self.is_unheard();
            }
            Action::Watch(Pid(process)) => {
                self.watched.insert(process as usize);
            }
            Action::Hidden(Pid(process)) => {
                if !self.hidden.contains(&(process as usize)) || !self.named.insert(process as usize) {
                    return Err(format!("names process {process}, which can be looked at, or twice"));
                }
            }
            Action::Pretend => {
                let current = self.current.as_mut().ok_or("nothing to pretend")?;
                let is_shutdown = matches!(current.call, Call::Shutdown(..));
                if std::mem::replace(&mut current.pretended, true) || !is_shutdown {
                    return Err("pretends what is no shutdown, or twice".into());
                }
            }
            Action::Count { cookie, reason, holder } => self.count(kernel, cookie, reason, holder)?,
        }
        Ok(())
    }

    /// A question that was answered is not asked again without end.
    pub(super) fn check_asks(&mut self) -> Result<(), Fault> {
        self.asks += 1;
        if self.asks > ASKS { Err("asks again and again".into()) } else { Ok(()) }
    }

    fn tell_answer(&mut self, answer: Answer) {
        self.told_at = self.now;
        let Answer::Census { census, .. } = &answer else { return self.world.answer(answer, self.now) };
        let (census, before) = (census.clone(), self.hints.shared(&self.world));
        self.world.answer(answer, self.now);
        self.hints.renew(&census, &before, &self.world);
        self.room = LIMITS.shared.max(2 * self.world.remembered());
    }

    fn keep(&mut self, kept: Kept, one: AtHand) {
        let AtHand { connection, name, unread, way, sole, serials, processes } = one;
        let one = KeptFd {
            connection,
            name: Some(name),
            may_fail: matches!(way, Some(Way::Replace | Way::Exec)),
            sole,
            call: self.current.as_ref().map(|current| (current.thread, current.id)),
            serials,
            processes,
            is_exit: way == Some(Way::Exit),
            is_close: matches!(way, Some(Way::Replace | Way::Close)),
            unread,
            ..KeptFd::default()
        };
        self.kept.insert(kept, one);
    }
}
