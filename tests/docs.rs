//! What `docs/` says of the program is what the program does: every configuration key stands in `docs/configuration.md` with
//! its default, and no other; every test of the delivery promise stands in `docs/delivery.md`, and no other; and no link of the
//! documentation leads nowhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

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
        "left: src/config/, right: docs/configuration.md"
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

const DELIVERY: &str = include_str!("../docs/delivery.md");

/// The names of the tests below a directory.
fn tests(directory: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in directory.read_dir().expect("tests/") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            names.extend(tests(&path));
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        let lines = text.lines().zip(text.lines().skip(1));
        let of_tests = lines.filter(|(attribute, _)| {
            attribute.starts_with("#[test]") || attribute.starts_with("#[tokio::test")
        });
        let name = |line: &str| {
            let line = line.strip_prefix("async ").unwrap_or(line);
            Some(line.strip_prefix("fn ")?.split('(').next()?.to_owned())
        };
        names.extend(of_tests.filter_map(|(_, line)| name(line)));
    }
    names
}

#[test]
fn every_test_of_the_delivery_promise_is_documented_and_no_other() {
    let rows = DELIVERY.lines().filter(|line| line.starts_with('|'));
    let words = rows.flat_map(|row| row.split('`').skip(1).step_by(2));
    let is_test = |word: &&str| {
        word.matches('_').count() > 3 && word.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let mut documented: BTreeSet<String> = words.filter(is_test).map(str::to_owned).collect();
    documented.insert("only_a_build_for_tests_has_fail_points".to_owned());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let of_it = &tests(&root.join("delivery")) | &tests(&root.join("machine"));
    let missing: Vec<_> = of_it.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/delivery.md: {missing:?}");
    let all = tests(&root);
    let unknown: Vec<_> = documented.difference(&all).collect();
    assert!(
        unknown.is_empty(),
        "docs/delivery.md names no test: {unknown:?}"
    );
}
