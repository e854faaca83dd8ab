use super::*;
use crate::submission::{check::check_shape, encoding::Encoding, names::Digest};

fn full() -> Submission {
    let mut submission = Submission::new("c++@12".parse().expect("valid"))
        .file("main.cpp", "int main() {}")
        .file("data/logo.png", b"\xff\xd8")
        .test(Test::new("1 2\n").named("small").expecting("3\n"))
        .test(Test::new(b"\xff"))
        .label("course", "cs101");
    submission.entry = Some("main.cpp".into());
    submission.files[1].executable = true;
    submission.compile.command = Some(vec!["make".into()]);
    submission.run.args = vec!["-v".into()];
    submission.run.env.insert("LANG".into(), "C.UTF-8".into());
    submission.run.limits = LimitChanges {
        wall_time_us: Some(Micros(3_000_000)),
        ..LimitChanges::default()
    };
    submission.compare = Compare::Tokens;
    submission.stop_on_failure = true;
    submission.total_time_us = Some(Micros(1));
    submission.expires_at = Some(time::macros::datetime!(2030-01-02 03:04:05.678 UTC));
    submission.events = EventsWanted::Output;
    submission.archive = Some(Archive {
        format: ArchiveFormat::TarZst,
        content: Content::Inline(b"packed".to_vec()),
        strip_components: 1,
    });
    submission.cache = false;
    submission.collect = Some(Collect {
        paths: vec!["out/*.png".into()],
        max_files: Some(3),
        max_bytes: Some(ByteSize(1 << 20)),
    });
    submission
}

/// Everything in the object store that may be, and the short form of `collect`.
fn stored() -> Submission {
    let blob = |size_bytes| Blob {
        digest: Digest::of(b"large"),
        size_bytes: ByteSize(size_bytes),
    };
    let test = Test::new(blob(1)).expecting(blob(2));
    let mut submission = Submission::new("python".parse().expect("valid"))
        .file("big.csv", blob(3))
        .test(test)
        .collect("a")
        .collect("b/**");
    submission.archive = Some(Archive {
        format: ArchiveFormat::Zip,
        content: blob(4).into(),
        strip_components: 0,
    });
    submission
}

#[test]
fn what_is_written_is_read_back_in_both_encodings() {
    let small = Submission::new("python".parse().expect("valid"))
        .source("print(1)")
        .stdin("hello\n");
    for submission in [full(), stored(), small] {
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            let body = encoding.encode(&submission).expect("encodes");
            assert_eq!(check_shape(&body, encoding).expect("valid"), submission);
        }
    }
}

#[test]
fn only_what_is_set_is_written() {
    let submission = Submission::new("python".parse().expect("valid"))
        .source("print(1)")
        .stdin("hello\n");
    assert_eq!(
        serde_json::to_value(submission).expect("encodes"),
        serde_json::json!({"runtime": "python", "files": [{"text": "print(1)"}], "run": {"stdin": "hello\n"}})
    );
}

#[test]
fn message_pack_carries_contents_as_bytes() {
    let body = Encoding::MessagePack.encode(&full()).expect("encodes");
    let holds = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
    assert!(holds(b"\xa5bytes\xc4\x0dint main() {}"));
    assert!(holds(b"\xa5stdin\x81\xa5bytes\xc4\x041 2\n"));
    assert!(!holds(b"base64"));
}
