//! Two small applications, to try a gateway with: an echo, and the files of a folder.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use crate::cgi;
use crate::responder::{Handler, Request, Response};

/// Answers with the request's parameters and its body.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Echo;

impl Handler for Echo {
    fn handle(&self, request: &mut Request, response: &mut Response) -> io::Result<u32> {
        cgi::head(&mut *response, 200, [("Content-Type", "text/plain; charset=utf-8")])?;
        for (name, value) in request.params().iter() {
            let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
            writeln!(response, "{name}={value}")?;
        }
        writeln!(response)?;
        io::copy(request, response)?;
        Ok(0)
    }
}

/// Answers with the files of a folder; the path comes from SCRIPT_NAME and PATH_INFO, or DOCUMENT_URI.
///
/// Nothing outside the folder is ever named: `..` in a path is refused. (Links inside it are followed.)
/// The request's body is left unread, as most file servers do.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Serves the folder `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn find(&self, request: &Request) -> Option<PathBuf> {
        let params = request.params();
        let script = params.text("SCRIPT_NAME").or_else(|| params.text("DOCUMENT_URI"))?;
        let path = format!("{script}{}", params.text("PATH_INFO").unwrap_or_default());
        let relative = Path::new(path.trim_start_matches('/'));
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        let path = inside.then(|| self.root.join(relative))?;
        Some(if path.is_dir() { path.join("index.html") } else { path })
    }
}

impl Handler for Files {
    fn handle(&self, request: &mut Request, response: &mut Response) -> io::Result<u32> {
        let found = self.find(request).and_then(|path| Some((File::open(&path).ok()?, path)));
        let Some((file, path)) = found.filter(|(file, _)| file.metadata().is_ok_and(|meta| meta.is_file()))
        else {
            cgi::head(&mut *response, 404, [("Content-Type", "text/plain")])?;
            response.write_all(b"There is no such file.\n")?;
            return Ok(0);
        };
        let length = file.metadata()?.len();
        let kind = match path.extension().and_then(|extension| extension.to_str()) {
            Some("html" | "htm") => "text/html; charset=utf-8",
            Some("txt" | "md" | "log") => "text/plain; charset=utf-8",
            Some("css") => "text/css",
            Some("js") => "text/javascript",
            Some("json") => "application/json",
            Some("png") => "image/png",
            Some("jpg" | "jpeg") => "image/jpeg",
            Some("svg") => "image/svg+xml",
            _ => "application/octet-stream",
        };
        let headers = [("Content-Type", kind), ("Content-Length", &length.to_string())];
        cgi::head(&mut *response, 200, headers)?;
        // A file that grows meanwhile must not break the length; one that shrinks must not look whole.
        let sent = io::copy(&mut file.take(length), response)?;
        if sent < length {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file shrank while it was sent"));
        }
        Ok(0)
    }
}
