//! The settings of a peer.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use thiserror::Error;
use wharf::Backoff;

#[cfg(feature = "rustls")]
use crate::tls::Tls;
use crate::{
    token::Token,
    wire::{Limits, weight},
};

/// A longer time would be no bound, and more than clocks can count to.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The settings of a [`Peer`](crate::Peer), as plain data. Every field but the name has a default; the
/// builder's methods set them one by one.
///
/// With the feature `serde` it can be read, durations in human form (`"30s"`); an unknown field is an
/// error. It cannot be written, for it has a secret.
///
/// ```toml
/// name = "billing"
/// listen = "127.0.0.1:20001"
/// token = "…"
/// send_timeout = "10s"
///
/// [peers]
/// orders = "127.0.0.1:20002"
/// ```
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct Config {
    /// What the others call this peer: from 1 to 200 bytes, none of them a control character.
    pub name: String,
    /// Where to listen, as `host:port`. Default nowhere: such a peer sends, and receives nothing.
    pub listen: Option<String>,
    /// The others, by name: where they listen, as `host:port`. Names are looked up at every attempt to
    /// connect. Each may send to this peer too.
    pub peers: BTreeMap<String, String>,
    /// Names of those that may send to this peer and listen nowhere.
    pub callers: BTreeSet<String>,
    /// What this peer shows to others, and what others must show. Default empty, which is only accepted
    /// where nobody else can listen or be reached: see [`allow_empty_token`](Self::allow_empty_token).
    pub token: Token,
    /// Others may show this one as well. To change the token of all peers while they run, give each the
    /// new one here, then make it the token of each and keep the old one here, then leave that out.
    pub other_token: Option<Token>,
    /// How what this peer says and hears is encrypted; all peers do, or none. With the feature `rustls`.
    /// Default not at all.
    #[cfg(feature = "rustls")]
    pub tls: Option<Tls>,
    /// Accept an empty token also where listening, or an address, is not on a loopback interface.
    /// Default false.
    pub allow_empty_token: bool,
    /// The largest packet, in bytes, sent or received; at most 128 MiB. What is larger is an error of
    /// `send`; a stranger who claims to send more is cut off before it is read. Default 1 MiB.
    pub max_packet: usize,
    /// How many packets to one peer may be without an answer, from 1 to 1,048,576. Others wait their
    /// turn. Default 4,096.
    pub window: usize,
    /// How many bytes they may have, each counted with 64 more. A packet that is larger goes alone.
    /// Default 8 MiB.
    pub window_bytes: usize,
    /// How long a `send` may take in all. Default 30 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub send_timeout: Duration,
    /// What `send` does while the peer is not connected. Default [`Offline::Wait`].
    pub offline: Offline,
    /// What becomes of packets that were sent to a peer that has restarted since. Default
    /// [`Restarted::Fail`].
    pub restarted: Restarted,
    /// Whether a packet that the handler calls [`Untrusted`](crate::Untrusted) costs its sender the
    /// connection. Default false: no rejection does.
    pub disconnect_untrusted: bool,
    /// How long an attempt to connect may take, from the name to the peer's welcome. Default 5 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub connect_timeout: Duration,
    /// The pauses between attempts. Default 100 ms to 5 s.
    pub reconnect: Backoff,
    /// The pause between attempts to listen. Default 1 s.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub listen_retry: Duration,
    /// Seconds between signs of life, 0 for none. Default 5. A peer that vanished without a word is
    /// noticed within twice that.
    pub heartbeat: u16,
    /// For how long the thread of a connection to a peer looks again and again for the answer, at most,
    /// before it sleeps: a millisecond at most, zero for never. It does while answers have come sooner,
    /// and nobody else has use for the processor. Without effect but on Unix. Default 200 µs.
    #[cfg_attr(feature = "serde", serde(with = "humantime_serde"))]
    pub busy_poll: Duration,
}

/// What `send` does while the peer is not connected.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Offline {
    /// It waits, up to its timeout.
    #[default]
    Wait,
    /// It fails at once, and so does one that was waiting for its turn. What had been sent before keeps
    /// waiting for the answer.
    Fail,
}

/// What becomes of packets that were sent, and not answered, when the peer comes back as another
/// process. Whether the one that is gone had handled them, nobody knows.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Restarted {
    /// Their `send` fails with [`SendError::Restarted`](crate::SendError::Restarted): handled at most
    /// once.
    #[default]
    Fail,
    /// They are sent to the new process, in order: handled at least once.
    Redeliver,
}

/// A setting that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} must be {bound}")]
#[non_exhaustive]
pub struct SettingError {
    /// The field of [`Config`].
    pub field: &'static str,
    /// What it must be.
    pub bound: &'static str,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: None,
            peers: BTreeMap::new(),
            callers: BTreeSet::new(),
            token: Token::default(),
            other_token: None,
            #[cfg(feature = "rustls")]
            tls: None,
            allow_empty_token: false,
            max_packet: 1 << 20,
            window: 4_096,
            window_bytes: 8 << 20,
            send_timeout: Duration::from_secs(30),
            offline: Offline::default(),
            restarted: Restarted::default(),
            disconnect_untrusted: false,
            connect_timeout: Duration::from_secs(5),
            reconnect: Backoff {
                min: Duration::from_millis(100),
                max: Duration::from_secs(5),
            },
            listen_retry: Duration::from_secs(1),
            heartbeat: 5,
            busy_poll: Duration::from_micros(200),
        }
    }
}

impl Config {
    /// What is told to senders.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            packet: self.max_packet as u32,
            window: self.window as u32,
            window_bytes: self.window_bytes as u64,
        }
    }

    /// Everybody who may send to this peer.
    pub(crate) fn senders(&self) -> BTreeSet<&str> {
        let peers = self.peers.keys().chain(&self.callers);
        peers.map(String::as_str).collect()
    }

    /// Says what is wrong, if anything is.
    ///
    /// # Errors
    ///
    /// Names the first field that is out of bounds.
    pub fn validate(&self) -> Result<(), SettingError> {
        require(is_name(&self.name), "name", NAME)?;
        let named = |name: &str| is_name(name) && name != self.name;
        let bound = "names of others, of 1 to 200 bytes without control characters";
        require(self.peers.keys().all(|name| named(name)), "peers", bound)?;
        require(
            self.callers.iter().all(|name| named(name)),
            "callers",
            bound,
        )?;
        let addresses = self.peers.values().all(|address| split(address).is_some());
        require(addresses, "peers", "addresses as host:port")?;
        let listen = self.listen.as_deref().is_none_or(|at| split(at).is_some());
        require(listen, "listen", "host:port")?;
        require(
            (1..=128 << 20).contains(&self.max_packet),
            "max_packet",
            "from 1 byte to 128 MiB",
        )?;
        require(
            (1..=1 << 20).contains(&self.window),
            "window",
            "from 1 to 1,048,576",
        )?;
        let bytes = weight(0)..=usize::MAX >> 4;
        require(
            bytes.contains(&self.window_bytes),
            "window_bytes",
            "at least 64",
        )?;
        for (field, time) in [
            ("send_timeout", self.send_timeout),
            ("connect_timeout", self.connect_timeout),
            ("listen_retry", self.listen_retry),
            ("reconnect.min", self.reconnect.min),
            ("reconnect.max", self.reconnect.max),
        ] {
            let is_time = !time.is_zero() && time <= LONGEST;
            require(is_time, field, "more than zero, and a year at most")?;
        }
        require(
            self.busy_poll <= Duration::from_millis(1),
            "busy_poll",
            "a millisecond at most",
        )?;
        let ascends = self.reconnect.min <= self.reconnect.max;
        require(ascends, "reconnect.max", "at least reconnect.min")?;
        #[cfg(feature = "rustls")]
        self.validate_tls()?;
        require(
            !self.is_exposed(),
            "token",
            "there, unless all is on loopback",
        )
    }

    #[cfg(feature = "rustls")]
    fn validate_tls(&self) -> Result<(), SettingError> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let is_whole = tls.cert_file.is_some() == tls.key_file.is_some();
        let bound = "there if tls.cert_file is, and only then";
        require(is_whole, "tls.key_file", bound)?;
        let is_shown = tls.cert_file.is_some() || self.listen.is_none();
        require(is_shown, "tls.cert_file", "there if this peer listens")?;
        let is_checked = tls.ca_file.is_some() || !tls.client_certs;
        require(
            is_checked,
            "tls.ca_file",
            "there if certificates are demanded",
        )
    }

    /// Whether anybody could come by, or be taken for a peer, without a secret.
    fn is_exposed(&self) -> bool {
        let is_empty = |token: &Token| token.is_empty();
        let is_open = is_empty(&self.token) || self.other_token.as_ref().is_some_and(is_empty);
        let everywhere = self.peers.values().chain(&self.listen);
        let is_local = everywhere.into_iter().all(|address| is_loopback(address));
        is_open && !is_local && !self.allow_empty_token
    }
}

const NAME: &str = "of 1 to 200 bytes, without control characters";

/// Names stand in the names of queues, which have 255 bytes.
fn is_name(name: &str) -> bool {
    (1..=200).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn require(holds: bool, field: &'static str, bound: &'static str) -> Result<(), SettingError> {
    holds.then_some(()).ok_or(SettingError { field, bound })
}

/// Host, without brackets, and port.
pub(crate) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = match inner {
        Some(host) => host,
        None if host.contains(':') => return None,
        None => host,
    };
    // A name has at most 253 characters (RFC 1035, section 2.3.4, in its textual form).
    let is_host = (1..=253).contains(&host.len()) && !host.contains(['[', ']']);
    Some((host, port.parse().ok()?)).filter(|_| is_host)
}

fn is_loopback(address: &str) -> bool {
    let Some((host, _)) = split(address) else {
        return false;
    };
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            name: "billing".into(),
            listen: Some("127.0.0.1:20001".into()),
            peers: [("orders".to_owned(), "[::1]:20002".to_owned())].into(),
            ..Config::default()
        }
    }

    fn field(change: impl FnOnce(&mut Config)) -> Option<&'static str> {
        let mut config = config();
        change(&mut config);
        config.validate().err().map(|error| error.field)
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(field(|_| {}), None);
        assert_eq!(field(|config| config.name.clear()), Some("name"));
        assert_eq!(field(|config| config.name = "a\nb".into()), Some("name"));
        assert_eq!(field(|config| config.name = "orders".into()), Some("peers"));
        assert_eq!(
            field(|config| config.listen = Some("::1".into())),
            Some("listen")
        );
        assert_eq!(field(|config| config.window = 0), Some("window"));
        assert_eq!(field(|config| config.max_packet = 0), Some("max_packet"));
        let zero = field(|config| config.send_timeout = Duration::ZERO);
        assert_eq!(zero, Some("send_timeout"));
        let descending = field(|config| config.reconnect.max = Duration::from_millis(1));
        assert_eq!(descending, Some("reconnect.max"));
        let long = field(|config| config.busy_poll = Duration::from_micros(1001));
        assert_eq!(long, Some("busy_poll"));
        let caller = field(|config| {
            config.callers.insert("billing".into());
        });
        assert_eq!(caller, Some("callers"));
    }

    #[cfg(feature = "rustls")]
    #[test]
    fn tls_has_all_the_files_that_it_needs() {
        let with = |tls: Tls| field(move |config| config.tls = Some(tls));
        let caller = |tls: Tls| {
            field(move |config| {
                config.listen = None;
                config.tls = Some(tls);
            })
        };
        assert_eq!(with(Tls::new().identity("cert", "key")), None);
        assert_eq!(with(Tls::new()), Some("tls.cert_file"));
        assert_eq!(caller(Tls::new()), None);
        let demanding = Tls::new().identity("cert", "key").client_certs(true);
        assert_eq!(with(demanding.clone()), Some("tls.ca_file"));
        assert_eq!(with(demanding.ca_file("ca")), None);
        let mut half = Tls::new().identity("cert", "key");
        half.key_file = None;
        assert_eq!(with(half.clone()), Some("tls.key_file"));
        assert_eq!(caller(half), Some("tls.key_file"));
    }

    #[test]
    fn an_empty_token_stays_at_home() {
        let abroad = |config: &mut Config| config.listen = Some("0.0.0.0:1".into());
        assert_eq!(field(abroad), Some("token"));
        let peer = |config: &mut Config| {
            config.peers.insert("far".into(), "far.example:1".into());
        };
        assert_eq!(field(peer), Some("token"));
        let secret = |config: &mut Config| {
            abroad(config);
            config.token = "secret".into();
        };
        assert_eq!(field(secret), None);
        let other = |config: &mut Config| {
            secret(config);
            config.other_token = Some(Token::default());
        };
        assert_eq!(field(other), Some("token"));
        let allowed = |config: &mut Config| {
            abroad(config);
            config.allow_empty_token = true;
        };
        assert_eq!(field(allowed), None);
    }

    #[test]
    fn hosts_are_told_from_ports() {
        assert_eq!(
            split("orders.example:20002"),
            Some(("orders.example", 20002))
        );
        assert_eq!(split("[2001:db8::1]:5"), Some(("2001:db8::1", 5)));
        for wrong in [
            "",
            "host",
            ":1",
            "host:",
            "host:65536",
            "2001:db8::1:5",
            "[]:1",
        ] {
            assert_eq!(split(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn no_token_is_shown() {
        let mut config = config();
        config.token = "secret".into();
        assert!(!format!("{config:?}").contains("secret"));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn it_is_read_from_a_file() {
        let read: Config = toml::from_str(
            r#"
            name = "billing"
            listen = "127.0.0.1:20001"
            token = "secret"
            send_timeout = "10s"
            offline = "fail"
            restarted = "redeliver"
            callers = ["shell"]
            reconnect = { min = "50ms", max = "1s" }

            [peers]
            orders = "127.0.0.1:20002"
            "#,
        )
        .expect("it is understood");
        assert_eq!(read.send_timeout, Duration::from_secs(10));
        assert_eq!(read.offline, Offline::Fail);
        assert_eq!(read.restarted, Restarted::Redeliver);
        assert_eq!(read.peers["orders"], "127.0.0.1:20002");
        assert_eq!(read.token, Token::from("secret"));
        assert!(toml::from_str::<Config>("nmae = \"x\"").is_err());
    }

    #[cfg(all(feature = "serde", feature = "rustls"))]
    #[test]
    fn tls_is_read_from_a_file() {
        let of =
            |tls: &str| toml::from_str::<Config>(&format!("busy_poll = \"50us\"\n[tls]\n{tls}"));
        let read =
            of("ca_file = \"ca\"\ncert_file = \"cert\"\nkey_file = \"key\"\nclient_certs = true");
        let read = read.expect("it is understood");
        assert_eq!(read.busy_poll, Duration::from_micros(50));
        let tls = read.tls.expect("it is there");
        let files = [tls.ca_file, tls.cert_file, tls.key_file].map(|file| file.expect("a file"));
        assert_eq!(files, ["ca", "cert", "key"].map(std::path::PathBuf::from));
        assert!(tls.client_certs);
        assert!(of("cert = \"cert\"").is_err());
    }
}
