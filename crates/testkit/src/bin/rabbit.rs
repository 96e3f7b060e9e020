//! `wharf-rabbit`: private RabbitMQ nodes for people and scripts.

use std::io::{self, Read};
use std::path::Path;
use std::process::ExitCode;

use wharf_testkit::rabbit::{Error, Rabbit, SHARED_NODE, down, install, up};

const USAGE: &str = "\
usage: wharf-rabbit <command>

  install        finds RabbitMQ, or installs it where it may (as root, with apt)
  up <folder>    starts a node that stays, with everything it has in that folder
  down <folder>  ends that node, and only that
  run            runs a node, for whoever is told its folder, until its input ends
";

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args[..] {
        ["install"] => install().map(drop).map_err(Error::from),
        ["up", folder] => bring_up(Path::new(folder)).await,
        ["down", folder] => bring_down(Path::new(folder)).await,
        ["run"] => run().await,
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wharf-rabbit: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn bring_up(folder: &Path) -> Result<(), Error> {
    let rabbit = up(folder).await?;
    println!("{}", rabbit.url());
    println!("{SHARED_NODE}={}", folder.canonicalize()?.display());
    Ok(())
}

async fn bring_down(folder: &Path) -> Result<(), Error> {
    let ran = down(folder).await?;
    println!("{}", if ran { "ended" } else { "nothing ran" });
    Ok(())
}

async fn run() -> Result<(), Error> {
    let rabbit = Rabbit::try_start().await?;
    println!("{}", rabbit.url());
    println!("{SHARED_NODE}={}", rabbit.offer()?.display());
    let until_input_ends = || io::stdin().read_to_end(&mut Vec::new());
    let ended = tokio::task::spawn_blocking(until_input_ends).await;
    ended.expect("bug: reading panicked")?;
    Ok(())
}
