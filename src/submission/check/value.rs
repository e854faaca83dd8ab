//! A body as a tree, before it means anything: both encodings end up here. The body may be hostile: nothing is allocated
//! by a length that it claims, nesting is bounded, and a key stands once.

use std::{collections::BTreeMap, fmt};

use serde::{
    Serialize, Serializer,
    de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor},
    ser,
};

use super::{errors::cut, msgpack};
use crate::submission::encoding::Encoding;

/// How deep arrays and objects may be nested.
pub(super) const DEPTH: usize = 32;

/// The fields of an object.
pub(in crate::submission) type Map = BTreeMap<String, Value>;

/// Anything that a body can hold.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::submission) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    Array(Vec<Value>),
    Map(Map),
}

impl Value {
    /// The tree in `body`, or what is wrong with it as a whole.
    pub(in crate::submission) fn read(body: &[u8], encoding: Encoding) -> Result<Self, String> {
        match encoding {
            Encoding::Json => {
                read_json(body).map_err(|error| format!("the body is not JSON: {error}"))
            }
            Encoding::MessagePack => {
                msgpack::read(body).map_err(|error| format!("the body is not MessagePack: {error}"))
            }
        }
    }
}

/// As it was read, but for the order of fields: what was edited is published again.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => match (u64::try_from(*value), i64::try_from(*value)) {
                (Ok(value), _) => serializer.serialize_u64(value),
                (_, Ok(value)) => serializer.serialize_i64(value),
                _ => Err(ser::Error::custom(format!("{value} has more than 64 bits"))),
            },
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Map(fields) => serializer.collect_map(fields),
        }
    }
}

impl fmt::Display for Value {
    /// What came, for an error: never long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value:?}"),
            Self::Text(text) => write!(f, "the string {:?}", cut(text)),
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Array(_) => f.write_str("an array"),
            Self::Map(_) => f.write_str("an object"),
        }
    }
}

/// Adds a field, unless its key is there already.
pub(super) fn insert(map: &mut Map, key: String, value: Value) -> Result<(), String> {
    if map.contains_key(&key) {
        return Err(repeated(&key));
    }
    map.insert(key, value);
    Ok(())
}

fn repeated(key: &str) -> String {
    format!("the key {:?} stands twice in one object", cut(key))
}

/// What is said where the nesting is too deep.
pub(super) fn too_deep() -> String {
    format!("it is nested deeper than {DEPTH} levels")
}

fn read_json(body: &[u8]) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Node { depth: DEPTH }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// A value that may be nested `depth` levels deep.
struct Node {
    depth: usize,
}

impl Node {
    fn inner<E: de::Error>(&self) -> Result<usize, E> {
        self.depth
            .checked_sub(1)
            .ok_or_else(|| E::custom(too_deep()))
    }
}

impl<'de> DeserializeSeed<'de> for Node {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let depth = self.inner()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Node { depth })? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let depth = self.inner()?;
        let mut map = Map::new();
        while let Some(key) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(Node { depth })?;
            insert(&mut map, key, value).map_err(de::Error::custom)?;
        }
        Ok(Value::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &[u8]) -> String {
        Value::read(body, Encoding::Json).expect_err("refused")
    }

    #[test]
    fn json_is_read_as_it_stands() {
        let body = br#"{"a": [null, true, -1, 18446744073709551615, 1.5, "x\u00e4"], "b": {}}"#;
        let a = Value::Array(vec![
            Value::Null,
            Value::Bool(true),
            Value::Integer(-1),
            Value::Integer(u64::MAX.into()),
            Value::Float(1.5),
            Value::Text("x\u{e4}".into()),
        ]);
        let map = Map::from([("a".into(), a), ("b".into(), Value::Map(Map::new()))]);
        assert_eq!(Value::read(body, Encoding::Json), Ok(Value::Map(map)));
    }

    #[test]
    fn a_key_stands_once() {
        assert!(refused(br#"{"a": 1, "a": 2}"#).contains("the key \"a\" stands twice"));
        let long = format!("{{\"{0}\":1,\"{0}\":1}}", "k".repeat(10_000));
        assert!(refused(long.as_bytes()).len() < 200);
    }

    #[test]
    fn nothing_may_follow_the_value() {
        assert!(refused(b"{} {}").contains("trailing"));
        assert!(Value::read(b" {} \n", Encoding::Json).is_ok());
    }

    #[test]
    fn what_is_no_utf_8_or_no_json_is_refused() {
        for body in [
            &b"\"\xff\""[..],
            b"",
            b"{",
            b"\"\\ud800\"",
            b"nul",
            b"{1:2}",
            b"01",
            b"1e999",
            b"NaN",
        ] {
            refused(body);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Value::read(nested(DEPTH).as_bytes(), Encoding::Json).is_ok());
        assert!(refused(nested(DEPTH + 1).as_bytes()).contains("nested deeper"));
        refused(&vec![b'['; 512 << 10]);
        refused("{\"a\":".repeat(100_000).as_bytes());
    }
}
