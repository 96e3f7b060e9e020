//! From the protocol header to `connection.open-ok` (AMQP 0-9-1, section 2.2.4), and what else is
//! said on channel zero.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use amq_protocol::{
    frame::{AMQPFrame, ProtocolVersion},
    protocol::{AMQPClass, connection},
    types::{AMQPValue, FieldTable, ShortString},
};

use super::{
    super::{ConnectionId, Output},
    Sessions,
    connection::{Capabilities, FRAME_MIN_SIZE, State, text_of},
    credentials::{Credentials, MECHANISMS},
    exception::{Cause, Exception},
};

/// What the broker says it can do, in `connection.start`.
const CAPABILITIES: [&str; 8] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
];

const TUNE: Cause = (10, 30);

impl Sessions {
    /// The eight bytes a connection begins with.
    pub(super) fn protocol_header(&mut self, id: ConnectionId, version: ProtocolVersion) {
        if version != ProtocolVersion::amqp_0_9_1() {
            return self.refuse_protocol(id);
        }
        self.set_state(id, State::Start);
        self.send0(
            id,
            connection::AMQPMethod::Start(connection::Start {
                version_major: 0,
                version_minor: 9,
                server_properties: server_properties(),
                mechanisms: MECHANISMS.into(),
                locales: "en_US".into(),
            }),
        );
    }

    /// Another protocol: the answer is the header of this one, and the end.
    pub(super) fn refuse_protocol(&mut self, id: ConnectionId) {
        let header = AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1());
        self.desk.push(id, Output::frame(header));
        self.desk.shut(id);
    }

    /// A method on channel zero.
    pub(super) fn connection_method(
        &mut self,
        id: ConnectionId,
        method: connection::AMQPMethod,
        cause: Cause,
        now: Instant,
    ) {
        use connection::AMQPMethod as Method;
        let state = self.state_of(id);
        match (state, method) {
            (State::Start, Method::StartOk(method)) => self.start_ok(id, &method),
            (State::Tune, Method::TuneOk(method)) => {
                if let Err(exception) = self.tune_ok(id, &method) {
                    self.connection_exception(id, &exception, TUNE, now);
                }
            }
            (State::Opening, Method::Open(method)) => {
                if let Err(exception) = self.open(id, &method, now) {
                    self.connection_exception(id, &exception, cause, now);
                }
            }
            (State::Running, Method::Close(_)) => {
                self.release_connection(id, now);
                self.send0(id, Method::CloseOk(connection::CloseOk {}));
                self.desk.shut(id);
            }
            (State::Closing, Method::Close(_)) => {
                self.send0(id, Method::CloseOk(connection::CloseOk {}));
            }
            (State::Closing, Method::CloseOk(_)) => self.desk.shut(id),
            (State::Running, Method::UpdateSecret(_)) => {
                // Passwords do not expire here; a new one is taken note of as RabbitMQ's own
                // user database does, which keeps the user it has.
                self.send0(id, Method::UpdateSecretOk(connection::UpdateSecretOk {}));
            }
            (State::Closing | State::Closed, _) => {}
            (State::Running | State::Opening, _) => {
                let name = if state == State::Running {
                    "running"
                } else {
                    "opening"
                };
                let text = format!("unexpected method in connection state {name}");
                self.connection_exception(id, &Exception::new(504, text), cause, now);
            }
            // Whoever does not even follow the handshake is told nothing.
            (State::Header | State::Start | State::Tune, _) => self.desk.shut(id),
        }
    }

    fn start_ok(&mut self, id: ConnectionId, method: &connection::StartOk) {
        let mechanism = method.mechanism.as_str();
        let response = method.response.as_bytes();
        let Some(credentials) = Credentials::read(mechanism, response) else {
            return self.desk.shut(id);
        };
        let user = credentials
            .check(&self.settings.users)
            .map(|user| (Arc::from(&*user.name), user.vhosts.clone()));
        let tune = connection::Tune {
            channel_max: self.settings.channel_max,
            frame_max: self.settings.frame_max,
            heartbeat: self.settings.heartbeat,
        };
        let Some(connection) = self.desk.connection(id) else {
            return;
        };
        connection.capabilities = capabilities(&method.client_properties);
        let name = method.client_properties.inner().get("connection_name");
        connection.peer.name = name.and_then(text_of).map(Arc::from);
        let Some((user, vhosts)) = user else {
            return self.refuse_login(id, mechanism);
        };
        connection.peer.user = Some(user);
        connection.vhosts = vhosts;
        connection.state = State::Tune;
        self.send0(id, connection::AMQPMethod::Tune(tune));
    }

    fn refuse_login(&mut self, id: ConnectionId, mechanism: &str) {
        let told = self
            .desk
            .connection(id)
            .is_some_and(|connection| connection.capabilities.authentication_failure_close);
        if told {
            let text = format!(
                "Login was refused using authentication mechanism {mechanism}. \
                 For details see the broker logfile."
            );
            self.send_close(id, &Exception::new(403, text), (0, 0));
        }
        self.desk.shut(id);
    }

    fn tune_ok(&mut self, id: ConnectionId, method: &connection::TuneOk) -> Result<(), Exception> {
        let frame_max = u64::from(method.frame_max);
        negotiated(
            "frame_max",
            u64::from(FRAME_MIN_SIZE),
            u64::from(self.settings.frame_max),
            frame_max,
        )?;
        let channel_max = u64::from(method.channel_max);
        let offered = u64::from(self.settings.channel_max);
        negotiated("channel_max", 1, offered, channel_max)?;
        if let Some(connection) = self.desk.connection(id) {
            connection.frame_max = method.frame_max;
            connection.channel_max = method.channel_max;
            connection.heartbeat = Duration::from_secs(u64::from(method.heartbeat));
            connection.state = State::Opening;
        }
        Ok(())
    }

    fn open(
        &mut self,
        id: ConnectionId,
        method: &connection::Open,
        now: Instant,
    ) -> Result<(), Exception> {
        let name = method.virtual_host.as_str();
        let Some(connection) = self.desk.connections.get_mut(&id) else {
            return Ok(());
        };
        let host = self.settings.vhosts.iter().position(|vhost| vhost == name);
        let Some(host) = host else {
            return Err(Exception::new(530, format!("vhost {name} not found")));
        };
        if let Some(vhosts) = &connection.vhosts
            && !vhosts.iter().any(|vhost| vhost == name)
        {
            let user = connection.peer.user.as_deref().unwrap_or_default();
            let text = format!("access to vhost '{name}' refused for user '{user}'");
            return Err(Exception::new(530, text));
        }
        if let Some((code, text)) = self.interference.open(&connection.peer, now) {
            return Err(Exception::verbatim(code, text));
        }
        connection.host = host;
        connection.state = State::Running;
        connection.last_received = now;
        connection.last_sent = now;
        self.send0(id, connection::AMQPMethod::OpenOk(connection::OpenOk {}));
        self.desk.rearm(id);
        Ok(())
    }

    pub(super) fn send0(&mut self, id: ConnectionId, method: connection::AMQPMethod) {
        self.desk.send(id, 0, AMQPClass::Connection(method));
    }

    pub(super) fn state_of(&self, id: ConnectionId) -> State {
        self.desk
            .connections
            .get(&id)
            .map_or(State::Closed, |connection| connection.state)
    }

    fn set_state(&mut self, id: ConnectionId, state: State) {
        if let Some(connection) = self.desk.connection(id) {
            connection.state = state;
        }
    }
}

/// A client may lower what was offered, not raise it; zero stands for no limit.
fn negotiated(field: &str, min: u64, offered: u64, claimed: u64) -> Result<(), Exception> {
    let detail = if field == "channel_max" && claimed == 0 {
        " (no limit)"
    } else {
        ""
    };
    let refuse = |lower: &str, minimum: &str, limit: u64| {
        Err(Exception::new(
            530,
            format!(
                "negotiated {field} = {claimed}{detail} is {lower} than the {minimum} allowed \
                 value ({limit})"
            ),
        ))
    };
    if claimed != 0 && claimed < min {
        return refuse("lower", "minimum", min);
    }
    if offered != 0 && (claimed == 0 || claimed > offered) {
        return refuse("higher", "maximum", offered);
    }
    Ok(())
}

fn capabilities(properties: &FieldTable) -> Capabilities {
    let Some(AMQPValue::FieldTable(said)) = properties.inner().get("capabilities") else {
        return Capabilities::default();
    };
    let says = |name: &str| said.inner().get(name) == Some(&AMQPValue::Boolean(true));
    Capabilities {
        authentication_failure_close: says("authentication_failure_close"),
        connection_blocked: says("connection.blocked"),
        consumer_cancel_notify: says("consumer_cancel_notify"),
    }
}

fn server_properties() -> FieldTable {
    let capabilities: BTreeMap<ShortString, AMQPValue> = CAPABILITIES
        .iter()
        .map(|name| (ShortString::from(*name), AMQPValue::Boolean(true)))
        .collect();
    let mut properties = FieldTable::default();
    let capabilities = AMQPValue::FieldTable(capabilities.into());
    properties.insert("capabilities".into(), capabilities);
    for (name, value) in [
        ("product", "Wharf"),
        ("version", env!("CARGO_PKG_VERSION")),
        ("platform", "Rust"),
        ("information", "Licensed under MIT OR Apache-2.0"),
    ] {
        properties.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    properties
}
