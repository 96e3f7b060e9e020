//! Messages as bytes.

use crate::deliver::BoxError;

/// Writes messages for a journal, and reads them again, maybe in a later version of the program.
pub trait Codec<T>: Send + Sync + 'static {
    /// Appends the message to `into`.
    ///
    /// # Errors
    ///
    /// It cannot be written. It is not accepted then.
    fn encode(&self, message: &T, into: &mut Vec<u8>) -> Result<(), BoxError>;

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    ///
    /// It cannot be read. The record is set aside; a panic does the same.
    fn decode(&self, bytes: &[u8]) -> Result<T, BoxError>;
}

/// For messages that are bytes or text already.
#[derive(Debug, Clone, Copy, Default)]
pub struct Raw;

impl Codec<Vec<u8>> for Raw {
    fn encode(&self, message: &Vec<u8>, into: &mut Vec<u8>) -> Result<(), BoxError> {
        into.extend_from_slice(message);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, BoxError> {
        Ok(bytes.to_vec())
    }
}

impl Codec<String> for Raw {
    fn encode(&self, message: &String, into: &mut Vec<u8>) -> Result<(), BoxError> {
        into.extend_from_slice(message.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String, BoxError> {
        Ok(String::from_utf8(bytes.to_vec())?)
    }
}
