//! Single values: a tree's nodes read as what a field expects, every mismatch noted with what came and what is expected.

use std::collections::BTreeMap;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    errors::{Errors, Path, cut},
    value::{Map, Value},
};
use crate::submission::{catalogue::Ceilings, encoding::Encoding};

/// Reads a tree and gathers what is wrong with it.
pub(super) struct Walk<'a> {
    pub(super) errors: Errors,
    pub(super) encoding: Encoding,
    /// Absent where a client looks only at the shape.
    pub(super) ceilings: Option<&'a Ceilings>,
}

/// Takes a field out of an object. Null counts as absent.
pub(super) fn take(fields: &mut Map, name: &str) -> Option<Value> {
    fields
        .remove(name)
        .filter(|value| !matches!(value, Value::Null))
}

impl Walk<'_> {
    fn expected(&mut self, path: &Path<'_>, what: &str, came: &Value) {
        self.errors
            .add(path, format!("expected {what}, got {came}"));
    }

    /// An object with no other fields than `known`.
    pub(super) fn object(&mut self, value: Value, path: &Path<'_>, known: &[&str]) -> Option<Map> {
        let Value::Map(mut fields) = value else {
            self.expected(path, "an object", &value);
            return None;
        };
        fields.retain(|name, _| {
            let is_known = known.contains(&name.as_str());
            if !is_known {
                let message = format!("unknown field, expected one of {}", known.join(", "));
                self.errors.add(&path.field(name), message);
            }
            is_known
        });
        Some(fields)
    }

    pub(super) fn list(&mut self, value: Option<Value>, path: &Path<'_>) -> Option<Vec<Value>> {
        match value? {
            Value::Array(items) => Some(items),
            other => {
                self.expected(path, "an array", &other);
                None
            }
        }
    }

    pub(super) fn text(&mut self, value: Option<Value>, path: &Path<'_>) -> Option<String> {
        match value? {
            Value::Text(text) => Some(text),
            other => {
                self.expected(path, "a string", &other);
                None
            }
        }
    }

    pub(super) fn flag(&mut self, value: Option<Value>, path: &Path<'_>) -> Option<bool> {
        match value? {
            Value::Bool(flag) => Some(flag),
            other => {
                self.expected(path, "true or false", &other);
                None
            }
        }
    }

    /// An integer from 0. A float without a fraction is one too: some clients write every number so.
    pub(super) fn integer(&mut self, value: Option<Value>, path: &Path<'_>) -> Option<u64> {
        let value = value?;
        let integer = match value {
            Value::Integer(integer) => u64::try_from(integer).ok(),
            Value::Float(float) => whole(float),
            _ => None,
        };
        if integer.is_none() {
            self.expected(path, "an integer from 0 to 18446744073709551615", &value);
        }
        integer
    }

    /// An instant.
    pub(super) fn instant(
        &mut self,
        value: Option<Value>,
        path: &Path<'_>,
    ) -> Option<OffsetDateTime> {
        let value = value?;
        let instant = match &value {
            Value::Text(text) => OffsetDateTime::parse(text, &Rfc3339).ok(),
            _ => None,
        };
        if instant.is_none() {
            let what = "an instant such as \"2030-12-31T23:59:59Z\" (RFC 3339)";
            self.expected(path, what, &value);
        }
        instant
    }

    /// One of the words that `T` is written as.
    pub(super) fn word<T: Copy + clap::ValueEnum>(
        &mut self,
        value: Option<Value>,
        path: &Path<'_>,
    ) -> Option<T> {
        let value = value?;
        let words = || T::value_variants().iter();
        let name = |variant: &T| {
            variant
                .to_possible_value()
                .map(|word| word.get_name().to_owned())
        };
        let found = match &value {
            Value::Text(text) => words().find(|variant| name(variant).as_ref() == Some(text)),
            _ => None,
        };
        if found.is_none() {
            let names: Vec<_> = words()
                .filter_map(name)
                .map(|word| format!("{word:?}"))
                .collect();
            self.expected(path, &names.join(" or "), &value);
        }
        found.copied()
    }

    /// Arguments: strings without NUL.
    pub(super) fn arguments(
        &mut self,
        value: Option<Value>,
        path: &Path<'_>,
    ) -> Option<Vec<String>> {
        let items = self.list(value, path)?;
        let mut arguments = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = path.item(index);
            if let Some(argument) = self.text(Some(item), &path) {
                self.refuse_nul(&argument, &path);
                arguments.push(argument);
            }
        }
        Some(arguments)
    }

    /// An object of strings.
    pub(super) fn pairs(
        &mut self,
        value: Option<Value>,
        path: &Path<'_>,
    ) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::new();
        match value {
            None => {}
            Some(Value::Map(fields)) => {
                for (key, value) in fields {
                    if let Some(text) = self.text(Some(value), &path.field(&key)) {
                        pairs.insert(key, text);
                    }
                }
            }
            Some(other) => self.expected(path, "an object of strings", &other),
        }
        pairs
    }

    pub(super) fn refuse_nul(&mut self, text: &str, path: &Path<'_>) {
        if text.contains('\0') {
            self.errors
                .add(path, format!("{:?} holds a NUL", cut(text)));
        }
    }

    /// A text that results echo: bounded, and nothing in it that would grow or break a line.
    pub(super) fn echoed(&mut self, text: &str, most: usize, path: &Path<'_>) -> bool {
        let before = self.errors.count();
        if text.chars().count() > most {
            let message = format!("{:?} is longer than {most} characters", cut(text));
            self.errors.add(path, message);
        }
        if text.chars().any(char::is_control) {
            self.errors
                .add(path, format!("{:?} holds a control character", cut(text)));
        }
        self.errors.count() == before
    }
}

/// `float` as an integer where it is one that a float holds exactly.
fn whole(float: f64) -> Option<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if float.fract() != 0.0 || !(0.0..=EXACT).contains(&float) {
        return None;
    }
    // By way of text, since `as` would hide a mistake in the bounds.
    format!("{:.0}", float.abs()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_float_is_an_integer() {
        assert_eq!(whole(0.0), Some(0));
        assert_eq!(whole(4_294_967_296.0), Some(1 << 32));
        for no in [1.5, -1.0, 1e300, f64::NAN, f64::INFINITY] {
            assert_eq!(whole(no), None, "{no}");
        }
    }
}
