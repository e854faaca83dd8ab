//! Where the installation of a runtime may fetch from: an entry of its `egress`. The words only; what they come to, and that
//! nothing else is reached, is the egress proxy's.

use std::{fmt, str::FromStr};

use serde::Deserialize;

/// The name that stands for the hosts of the base image's own apt sources.
pub const APT: &str = "apt";

/// The longest name of a host.
const HOST_BYTES: usize = 253;

/// An entry of `egress`: a preset has no dot in its name, a host has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Source {
    /// The hosts of the base image's own apt sources.
    Apt,
    /// The hosts that `egress.presets` of the configuration has under this name.
    Preset(String),
    /// A host, in lower case.
    Host(String),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == APT {
            return Ok(Self::Apt);
        }
        if is_preset(text) {
            return Ok(Self::Preset(text.to_owned()));
        }
        host(text).map(Self::Host).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            format!(
                "{shown:?} is no source: expected \"apt\", a name of egress.presets ([a-z0-9-]+), or a host's name with a dot \
                 (no address, port or wildcard)"
            )
        })
    }
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Apt => APT,
            Self::Preset(name) | Self::Host(name) => name,
        })
    }
}

/// Whether it may name a preset.
fn is_preset(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// The name of a host as it is compared: in lower case, without a last dot. None for what is no name with a dot, an address
/// among it: the last label of a name is never all digits.
pub fn host(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
            })
    };
    let last_is_number = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or_default();
        last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x")
    };
    (name.len() <= HOST_BYTES
        && name.contains('.')
        && name.split('.').all(is_label)
        && !last_is_number(&name))
    .then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_apt_a_preset_or_a_host() {
        assert_eq!("apt".parse(), Ok(Source::Apt));
        assert_eq!("pip".parse(), Ok(Source::Preset("pip".into())));
        assert_eq!(
            "Files.Example.ORG.".parse(),
            Ok(Source::Host("files.example.org".into()))
        );
    }

    #[test]
    fn what_is_no_name_of_a_host_is_refused() {
        for bad in [
            "",
            "10.0.0.1",
            "127.1",
            "0x7f.0x1",
            "::1",
            "[::1]",
            "a.b:80",
            "*.example.org",
            "a..b",
            "-a.b",
            "a b.c",
            "http://a.b",
            "a.b/c",
            "PIP",
            "a.b\0",
            "ä.example",
        ] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }
}
