//! What peers show each other before anything else is said.

use std::path::PathBuf;

/// How what peers say to each other is encrypted: [`Config::tls`](crate::Config::tls), with the feature
/// `rustls`. Files are in PEM. Whoever listens needs a certificate for the host that stands in its
/// address at the others.
///
/// ```no_run
/// # async fn start() -> Result<(), wharf_peers::StartError> {
/// use wharf_peers::{Peer, Tls};
///
/// let tls = Tls::new()
///     .ca_file("/etc/billing/ca.pem")
///     .identity("/etc/billing/cert.pem", "/etc/billing/key.pem");
/// let billing = Peer::builder("billing")
///     .listen("0.0.0.0:20001")
///     .peer("orders", "orders.internal:20001")
///     .token("secret")
///     .tls(tls)
///     .start(|_, _| async { Ok(()) })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Tls {
    /// Certificates that those of the others may rest on, besides those that the system trusts. Read at
    /// every attempt to connect. Default none.
    pub ca_file: Option<PathBuf>,
    /// This peer's certificate, with its chain: shown to those who connect, and, where one is asked for,
    /// when it connects itself. The listener reads it when it begins to listen, so that a renewed one
    /// takes a new start; an attempt to connect reads it anew.
    pub cert_file: Option<PathBuf>,
    /// The private key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Whether whoever connects must show a certificate that rests on `ca_file`, besides the token.
    /// Default false.
    pub client_certs: bool,
}

impl Tls {
    /// With the certificates that the system trusts, and none of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// See [`ca_file`](Self::ca_file).
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// See [`cert_file`](Self::cert_file) and [`key_file`](Self::key_file).
    #[must_use]
    pub fn identity(mut self, cert_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> Self {
        self.cert_file = Some(cert_file.into());
        self.key_file = Some(key_file.into());
        self
    }

    /// See [`client_certs`](Self::client_certs).
    #[must_use]
    pub fn client_certs(mut self, demand: bool) -> Self {
        self.client_certs = demand;
        self
    }

    /// What the listener shows, and wants to see. None if there is nothing to be shown.
    pub(crate) fn of_listener(&self) -> Option<wharf_broker::Tls> {
        let (cert, key) = self.cert_file.as_ref().zip(self.key_file.as_ref())?;
        let tls = wharf_broker::Tls::new(cert, key);
        let ca = self.ca_file.as_ref().filter(|_| self.client_certs);
        Some(match ca {
            Some(ca) => tls.client_ca_file(ca),
            None => tls,
        })
    }
}
