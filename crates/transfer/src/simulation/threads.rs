//! Threads in lock step, as coroutines of one thread.

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use scoped_tls::scoped_thread_local;

use super::world::Work;

/// Why a thread has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    Waits,
    /// Its process ends.
    Ended,
}

/// Threads at once, at most.
pub(super) const MOST: usize = 16;

macro_rules! slots {
    ($($name:ident)*) => {
        $(scoped_thread_local!(static $name: Yielder<(), Pause>);)*

        fn enter(slot: usize, yielder: &Yielder<(), Pause>, work: Work) {
            let keys = [$(&$name),*];
            keys[slot].set(yielder, work);
        }

        /// Stops the thread in this slot, which is the one that calls.
        pub(super) fn suspend(slot: usize, pause: Pause) {
            let keys = [$(&$name),*];
            keys[slot].with(|yielder| yielder.suspend(pause));
        }
    };
}

// A key for each coroutine: the keys of one thread would be mixed up where coroutines take turns.
slots!(S0 S1 S2 S3 S4 S5 S6 S7 S8 S9 S10 S11 S12 S13 S14 S15);

/// The coroutines, and stacks for further ones.
#[derive(Default)]
pub(super) struct Threads {
    running: [Option<Coroutine<(), Pause, (), DefaultStack>>; MOST],
    stacks: Vec<DefaultStack>,
}

impl Threads {
    /// A slot that is free.
    pub(super) fn free(&self) -> Option<usize> {
        self.running.iter().position(Option::is_none)
    }

    pub(super) fn start(&mut self, slot: usize, work: Work) -> std::io::Result<()> {
        let stack = match self.stacks.pop() {
            Some(stack) => stack,
            None => DefaultStack::new(1 << 20)?,
        };
        let body = move |yielder: &Yielder<(), Pause>, ()| enter(slot, yielder, work);
        self.running[slot] = Some(Coroutine::with_stack(stack, body));
        Ok(())
    }

    /// Lets a thread go on. Returns why it has stopped; `None` at its end.
    pub(super) fn resume(&mut self, slot: usize) -> Option<Pause> {
        let coroutine = self.running[slot].as_mut()?;
        match coroutine.resume(()) {
            CoroutineResult::Yield(pause) => Some(pause),
            CoroutineResult::Return(()) => {
                self.stacks.extend(self.running[slot].take().map(Coroutine::into_stack));
                None
            }
        }
    }

    /// Ends a thread where it is.
    pub(super) fn end(&mut self, slot: usize) {
        if let Some(mut coroutine) = self.running[slot].take() {
            coroutine.force_unwind();
            self.stacks.push(coroutine.into_stack());
        }
    }

    /// Forgets a thread that has panicked.
    pub(super) fn forget(&mut self, slot: usize) {
        self.running[slot] = None;
    }
}
