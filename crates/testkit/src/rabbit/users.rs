//! Who may use a node.

use super::erlang::binary;
use super::node::Rabbit;
use super::vhost::Vhost;

/// In whose name the node notes down what is done.
pub(super) const ACTOR: &str = "<<\"testkit\">>";

impl Rabbit {
    /// Adds a user who may do nothing yet; see [`Vhost::permit`].
    ///
    /// # Panics
    ///
    /// When the user exists.
    pub async fn add_user(&self, name: &str, password: &str) {
        let (name, password) = (binary(name), binary(password));
        self.eval(&format!(
            "ok = rabbit_auth_backend_internal:add_user({name}, {password}, {ACTOR})"
        ))
        .await;
    }

    /// Deletes a user. Open connections of this user stay.
    ///
    /// # Panics
    ///
    /// When there is no such user.
    pub async fn delete_user(&self, name: &str) {
        let name = binary(name);
        self.eval(&format!(
            "ok = rabbit_auth_backend_internal:delete_user({name}, {ACTOR})"
        ))
        .await;
    }
}

impl Vhost {
    /// Lets a user do anything in this vhost.
    ///
    /// # Panics
    ///
    /// When there is no such user.
    pub async fn permit(&self, user: &str) {
        let (user, vhost) = (binary(user), binary(self.name()));
        self.rabbit()
            .eval(&format!(
                "ok = rabbit_auth_backend_internal:set_permissions(\
                 {user}, {vhost}, <<\".*\">>, <<\".*\">>, <<\".*\">>, {ACTOR})"
            ))
            .await;
    }
}
