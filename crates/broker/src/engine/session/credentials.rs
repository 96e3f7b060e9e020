//! Who a client says it is, and whether it is so.

use subtle::{Choice, ConstantTimeEq};

use super::super::settings::User;

/// The mechanisms offered in `connection.start`.
pub(super) const MECHANISMS: &str = "PLAIN AMQPLAIN";

/// A name and a password as the client gave them.
#[derive(PartialEq, Eq)]
pub(super) struct Credentials<'a> {
    name: &'a [u8],
    password: &'a [u8],
}

impl<'a> Credentials<'a> {
    /// Reads the response of a mechanism. `None` if the mechanism is unknown or the response does
    /// not follow its form.
    pub(super) fn read(mechanism: &str, response: &'a [u8]) -> Option<Self> {
        match mechanism {
            "PLAIN" => plain(response),
            "AMQPLAIN" => amqplain(response),
            _ => None,
        }
    }

    /// The user these belong to. Every user's name and all passwords are compared in full, so that
    /// the time taken does not tell how much of them was right, nor which one.
    pub(super) fn check<'u>(&self, users: &'u [User]) -> Option<&'u User> {
        let mut found = None;
        for user in users {
            let name = same(self.name, user.name.as_bytes());
            let password = user
                .passwords
                .iter()
                .map(|password| same(self.password, password.as_bytes()))
                .fold(Choice::from(0), |any, this| any | this);
            if bool::from(name & password) {
                found = Some(user);
            }
        }
        found
    }
}

/// RFC 4616 without an identity to act as: NUL, name, NUL, password.
fn plain(response: &[u8]) -> Option<Credentials<'_>> {
    let rest = response.strip_prefix(&[0])?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    let (name, password) = (&rest[..end], &rest[end + 1..]);
    (!password.contains(&0)).then_some(Credentials { name, password })
}

/// A field table without its length, of the two long strings LOGIN and PASSWORD.
fn amqplain(mut response: &[u8]) -> Option<Credentials<'_>> {
    let (mut name, mut password) = (None, None);
    while !response.is_empty() {
        let (key, rest) = split(response, 1)?;
        let (value, rest) = split(rest.strip_prefix(b"S")?, 4)?;
        match key {
            b"LOGIN" => name = Some(value),
            b"PASSWORD" => password = Some(value),
            _ => {}
        }
        response = rest;
    }
    Some(Credentials {
        name: name?,
        password: password?,
    })
}

/// Splits off a string whose length stands before it in `width` bytes.
fn split(from: &[u8], width: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = from.split_at_checked(width)?;
    let length = length
        .iter()
        .fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}

/// Whether both are equal, in a time that depends on the length of the claim alone.
fn same(claim: &[u8], truth: &[u8]) -> Choice {
    let length = claim.len().ct_eq(&truth.len());
    let differing = claim.iter().enumerate().fold(0, |differing, (at, byte)| {
        let expected = if truth.is_empty() {
            0
        } else {
            truth[at % truth.len()]
        };
        differing | (byte ^ expected)
    });
    length & differing.ct_eq(&0_u8)
}
