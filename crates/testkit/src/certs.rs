//! Certificates of authorities of one's own, as files.

use std::{fmt, fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Vouches for others. It exists nowhere else, whatever its name.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// One that goes by this name.
    ///
    /// # Panics
    ///
    /// If there is no randomness to be had.
    pub fn new(name: &str) -> Self {
        let mut params = params(name, Vec::new());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("randomness");
        Self(CertifiedIssuer::self_signed(params, key).expect("sound parameters"))
    }

    /// Its own certificate, in PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Writes a certificate for this host (`file.pem`) and its key (`file.key`).
    ///
    /// # Panics
    ///
    /// If that cannot be written, or is no name of a host.
    pub fn issue(&self, folder: &Path, file: &str, host: &str) {
        let key = KeyPair::generate().expect("randomness");
        let params = params(file, vec![host.to_owned()]);
        let cert = params.signed_by(&key, &self.0).expect("sound parameters");
        for (kind, pem) in [("pem", cert.pem()), ("key", key.serialize_pem())] {
            fs::write(folder.join(format!("{file}.{kind}")), pem).expect("a file");
        }
    }
}

/// Without the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Erlang takes a certificate for self-signed whose issuer is called as its subject, so that each has a
/// name of its own.
fn params(subject: &str, hosts: Vec<String>) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).expect("names of hosts");
    params.distinguished_name.push(DnType::CommonName, subject);
    params
}
