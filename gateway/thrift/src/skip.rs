//! Where a struct ends, without a look at what it says. It goes on where it stopped when more has come, and each byte is
//! looked at once.

use crate::Malformed;
use crate::head::Protocol;

/// Structs, lists and maps that may lie in each other.
const DEPTH_MAX: usize = 64;
/// The longest number of 64 bits in groups of 7.
const VARINT_BYTES_MAX: usize = 10;

/// What a value is, in either protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// So many bytes.
    Fixed(u8),
    /// A number of the compact protocol.
    Varint,
    /// Bytes behind their length.
    Bytes,
    Struct,
    List,
    Map,
}

/// What is open at some depth.
#[derive(Clone, Copy, Debug)]
enum Open {
    Struct,
    List { of: Type, left: u64 },
    Map { key: Type, value: Type, left: u64, is_value: bool },
}

/// How far the search for the end of a struct has come.
#[derive(Debug)]
pub(crate) struct Skip {
    compact: bool,
    at: usize,
    /// Bytes to pass over, of which not all may have come.
    pass: u64,
    open: Vec<Open>,
}

/// More must come first.
struct More;

type Step<T> = Result<Result<T, More>, Malformed>;

impl Skip {
    /// That of the struct that begins `at`.
    pub(crate) fn behind(at: usize, protocol: Protocol) -> Self {
        Self { compact: protocol == Protocol::Compact, at, pass: 0, open: vec![Open::Struct] }
    }

    /// Where it ends in `bytes`, which are those of before and more; none: not all of it has come.
    pub(crate) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        loop {
            let here = (bytes.len() - self.at) as u64;
            if self.pass > here {
                self.at = bytes.len();
                self.pass -= here;
                return Ok(None);
            }
            self.at += self.pass as usize;
            self.pass = 0;
            let Some(open) = self.open.last().copied() else { return Ok(Some(self.at)) };
            let rest = &bytes[self.at..];
            let stepped = match open {
                Open::Struct => self.field(rest)?,
                Open::List { left: 0, .. } | Open::Map { left: 0, .. } => {
                    self.open.pop();
                    Ok(())
                }
                Open::List { of, left } => self.item(of, left, rest)?,
                Open::Map { key, value, left, is_value } => {
                    let began = self.value(if is_value { value } else { key }, rest)?;
                    if began.is_ok() {
                        let left = if is_value { left - 1 } else { left };
                        self.replace(open, Open::Map { key, value, left, is_value: !is_value });
                    }
                    began
                }
            };
            if stepped.is_err() {
                return Ok(None);
            }
        }
    }

    /// Notes that one more of what `before` holds has begun: it lies below what was opened since.
    fn replace(&mut self, before: Open, after: Open) {
        let depth = self.open.len();
        // A value that is open itself lies above it.
        let opened = matches!(before, Open::Map { key, value, is_value, .. } if is_open(if is_value { value } else { key }))
            || matches!(before, Open::List { of, .. } if is_open(of));
        if let Some(slot) = self.open.get_mut(depth - 1 - usize::from(opened)) {
            *slot = after;
        }
    }

    /// The next item of a list. Those of one size are passed over at once.
    fn item(&mut self, of: Type, left: u64, rest: &[u8]) -> Step<()> {
        if let Type::Fixed(size) = of {
            self.pass = left * u64::from(size);
            self.open.pop();
            return Ok(Ok(()));
        }
        let began = self.value(of, rest)?;
        if began.is_ok() {
            self.replace(Open::List { of, left }, Open::List { of, left: left - 1 });
        }
        Ok(began)
    }

    /// The next field of a struct, or its end.
    fn field(&mut self, rest: &[u8]) -> Step<()> {
        let Some(&byte) = rest.first() else { return Ok(Err(More)) };
        if byte == 0 {
            self.at += 1;
            self.open.pop();
            return Ok(Ok(()));
        }
        let (of, head) = if self.compact {
            let of = compact(byte & 0x0f)?;
            // Its number follows, unless it is near that of the field before.
            let more = if byte >> 4 == 0 { varint(&rest[1..])?.map(|(_, length)| length) } else { Some(0) };
            let Some(more) = more else { return Ok(Err(More)) };
            // That one is true, or false, stands in its type.
            let of = if matches!(byte & 0x0f, 1 | 2) { Type::Fixed(0) } else { of };
            (of, 1 + more)
        } else {
            (binary(byte)?, 3)
        };
        let Some(rest) = rest.get(head..) else { return Ok(Err(More)) };
        let before = self.at;
        self.at += head;
        let began = self.value(of, rest)?;
        if began.is_err() {
            // Both at once, when more has come.
            self.at = before;
        }
        Ok(began)
    }

    /// Begins a value, which `rest` begins with.
    fn value(&mut self, of: Type, rest: &[u8]) -> Step<()> {
        let read = match of {
            Type::Fixed(size) => {
                self.pass = size.into();
                return Ok(Ok(()));
            }
            Type::Struct => {
                self.open(Open::Struct)?;
                return Ok(Ok(()));
            }
            Type::Varint => varint(rest)?.map(|(_, length)| (length, None)),
            Type::Bytes => self.length(rest)?.map(|(bytes, length)| {
                self.pass = bytes;
                (length, None)
            }),
            Type::List => self.list(rest)?.map(|(open, length)| (length, Some(open))),
            Type::Map => self.map(rest)?.map(|(open, length)| (length, Some(open))),
        };
        let Some((length, open)) = read else { return Ok(Err(More)) };
        self.at += length;
        if let Some(open) = open {
            self.open(open)?;
        }
        Ok(Ok(()))
    }

    fn open(&mut self, open: Open) -> Result<(), Malformed> {
        if self.open.len() >= DEPTH_MAX {
            return Err(Malformed::Nested);
        }
        self.open.push(open);
        Ok(())
    }

    /// A length of bytes or of items, and how many bytes say it.
    fn length(&self, rest: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
        let read = if self.compact {
            varint(rest)?
        } else {
            rest.first_chunk().map(|length| (u32::from_be_bytes(*length).into(), 4))
        };
        match read {
            // A negative one.
            Some((length, _)) if length > i32::MAX as u64 => Err(Malformed::Content),
            read => Ok(read),
        }
    }

    fn list(&self, rest: &[u8]) -> Result<Option<(Open, usize)>, Malformed> {
        let Some(&byte) = rest.first() else { return Ok(None) };
        if !self.compact {
            let Some((left, length)) = self.length(&rest[1..])? else { return Ok(None) };
            let of = if left == 0 { Type::Struct } else { binary(byte)? };
            return Ok(Some((Open::List { of, left }, 1 + length)));
        }
        let (left, length) = match byte >> 4 {
            15 => match self.length(&rest[1..])? {
                None => return Ok(None),
                Some(read) => read,
            },
            few => (few.into(), 0),
        };
        let of = if left == 0 { Type::Struct } else { compact(byte & 0x0f)? };
        Ok(Some((Open::List { of, left }, 1 + length)))
    }

    fn map(&self, rest: &[u8]) -> Result<Option<(Open, usize)>, Malformed> {
        let map = |key, value, left| Open::Map { key, value, left, is_value: false };
        let nothing = map(Type::Struct, Type::Struct, 0);
        if !self.compact {
            let [key, value, rest @ ..] = rest else { return Ok(None) };
            let Some((left, length)) = self.length(rest)? else { return Ok(None) };
            let open = if left == 0 { nothing } else { map(binary(*key)?, binary(*value)?, left) };
            return Ok(Some((open, 2 + length)));
        }
        let Some((left, length)) = self.length(rest)? else { return Ok(None) };
        if left == 0 {
            return Ok(Some((nothing, length)));
        }
        let Some(&types) = rest.get(length) else { return Ok(None) };
        Ok(Some((map(compact(types >> 4)?, compact(types & 0x0f)?, left), length + 1)))
    }
}

fn is_open(of: Type) -> bool {
    matches!(of, Type::Struct | Type::List | Type::Map)
}

fn binary(of: u8) -> Result<Type, Malformed> {
    Ok(match of {
        2 | 3 => Type::Fixed(1),
        4 | 10 => Type::Fixed(8),
        6 => Type::Fixed(2),
        8 => Type::Fixed(4),
        11 => Type::Bytes,
        12 => Type::Struct,
        13 => Type::Map,
        14 | 15 => Type::List,
        16 => Type::Fixed(16),
        _ => return Err(Malformed::Content),
    })
}

/// Of what lies in lists and maps; whether a field is true stands elsewhere.
fn compact(of: u8) -> Result<Type, Malformed> {
    Ok(match of {
        1..=3 => Type::Fixed(1),
        4..=6 => Type::Varint,
        7 => Type::Fixed(8),
        8 => Type::Bytes,
        9 | 10 => Type::List,
        11 => Type::Map,
        12 => Type::Struct,
        13 => Type::Fixed(16),
        _ => return Err(Malformed::Content),
    })
}

/// A number in groups of 7 bits, the least first, and how many bytes it has; none: more must come first.
pub(crate) fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let mut value = 0;
    for (n, byte) in bytes.iter().take(VARINT_BYTES_MAX).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte & 0x80 == 0 {
            return Ok(Some((value, n + 1)));
        }
    }
    if bytes.len() < VARINT_BYTES_MAX { Ok(None) } else { Err(Malformed::Content) }
}
