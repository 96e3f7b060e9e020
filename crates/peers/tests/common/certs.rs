//! Certificates.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use wharf_peers::Tls;

/// Certificates of an authority that the peers trust, and of another.
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let ours = authority();
        fs::write(files.at("ca.pem"), ours.pem()).unwrap();
        fs::write(files.at("other-ca.pem"), authority().pem()).unwrap();
        issue(&ours, &files.at("peer"), "127.0.0.1");
        issue(&ours, &files.at("elsewhere"), "elsewhere.example");
        issue(&authority(), &files.at("stranger"), "127.0.0.1");
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

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(authority: &CertifiedIssuer<'static, KeyPair>, at: &Path, host: &str) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
    let cert = params.signed_by(&key, authority).unwrap();
    fs::write(at.with_extension("pem"), cert.pem()).unwrap();
    fs::write(at.with_extension("key"), key.serialize_pem()).unwrap();
}
