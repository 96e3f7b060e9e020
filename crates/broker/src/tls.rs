//! What a listener needs for TLS, from files.

use std::{
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::{CertifiedKey, SingleCertAndKey},
};

/// What a broker shows to those who connect, and what it wants to see of them: files in PEM. They are
/// read when it starts, so that a renewed certificate needs a new start.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tls {
    /// The broker's certificate, and behind it those that lead to an authority its clients trust.
    pub cert_file: PathBuf,
    /// The private key of that certificate (PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub key_file: PathBuf,
    /// Authorities. Without them a client is asked for no certificate, and with them it has to show
    /// one that rests on one of them.
    pub client_ca_file: Option<PathBuf>,
}

/// A file that can not be read, or is not what it is to be. The source quotes nothing of it.
pub(crate) struct Unusable {
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl Tls {
    /// Of a broker that shows this certificate, the first in the file, and asks for none.
    pub fn new(cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        Self {
            cert_file: cert_file.into(),
            key_file: key_file.into(),
            client_ca_file: None,
        }
    }

    /// Whoever connects has to show a certificate that rests on one in this file. Who it belongs to is
    /// not looked at: it logs in as any user whose password it has.
    #[must_use]
    pub fn client_ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.client_ca_file = Some(file.into());
        self
    }

    /// Reads the files.
    pub(crate) fn load(&self) -> Result<Arc<ServerConfig>, Unusable> {
        let provider = Arc::new(ring::default_provider());
        let identity = self.identity(&provider)?;
        let verifier = self.verifier(&provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("bug: ring has suites for TLS 1.2 and 1.3")
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
        // Connections last. To resume what was would save them little, costs memory that strangers
        // can ask for, and would let in once more whose certificate has expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    fn identity(&self, provider: &CryptoProvider) -> Result<CertifiedKey, Unusable> {
        let chain = certificates(&self.cert_file)?;
        for certificate in &chain {
            ParsedCertificate::try_from(certificate).map_err(invalid(&self.cert_file))?;
        }
        let key = PrivateKeyDer::from_pem_file(&self.key_file).map_err(|error| match error {
            pem::Error::NoItemsFound => invalid(&self.key_file)("no private key in PEM"),
            error => garbled(&self.key_file, error),
        })?;
        CertifiedKey::from_der(chain, key, provider).map_err(invalid(&self.key_file))
    }

    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, Unusable> {
        let Some(path) = &self.client_ca_file else {
            return Ok(WebPkiClientVerifier::no_client_auth());
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(invalid(path))?;
        }
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(invalid(path))
    }
}

/// All there are in a file, which is at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| garbled(path, error))?;
    if found.is_empty() {
        return Err(invalid(path)("no certificate in PEM"));
    }
    Ok(found)
}

fn garbled(path: &Path, error: pem::Error) -> Unusable {
    match error {
        pem::Error::Io(source) => Unusable {
            path: path.to_owned(),
            source,
        },
        // The others quote lines, and those may be of a key.
        _ => invalid(path)("not in PEM"),
    }
}

fn invalid<E>(path: &Path) -> impl FnOnce(E) -> Unusable
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    |what| Unusable {
        path: path.to_owned(),
        source: io::Error::new(ErrorKind::InvalidData, what),
    }
}
