//! Certificates.

use std::{fs, path::PathBuf};

use tempfile::TempDir;
use wharf_peers::Tls;
use wharf_testkit::certs::Authority;

/// Certificates of an authority that the peers trust, and of another.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let ours = Authority::new("ours");
        fs::write(files.at("ca.pem"), ours.pem()).unwrap();
        fs::write(files.at("other-ca.pem"), Authority::new("other").pem()).unwrap();
        let folder = files.0.path();
        ours.issue(folder, "peer", "127.0.0.1");
        ours.issue(folder, "elsewhere", "elsewhere.example");
        Authority::new("other").issue(folder, "stranger", "127.0.0.1");
        files
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Trusts this authority, and is this one.
    pub(crate) fn tls(&self, ca: &str, who: &str) -> Tls {
        let file = |kind: &str| self.at(&format!("{who}.{kind}"));
        Tls::new()
            .ca_file(self.at(ca))
            .identity(file("pem"), file("key"))
    }

    pub(crate) fn trusting(&self) -> Tls {
        Tls::new().ca_file(self.at("ca.pem"))
    }
}
