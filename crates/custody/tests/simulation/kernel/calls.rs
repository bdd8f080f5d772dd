//! What the program's calls do.

use super::control::parse;
use super::{Call, FDS, Fd, File, HIDDEN, Kernel, PROCESSES, Process, Thread};

impl Kernel {
    /// Makes a call that was let go on.
    pub(crate) fn make(&mut self, process: usize, thread: usize, call: Call) {
        let hidden = self.processes[process].hidden;
        let told = std::mem::take(&mut self.processes[process].told[thread]);
        let before: Vec<(i32, usize)> = self.processes[process].connections().collect();
        let this = &mut self.processes[process];
        this.threads[thread] = Thread::Idle;
        if let (Call::Close(fd), Some(File::Connection(index))) =
            (&call, call.closes().and_then(|fd| this.file(fd)))
        {
            let again = |other: &Thread| matches!(other, Thread::Notified(other) | Thread::Continued(other) if other.closes() == Some(*fd));
            self.connections[index].doubled |= this.threads.iter().any(again);
        }
        match call {
            Call::Close(fd) => this.close(fd),
            Call::CloseRange(first, last) => (first..=last.min(FDS as i32)).for_each(|fd| this.close(fd)),
            Call::Dup(fd) => {
                if let Some(file) = this.file(fd) {
                    self.note_race(fd, file, &told);
                    let this = &mut self.processes[process];
                    this.open(file);
                }
            }
            Call::Dup2(old, new) => {
                if let Some(file) = this.file(old)
                    && old != new
                {
                    self.note_race(old, file, &told);
                    let this = &mut self.processes[process];
                    let place = new as usize;
                    this.fds.resize(this.fds.len().max(place + 1), None);
                    this.fds[place] = Some(Fd { file, closes_on_exec: false });
                }
            }
            Call::Shutdown(fd, both) => {
                if let (Some(File::Connection(index)), true) = (this.file(fd), both) {
                    self.connections[index].socket.over = true;
                }
            }
            Call::Fork => {
                self.fork(process);
            }
            Call::Vfork => {
                if let Some(child) = self.fork(process) {
                    self.processes[process].threads[thread] = Thread::WaitsFor(child);
                }
            }
            Call::Exec { fails: true } => {}
            Call::Exec { fails: false } => {
                self.finish_calls(process, thread);
                let this = &mut self.processes[process];
                this.threads = [Thread::Idle, Thread::Idle];
                // `begin_new_exec` makes it dumpable again.
                this.hidden = false;
                for fd in &mut this.fds {
                    if fd.as_ref().is_some_and(|fd| fd.closes_on_exec) {
                        *fd = None;
                    }
                }
                self.release(process);
            }
            Call::Exit => {
                self.finish_calls(process, thread);
                self.end(process);
            }
            Call::Send(control, to) => self.send(process, &control, to, &told),
            Call::Accept => {
                self.accept(process);
            }
            Call::EpollCreate => {
                let epoll = self.epolls;
                if self.processes[process].open(File::Epoll(epoll)).is_some() {
                    self.epolls += 1;
                }
            }
        }
        // Another thread has changed what the call closes since the supervisor was told of it.
        for (fd, index) in before {
            let closed = self.processes[process].file(fd) != Some(File::Connection(index));
            self.connections[index].untold |= closed && !told.contains(&(fd, index));
        }
        self.note_had();
        self.note_ends(!hidden);
    }

    /// Notes a connection that a call copies or sends, and that the supervisor was not told of.
    fn note_race(&mut self, fd: i32, file: File, told: &[(i32, usize)]) {
        if let File::Connection(index) = file {
            self.connections[index].raced |= !told.contains(&(fd, index)) && !told.contains(&HIDDEN);
        }
    }

    fn send(&mut self, process: usize, control: &[u8], to: Option<usize>, told: &[(i32, usize)]) {
        for fd in parse(control) {
            if let Some(file) = self.processes[process].file(fd) {
                self.note_race(fd, file, told);
            }
        }
        let this = &self.processes[process];
        let files: Vec<File> = parse(control).into_iter().filter_map(|fd| this.file(fd)).collect();
        let hidden = this.hidden;
        for file in &files {
            if let File::Connection(index) = file {
                self.connections[*index].untold |= hidden;
                self.connections[*index].was_sent = true;
            }
        }
        match to.filter(|to| self.processes.get(*to).is_some_and(|process| process.alive)) {
            Some(to) => self.processes[to].inbox.push_back(files),
            None if to.is_none() => {
                for file in files {
                    if let File::Connection(index) = file {
                        self.connections[index].abroad = true;
                    }
                }
            }
            None => {}
        }
    }

    fn fork(&mut self, process: usize) -> Option<usize> {
        if self.processes.len() >= PROCESSES {
            return None;
        }
        let mut child = Process::new(self.processes[process].fds.clone());
        child.hidden = self.processes[process].hidden;
        child.hidden_once = child.hidden;
        child.single = self.processes.len() % 2 == 1;
        self.processes.push(child);
        Some(self.processes.len() - 1)
    }

    /// The other threads are killed on their way back from a call that they were let go on with.
    fn finish_calls(&mut self, process: usize, besides: usize) {
        for thread in 0..2 {
            if thread != besides
                && let Thread::Continued(call) = self.processes[process].threads[thread].clone()
                && !matches!(call, Call::Exec { .. } | Call::Exit)
            {
                self.make(process, thread, call);
            }
        }
    }

    /// A child of `vfork` has its own memory, or is gone: its parent goes on.
    fn release(&mut self, child: usize) {
        for thread in self.processes.iter_mut().flat_map(|process| &mut process.threads) {
            if *thread == Thread::WaitsFor(child) {
                *thread = Thread::Idle;
            }
        }
    }

    /// Ends a process: its fds are closed, and what it was sent is lost.
    fn end(&mut self, process: usize) {
        let this = &mut self.processes[process];
        this.alive = false;
        this.threads = [Thread::Idle, Thread::Idle];
        this.fds.clear();
        this.inbox.clear();
        self.release(process);
    }

    pub(crate) fn kill(&mut self, process: usize) {
        self.finish_calls(process, 2);
        self.end(process);
        self.note_ends(false);
    }

    fn note_had(&mut self) {
        for (index, process) in self.processes.iter().enumerate() {
            for (_, connection) in process.connections() {
                self.connections[connection].had_by.insert(index);
            }
        }
    }

    /// The second half of `recvmsg`.
    pub(crate) fn install(&mut self, process: usize, thread: usize) {
        let state = std::mem::replace(&mut self.processes[process].threads[thread], Thread::Idle);
        if let Thread::Receiving(files) = state {
            for file in files {
                // Without a free fd the kernel drops it (`scm_detach_fds`).
                self.processes[process].open(file);
            }
        }
        self.note_had();
        self.note_ends(false);
    }
}
