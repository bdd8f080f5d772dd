//! [`TrustedRoots`]: whose certificates are believed. Read at the start, before the sender gives up the file system.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use thiserror::Error;

/// The authorities that a collector's certificate may come from.
#[derive(Clone, Debug)]
pub struct TrustedRoots(pub(super) RootCertStore);

/// Why there are no roots.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BadRoots {
    /// The system has none.
    #[error("this system has no certificates of authorities (package ca-certificates)")]
    None,
    /// The file cannot be read as PEM.
    #[error("cannot read certificates from {0:?}: {1}")]
    File(PathBuf, String),
}

impl TrustedRoots {
    /// Those of the system.
    ///
    /// # Errors
    /// Says that it has none.
    pub fn of_system() -> Result<Self, BadRoots> {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() { Err(BadRoots::None) } else { Ok(Self(store)) }
    }

    /// Those of a PEM file.
    ///
    /// # Errors
    /// Says what is wrong with the file.
    pub fn of_file(path: &Path) -> Result<Self, BadRoots> {
        let bad = |error: String| BadRoots::File(path.to_owned(), error);
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            store.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        if store.is_empty() { Err(bad("it has none".into())) } else { Ok(Self(store)) }
    }
}
