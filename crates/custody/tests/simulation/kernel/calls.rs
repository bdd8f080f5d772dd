//! The effects of the program's calls.

use super::control::parse;
use super::{Call, FDS, Fd, File, HIDDEN, Kernel, PROCESSES, Process, Thread, Told};

impl Kernel {
    /// Makes a call that was continued.
    pub(crate) fn make(&mut self, process: usize, thread: usize, call: Call) {
        let hidden = self.processes[process].hidden;
        let told = std::mem::take(&mut self.processes[process].told[thread]);
        let unheard = std::mem::take(&mut self.processes[process].unheard[thread]);
        if matches!(call, Call::Exec { fails: false } | Call::Exit) {
            self.finish_calls(process, thread);
        }
        let before: Vec<Told> = self.processes[process].open_now().collect();
        self.processes[process].threads[thread] = Thread::Idle;
        match call {
            Call::Close(_) | Call::CloseRange(..) | Call::Dup(_) | Call::Dup2(..) => {
                self.change_fds(process, &call, (!unheard).then_some(&told));
            }
            Call::Shutdown(fd) => {
                if let Some(File::Connection(index)) = self.processes[process].file(fd) {
                    self.connections[index].socket.over = true;
                }
            }
            Call::Fork | Call::Vfork => {
                let this = &mut self.processes[process];
                this.threads[thread] = Thread::Forking(this.fds.clone(), call == Call::Vfork);
            }
            Call::Exec { fails: true } => {}
            Call::Exec { fails: false } => self.execute(process),
            Call::Exit => self.end(process),
            Call::Send(control, to) => self.send(process, &control, to, (!unheard).then_some(&told)),
            Call::Accept => {
                if let Some(index) = self.accept(process) {
                    self.connections[index].unheld = unheard;
                }
            }
            Call::EpollCreate => {
                let serial = self.serial();
                if self.processes[process].open(File::Epoll(self.epolls), serial).is_some() {
                    self.epolls += 1;
                }
            }
        }
        // Another thread has changed which file the call closes since the supervisor was notified of it.
        let after: Vec<Told> = self.processes[process].open_now().collect();
        for closed in before.iter().filter(|one| !after.contains(one)) {
            let connection = &mut self.connections[closed.1];
            connection.fds_closed += 1;
            if !told.contains(closed) {
                connection.closed_untold = true;
                self.closed_untold.insert(closed.2);
            }
        }
        self.note(!hidden && !unheard);
    }

    /// Makes a call that closes or copies fds. `told` is `None` if the supervisor was not notified of it.
    fn change_fds(&mut self, process: usize, call: &Call, told: Option<&Vec<Told>>) {
        let serial = self.serial();
        if let Call::Dup(fd) | Call::Dup2(fd, _) = *call
            && let (Some(file), Some(told)) = (self.processes[process].file(fd), told)
        {
            self.note_race(process, fd, file, told, false);
        }
        let this = &mut self.processes[process];
        match *call {
            Call::Close(fd) => this.close(fd),
            Call::CloseRange(first, last) => (first..=last.min(FDS as i32)).for_each(|fd| this.close(fd)),
            Call::Dup(fd) => {
                if let Some(file) = this.file(fd) {
                    this.open(file, serial);
                }
            }
            Call::Dup2(old, new) => {
                if let Some(file) = this.file(old)
                    && old != new
                {
                    let place = new as usize;
                    this.fds.resize(this.fds.len().max(place + 1), None);
                    this.fds[place] = Some(Fd { file, closes_on_exec: false, serial });
                }
            }
            _ => {}
        }
    }

    /// An `execve` that succeeds.
    fn execute(&mut self, process: usize) {
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

    /// Notes that a call copies or sends a connection of which the supervisor was not told.
    fn note_race(&mut self, process: usize, fd: i32, file: File, told: &[Told], is_send: bool) {
        let serial = self.processes[process].serial(fd);
        // A copy counts only if the supervisor could not foresee it: it was told of no connection at that fd, or of one
        // that was closed in such a race itself.
        let was_seen =
            told.iter().any(|(other, _, serial)| *other == fd && !self.closed_untold.contains(serial));
        let race = is_send || !was_seen;
        if let File::Connection(index) = file {
            self.connections[index].raced |=
                race && !told.contains(&(fd, index, serial)) && !told.contains(&HIDDEN);
        }
    }

    fn send(&mut self, process: usize, control: &[u8], to: Option<usize>, told: Option<&Vec<Told>>) {
        for fd in parse(control) {
            if let (Some(file), Some(told)) = (self.processes[process].file(fd), told) {
                self.note_race(process, fd, file, told, true);
            }
        }
        let this = &self.processes[process];
        let files: Vec<File> = parse(control).into_iter().filter_map(|fd| this.file(fd)).collect();
        let hidden = this.hidden;
        for file in &files {
            if let File::Connection(index) = file {
                self.connections[*index].sent_unseen |= hidden;
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

    /// The second half of `fork`: makes the child visible.
    pub(crate) fn bear(&mut self, process: usize, thread: usize) {
        let state = std::mem::replace(&mut self.processes[process].threads[thread], Thread::Idle);
        let Thread::Forking(fds, waits) = state else { return };
        let hidden = self.processes[process].hidden;
        if self.processes.len() < PROCESSES {
            let mut child = Process::new(fds);
            child.hidden = hidden;
            child.hidden_once = hidden;
            child.single = self.processes.len() % 2 == 1;
            if waits {
                self.processes[process].threads[thread] = Thread::WaitsFor(self.processes.len());
            }
            self.processes.push(child);
        }
        self.note(!hidden);
    }

    /// Ends the other threads, after the continued calls that they are in.
    fn finish_calls(&mut self, process: usize, besides: usize) {
        for thread in 0..2 {
            if thread == besides {
                continue;
            }
            if let Thread::Continued(call) = self.processes[process].threads[thread].clone()
                && !matches!(call, Call::Exec { .. } | Call::Exit)
            {
                self.make(process, thread, call);
            }
            self.bear(process, thread);
        }
    }

    /// A child of `vfork` has its own memory now, or has ended: its parent continues.
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
        let fds: Vec<Told> = self.processes[process].open_now().collect();
        fds.into_iter().for_each(|(_, index, _)| self.connections[index].fds_closed += 1);
        self.end(process);
        self.note(false);
    }

    /// Makes a process hide its fds. Returns whether it did not hide them before.
    pub(crate) fn hide(&mut self, process: usize) -> bool {
        self.ever_hidden = true;
        let this = &mut self.processes[process];
        this.hidden_once = true;
        !std::mem::replace(&mut this.hidden, true)
    }

    /// The second half of `recvmsg`.
    pub(crate) fn install(&mut self, process: usize, thread: usize) {
        let state = std::mem::replace(&mut self.processes[process].threads[thread], Thread::Idle);
        if let Thread::Receiving(files) = state {
            for file in files {
                // Without a free fd the kernel drops it (`scm_detach_fds`).
                let serial = self.serial();
                self.processes[process].open(file, serial);
            }
        }
        self.note(false);
    }
}
