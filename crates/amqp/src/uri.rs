//! What the URIs of a broker say.

use std::str::FromStr;

use lapin::uri::{AMQPScheme, AMQPUri};
use thiserror::Error;

use crate::{config::Config, endpoint::Endpoint};

/// A URI that does not name a broker. It is not repeated here, for it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UriError {
    /// It is not an `amqp://` or `amqps://` URI.
    #[error("not an AMQP URI: {0}")]
    Malformed(String),
    /// It has a parameter that is not known, or not one that can be set in a URI.
    #[error("the URI parameter {0:?} is not known")]
    UnknownParameter(String),
    /// Several URIs differ in what must be the same for all hosts of a cluster.
    #[error("the hosts of a cluster must agree in the {0}")]
    Disagreement(&'static str),
    /// `amqps://` without the feature `rustls`.
    #[error("amqps:// needs the feature `rustls`")]
    NoTls,
    /// No URI at all.
    #[error("no host")]
    NoHost,
}

/// What one URI says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    endpoint: Endpoint,
    uri: AMQPUri,
}

/// Parameters that a URI may set. lapin takes `connection_timeout` and does not heed it.
const PARAMETERS: [&str; 4] = [
    "heartbeat",
    "frame_max",
    "channel_max",
    "connection_timeout",
];

impl FromStr for Parsed {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let malformed = |reason: &str| UriError::Malformed(reason.to_owned());
        // lapin's own parser takes an IPv6 address for `localhost`, so that it gets to see a name.
        let (text, literal) = without_ipv6(text).ok_or_else(|| malformed("bad IPv6 address"))?;
        if let Some((_, query)) = text.split_once('?') {
            let names = query.split('&').filter_map(|pair| pair.split('=').next());
            for name in names.filter(|name| !name.is_empty()) {
                if !PARAMETERS.contains(&name) {
                    return Err(UriError::UnknownParameter(name.to_owned()));
                }
            }
        }
        let uri: AMQPUri = text.parse().map_err(|reason: String| {
            // It may quote the URI.
            malformed(if reason.contains("://") {
                "cannot be read"
            } else {
                &reason
            })
        })?;
        let host = literal.unwrap_or_else(|| uri.authority.host.clone());
        if host.is_empty() || !text.contains("://") {
            return Err(malformed("no host"));
        }
        let tls = uri.scheme == AMQPScheme::AMQPS;
        if tls && !cfg!(feature = "rustls") {
            return Err(UriError::NoTls);
        }
        let endpoint = Endpoint {
            host,
            port: uri.authority.port,
            tls,
        };
        Ok(Self { endpoint, uri })
    }
}

/// Replaces an IPv6 address in brackets by a name, and returns it. None for a bad address.
fn without_ipv6(text: &str) -> Option<(String, Option<String>)> {
    let start = text.find("://").map_or(0, |at| at + 3);
    let end = text[start..]
        .find(['/', '?'])
        .map_or(text.len(), |at| start + at);
    let authority = &text[start..end];
    let host_at = start + authority.rfind('@').map_or(0, |at| at + 1);
    if !text[host_at..end].starts_with('[') {
        return Some((text.to_owned(), None));
    }
    let close = host_at + text[host_at..end].find(']')?;
    let literal = &text[host_at + 1..close];
    literal.parse::<std::net::Ipv6Addr>().ok()?;
    let rest = format!("{}ipv6{}", &text[..host_at], &text[close + 1..]);
    Some((rest, Some(literal.to_owned())))
}

/// Reads the URIs of a cluster's hosts. User, password, virtual host and parameters must be the
/// same in all.
pub(crate) fn read(uris: &[String]) -> Result<Config, UriError> {
    let parsed = uris
        .iter()
        .map(|uri| uri.parse())
        .collect::<Result<Vec<Parsed>, _>>()?;
    let first = &parsed.first().ok_or(UriError::NoHost)?.uri;
    for Parsed { uri, .. } in &parsed {
        let (ours, theirs) = (&first.authority.userinfo, &uri.authority.userinfo);
        if ours.username != theirs.username {
            return Err(UriError::Disagreement("user"));
        }
        if ours.password != theirs.password {
            return Err(UriError::Disagreement("password"));
        }
        if first.vhost != uri.vhost {
            return Err(UriError::Disagreement("virtual host"));
        }
        if first.query != uri.query {
            return Err(UriError::Disagreement("parameters"));
        }
    }
    let mut config = Config {
        user: first.authority.userinfo.username.clone(),
        password: first.authority.userinfo.password.clone().into(),
        vhost: first.vhost.clone(),
        hosts: parsed
            .iter()
            .map(|parsed| parsed.endpoint.clone())
            .collect(),
        ..Config::default()
    };
    let query = &first.query;
    if let Some(seconds) = query.heartbeat {
        config.heartbeat = seconds;
    }
    if let Some(bytes) = query.frame_max {
        config.frame_max = bytes;
    }
    if let Some(channels) = query.channel_max {
        config.channel_max = channels;
    }
    if let Some(millis) = query.connection_timeout {
        config.connect_timeout = std::time::Duration::from_millis(millis);
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(uris: &[&str]) -> Result<Config, UriError> {
        read(&uris.iter().map(|uri| (*uri).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_uri_says_where_and_as_whom() {
        let config = config(&["amqp://app:s%2Fecret@rabbit-1:5673/orders?heartbeat=7"]).unwrap();
        assert_eq!(config.hosts[0].to_string(), "rabbit-1:5673");
        assert_eq!(
            (config.user.as_str(), config.vhost.as_str()),
            ("app", "orders")
        );
        assert_eq!(config.password.reveal(), "s/ecret");
        assert_eq!(config.heartbeat, 7);
    }

    #[test]
    fn an_ipv6_address_is_not_taken_for_localhost() {
        let config = config(&[
            "amqp://app:x@[2001:db8::1]/%2f",
            "amqp://app:x@[::1]:5673/%2f",
        ]);
        let hosts = config.unwrap().hosts;
        assert_eq!(hosts[0].host, "2001:db8::1");
        assert_eq!(hosts[1].to_string(), "[::1]:5673");
        let bad = "amqp://app:x@[::zz]/".parse::<Parsed>();
        assert!(matches!(bad, Err(UriError::Malformed(_))));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let error = config(&["amqp://h/?heartbeet=1"]).unwrap_err();
        assert_eq!(error, UriError::UnknownParameter("heartbeet".into()));
        for uri in ["http://h", "rabbit-1", "amqp://h:port/", ""] {
            let error = config(&[uri]).unwrap_err();
            assert!(matches!(error, UriError::Malformed(_)), "{uri}: {error}");
        }
        assert_eq!(config(&[]).unwrap_err(), UriError::NoHost);
    }

    #[test]
    fn hosts_that_disagree_are_refused() {
        let error = config(&["amqp://a:x@h/", "amqp://b:x@h/"]).unwrap_err();
        assert_eq!(error, UriError::Disagreement("user"));
    }

    #[test]
    fn no_error_repeats_a_password() {
        for uri in [
            "amqp://a:sesame@h:port/",
            "amqp//a:sesame@h",
            "amqp://a:sesame@[::zz]/",
        ] {
            let error = config(&[uri]).unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("sesame"),
                "{error:?}"
            );
        }
    }
}
