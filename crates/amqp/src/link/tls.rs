//! The files that a connection over TLS rests on.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};

use crate::{config::Config, error::ConnectError, io};

/// Reads them anew: they may have been renewed.
pub(super) async fn read(config: &Config) -> Result<OwnedTLSConfig, ConnectError> {
    let ca = config.ca_file.clone();
    let identity = config.cert_file.clone().zip(config.key_file.clone());
    let reading = io::handle().spawn_blocking(move || read_now(ca, identity));
    reading.await.expect("bug: reading files panicked")
}

fn read_now(
    ca: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
) -> Result<OwnedTLSConfig, ConnectError> {
    let cert_chain = match ca {
        Some(path) => {
            let text = String::from_utf8(of(&path)?);
            let odd = |error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
            Some(text.map_err(|error| fault(&path, odd(error)))?)
        }
        None => None,
    };
    let identity = match identity {
        Some((cert, key)) => Some(OwnedIdentity::PKCS8 {
            pem: of(&cert)?,
            key: of(&key)?,
        }),
        None => None,
    };
    Ok(OwnedTLSConfig {
        identity,
        cert_chain,
    })
}

fn of(path: &Path) -> Result<Vec<u8>, ConnectError> {
    fs::read(path).map_err(|cause| fault(path, cause))
}

fn fault(path: &Path, cause: std::io::Error) -> ConnectError {
    ConnectError::File {
        path: path.display().to_string(),
        cause: Arc::new(cause),
    }
}
