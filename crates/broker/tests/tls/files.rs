//! Certificates and keys, in a folder of their own.

#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};
use tempfile::TempDir;
use wharf_broker::Tls;

/// Of an authority, a broker and a client that it vouches for; a stranger, for whom another does; and
/// an impostor, for whom one does that goes by its name.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ours = authority("ours");
        issue(&ours, folder.path(), "broker", "127.0.0.1");
        issue(&ours, folder.path(), "client", "client");
        issue(&authority("other"), folder.path(), "stranger", "client");
        issue(&authority("ours"), folder.path(), "impostor", "client");
        fs::write(folder.path().join("ca.pem"), ours.pem()).unwrap();
        Self { folder }
    }

    pub(crate) fn at(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    pub(crate) fn ca_pem(&self) -> String {
        fs::read_to_string(self.at("ca.pem")).unwrap()
    }

    pub(crate) fn tls(&self) -> Tls {
        Tls::new(self.at("broker.pem"), self.at("broker.key"))
    }

    /// A client that trusts the authority, and is this one itself.
    pub(crate) fn client(&self, who: Option<&str>) -> Arc<ClientConfig> {
        self.client_of(who, &TLS13)
    }

    pub(crate) fn client_of(
        &self,
        who: Option<&str>,
        version: &'static SupportedProtocolVersion,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.at("ca.pem")).unwrap();
        roots.add(ca).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        Arc::new(match who {
            None => config.with_no_client_auth(),
            Some(who) => {
                let cert = CertificateDer::from_pem_file(self.at(&format!("{who}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(self.at(&format!("{who}.key"))).unwrap();
                config.with_client_auth_cert(vec![cert], key).unwrap()
            }
        })
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params(name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate for this name and its key.
fn issue(by: &CertifiedIssuer<'static, KeyPair>, folder: &Path, file: &str, name: &str) {
    let key = KeyPair::generate().unwrap();
    let cert = params(file, Some(name)).signed_by(&key, by).unwrap();
    fs::write(folder.join(format!("{file}.pem")), cert.pem()).unwrap();
    fs::write(folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
}

fn params(subject: &str, name: Option<&str>) -> CertificateParams {
    let names: Vec<String> = name.map(Into::into).into_iter().collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, subject);
    params
}
