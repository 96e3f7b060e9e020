//! How a configuration is written: any format of serde's that tells types by itself, such as TOML,
//! JSON or YAML.
//!
//! Values are read as they come and understood afterwards, so that what is wrong is told by the
//! name of its field alone. A parser that refuses a field quotes the line that it is on, and that
//! may hold a password.

use std::{fmt, time::Duration};

use humantime_serde::re::humantime;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use wharf::Backoff;

use crate::{
    config::{Config, SettingError},
    endpoint::Endpoint,
    uri,
};

/// Whatever was written.
#[derive(Clone)]
pub(crate) enum Value {
    Nothing,
    Bool(bool),
    Whole(u64),
    /// Negative or broken: no setting is.
    Odd,
    Text(String),
    List(Vec<Value>),
    Fields(Fields),
}

pub(crate) type Fields = Vec<(String, Value)>;

/// The settings of one cluster as they are written: see [`Config`].
impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(Value::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Understands the settings of one cluster.
pub(crate) fn read(value: Value) -> Result<Config, SettingError> {
    let Value::Fields(fields) = value else {
        return wrong("", "must be a table of settings");
    };
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return wrong(twice[0], "is there twice");
    }
    let mut config = of_hosts(&fields)?;
    for (name, value) in &fields {
        set(&mut config, name, value).map_err(|problem| SettingError::new(name, problem))?;
    }
    Ok(config)
}

/// Sets one field, or says what is wrong with it.
fn set(config: &mut Config, name: &str, value: &Value) -> Result<(), &'static str> {
    match name {
        // They came first.
        "hosts" | "tls" => {}
        "user" => config.user = text(value)?,
        "password" => config.password = text(value)?.into(),
        "vhost" => config.vhost = text(value)?,
        "ca_file" => config.ca_file = Some(text(value)?.into()),
        "cert_file" => config.cert_file = Some(text(value)?.into()),
        "key_file" => config.key_file = Some(text(value)?.into()),
        "name" => config.name = text(value)?,
        "connections" => config.connections = whole(value)?,
        "channels_per_connection" => config.channels_per_connection = whole(value)?,
        "heartbeat" => config.heartbeat = seconds(value)?,
        "frame_max" => config.frame_max = whole(value)?,
        "channel_max" => config.channel_max = whole(value)?,
        "connect_timeout" => config.connect_timeout = time(value)?,
        "operation_timeout" => config.operation_timeout = time(value)?,
        "backoff" => config.backoff = backoff(value, config.backoff)?,
        "busy_poll" => config.busy_poll = time(value)?,
        _ => return Err("is not a setting"),
    }
    Ok(())
}

/// What the hosts say: where they are, and if they are URIs, more than that.
fn of_hosts(fields: &Fields) -> Result<Config, SettingError> {
    let field = |name: &str| {
        let mut fields = fields.iter();
        fields.find_map(|(other, value)| (other == name).then_some(value))
    };
    let Some(Value::List(hosts)) = field("hosts") else {
        return wrong("hosts", "must be a list of hosts or AMQP URIs");
    };
    let hosts: Result<Vec<String>, _> = hosts.iter().map(text).collect();
    let hosts = hosts.map_err(|problem| SettingError::new("hosts", problem))?;
    let uris = hosts.iter().filter(|host| host.contains("://")).count();
    if uris == 0 {
        let tls = match field("tls") {
            Some(Value::Bool(tls)) => *tls,
            None => false,
            Some(_) => return wrong("tls", "must be true or false"),
        };
        let hosts: Result<_, _> = hosts.iter().map(|host| endpoint(host, tls)).collect();
        return Ok(Config {
            hosts: hosts.map_err(|problem| SettingError::new("hosts", problem))?,
            ..Config::default()
        });
    }
    if uris < hosts.len() {
        return wrong("hosts", "must all be URIs, or none");
    }
    for (name, _) in fields {
        if hosts.iter().any(|uri| says(uri, name)) {
            return wrong(name, "is in the URIs, too");
        }
    }
    uri::read(&hosts).map_err(|error| SettingError::new("hosts", error.to_string()))
}

/// Whether a URI has its own word on a setting.
fn says(uri: &str, setting: &str) -> bool {
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let has = |parameter: &str| {
        let mut pairs = query.split('&');
        pairs.any(|pair| pair.split('=').next() == Some(parameter))
    };
    match setting {
        "tls" => true,
        "user" => authority.contains('@'),
        "password" => authority.contains('@'),
        "vhost" => !path.is_empty(),
        "connect_timeout" => has("connection_timeout"),
        other => has(other),
    }
}

/// `host`, `host:port`, and IPv6 addresses with or without brackets.
fn endpoint(text: &str, tls: bool) -> Result<Endpoint, &'static str> {
    let without_port = |host: &str| (host.to_owned(), if tls { 5671 } else { 5672 });
    let port = |text: &str| match text.parse() {
        Ok(0) | Err(_) => Err("must have ports from 1 to 65,535"),
        Ok(port) => Ok(port),
    };
    let is_ipv6 = |host: &str| host.parse::<std::net::Ipv6Addr>().is_ok();
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        match rest.split_once(']') {
            Some((host, _)) if !is_ipv6(host) => {
                return Err("must have IPv6 addresses in brackets");
            }
            Some((host, "")) => without_port(host),
            Some((host, rest)) => match rest.strip_prefix(':') {
                Some(number) => (host.to_owned(), port(number)?),
                None => return Err("must have nothing but a port after an address"),
            },
            None => return Err("must have both brackets around an address"),
        }
    } else if is_ipv6(text) {
        without_port(text)
    } else if let Some((host, number)) = text.split_once(':') {
        (host.to_owned(), port(number)?)
    } else {
        without_port(text)
    };
    let is_odd = |letter: char| letter.is_whitespace() || "/@?#".contains(letter);
    if host.is_empty() || host.contains(is_odd) {
        return Err("must be hosts, such as rabbit-1:5672, or whole AMQP URIs");
    }
    Ok(Endpoint { host, port, tls })
}

fn text(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::Text(text) => Ok(text.clone()),
        Value::List(_) | Value::Fields(_) => Err("must be a text, not a list or table"),
        _ => Err("must be a text, in quotes"),
    }
}

fn whole<N: TryFrom<u64>>(value: &Value) -> Result<N, &'static str> {
    match value {
        Value::Whole(number) => N::try_from(*number).map_err(|_| "is too large"),
        _ => Err("must be a whole number"),
    }
}

/// A number of them, or a time in human form.
fn seconds(value: &Value) -> Result<u16, &'static str> {
    if let Value::Whole(_) = value {
        return whole(value);
    }
    let time = time(value)?;
    if time.subsec_nanos() > 0 {
        return Err("must be whole seconds");
    }
    u16::try_from(time.as_secs()).map_err(|_| "is too large")
}

fn time(value: &Value) -> Result<Duration, &'static str> {
    let wrong = "must be a time such as \"30s\"";
    match value {
        Value::Text(text) => humantime::parse_duration(text).map_err(|_| wrong),
        _ => Err(wrong),
    }
}

fn backoff(value: &Value, mut backoff: Backoff) -> Result<Backoff, &'static str> {
    let wrong = "must be a table of min and max, times such as \"30s\"";
    let Value::Fields(fields) = value else {
        return Err(wrong);
    };
    for (name, value) in fields {
        match name.as_str() {
            "min" => backoff.min = time(value).map_err(|_| wrong)?,
            "max" => backoff.max = time(value).map_err(|_| wrong)?,
            _ => return Err(wrong),
        }
    }
    Ok(backoff)
}

fn wrong<T>(field: &str, problem: &'static str) -> Result<T, SettingError> {
    Err(SettingError::new(field, problem))
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(u64::try_from(value).map_or(Value::Odd, Value::Whole))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Whole(value))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Odd)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Value::Fields(fields))
    }
}
