//! What makes a key, and what is kept.

use serde_json::json;

use super::*;
use crate::submission::{
    catalogue::{Catalogue, Ceilings},
    check,
};

fn catalogue() -> Catalogue {
    let config = config::Config::default();
    let directory = tempfile::tempdir().expect("made");
    let runtimes = crate::runtimes::Runtimes::load(&config, directory.path());
    let runtimes = runtimes.expect("the program's own");
    Catalogue::clone(&runtimes.catalogue())
}

fn ceilings() -> Ceilings {
    config::FleetCeilings::default().0
}

/// The key of a C++ submission with changes, if it has one.
fn key_of(change: impl FnOnce(&mut serde_json::Value)) -> Option<Key> {
    key_with(change, "a", b"image", Isolation::Sandbox, b"processor")
}

fn key_with(
    change: impl FnOnce(&mut serde_json::Value),
    tenant: &str,
    image: &[u8],
    isolation: Isolation,
    processor: &[u8],
) -> Option<Key> {
    let mut body = json!({
        "runtime": "cpp",
        "files": [{"path": "main.cpp", "text": "int main() {}"}, {"path": "a.h", "text": "x"}],
        "entry": "main.cpp",
    });
    change(&mut body);
    let checked = check::check(body.to_string().as_bytes(), None, &catalogue(), &ceilings());
    let plan = checked.unwrap_or_else(|rejected| panic!("{:?}", rejected.errors));
    let tenant = tenant.parse().expect("a tenant");
    key(
        &tenant,
        &Digest::of(image),
        isolation,
        &Digest::of(processor),
        &plan,
    )
}

#[test]
fn whatever_a_build_can_see_makes_another_key() {
    let same = || key_of(|_| ()).expect("a key");
    assert_eq!(same(), same());
    let blob =
        |text: &str| json!({"digest": Digest::of(text.as_bytes()), "size_bytes": text.len()});
    let changes: Vec<(&str, serde_json::Value)> = vec![
        ("/files/0/text", json!("int main() { }")),
        ("/files/0/path", json!("main2.cpp")),
        ("/files/1/executable", json!(true)),
        ("/entry", json!("a.h")),
        (
            "/files",
            json!([{"path": "a.h", "text": "x"}, {"path": "main.cpp", "text": "int main() {}"}]),
        ),
        ("/compile", json!({"args": ["-g"]})),
        ("/compile", json!({"env": {"A": "1"}})),
        ("/compile", json!({"env": {"A1": ""}})),
        ("/compile", json!({"command": ["make"]})),
        ("/compile", json!({"limits": {"wall_time_us": 7_000_000}})),
        ("/compile", json!({"limits": {"processes": 7}})),
        ("/run", json!({"limits": {"disk_bytes": 1 << 29}})),
        ("/archive", json!({"format": "tar", "blob": blob("a")})),
        ("/archive", json!({"format": "zip", "blob": blob("a")})),
        ("/archive", json!({"format": "tar", "blob": blob("b")})),
        (
            "/archive",
            json!({"format": "tar", "blob": blob("a"), "strip_components": 1}),
        ),
    ];
    let mut keys = vec![same()];
    for (place, value) in changes {
        let changed = key_of(|body| {
            if place == "/files/0/path" {
                body["entry"] = value.clone();
            }
            let (parent, name) = place.rsplit_once('/').expect("a place");
            body.pointer_mut(parent).expect("there")[name] = value.clone();
        });
        let changed = changed.expect("a key");
        assert!(!keys.contains(&changed), "{place}: {value}");
        keys.push(changed);
    }
    for other in [
        key_with(|_| (), "b", b"image", Isolation::Sandbox, b"processor"),
        key_with(|_| (), "a", b"other", Isolation::Sandbox, b"processor"),
        key_with(|_| (), "a", b"image", Isolation::Container, b"processor"),
        key_with(|_| (), "a", b"image", Isolation::Sandbox, b"other"),
    ] {
        let other = other.expect("a key");
        assert!(!keys.contains(&other));
        keys.push(other);
    }
}

#[test]
fn what_no_build_can_see_does_not_matter() {
    let same = key_of(|_| ());
    let text = "int main() {}";
    for change in [
        json!({"run": {"args": ["-v"], "stdin": "x"}}),
        json!({"tests": [{"stdin": "1"}, {"stdin": "2"}]}),
        json!({"labels": {"a": "b"}, "events": "none"}),
        // How the bytes of a file come.
        json!({"files": [
            {"path": "main.cpp", "blob": {"digest": Digest::of(text.as_bytes()), "size_bytes": text.len()}},
            {"path": "a.h", "text": "x"},
        ]}),
    ] {
        let changed = key_of(|body| {
            for (name, value) in change.as_object().expect("an object") {
                body[name] = value.clone();
            }
        });
        assert_eq!(changed, same, "{change}");
    }
}

#[test]
fn what_is_not_compiled_or_not_to_be_cached_has_no_key() {
    assert_eq!(key_of(|body| body["cache"] = json!(false)), None);
    let python = key_of(|body| {
        body["runtime"] = json!("python");
    });
    assert_eq!(python, None);
}

fn run(verdict: Verdict) -> Run {
    Run {
        verdict,
        exit_code: Some(u8::from(verdict != Verdict::Ok)),
        ..Run::skipped(None)
    }
}

#[test]
fn only_what_ended_by_itself_and_touched_no_limit_is_kept() {
    for verdict in [Verdict::Ok, Verdict::RuntimeError] {
        assert!(may_be_kept(&run(verdict), true));
        assert!(!may_be_kept(&run(verdict), false), "it never began");
        let touched = Run {
            limits_hit: vec!["processes".to_owned()],
            ..run(verdict)
        };
        assert!(!may_be_kept(&touched, true));
    }
    for verdict in [
        Verdict::CpuTimeExceeded,
        Verdict::WallTimeExceeded,
        Verdict::MemoryExceeded,
        Verdict::OutputExceeded,
        Verdict::FileSizeExceeded,
        Verdict::ProcessesExceeded,
        Verdict::Forbidden,
        Verdict::Signaled,
        Verdict::Skipped,
    ] {
        assert!(!may_be_kept(&run(verdict), true), "{verdict:?}");
    }
}

#[test]
fn an_entry_that_contradicts_itself_is_none() {
    let blob = Blob {
        digest: Digest::of(b"a"),
        size_bytes: ByteSize(1),
    };
    let read = |entry: &Entry| Entry::read(&serde_json::to_vec(entry).expect("encodes"));
    for (verdict, artifact, is_read) in [
        (Verdict::Ok, Some(blob.clone()), true),
        (Verdict::RuntimeError, None, true),
        (Verdict::Ok, None, false),
        (Verdict::RuntimeError, Some(blob.clone()), false),
        (Verdict::WallTimeExceeded, None, false),
    ] {
        let entry = Entry::new(run(verdict), artifact);
        let expected = is_read.then(|| entry.clone());
        assert_eq!(read(&entry), expected);
    }
    let later = Entry {
        version: VERSION + 1,
        ..Entry::new(run(Verdict::Ok), Some(blob))
    };
    assert_eq!(read(&later), None);
    assert_eq!(Entry::read(b"{\"version\": 1"), None);
}
