//! The broker as a program of its own, for any AMQP 0-9-1 client in any language.
//!
//! It prints its URL when it is ready and ends on ctrl-c: it says goodbye to its clients and gives
//! them five seconds for theirs. Everything it held ends with it.
//!
//! ```sh
//! cargo run --release --example broker -- --listen 127.0.0.1:5673 --user guest:guest --vhost /
//! ```
//!
//! `--user` and `--vhost` may be given several times. Without them there are `guest` with password
//! `guest`, and `/`.

use std::{env, error::Error, process::ExitCode, time::Duration};

use tokio::signal::ctrl_c;
use wharf_broker::{Broker, Builder};

const USAGE: &str = "usage: broker [--listen ADDRESS:PORT] [--user NAME:PASSWORD]… [--vhost NAME]…";
const FAREWELL: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> ExitCode {
    let Some(options) = Options::read(env::args().skip(1)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match serve(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&*error);
            ExitCode::FAILURE
        }
    }
}

fn report(error: &dyn Error) {
    eprintln!("{error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("because: {error}");
        cause = error.source();
    }
}

async fn serve(options: Options) -> Result<(), Box<dyn Error>> {
    let broker = options.builder.start().await?;
    println!("{}", broker.url(&options.name, &options.password));
    ctrl_c().await?;
    broker.stop_within(FAREWELL).await?;
    Ok(())
}

struct Options {
    builder: Builder,
    /// Of the first user, for the URL.
    name: String,
    password: String,
}

impl Options {
    fn read(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut builder = Broker::builder().listen("127.0.0.1:5673");
        let mut first = None;
        while let Some(option) = arguments.next() {
            let value = arguments.next()?;
            builder = match option.as_str() {
                "--listen" => builder.listen(value),
                "--vhost" => builder.vhost(value),
                "--user" => {
                    let (name, password) = value.split_once(':')?;
                    first.get_or_insert((name.to_owned(), password.to_owned()));
                    builder.user(name, password)
                }
                _ => return None,
            };
        }
        let guest = || ("guest".to_owned(), "guest".to_owned());
        let (name, password) = first.unwrap_or_else(guest);
        Some(Self {
            builder,
            name,
            password,
        })
    }
}
