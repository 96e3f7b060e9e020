//! The tx class: publishes and acknowledgements that wait for a commit.

use std::time::Instant;

use amq_protocol::protocol::{AMQPClass, tx};

use super::{
    super::ChannelKey,
    Sessions,
    basic::{Outcome, unimplemented_method},
    channel::Transaction,
    exception::Exception,
};

impl Sessions {
    pub(super) fn tx(&mut self, key: ChannelKey, method: &tx::AMQPMethod, now: Instant) -> Outcome {
        use tx::AMQPMethod as Method;
        let ok = match method {
            Method::Select(_) => {
                self.tx_select(key)?;
                Method::SelectOk(tx::SelectOk {})
            }
            Method::Commit(_) => {
                self.commit(key, now)?;
                Method::CommitOk(tx::CommitOk {})
            }
            Method::Rollback(_) => {
                self.rollback(key)?;
                Method::RollbackOk(tx::RollbackOk {})
            }
            _ => return unimplemented_method(),
        };
        self.reply(key, AMQPClass::Tx(ok))
    }

    fn tx_select(&mut self, key: ChannelKey) -> Outcome {
        let Some(channel) = self.desk.channel(key.connection, key.channel) else {
            return Ok(());
        };
        if channel.confirms.is_some() {
            let text = "cannot switch from confirm to tx mode";
            return Err(Exception::precondition_failed(text));
        }
        channel.transaction.get_or_insert_with(Transaction::default);
        Ok(())
    }

    fn commit(&mut self, key: ChannelKey, now: Instant) -> Outcome {
        let mut transaction = self.take_transaction(key)?;
        let complete = self.publish_all(key, &mut transaction, now);
        let settlements = transaction.settlements.into_iter();
        self.settle_all(key, settlements, now);
        if complete {
            return Ok(());
        }
        Err(Exception::precondition_failed("partial tx completion"))
    }

    /// Drops what was published, and gives back what was acknowledged to wait for another
    /// acknowledgement.
    fn rollback(&mut self, key: ChannelKey) -> Outcome {
        let transaction = self.take_transaction(key)?;
        self.hold(key.connection, transaction.bytes(), 0);
        self.reinstate(key, transaction);
        Ok(())
    }

    /// What a transaction would have settled waits for another acknowledgement.
    fn reinstate(&mut self, key: ChannelKey, transaction: Transaction) {
        let Some(channel) = self.desk.channel(key.connection, key.channel) else {
            return;
        };
        let settlements = transaction.settlements.into_iter();
        channel
            .unacked
            .extend(settlements.map(|(unacked, _)| unacked));
        channel
            .unacked
            .make_contiguous()
            .sort_unstable_by_key(|unacked| unacked.tag);
    }

    /// The channel's transaction; an empty one takes its place.
    fn take_transaction(&mut self, key: ChannelKey) -> Result<Transaction, Exception> {
        let channel = self.desk.channel(key.connection, key.channel);
        channel
            .and_then(|channel| channel.transaction.as_mut())
            .map(std::mem::take)
            .ok_or_else(|| Exception::precondition_failed("channel is not transactional"))
    }
}
