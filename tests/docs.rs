//! What `docs/` says of the program is what the program does: every configuration key stands in `docs/configuration.md` with
//! its default, and no other; and no link of the documentation leads nowhere.

use std::{collections::BTreeMap, path::Path};

use envicutor::{
    config::Config,
    submission::units::{ByteSize, Micros},
};
use serde_json::Value;

const CONFIGURATION: &str = include_str!("../docs/configuration.md");

/// Every key of the configuration, dotted, with its default.
fn keys() -> BTreeMap<String, Value> {
    fn walk(path: &str, value: &Value, keys: &mut BTreeMap<String, Value>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    walk(&path, value, keys);
                }
            }
            leaf => {
                keys.insert(path.to_owned(), leaf.clone());
            }
        }
    }
    let mut keys = BTreeMap::new();
    let config = serde_json::to_value(Config::default()).expect("the configuration as JSON");
    walk("", &config, &mut keys);
    keys
}

/// The rows of the tables: key and default.
fn documented() -> BTreeMap<String, String> {
    CONFIGURATION
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split_once("` | "))
        .map(|(key, rest)| {
            let default = rest.split(" | ").next().unwrap_or_default();
            (key.to_owned(), default.to_owned())
        })
        .collect()
}

#[test]
fn every_configuration_key_is_documented_and_no_other() {
    let documented: Vec<_> = documented().into_keys().collect();
    let keys: Vec<_> = keys().into_keys().collect();
    assert_eq!(
        keys, documented,
        "left: src/config.rs, right: docs/configuration.md"
    );
}

#[test]
fn the_documented_defaults_are_in_force() {
    let documented = documented();
    for (key, value) in keys() {
        let shown = &documented[&key];
        let plain = shown.split(": ").next().unwrap_or_default();
        let plain = plain.trim_matches('`').replace(',', "");
        let said = match &value {
            Value::Number(number) if number.is_u64() && key.ends_with("_us") => {
                let time: Micros = match plain.strip_suffix(" days") {
                    Some(days) => format!("{}h", days.parse::<u64>().expect("days") * 24).parse(),
                    None => plain.parse(),
                }
                .unwrap_or_else(|error| panic!("{key}: {error}"));
                Value::from(time.0)
            }
            Value::Number(number) if number.is_u64() && key.ends_with("_bytes") => {
                let size: ByteSize = plain
                    .parse()
                    .unwrap_or_else(|error| panic!("{key}: {error}"));
                Value::from(size.0)
            }
            Value::Number(_) | Value::Array(_) if plain != "none" => {
                serde_json::from_str(&plain).unwrap_or_else(|error| panic!("{key}: {error}"))
            }
            Value::Array(items) if items.is_empty() => continue,
            Value::String(_) if key != "data_dir" => Value::from(plain),
            // Absent, or made at start: the table says it in words.
            _ => continue,
        };
        assert_eq!(value, said, "{key} is documented as {shown:?}");
    }
}

#[test]
fn no_link_of_the_documentation_leads_nowhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for entry in root.join("docs").read_dir().expect("docs/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    for page in pages {
        let text = std::fs::read_to_string(&page)
            .unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            let named = page.parent().expect("a directory").join(file);
            assert!(named.exists(), "{} links to {target}", page.display());
        }
    }
}
