//! What an operator changes of a submission's body before it runs again: `run.limits.memory_bytes=512MiB`.
//!
//! An edit names a field as errors do (`files[0].path`, `run.env["a.b"]`). What it makes of a body is a valid submission, by
//! the same reading as a worker's, or an error that says what is wrong: a body is never half edited.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    check::{
        Rejected, check_shape,
        value::{Map, Value},
    },
    encoding::{Encoding, EncodingError},
    replay::Change,
    units::{ByteSize, Micros},
};

/// The longest text that the trail of a replay repeats, in characters; of a longer one only its size is told.
const MOST_TOLD: usize = 200;

/// A change of one field of a submission: `PATH=VALUE`.
///
/// The value is JSON where it is JSON, else text; within `labels` and `env` it is always text. A field that ends in `_bytes` or
/// `_us` also takes units (`512MiB`, `1.5s`). `null` is as if the field were absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Edit {
    written: String,
    path: Vec<Step>,
    value: Value,
}

/// One step from a value to a value within it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

/// An edit, or what it was to be made of, is wrong.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is not written as an edit is.
    #[error(
        "{text:?} is not an edit: {problem}. Expected PATH=VALUE, like run.limits.memory_bytes=512MiB or labels.course=cs102"
    )]
    Syntax {
        /// What was given.
        text: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The body is no submission, not even a broken one.
    #[error("the submission cannot be edited: {0}")]
    Body(String),
    /// The path leads nowhere in this body.
    #[error("{path} cannot be set: {problem}")]
    Path {
        /// As it was given.
        path: String,
        /// What stands in the way.
        problem: String,
    },
    /// What came out is not valid.
    #[error("the edited submission is not valid: {0}")]
    Invalid(#[source] Box<Rejected>),
    /// What came out has no encoding.
    #[error(transparent)]
    Encoding(#[from] EncodingError),
}

/// A body that was edited.
#[derive(Debug, Clone, PartialEq)]
pub struct Edited {
    /// The body, in the encoding that it came in.
    pub body: Vec<u8>,
    /// What differs, in the order of the edits.
    pub changes: Vec<Change>,
}

/// `body` with every one of `edits` made. The order of fields may change, nothing else does.
pub fn edit(body: &[u8], content_type: Option<&str>, edits: &[Edit]) -> Result<Edited, EditError> {
    let encoding = Encoding::of_content_type(content_type)?;
    let mut tree = Value::read(body, encoding).map_err(EditError::Body)?;
    let mut changes = Vec::new();
    for edit in edits {
        let place = edit.place(&mut tree)?;
        if *place != edit.value {
            changes.push(Change {
                path: edit.path(),
                from: told(place),
                to: told(&edit.value),
            });
            *place = edit.value.clone();
        }
    }
    let body = encoding.encode(&tree)?;
    check_shape(&body, encoding).map_err(|rejected| EditError::Invalid(Box::new(rejected)))?;
    Ok(Edited { body, changes })
}

impl Edit {
    /// The path as errors write it.
    fn path(&self) -> String {
        let (path, _) = self.written.split_at(path_end(&self.written));
        path.to_owned()
    }

    /// The place in `tree` that it is about. Objects that are missing on the way are made; items are not.
    fn place<'a>(&self, tree: &'a mut Value) -> Result<&'a mut Value, EditError> {
        let mut place = tree;
        for step in &self.path {
            if matches!((&step, &place), (Step::Field(_), Value::Null)) {
                *place = Value::Map(Map::new());
            }
            let came = place.to_string();
            place = match (step, place) {
                (Step::Field(name), Value::Map(fields)) => {
                    fields.entry(name.clone()).or_insert(Value::Null)
                }
                (Step::Item(index), Value::Array(items)) => {
                    let count = items.len();
                    let missing =
                        || self.wrong(format!("there is no item {index}, of {count} in all"));
                    items.get_mut(*index).ok_or_else(missing)?
                }
                (Step::Field(name), _) => {
                    return Err(self.wrong(format!("{name:?} would be a field of {came}")));
                }
                (Step::Item(index), _) => {
                    return Err(self.wrong(format!("[{index}] would be an item of {came}")));
                }
            };
        }
        Ok(place)
    }

    fn wrong(&self, problem: String) -> EditError {
        EditError::Path {
            path: self.path(),
            problem,
        }
    }
}

impl FromStr for Edit {
    type Err = EditError;

    fn from_str(text: &str) -> Result<Self, EditError> {
        let syntax = |problem: String| EditError::Syntax {
            text: text.chars().take(MOST_TOLD).collect(),
            problem,
        };
        let (path, value) = text.split_at(path_end(text));
        let value = value
            .strip_prefix('=')
            .ok_or_else(|| syntax("it has no =".to_owned()))?;
        let path = steps(path).map_err(syntax)?;
        let value = value_of(&path, value).map_err(syntax)?;
        Ok(Self {
            written: text.to_owned(),
            path,
            value,
        })
    }
}

impl TryFrom<String> for Edit {
    type Error = EditError;

    fn try_from(text: String) -> Result<Self, EditError> {
        text.parse()
    }
}

impl From<Edit> for String {
    fn from(edit: Edit) -> Self {
        edit.written
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

/// Where the path ends: at the first `=` that does not stand in quotes.
fn path_end(text: &str) -> usize {
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            '=' if !is_quoted => return at,
            '"' if !is_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        is_escaped = c == '\\' && !is_escaped;
    }
    text.len()
}

/// `files[0].path`, `env["a.b"]`.
fn steps(path: &str) -> Result<Vec<Step>, String> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let (step, after) = match rest.strip_prefix('[') {
            Some(inner) if inner.starts_with('"') => key(inner)?,
            Some(inner) => {
                let (index, after) = inner.split_once(']').ok_or("a [ is not closed")?;
                let index = index
                    .parse()
                    .map_err(|_| format!("[{index}] is neither a number nor a quoted name"))?;
                (Step::Item(index), after)
            }
            None => {
                let name = rest.strip_prefix('.').filter(|_| !steps.is_empty());
                let name = name.unwrap_or(rest);
                let end = name.find(['.', '[']).unwrap_or(name.len());
                let (name, after) = name.split_at(end);
                if name.is_empty() {
                    return Err("a name in the path is empty".to_owned());
                }
                (Step::Field(name.to_owned()), after)
            }
        };
        steps.push(step);
        rest = after;
    }
    if steps.is_empty() {
        return Err("the path is empty".to_owned());
    }
    Ok(steps)
}

/// A quoted name and its `]`.
fn key(inner: &str) -> Result<(Step, &str), String> {
    let mut names = serde_json::Deserializer::from_str(inner).into_iter::<String>();
    let name = names.next().and_then(Result::ok);
    let name = name.ok_or("a quoted name in the path is not closed")?;
    let after = inner[names.byte_offset()..].strip_prefix(']');
    Ok((Step::Field(name), after.ok_or("a [ is not closed")?))
}

/// What `text` stands for in the field that `path` leads to.
fn value_of(path: &[Step], text: &str) -> Result<Value, String> {
    let is = |step: Option<&Step>, names: &[&str]| matches!(step, Some(Step::Field(name)) if names.contains(&name.as_str()));
    let parent = path.len().checked_sub(2).and_then(|at| path.get(at));
    if is(parent, &["labels", "env"]) && text != "null" {
        return Ok(Value::Text(text.to_owned()));
    }
    if let Ok(value) = Value::read(text.as_bytes(), Encoding::Json) {
        return Ok(value);
    }
    let quantity = match path.last() {
        Some(Step::Field(name)) if name.ends_with("_bytes") => {
            Some(text.parse().map(|ByteSize(bytes)| bytes))
        }
        Some(Step::Field(name)) if name.ends_with("_us") => {
            Some(text.parse().map(|Micros(time)| time))
        }
        _ => None,
    };
    match quantity {
        Some(Ok(number)) => Ok(Value::Integer(number.into())),
        Some(Err(error)) => Err(error.to_string()),
        None => Ok(Value::Text(text.to_owned())),
    }
}

/// A value as the trail tells it: as it is where it is small, else in words.
fn told(value: &Value) -> serde_json::Value {
    match value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => json!(value),
        Value::Integer(value) => u64::try_from(*value)
            .map(|value| json!(value))
            .or_else(|_| i64::try_from(*value).map(|value| json!(value)))
            .unwrap_or_default(),
        Value::Float(value) => json!(value),
        Value::Text(text) if text.chars().count() <= MOST_TOLD => json!(text),
        Value::Text(text) => json!(format!("a string of {} bytes", text.len())),
        Value::Bytes(_) => json!(value.to_string()),
        Value::Array(items) => json!(format!("an array of {} items", items.len())),
        Value::Map(fields) => json!(format!("an object of {} fields", fields.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = r#"{"runtime":"python","files":[{"text":"print(1)"}],"run":{"limits":{"memory_bytes":1048576}}}"#;

    fn edits(edits: &[&str]) -> Vec<Edit> {
        let edits = edits.iter().map(|edit| edit.parse().expect("an edit"));
        edits.collect()
    }

    fn made(body: &str, given: &[&str]) -> Result<(serde_json::Value, Vec<Change>), String> {
        let edited =
            edit(body.as_bytes(), None, &edits(given)).map_err(|error| error.to_string())?;
        let body = serde_json::from_slice(&edited.body).expect("JSON");
        Ok((body, edited.changes))
    }

    #[test]
    fn a_field_is_set_and_the_change_is_told() {
        let (body, changes) = made(BODY, &["run.limits.memory_bytes=512MiB"]).expect("edited");
        assert_eq!(body["run"]["limits"]["memory_bytes"], 512 << 20);
        assert_eq!(
            changes,
            [Change {
                path: "run.limits.memory_bytes".into(),
                from: json!(1 << 20),
                to: json!(512 << 20),
            }]
        );
    }

    #[test]
    fn objects_on_the_way_are_made_and_values_are_read_as_they_are_meant() {
        let given = [
            "compile.limits.cpu_time_us=1.5s",
            r#"run.env["A.B"]=5"#,
            "run.args=[\"-v\"]",
            "files[0].text=print(\"a=b\")",
            "labels.course=17",
            "stop_on_failure=true",
            "run.stdin=hello",
        ];
        let (body, changes) = made(BODY, &given).expect("edited");
        assert_eq!(body["compile"]["limits"]["cpu_time_us"], 1_500_000);
        assert_eq!(body["run"]["env"]["A.B"], "5");
        assert_eq!(body["run"]["args"], json!(["-v"]));
        assert_eq!(body["files"][0]["text"], "print(\"a=b\")");
        assert_eq!(body["labels"]["course"], "17");
        assert_eq!(body["run"]["stdin"], "hello");
        assert_eq!(changes.len(), given.len());
        assert_eq!(changes[0].from, serde_json::Value::Null);
    }

    #[test]
    fn what_is_as_wanted_is_no_change() {
        let (_, changes) = made(BODY, &["run.limits.memory_bytes=1MiB"]).expect("edited");
        assert_eq!(changes, []);
    }

    #[test]
    fn message_pack_keeps_its_bytes_and_its_encoding() {
        let file = Value::Map(Map::from([(
            "bytes".to_owned(),
            Value::Bytes(vec![0, 255]),
        )]));
        let body = Value::Map(Map::from([
            ("runtime".to_owned(), Value::Text("bash".into())),
            ("files".to_owned(), Value::Array(vec![file.clone()])),
        ]));
        let body = Encoding::MessagePack.encode(&body).expect("encoded");
        let content_type = Some(Encoding::MessagePack.content_type());
        let edited = edit(&body, content_type, &edits(&["total_time_us=1s"])).expect("edited");
        let Ok(Value::Map(fields)) = Value::read(&edited.body, Encoding::MessagePack) else {
            panic!("no MessagePack came out");
        };
        assert_eq!(fields["total_time_us"], Value::Integer(1_000_000));
        assert_eq!(fields["files"], Value::Array(vec![file]));
    }

    #[test]
    fn a_wrong_path_or_value_or_body_is_named() {
        for (body, edit, error) in [
            (BODY, "run.limits.memory=1", "run.limits.memory"),
            (BODY, "run.limits.memory_bytes=0", "run.limits.memory_bytes"),
            (BODY, "runtime.version=3", "field of the string \"python\""),
            (BODY, "files[3].text=x", "no item 3, of 1"),
            (BODY, "files.text=x", "field of an array"),
            (BODY, "run[0]=x", "item of an object"),
            ("{", "runtime=bash", "not JSON"),
            ("[]", "runtime=bash", "field of an array"),
        ] {
            let said = made(body, &[edit]).expect_err(edit);
            assert!(said.contains(error), "{edit}: {said}");
        }
        let other = edit(b"{}", Some("text/plain"), &edits(&["runtime=bash"]));
        assert!(
            other
                .expect_err("refused")
                .to_string()
                .contains("text/plain")
        );
    }

    #[test]
    fn what_is_no_edit_is_refused_at_once() {
        for bad in [
            "",
            "=",
            "=5",
            "run",
            "run..args=1",
            ".run=1",
            "files[=1",
            "files[x]=1",
            "files[\"x=1",
            "files[\"x\"=1",
            "run.limits.memory_bytes=lots",
            "run.limits.cpu_time_us=5MiB",
        ] {
            assert!(bad.parse::<Edit>().is_err(), "{bad}");
        }
        let edit: Edit = "labels[\"a=b\"]=c".parse().expect("an edit");
        assert_eq!(String::from(edit.clone()), "labels[\"a=b\"]=c");
        assert_eq!(edit.path(), "labels[\"a=b\"]");
    }
}
