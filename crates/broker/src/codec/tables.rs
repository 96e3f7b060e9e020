//! Field tables measured before they are parsed (AMQP 0-9-1, section 4.2.5.5, with the value types
//! of RabbitMQ).
//!
//! `amq-protocol` parses a table within a table by recursion and makes a value of 32 bytes of every
//! octet that stands for one. Both are bounded here, on the raw bytes and without recursion: so much
//! as a peer can write into a frame, it can not make the broker's stack overflow or its memory a
//! multiple of what was sent.

use bytes::Buf;

use super::methods::Field;
use crate::engine::Malformed;

/// Tables and arrays within each other. Clients nest two or three.
const MAX_DEPTH: usize = 32;
/// Values of one frame, those of nested tables included. A death history of a thousand entries has
/// eight thousand.
const MAX_VALUES: usize = 16_384;

/// `headers` among the property flags of a content header (section 4.2.6.1).
const HEADERS_FLAG: u16 = 1 << 13;
const CONTENT_TYPE_FLAG: u16 = 1 << 15;
const CONTENT_ENCODING_FLAG: u16 = 1 << 14;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    Syntax,
    TooDeep,
}

impl Flaw {
    pub(super) fn of(self, frame: u8, channel: u16) -> Malformed {
        match self {
            Self::Syntax => Malformed::Syntax { frame, channel },
            Self::TooDeep => Malformed::TooDeep { channel },
        }
    }
}

/// The table behind `before` in a method's arguments.
pub(super) fn check_method(arguments: &[u8], before: &[Field]) -> Result<(), Flaw> {
    let mut rest = arguments;
    for field in before {
        let size = match field {
            Field::Octet => 1,
            Field::Short => 2,
            Field::ShortString => short_string(rest)?,
        };
        pass(&mut rest, size)?;
    }
    check_table(rest)
}

/// The `headers` of a content header, if it has any.
pub(super) fn check_header(payload: &[u8]) -> Result<(), Flaw> {
    let mut rest = payload;
    // Class, weight and body size.
    pass(&mut rest, 12)?;
    let flags = rest.try_get_u16().map_err(|_| Flaw::Syntax)?;
    for before in [CONTENT_TYPE_FLAG, CONTENT_ENCODING_FLAG] {
        if flags & before != 0 {
            let size = short_string(rest)?;
            pass(&mut rest, size)?;
        }
    }
    if flags & HEADERS_FLAG == 0 {
        return Ok(());
    }
    check_table(rest)
}

fn check_table(mut rest: &[u8]) -> Result<(), Flaw> {
    let mut walk = Walk::new();
    walk.open(Kind::Table, &mut rest)?;
    walk.run(rest)
}

#[derive(Copy, Clone)]
enum Kind {
    Table,
    Array,
}

/// The tables and arrays that are open, each with the bytes that lie behind its end, counted from
/// the end of the input.
struct Walk {
    open: [(Kind, usize); MAX_DEPTH],
    depth: usize,
    values: usize,
}

impl Walk {
    fn new() -> Self {
        Self {
            open: [(Kind::Table, 0); MAX_DEPTH],
            depth: 0,
            values: 0,
        }
    }

    fn run(&mut self, mut rest: &[u8]) -> Result<(), Flaw> {
        while let Some(top) = self.depth.checked_sub(1) {
            let (kind, behind) = self.open[top];
            if rest.len() == behind {
                self.depth = top;
                continue;
            }
            if rest.len() < behind {
                return Err(Flaw::Syntax);
            }
            if matches!(kind, Kind::Table) {
                let size = short_string(rest)?;
                pass(&mut rest, size)?;
            }
            self.value(&mut rest)?;
        }
        Ok(())
    }

    fn value(&mut self, rest: &mut &[u8]) -> Result<(), Flaw> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Flaw::TooDeep);
        }
        let size = match rest.try_get_u8().map_err(|_| Flaw::Syntax)? {
            b'F' => return self.open(Kind::Table, rest),
            b'A' => return self.open(Kind::Array, rest),
            b'S' | b'x' => 4 + length(rest)?,
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'U' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            _ => return Err(Flaw::Syntax),
        };
        pass(rest, size)
    }

    fn open(&mut self, kind: Kind, rest: &mut &[u8]) -> Result<(), Flaw> {
        let len = length(rest)?;
        pass(rest, 4)?;
        let behind = rest.len().checked_sub(len).ok_or(Flaw::Syntax)?;
        *self.open.get_mut(self.depth).ok_or(Flaw::TooDeep)? = (kind, behind);
        self.depth += 1;
        Ok(())
    }
}

/// What the long length at the front claims.
fn length(mut rest: &[u8]) -> Result<usize, Flaw> {
    let len = rest.try_get_u32().map_err(|_| Flaw::Syntax)?;
    Ok(len as usize)
}

/// The size of the short string at the front, its length included.
fn short_string(rest: &[u8]) -> Result<usize, Flaw> {
    let len = rest.first().ok_or(Flaw::Syntax)?;
    Ok(1 + usize::from(*len))
}

fn pass(rest: &mut &[u8], size: usize) -> Result<(), Flaw> {
    *rest = rest.get(size..).ok_or(Flaw::Syntax)?;
    Ok(())
}
