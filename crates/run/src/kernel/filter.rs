//! The seccomp filter: which of a program's system calls are notified.

use std::io;
use std::mem::offset_of;
use std::os::fd::RawFd;

/// A system call that is notified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// The call's number on this architecture (`libc::SYS_...`).
    pub(crate) call: i64,
    /// For which arguments.
    pub(crate) when: When,
}

/// Selects calls by the low 32 bits of one argument (arguments are counted from 0).
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    /// All.
    Always,
    /// The argument is one of these.
    Is(u8, &'static [u32]),
    /// The argument has none of these bits.
    Lacks(u8, u32),
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// A BPF filter: the calls of its rules are notified, all others are allowed directly.
#[derive(Clone, Debug)]
pub(crate) struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Compiles the rules. Calls of another architecture (32-bit) are never notified.
    pub(crate) fn new(rules: &[Rule]) -> Self {
        const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
        const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
        const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
        let line = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
        let load = |offset: usize| line(LOAD, offset as u32, 0, 0);
        // Little endian on both architectures: the low half comes first.
        let argument = |number: u8| load(offset_of!(libc::seccomp_data, args) + 8 * usize::from(number));
        let allow = line(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
        let ask = line(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0);
        let mut lines = vec![
            load(offset_of!(libc::seccomp_data, arch)),
            line(EQUAL, ARCHITECTURE, 1, 0),
            allow,
            load(offset_of!(libc::seccomp_data, nr)),
        ];
        for rule in rules {
            let block = match rule.when {
                When::Always => vec![ask],
                When::Is(number, values) => {
                    let mut block = vec![argument(number)];
                    for (place, value) in values.iter().enumerate() {
                        // On a match, jump over the remaining tests and the `allow` line to the `ask` line.
                        block.push(line(EQUAL, *value, (values.len() - place) as u8, 0));
                    }
                    block.extend([allow, ask]);
                    block
                }
                When::Lacks(number, bits) => vec![argument(number), line(ANY_BIT, bits, 0, 1), allow, ask],
            };
            lines.push(line(EQUAL, rule.call as u32, 0, block.len() as u8));
            lines.extend(block);
        }
        lines.push(allow);
        Self(lines)
    }

    /// Installs the filter for this thread and its future children. Returns the listener's fd.
    ///
    /// Makes system calls only, so it may be called between `fork` and `exec`.
    pub(super) fn install(&self) -> io::Result<RawFd> {
        // WAIT_KILLABLE_RECV (Linux 5.19): once a notification is received, only a fatal signal interrupts its call.
        let wanted = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        match self.install_with(wanted | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.install_with(wanted),
            other => other,
        }
    }

    /// Installs the filter for the calling thread alone, which has made no other thread or process yet, and returns the listener.
    #[cfg(test)]
    pub(crate) fn install_for_test(&self) -> io::Result<std::os::fd::OwnedFd> {
        use std::os::fd::FromRawFd;
        // SAFETY: a new fd that nobody else owns.
        self.install().map(|fd| unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
    }

    /// As [`install`](Self::install), with these flags.
    fn install_with(&self, flags: libc::c_ulong) -> io::Result<RawFd> {
        let program = libc::sock_fprog {
            len: self.0.len() as u16,
            // The kernel only reads it.
            filter: self.0.as_ptr().cast_mut(),
        };
        let install = || {
            // SAFETY: the program and the lines that it points to live across the call, which copies them.
            let result = unsafe {
                libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
            };
            if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
        };
        match install() {
            // Without CAP_SYS_ADMIN the kernel requires no_new_privs (seccomp(2)).
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
                rustix::thread::set_no_new_privs(true)?;
                install()
            }
            other => other,
        }
    }
}

/// Whether the kernel knows `WAIT_KILLABLE_RECV`, with which [`Filter::install`] then installs all filters.
///
/// The kernel looks at the flags first, and fails with EFAULT if it knows them all, for there is no filter at address 0.
pub(crate) fn kills_only() -> bool {
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    let none = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: installs nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, none) };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_the_kernel_does_not_know_is_told_from_one_that_it_knows() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(kills_only(), version >= (5, 19));
    }
}
