//! The broker of an example: one inside the program, or the one that `AMQP_URL` names.

use std::{env, error::Error};

pub(crate) struct Broker {
    pub(crate) url: String,
    /// Whatever is in its queues goes with it.
    #[allow(dead_code, reason = "most examples only keep it")]
    pub(crate) embedded: Option<wharf_broker::Broker>,
}

pub(crate) async fn broker() -> Result<Broker, Box<dyn Error>> {
    let named = env::var("AMQP_URL").ok().filter(|url| !url.is_empty());
    if let Some(url) = named {
        return Ok(Broker {
            url,
            embedded: None,
        });
    }
    let embedded = wharf_broker::Broker::builder()
        .user("app", "secret")
        .start()
        .await?;
    Ok(Broker {
        url: embedded.url("app", "secret"),
        embedded: Some(embedded),
    })
}
