//! A program's path, arguments and environment in the form that `execve(2)` takes, made before a fork.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Digits of the largest pid, and the zero at the end.
const PID: usize = 11;

/// What `execve` takes. All memory is there before the fork, so that [`exec`](Self::exec) allocates nothing.
#[derive(Debug)]
pub(crate) struct Image {
    path: CString,
    /// The arguments, then the environment. Each ends in a zero.
    strings: Vec<Vec<u8>>,
    arguments: usize,
    /// Which of the strings end in room for a pid, and where it begins.
    pids: Vec<(usize, usize)>,
    /// Room for the two lists of addresses.
    addresses: Vec<usize>,
}

impl Image {
    /// `own_pid` names the variables whose value is to be the pid of the process that becomes the program.
    ///
    /// # Errors
    /// A zero byte within a string.
    pub(crate) fn new(
        path: &Path,
        arguments: impl Iterator<Item = OsString>,
        environment: impl Iterator<Item = (OsString, OsString)>,
        own_pid: &[&str],
    ) -> io::Result<Self> {
        let mut strings = Vec::new();
        for argument in arguments {
            strings.push(CString::new(argument.as_bytes())?.into_bytes_with_nul());
        }
        let arguments = strings.len();
        let mut pids = Vec::new();
        for (name, value) in environment {
            let mut text = [name.as_bytes(), b"="].concat();
            if own_pid.iter().any(|own| OsStr::new(own) == name) {
                pids.push((strings.len(), text.len()));
                text.resize(text.len() + PID, 0);
            } else {
                text.extend_from_slice(value.as_bytes());
                text = CString::new(text)?.into_bytes_with_nul();
            }
            strings.push(text);
        }
        // Both lists end in a null pointer.
        let addresses = vec![0; strings.len() + 2];
        Ok(Self { path: CString::new(path.as_os_str().as_bytes())?, strings, arguments, pids, addresses })
    }

    /// Becomes the program. Returns the error if that fails. Makes system calls only.
    pub(super) fn exec(&mut self) -> io::Error {
        let pid = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        for (string, start) in &self.pids {
            if let Some(room) = self.strings.get_mut(*string).and_then(|text| text.get_mut(*start..)) {
                write_decimal(pid, room);
            }
        }
        let (arguments, environment) = self.addresses.split_at_mut(self.arguments + 1);
        for (place, string) in arguments.iter_mut().take(self.arguments).zip(&self.strings) {
            *place = string.as_ptr().expose_provenance();
        }
        for (place, string) in environment.iter_mut().zip(self.strings.iter().skip(self.arguments)) {
            *place = string.as_ptr().expose_provenance();
        }
        // SAFETY: strings that end in a zero, and two lists of addresses of such strings that end in a null pointer.
        unsafe { libc::execve(self.path.as_ptr(), arguments.as_ptr().cast(), environment.as_ptr().cast()) };
        io::Error::last_os_error()
    }
}

fn write_decimal(mut number: u32, room: &mut [u8]) {
    let mut digits = [0; PID];
    let mut count = 0;
    while count == 0 || number > 0 {
        digits[count] = b'0' + (number % 10) as u8;
        number /= 10;
        count += 1;
    }
    for (place, digit) in room.iter_mut().zip(digits[..count].iter().rev()) {
        *place = *digit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_written_as_text() {
        for number in [0, 7, 10, 4_194_304, u32::MAX] {
            let mut room = [0; PID];
            write_decimal(number, &mut room);
            let end = room.iter().position(|byte| *byte == 0).unwrap();
            assert_eq!(std::str::from_utf8(&room[..end]).unwrap(), number.to_string());
        }
    }

    #[test]
    fn a_string_that_execve_would_cut_is_refused() {
        let image = |argument: &str| {
            Image::new(Path::new("/bin/true"), [argument.into()].into_iter(), std::iter::empty(), &[])
        };
        assert!(image("a").is_ok());
        assert!(image("a\0b").is_err());
    }
}
