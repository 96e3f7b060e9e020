//! The broker of an example: the one that `AMQP_URL` names, or a private RabbitMQ.

use std::{env, error::Error};

use wharf_testkit::rabbit::Rabbit;

pub(crate) struct Broker {
    pub(crate) url: String,
    /// Ends with the last handle.
    _private: Option<Rabbit>,
}

pub(crate) async fn broker() -> Result<Broker, Box<dyn Error>> {
    if let Ok(url) = env::var("AMQP_URL") {
        return Ok(Broker {
            url,
            _private: None,
        });
    }
    println!("starting a private RabbitMQ (AMQP_URL names another broker) …");
    let rabbit = Rabbit::try_start().await?;
    Ok(Broker {
        url: rabbit.url(),
        _private: Some(rabbit),
    })
}
