//! Sizes and times: integers in messages (bytes, microseconds), and as people write them in TOML files and flags:
//! `"256MiB"`, `"1.5s"`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, de};

/// A text that is no size or time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: expected a number with one of the units {units}")]
pub struct UnitError {
    kind: &'static str,
    units: &'static str,
    text: String,
}

/// Declares a quantity with its units, the first of which is what a bare number means.
macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $units:literal, [$(($unit:literal, $factor:expr)),+ $(,)?]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            const UNITS: &'static [(&'static str, u64)] = &[$(($unit, $factor)),+];
        }

        impl FromStr for $name {
            type Err = UnitError;

            fn from_str(text: &str) -> Result<Self, UnitError> {
                parse(text, Self::UNITS).map(Self).ok_or_else(|| UnitError {
                    kind: $kind,
                    units: $units,
                    text: text.chars().take(80).collect(),
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                show(self.0, Self::UNITS, f)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Written {
                    Number(u64),
                    Text(String),
                }
                match Written::deserialize(deserializer)? {
                    Written::Number(number) => Ok(Self(number)),
                    Written::Text(text) => text.parse().map_err(de::Error::custom),
                }
            }
        }
    };
}

quantity!(
    /// A size in bytes.
    ByteSize, "size", "B, KiB, MiB, GiB",
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)]
);

quantity!(
    /// A time in microseconds.
    Micros, "time", "us, ms, s, min, h",
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000)]
);

impl Micros {
    /// As the standard library's duration.
    pub const fn duration(self) -> Duration {
        Duration::from_micros(self.0)
    }
}

/// `text` in the smallest unit, where it is a non-negative decimal number (up to six digits after the point) and a unit.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = (&text[..split], text[split..].trim());
    let factor = if unit.is_empty() {
        1
    } else {
        units.iter().find(|(name, _)| *name == unit)?.1
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().ok()?;
    if number.ends_with('.') || fraction.len() > 6 {
        return None;
    }
    let scale = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u64 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let part = u64::try_from(u128::from(fraction) * u128::from(factor) / u128::from(scale)).ok()?;
    whole.checked_mul(factor)?.checked_add(part)
}

/// `value` in the largest unit that leaves it whole, or with one digit after the point in the largest that it fills.
fn show(value: u64, units: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let filled = || units.iter().rev().filter(|(_, factor)| value >= *factor);
    if let Some((unit, factor)) = filled().find(|(_, factor)| value.is_multiple_of(*factor)) {
        let whole = value / factor;
        // 90,000 ms is better said as 90 s, but 1,000,001 us not as 1 s.
        if whole < 10_000 {
            return write!(f, "{whole} {unit}");
        }
    }
    match filled().next() {
        Some((unit, factor)) => {
            let tenths = u128::from(value) * 10 / u128::from(*factor);
            write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => write!(f, "{value} {}", units[0].0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_read_as_people_write_them() {
        assert_eq!("256MiB".parse(), Ok(ByteSize(256 << 20)));
        assert_eq!("1.5s".parse(), Ok(Micros(1_500_000)));
        assert_eq!("90 s".parse(), Ok(Micros(90_000_000)));
        assert_eq!("17".parse(), Ok(Micros(17)));
        for bad in [
            "",
            "s",
            "1 parsec",
            "-1s",
            "1.2.3s",
            "1e9",
            "99999999999999999999",
            "18446744073709551615GiB",
            "1.",
        ] {
            assert!(bad.parse::<Micros>().is_err(), "{bad}");
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_times_are_shown_as_people_read_them() {
        for (value, shown) in [
            (0, "0 us"),
            (90_000_000, "90 s"),
            (120_000_000, "2 min"),
            (1_500_000, "1500 ms"),
            (1_234_567, "1.2 s"),
        ] {
            assert_eq!(Micros(value).to_string(), shown);
        }
        assert_eq!(ByteSize(256 << 20).to_string(), "256 MiB");
    }
}
