//! The threads of both ends, as coroutines of one thread: only one of them runs at a time.

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use scoped_tls::scoped_thread_local;

/// What a thread does.
pub(super) type ThreadWork = Box<dyn FnOnce()>;

/// Why a thread has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    Waits,
    /// Its process is to end.
    Ended,
}

/// The most threads at a time.
pub(super) const MOST: usize = 16;

macro_rules! slots {
    ($($name:ident)*) => {
        $(scoped_thread_local!(static $name: Yielder<(), Pause>);)*

        fn enter(slot: usize, yielder: &Yielder<(), Pause>, work: ThreadWork) {
            let keys = [$(&$name),*];
            keys[slot].set(yielder, work);
        }

        /// Stops the calling coroutine, which is the one in this slot.
        pub(super) fn suspend(slot: usize, pause: Pause) {
            let keys = [$(&$name),*];
            keys[slot].with(|yielder| yielder.suspend(pause));
        }
    };
}

// A thread-local key for each slot: if all coroutines used the same one, they would mix up each other's
// values.
slots!(S0 S1 S2 S3 S4 S5 S6 S7 S8 S9 S10 S11 S12 S13 S14 S15);

/// The coroutines, and unused stacks for more.
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

    pub(super) fn start(&mut self, slot: usize, work: ThreadWork) -> std::io::Result<()> {
        let stack = match self.stacks.pop() {
            Some(stack) => stack,
            None => DefaultStack::new(1 << 20)?,
        };
        let body = move |yielder: &Yielder<(), Pause>, ()| enter(slot, yielder, work);
        self.running[slot] = Some(Coroutine::with_stack(stack, body));
        Ok(())
    }

    /// Lets a thread run until it stops. Returns why it has stopped; `None` if it has ended.
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

    /// Ends a thread where it has stopped.
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
