//! MessagePack to a tree, by hand: every claimed length is held against what is left of the body before it is used.

use std::str;

use super::{
    errors::cut,
    value::{DEPTH, Map, Value, insert, too_deep},
};

/// The tree in `body`.
pub(super) fn read(body: &[u8]) -> Result<Value, String> {
    let mut reader = Reader { rest: body };
    let value = reader.value(DEPTH)?;
    match reader.rest.len() {
        0 => Ok(value),
        more => Err(format!("{more} bytes follow the value")),
    }
}

/// What is left of the body.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value, String> {
        let marker = self.byte()?;
        Ok(match marker {
            0x00..=0x7f => Value::Integer(marker.into()),
            0xe0..=0xff => Value::Integer(i8::from_be_bytes([marker]).into()),
            0xc0 => Value::Null,
            0xc2 => Value::Bool(false),
            0xc3 => Value::Bool(true),
            0xc4..=0xc6 => {
                let length = self.length(1 << (marker - 0xc4))?;
                Value::Bytes(self.take(length)?.to_vec())
            }
            0xca => Value::Float(f32::from_be_bytes(self.array()?).into()),
            0xcb => Value::Float(f64::from_be_bytes(self.array()?)),
            0xcc => Value::Integer(u8::from_be_bytes(self.array()?).into()),
            0xcd => Value::Integer(u16::from_be_bytes(self.array()?).into()),
            0xce => Value::Integer(u32::from_be_bytes(self.array()?).into()),
            0xcf => Value::Integer(u64::from_be_bytes(self.array()?).into()),
            0xd0 => Value::Integer(i8::from_be_bytes(self.array()?).into()),
            0xd1 => Value::Integer(i16::from_be_bytes(self.array()?).into()),
            0xd2 => Value::Integer(i32::from_be_bytes(self.array()?).into()),
            0xd3 => Value::Integer(i64::from_be_bytes(self.array()?).into()),
            0xa0..=0xbf | 0xd9..=0xdb => Value::Text(self.text(marker)?.to_owned()),
            0x90..=0x9f => self.items(usize::from(marker & 0x0f), depth)?,
            0xdc | 0xdd => {
                let length = self.length(2 << (marker - 0xdc))?;
                self.items(length, depth)?
            }
            0x80..=0x8f => self.fields(usize::from(marker & 0x0f), depth)?,
            0xde | 0xdf => {
                let length = self.length(2 << (marker - 0xde))?;
                self.fields(length, depth)?
            }
            0xc7..=0xc9 | 0xd4..=0xd8 => {
                return Err("an extension type came, which no message has".to_owned());
            }
            0xc1 => return Err("the byte 0xc1 came, which MessagePack never uses".to_owned()),
        })
    }

    /// An array of `length` items. It grows as they come: the claim alone allocates nothing.
    fn items(&mut self, length: usize, depth: usize) -> Result<Value, String> {
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        let mut array = Vec::new();
        for _ in 0..length {
            array.push(self.value(depth)?);
        }
        Ok(Value::Array(array))
    }

    /// A map of `length` fields, which grows as they come.
    fn fields(&mut self, length: usize, depth: usize) -> Result<Value, String> {
        let depth = depth.checked_sub(1).ok_or_else(too_deep)?;
        let mut map = Map::new();
        for _ in 0..length {
            let key = self.key()?;
            let value = self.value(depth)?;
            insert(&mut map, key, value)?;
        }
        Ok(Value::Map(map))
    }

    fn key(&mut self) -> Result<String, String> {
        match self.byte()? {
            marker @ (0xa0..=0xbf | 0xd9..=0xdb) => Ok(self.text(marker)?.to_owned()),
            _ => Err("a key is not a string".to_owned()),
        }
    }

    fn text(&mut self, marker: u8) -> Result<&'a str, String> {
        let length = match marker {
            0xd9..=0xdb => self.length(1 << (marker - 0xd9))?,
            _ => usize::from(marker & 0x1f),
        };
        let bytes = self.take(length)?;
        str::from_utf8(bytes).map_err(|_| {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]);
            format!("a string is not UTF-8: {:?}", cut(&shown))
        })
    }

    /// A length that is written in `width` bytes: 1, 2 or 4.
    fn length(&mut self, width: usize) -> Result<usize, String> {
        let bytes = self.take(width)?;
        Ok(bytes
            .iter()
            .fold(0, |length, byte| length << 8 | usize::from(*byte)))
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.array::<1>()?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or_else(cut_short)?;
        self.rest = rest;
        Ok(bytes)
    }
}

fn cut_short() -> String {
    "it ends too early".to_owned()
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    fn packed(value: &impl Serialize) -> Value {
        read(&rmp_serde::to_vec_named(value).expect("encodes")).expect("reads")
    }

    #[test]
    fn integers_of_every_width_are_read() {
        for value in [
            0,
            127,
            128,
            255,
            256,
            65_535,
            65_536,
            1 << 32,
            i64::MAX,
            -1,
            -32,
            -33,
            -128,
            -129,
            -32_769,
            i64::MIN,
        ] {
            assert_eq!(packed(&value), Value::Integer(value.into()));
        }
        assert_eq!(packed(&u64::MAX), Value::Integer(u64::MAX.into()));
    }

    #[test]
    fn strings_bytes_arrays_and_maps_of_every_width_are_read() {
        for length in [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536] {
            let text = "x".repeat(length);
            assert_eq!(packed(&text), Value::Text(text.clone()));
            let bytes = serde_bytes::Bytes::new(text.as_bytes());
            assert_eq!(packed(&bytes), Value::Bytes(text.clone().into_bytes()));
            assert_eq!(
                packed(&vec![(); length]),
                Value::Array(vec![Value::Null; length])
            );
            let map: std::collections::BTreeMap<String, bool> =
                (0..length).map(|key| (key.to_string(), true)).collect();
            let Value::Map(read) = packed(&map) else {
                panic!("no map")
            };
            assert_eq!(read.len(), length);
        }
        assert_eq!(packed(&1.5_f32), Value::Float(1.5));
        assert_eq!(packed(&1.5_f64), Value::Float(1.5));
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        for marker in [0xc6, 0xdb, 0xdd, 0xdf] {
            for tail in [&[][..], &[0xa1, b'k'], &[0x01, 0x02]] {
                let body = [&[marker, 0xff, 0xff, 0xff, 0xff], tail].concat();
                assert!(read(&body).is_err(), "{marker:x}");
            }
        }
    }

    #[test]
    fn what_no_message_has_is_refused() {
        for (body, message) in [
            (&b"\xd4\x01\x00"[..], "extension"),
            (b"\xc7\x00\x01", "extension"),
            (b"\xc1", "never uses"),
            (b"\x81\x01\x02", "key is not a string"),
            (b"\x81\xc4\x01a\x02", "key is not a string"),
            (b"\x82\xa1a\x01\xa1a\x02", "stands twice"),
            (b"\xa1\xff", "not UTF-8"),
            (b"\x01\x02", "1 bytes follow"),
            (b"", "ends too early"),
            (b"\xa5abc", "ends too early"),
        ] {
            let error = read(body).expect_err("refused");
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| [vec![0x91; depth], vec![0xc0]].concat();
        assert!(read(&nested(DEPTH)).is_ok());
        for body in [
            nested(DEPTH + 1),
            vec![0x91; 512 << 10],
            [0x81, 0xa1, b'a'].repeat(100_000),
        ] {
            assert!(read(&body).expect_err("refused").contains("nested deeper"));
        }
    }
}
