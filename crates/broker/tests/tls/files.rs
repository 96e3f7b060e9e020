//! Certificates and keys, in a folder of their own.

#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::{fs, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    version::TLS13,
};
use tempfile::TempDir;
use wharf_broker::Tls;
use wharf_testkit::certs::Authority;

/// Of an authority, a broker and a client that it vouches for; a stranger, for whom another does; and
/// an impostor, for whom one does that goes by its name.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ours = Authority::new("ours");
        ours.issue(folder.path(), "broker", "127.0.0.1");
        ours.issue(folder.path(), "client", "client");
        Authority::new("other").issue(folder.path(), "stranger", "client");
        Authority::new("ours").issue(folder.path(), "impostor", "client");
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
