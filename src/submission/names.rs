//! The names of the contract. Each is parsed at the edge by the rule of `docs/contract.md` and trusted inside: none holds
//! a character that means something in a NATS subject, a KV key or a path.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A name that breaks its rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not a valid {kind}: expected {rule}")]
pub struct NameError {
    kind: &'static str,
    rule: &'static str,
    name: String,
}

impl NameError {
    fn new(kind: &'static str, rule: &'static str, name: &str) -> Self {
        // A hostile name may be long; the error need not be.
        Self {
            kind,
            rule,
            name: name.chars().take(80).collect(),
        }
    }
}

/// Declares a name: its rule as prose, as a pattern for the schema, and as a predicate.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $pattern:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern})
            }

            fn inline_schema() -> bool {
                true
            }
        }

        impl $name {
            /// The name as it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(text.to_owned())) } else { Err(NameError::new($kind, $rule, text)) }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The service that owns a submission: `[a-z0-9][a-z0-9_-]{0,31}`.
    Tenant, "tenant", "[a-z0-9][a-z0-9_-]{0,31}", "^[a-z0-9][a-z0-9_-]{0,31}$",
    |text| starts_alphanumeric_and(text, 32, |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
);

name!(
    /// A submission's idempotency key, chosen by the publisher: `[A-Za-z0-9_-]{1,64}`.
    SubmissionId, "id", "[A-Za-z0-9_-]{1,64}", "^[A-Za-z0-9_-]{1,64}$",
    |text| (1..=64).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-'))
);

name!(
    /// A runtime's name without a version: `[a-z0-9][a-z0-9+-]{0,31}`.
    RuntimeName, "runtime", "[a-z0-9][a-z0-9+-]{0,31}", "^[a-z0-9][a-z0-9+-]{0,31}$",
    |text| starts_alphanumeric_and(text, 32, |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-'))
);

name!(
    /// A runtime's version: `[a-z0-9][a-z0-9._+-]{0,31}`.
    RuntimeVersion, "runtime version", "[a-z0-9][a-z0-9._+-]{0,31}", "^[a-z0-9][a-z0-9._+-]{0,31}$",
    |text| starts_alphanumeric_and(text, 32, |c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'+' | b'-'))
);

name!(
    /// What content is addressed by: `sha256:` and 64 lower-case hex digits.
    Digest, "digest", "\"sha256:\" and 64 lower-case hex digits", "^sha256:[0-9a-f]{64}$",
    |text| text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    })
);

fn starts_alphanumeric_and(text: &str, most: usize, rest: fn(u8) -> bool) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && text.len() <= most
        && bytes.all(rest)
}

impl Tenant {
    /// The tenant that is there from the start.
    pub fn default_tenant() -> Self {
        Self("default".to_owned())
    }
}

impl SubmissionId {
    /// A fresh id. Ids of one machine sort by the time they were made (UUID version 7).
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }
}

impl Digest {
    /// The digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self::of_hash(Sha256::new_with_prefix(content))
    }

    /// The digest of the content that `hash` has seen.
    pub fn of_hash(hash: Sha256) -> Self {
        Self(format!("sha256:{:x}", hash.finalize()))
    }

    /// Its 64 hex digits, without `sha256:`.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

/// The class of service within a tenant.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Somebody waits for the result.
    Interactive,
    /// Nobody does.
    Batch,
}

impl Lane {
    /// Every lane, in the order of preference.
    pub const ALL: [Self; 2] = [Self::Interactive, Self::Batch];

    /// The lane as it stands in subjects.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Batch => "batch",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Lane {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::ALL
            .into_iter()
            .find(|lane| lane.as_str() == text)
            .ok_or_else(|| NameError::new("lane", "\"interactive\" or \"batch\"", text))
    }
}

/// A runtime as a submission names it: `python`, or with a version `python@3.11`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RuntimeRef {
    /// The runtime.
    pub name: RuntimeName,
    /// One version of it; absent is the default version.
    pub version: Option<RuntimeVersion>,
}

impl JsonSchema for RuntimeRef {
    fn schema_name() -> Cow<'static, str> {
        "RuntimeRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = "^[a-z0-9][a-z0-9+-]{0,31}(@[a-z0-9][a-z0-9._+-]{0,31})?$";
        json_schema!({"type": "string", "pattern": pattern})
    }

    fn inline_schema() -> bool {
        true
    }
}

impl FromStr for RuntimeRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.parse()?)),
            None => (text, None),
        };
        Ok(Self {
            name: name.parse()?,
            version,
        })
    }
}

impl TryFrom<String> for RuntimeRef {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<RuntimeRef> for String {
    fn from(runtime: RuntimeRef) -> Self {
        runtime.to_string()
    }
}

impl fmt::Display for RuntimeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}@{version}", self.name),
            None => write!(f, "{}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        for good in ["default", "a", "0_-", &"a".repeat(32)] {
            assert!(good.parse::<Tenant>().is_ok(), "{good}");
        }
        for bad in ["", "_a", "A", "a.b", "a*", "ä", &"a".repeat(33)] {
            assert!(bad.parse::<Tenant>().is_err(), "{bad}");
        }
        for bad in ["", "a b", "a.b", "a>", "a/b", &"a".repeat(65)] {
            assert!(bad.parse::<SubmissionId>().is_err(), "{bad}");
        }
        assert_eq!(
            "python@3.11"
                .parse::<RuntimeRef>()
                .expect("valid")
                .to_string(),
            "python@3.11"
        );
        assert!("python@".parse::<RuntimeRef>().is_err());
        assert!("c++".parse::<RuntimeRef>().is_ok());
    }

    #[test]
    fn a_generated_id_follows_the_rule() {
        let id = SubmissionId::generate();
        assert_eq!(id.as_str().parse::<SubmissionId>().as_ref(), Ok(&id));
    }

    #[test]
    fn a_digest_is_the_sha_256_of_the_content() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").as_str(), empty);
    }
}
