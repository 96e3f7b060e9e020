//! A node that outlives the program that started it, and ends when told.

mod common;

use std::env;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::{connect, declare_durable, publish};
use wharf_testkit::rabbit::{Rabbit, SHARED_NODE, down, up};

#[tokio::test]
async fn a_standing_node_serves_until_it_is_taken_down_and_keeps_its_queues() {
    let folder = Place(tempfile::tempdir().unwrap());
    let said = command(&["up", shown(folder.0.path())]);
    let (url, setting) = said.trim().split_once('\n').unwrap();
    assert_eq!(setting, format!("{SHARED_NODE}={}", shown(folder.0.path())));

    // The program has ended; the node is there.
    let client = connect(url).await;
    declare_durable(&client, "q").await;
    publish(&client, "q", 2).await;

    // Bringing it up again finds it.
    let rabbit = up(folder.0.path()).await.unwrap();
    assert_eq!(rabbit.url(), url);
    assert_eq!(rabbit.queue_depth("q").await, 2);
    let pid = rabbit.pid().unwrap();
    drop(rabbit);
    assert!(runs(pid), "a handle that is dropped ended a standing node");

    assert!(down(folder.0.path()).await.unwrap());
    assert!(!runs(pid));
    assert!(!down(folder.0.path()).await.unwrap());

    // What was confirmed is there again.
    let rabbit = up(folder.0.path()).await.unwrap();
    assert_ne!(rabbit.pid(), Some(pid));
    assert_eq!(rabbit.queue_depth("q").await, 2);
    assert_eq!(command(&["down", shown(folder.0.path())]), "ended\n");
    assert_eq!(command(&["down", shown(folder.0.path())]), "nothing ran\n");
}

/// A folder whose node does not outlive a test that fails.
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        let mut down = Command::new(env!("CARGO_BIN_EXE_wharf-rabbit"));
        let _ = down.arg("down").arg(self.0.path()).output();
    }
}

/// Numbers of processes are used again: a record that is left over must not end a stranger.
#[tokio::test]
async fn a_record_that_names_a_stranger_ends_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut stranger = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = stranger.id();
    let record = format!("epmd={pid}\nepmd_port=4369\nvm={pid}\nport=5672\n");
    std::fs::write(folder.path().join("node"), record).unwrap();

    assert!(!down(folder.path()).await.unwrap());

    // A process that a signal is on the way to may still be in the list, but it says no more.
    let mut input = stranger.stdin.take().unwrap();
    let spoken = input.write_all(b"alive");
    drop(input);
    let said = stranger.wait_with_output().unwrap().stdout;
    assert!(spoken.is_ok() && said == b"alive", "the stranger was ended");
}

/// Plays both parts: it starts a node, then runs itself again as a program that shall share it.
#[tokio::test]
async fn the_environment_may_name_the_node_that_is_shared() {
    const PART: &str = "WHARF_TESTKIT_SHARES";
    if env::var_os(PART).is_some() {
        let rabbit = Rabbit::shared().await;
        println!("shared: {}", rabbit.url());
        assert_eq!(rabbit.vhost().await.connections().await, []);
        return;
    }
    let (mut owner, folder) = common::owner_of_a_node();
    let sharing = Command::new(env::current_exe().unwrap())
        .args([
            "the_environment_may_name_the_node_that_is_shared",
            "--exact",
            "--nocapture",
        ])
        .env(PART, "1")
        .env(SHARED_NODE, &folder)
        .output()
        .unwrap();
    let said = String::from_utf8(sharing.stdout).unwrap();
    assert!(sharing.status.success(), "{said}");
    let expected = up(Path::new(&folder)).await.unwrap().url();
    assert!(said.contains(&format!("shared: {expected}\n")), "{said}");

    drop(owner.stdin.take());
    assert!(owner.wait().unwrap().success());
    assert!(!Path::new(&folder).exists());
}

fn command(args: &[&str]) -> String {
    let program = Command::new(env!("CARGO_BIN_EXE_wharf-rabbit"))
        .args(args)
        .output()
        .unwrap();
    assert!(
        program.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&program.stderr)
    );
    String::from_utf8(program.stdout).unwrap()
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    !matches!(state, None | Some('Z'))
}
