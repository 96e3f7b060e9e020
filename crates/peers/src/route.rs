//! Connections to other peers, as resources of a [`KeyedPool`]: one for each peer, dialled, greeted
//! and given up here, and paced in an outage by the pool.

use std::{collections::BTreeMap, fmt, sync::Arc};

use futures_util::StreamExt;
use tokio::{runtime::Handle, time::timeout};
use wharf::{BuildError, KeyedPool, Manager};
use wharf_amqp::{
    Channel, Cluster, Config as Amqp, ConnectError, Endpoint, State,
    lapin::{
        self, BasicProperties, Consumer,
        options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
        types::{FieldTable, ShortString},
    },
};

use crate::{
    config::{Config, split},
    error::{Cause, PeerState},
    names,
    remote::Remote,
    wire::{Epoch, ToSender, Welcome},
};

/// The connections, one to each peer.
pub(crate) type Routes = KeyedPool<String, Dialler>;

pub(crate) fn routes(
    config: &Config,
    remotes: &BTreeMap<String, Arc<Remote>>,
    runtime: &Handle,
) -> Result<Routes, BuildError> {
    let mut per_key = wharf::Config::default();
    per_key.max_active = 1;
    per_key.max_lifetime = None;
    per_key.idle_timeout = None;
    per_key.check_interval = None;
    per_key.wait_timeout = None;
    // The dialler keeps the time itself, and says whose it was.
    per_key.create_timeout = None;
    per_key.backoff = config.reconnect;
    let remotes = remotes.clone();
    KeyedPool::builder(move |name: &String| Dialler {
        remote: Arc::clone(&remotes[name]),
    })
    .per_key(per_key)
    .runtime(runtime.clone())
    .name(format!("peers of {}", config.name))
    .build()
}

/// A connection on which the other peer has said welcome.
pub(crate) struct Route {
    pub(crate) cluster: Cluster,
    /// How often the peer had moved before.
    pub(crate) moves: u64,
    /// Taken by whoever serves it, once.
    pub(crate) talk: Option<Talk>,
}

/// Both ways of a connection, and what the other peer has said so far.
pub(crate) struct Talk {
    pub(crate) speaker: Speaker,
    pub(crate) answers: Answers,
    pub(crate) welcome: Welcome,
}

/// What is said to the other peer.
pub(crate) struct Speaker {
    channel: Arc<Channel>,
    inbox: ShortString,
    properties: BasicProperties,
}

/// What it says.
pub(crate) struct Answers {
    words: Consumer,
    /// Anybody who may log in there may publish here, or have answers of its own sent here. The broker
    /// has looked at what each says of its name.
    from: String,
    to: Epoch,
}

impl Speaker {
    pub(crate) fn channel(&self) -> Arc<Channel> {
        Arc::clone(&self.channel)
    }

    /// Sends a body. Returns when it is on its way.
    pub(crate) async fn say(&self, body: &[u8]) -> lapin::Result<()> {
        let options = BasicPublishOptions::default();
        let properties = self.properties.clone();
        let inbox = self.inbox.clone();
        self.channel
            .basic_publish(ShortString::default(), inbox, options, body, properties)
            .await
            .map(drop)
    }
}

impl Answers {
    /// The next word, or the reason why there will be none.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a word is taken when it is there.
    pub(crate) async fn next(&mut self) -> Result<ToSender, Cause> {
        loop {
            let Some(Ok(delivery)) = self.words.next().await else {
                return Err(Cause::Lost);
            };
            let user_id = delivery.properties.user_id().as_ref();
            if user_id.map(ShortString::as_str) != Some(&*self.from) {
                continue;
            }
            match ToSender::decode(&delivery.data) {
                Ok(word) if word.epoch() == self.to => return Ok(word),
                Ok(_) => {}
                Err(malformed) => return Err(Cause::Protocol(malformed.to_string())),
            }
        }
    }
}

/// Dials one peer.
pub(crate) struct Dialler {
    remote: Arc<Remote>,
}

impl Manager for Dialler {
    type Resource = Route;
    type Error = Cause;

    /// One attempt: the pool makes the next.
    async fn create(&self) -> Result<Route, Cause> {
        self.remote.attempts();
        let limit = self.remote.config.connect_timeout;
        let dialled = timeout(limit, self.dial()).await;
        let dialled = dialled.unwrap_or_else(|_| Err(unreachable(ConnectError::Timeout(limit))));
        if let Err(cause) = &dialled {
            self.remote.set_state(PeerState::Disconnected {
                cause: cause.clone(),
            });
        }
        dialled
    }
}

impl Dialler {
    async fn dial(&self) -> Result<Route, Cause> {
        // Before the address: one that is newer is dialled again.
        let moves = self.remote.moves();
        let cluster = Cluster::from_config(self.amqp()).connect_lazily();
        let cluster = cluster.map_err(unreachable)?;
        let channel = tokio::select! {
            biased;
            cause = refused(&cluster) => return Err(cause),
            channel = cluster.channels().get_owned() => channel.map_err(unreachable)?.detach(),
        };
        let hello = self.remote.packets().hello();
        let opened = self.open(channel, hello.epoch).await;
        let (speaker, mut answers) = opened.map_err(unreachable)?;
        speaker.say(&hello.encode()).await.map_err(unreachable)?;
        let ToSender::Welcome(welcome) = answers.next().await? else {
            return Err(Cause::Protocol("it did not answer to hello".to_owned()));
        };
        Ok(Route {
            cluster,
            moves,
            talk: Some(Talk {
                speaker,
                answers,
                welcome,
            }),
        })
    }

    fn amqp(&self) -> Amqp {
        let Config {
            name,
            connect_timeout,
            heartbeat,
            busy_poll,
            ..
        } = &*self.remote.config;
        let address = self.remote.address();
        let (host, port) = split(&address).expect("bug: addresses are checked");
        let mut amqp = Amqp::default();
        amqp.hosts = vec![Endpoint {
            host: host.to_owned(),
            port,
            tls: false,
        }];
        amqp.user = name.clone();
        amqp.password = self.remote.token().reveal().to_owned().into();
        amqp.name = format!("{name} to {}", self.remote.name);
        amqp.heartbeat = *heartbeat;
        amqp.busy_poll = *busy_poll;
        #[cfg(feature = "rustls")]
        if let Some(tls) = &self.remote.config.tls {
            amqp.hosts[0].tls = true;
            amqp.ca_file.clone_from(&tls.ca_file);
            amqp.cert_file.clone_from(&tls.cert_file);
            amqp.key_file.clone_from(&tls.key_file);
        }
        amqp.connect_timeout = *connect_timeout;
        amqp.operation_timeout = *connect_timeout;
        amqp
    }

    /// The way there, and a queue of our own at the other side for the way back.
    async fn open(&self, channel: Channel, own: Epoch) -> lapin::Result<(Speaker, Answers)> {
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let none = FieldTable::default;
        let queue = channel
            .queue_declare(ShortString::default(), options, none())
            .await?;
        let options = BasicConsumeOptions {
            no_ack: true,
            exclusive: true,
            ..BasicConsumeOptions::default()
        };
        let tag = ShortString::default();
        let answers = channel
            .basic_consume(queue.name().clone(), tag, options, none())
            .await?;
        let name = self.remote.config.name.as_str();
        let speaker = Speaker {
            channel: Arc::new(channel),
            inbox: names::inbox(name).into(),
            properties: BasicProperties::default()
                .with_user_id(name.into())
                .with_reply_to(queue.name().clone()),
        };
        let answers = Answers {
            words: answers,
            from: self.remote.name.clone(),
            to: own,
        };
        Ok((speaker, answers))
    }
}

/// Until the first attempt to connect has failed.
async fn refused(cluster: &Cluster) -> Cause {
    let mut state = cluster.watch();
    let failed = |state: &State| matches!(state, State::Down { .. } | State::Closed { .. });
    match state.wait_for(failed).await.as_deref() {
        Ok(State::Down { cause, .. } | State::Closed { cause: Some(cause) }) => match &**cause {
            ConnectError::Refused(_) => Cause::Unauthorised,
            _ => Cause::Unreachable(Arc::new(cause.clone())),
        },
        _ => Cause::Lost,
    }
}

fn unreachable(error: impl std::error::Error + Send + Sync + 'static) -> Cause {
    Cause::Unreachable(Arc::new(error))
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialler")
            .field("remote", &self.remote)
            .finish()
    }
}
