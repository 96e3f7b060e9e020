//! Faults a node inflicts on its clients by itself. Those of its process are in `node`.

use super::erlang::binary;
use super::node::Rabbit;

impl Rabbit {
    /// Closes every client connection, telling `reason` (reply code 320, `CONNECTION_FORCED`).
    ///
    /// A vhost has the same for itself: [`super::Vhost::close_all_connections`].
    ///
    /// # Panics
    ///
    /// On a shared node.
    pub async fn close_all_connections(&self, reason: &str) {
        self.assert_own("close_all_connections");
        let reason = binary(reason);
        self.eval(&format!(
            "rabbit_networking:close_all_connections({reason})"
        ))
        .await;
    }

    /// Closes the port for new connections; the open ones stay.
    ///
    /// # Panics
    ///
    /// On a shared node.
    pub async fn suspend_listeners(&self) {
        self.assert_own("suspend_listeners");
        self.eval("rabbit_maintenance:suspend_all_client_listeners()")
            .await;
    }

    /// Opens the port again.
    ///
    /// # Panics
    ///
    /// On a shared node.
    pub async fn resume_listeners(&self) {
        self.assert_own("resume_listeners");
        self.eval("rabbit_maintenance:resume_all_client_listeners()")
            .await;
    }

    /// Blocks every connection that publishes, as a node does that is short of memory. In a
    /// cluster it blocks those of the other nodes too.
    ///
    /// # Panics
    ///
    /// On a shared node.
    pub async fn set_memory_alarm(&self) {
        self.assert_own("set_memory_alarm");
        self.eval("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []})")
            .await;
    }

    /// Ends the alarm of [`Self::set_memory_alarm`]; blocked connections go on.
    ///
    /// # Panics
    ///
    /// On a shared node.
    pub async fn clear_memory_alarm(&self) {
        self.assert_own("clear_memory_alarm");
        self.eval("rabbit_alarm:clear_alarm({resource_limit, memory, node()})")
            .await;
    }

    /// Stops the broker inside the node; the process stays and can be asked things.
    ///
    /// # Panics
    ///
    /// On a shared node.
    pub async fn stop_app(&self) {
        self.assert_own("stop_app");
        self.eval("rabbit:stop()").await;
    }

    /// Starts the broker inside the node again, and waits until it serves.
    ///
    /// # Panics
    ///
    /// On a shared node.
    pub async fn start_app(&self) {
        self.assert_own("start_app");
        self.eval("rabbit:start()").await;
    }
}
