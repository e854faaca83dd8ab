//! What holds bytes or asks for them: contents inline or in the object store, an archive, what is collected.

use globset::{GlobBuilder, GlobSet};

use super::{
    errors::{Path, cut},
    fields::{Walk, take},
    layout::path_problem,
    value::{Map, Value},
};
use crate::submission::{
    archive::Archive,
    collect::Collect,
    content::{Blob, Content, decode_base64},
    encoding::Encoding,
    units::ByteSize,
};

/// The fields of which exactly one holds a content.
pub(super) const CONTENTS: [&str; 4] = ["text", "base64", "bytes", "blob"];
/// Globs of a submission.
const MOST_GLOBS: usize = 64;
/// Leading components of an archive's paths that may be dropped.
const MOST_STRIPPED: u32 = 64;

impl Walk<'_> {
    /// A standard input or an expected output.
    pub(super) fn content(&mut self, value: Option<Value>, path: &Path<'_>) -> Option<Content> {
        match value? {
            Value::Text(text) => Some(Content::Inline(text.into_bytes())),
            Value::Map(fields) => {
                let fields = self.object(Value::Map(fields), path, &CONTENTS)?;
                self.content_of(fields, &CONTENTS, path)
            }
            other => {
                let message = format!("expected a string or an object, got {other}");
                self.errors.add(path, message);
                None
            }
        }
    }

    /// The one of `known`, which are some of [`CONTENTS`], that stands in `fields`; there is nothing else in these.
    pub(super) fn content_of(
        &mut self,
        fields: Map,
        known: &[&str],
        path: &Path<'_>,
    ) -> Option<Content> {
        let mut fields = fields
            .into_iter()
            .filter(|(_, value)| !matches!(value, Value::Null));
        let only = fields.next();
        let more = fields.next().is_some();
        let Some((name, value)) = only.filter(|_| !more) else {
            let has = |name: &&&str| **name != "bytes" || self.encoding == Encoding::MessagePack;
            let which: Vec<&str> = known.iter().filter(has).copied().collect();
            let (which, got) = (which.join(", "), if more { "several" } else { "none" });
            self.errors
                .add(path, format!("expected one of {which}, got {got}"));
            return None;
        };
        let path = path.field(&name);
        match name.as_str() {
            "text" => self.text(Some(value), &path).map(Content::from),
            "base64" => self.base64(value, &path),
            "bytes" => self.bytes(value, &path),
            _ => self.blob(value, &path),
        }
    }

    fn base64(&mut self, value: Value, path: &Path<'_>) -> Option<Content> {
        match decode_base64(&self.text(Some(value), path)?) {
            Ok(data) => Some(Content::Inline(data)),
            Err(problem) => {
                self.errors.add(path, problem);
                None
            }
        }
    }

    fn bytes(&mut self, value: Value, path: &Path<'_>) -> Option<Content> {
        let message = match (value, self.encoding) {
            (_, Encoding::Json) => {
                "only MessagePack has bytes: expected text or base64 instead".to_owned()
            }
            (Value::Bytes(data), Encoding::MessagePack) => return Some(Content::Inline(data)),
            (other, Encoding::MessagePack) => format!("expected bytes, got {other}"),
        };
        self.errors.add(path, message);
        None
    }

    fn blob(&mut self, value: Value, path: &Path<'_>) -> Option<Content> {
        let mut fields = self.object(value, path, &["digest", "size_bytes"])?;
        for name in ["digest", "size_bytes"] {
            if matches!(fields.get(name), None | Some(Value::Null)) {
                self.errors.add(&path.field(name), "it is missing");
            }
        }
        let most = self.ceilings.map(|ceilings| ceilings.blob_bytes);
        let size_bytes = self.quantity(&mut fields, path, "size_bytes", ByteSize, most);
        let at = path.field("digest");
        let text = self.text(take(&mut fields, "digest"), &at)?;
        let digest = self.named(text.parse(), &at)?;
        Some(Content::Blob(Blob {
            digest,
            size_bytes: size_bytes?,
        }))
    }

    /// An archive; one that is wrong is none.
    pub(super) fn archive(&mut self, value: Option<Value>, path: &Path<'_>) -> Option<Archive> {
        const FIELDS: [&str; 5] = ["format", "base64", "bytes", "blob", "strip_components"];
        let mut fields = self.object(value?, path, &FIELDS)?;
        let at = path.field("format");
        let format = take(&mut fields, "format");
        if format.is_none() {
            let message = "it is missing: expected \"tar\", \"tar.gz\", \"tar.zst\" or \"zip\"";
            self.errors.add(&at, message);
        }
        let format = self.word(format, &at);
        let strip_components = self.quantity(
            &mut fields,
            path,
            "strip_components",
            |number| number,
            Some(u64::from(MOST_STRIPPED)),
        );
        let content = self.content_of(fields, &CONTENTS[1..], path)?;
        if let (Some(ceilings), Content::Blob(blob)) = (self.ceilings, &content)
            && blob.size_bytes > ceilings.archive_bytes
            // Else it was said already.
            && blob.size_bytes <= ceilings.blob_bytes
        {
            let (came, most) = (blob.size_bytes, ceilings.archive_bytes);
            let message = format!("{came} is over this fleet's ceiling of {most} for an archive");
            self.errors
                .add(&path.field("blob").field("size_bytes"), message);
        }
        Some(Archive {
            format: format?,
            content,
            strip_components: u32::try_from(strip_components.unwrap_or_default()).ok()?,
        })
    }

    /// What is collected: a list of globs, or an object.
    pub(super) fn collect(&mut self, value: Option<Value>, path: &Path<'_>) -> Option<Collect> {
        const FIELDS: [&str; 3] = ["paths", "max_files", "max_bytes"];
        match value? {
            list @ Value::Array(_) => Some(Collect {
                paths: self.globs(Some(list), path),
                ..Collect::default()
            }),
            map @ Value::Map(_) => {
                let mut fields = self.object(map, path, &FIELDS)?;
                let paths = take(&mut fields, "paths");
                let at = path.field("paths");
                if paths.is_none() {
                    self.errors
                        .add(&at, "it is missing: expected one glob or more");
                    return None;
                }
                let paths = self.globs(paths, &at);
                let most = self.ceilings.map(|ceilings| ceilings.collect_files);
                let max_files = self.limit(&mut fields, path, "max_files", |number| number, most);
                let most = self.ceilings.map(|ceilings| ceilings.collect_bytes);
                let max_bytes = self.limit(&mut fields, path, "max_bytes", ByteSize, most);
                Some(Collect {
                    paths,
                    max_files,
                    max_bytes,
                })
            }
            other => {
                let message = format!("expected an array of globs or an object, got {other}");
                self.errors.add(path, message);
                None
            }
        }
    }

    fn globs(&mut self, value: Option<Value>, path: &Path<'_>) -> Vec<String> {
        let Some(items) = self.list(value, path) else {
            return Vec::new();
        };
        if items.is_empty() {
            self.errors.add(path, "expected one glob or more, got none");
        }
        if items.len() > MOST_GLOBS {
            let message = format!("{} globs are more than {MOST_GLOBS}", items.len());
            self.errors.add(path, message);
            return Vec::new();
        }
        let mut globs = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = path.item(index);
            let Some(glob) = self.text(Some(item), &path) else {
                continue;
            };
            match glob_problem(&glob) {
                Some(problem) => self.errors.add(&path, problem),
                None => globs.push(glob),
            }
        }
        globs
    }
}

/// What is wrong with a glob, which follows the rules of a path too.
fn glob_problem(glob: &str) -> Option<String> {
    if let Some(problem) = path_problem(glob) {
        return Some(problem);
    }
    let built = GlobBuilder::new(glob).literal_separator(true).build();
    let usable = built.and_then(|glob| GlobSet::builder().add(glob).build());
    usable
        .err()
        .map(|error| format!("{:?} is no glob: {}", cut(glob), error.kind()))
}
