//! An installed runtime on a machine whose Engine never saw it: its image comes from the object store alone.

use envicutor::{
    bus::installations::{self, Records},
    submission::{installation::InstallationState, result::Verdict},
};

use crate::{
    container_bed,
    engine::Engine,
    fleet::{FIRST_USE, eventually, publish},
    site::{Site, docker},
};

const DEFINITION: &str = r#"
name = "NAME"
version = "1"
default = true
description = "It is installed elsewhere"
source_file = "main.sh"
script = "echo installed >/made"
[run]
command = ["/bin/bash", "{entry}"]
[[tests]]
name = "made"
source = "cat /made"
expected = "installed"
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_an_engine_of_its_own_gets_the_image_from_the_object_store_alone() {
    let (site, engine) = tokio::join!(Site::start(), Engine::start());
    let name = format!("own-{}", &container_bed::random()[12..]);
    let installer = site.installer();
    let definition = DEFINITION.replace("NAME", &name);
    let runtime = name.parse().expect("a name");
    let sequence = installations::publish(&site.bus, &runtime, &definition).await;
    let sequence = sequence.expect("published");
    let records = Records::new(&site.bus);
    let record = || async { records.of(&runtime, sequence).await.expect("asked") };
    eventually("it is installed", FIRST_USE, || async {
        record().await.is_some_and(|it| it.has_ended())
    })
    .await;
    let record = record().await.expect("there");
    assert_eq!(record.state, InstallationState::Installed, "{record:#?}");
    drop(installer);
    // Nothing is left of it where it was made.
    let image = record.image.expect("made").to_string();
    docker(&["image", "rm", "--force", &image]).await;
    let worker = engine.worker(&site, "w").start().await;
    let body = format!(r#"{{"runtime": "{name}", "files": [{{"text": "cat /made"}}]}}"#);
    publish(&site.bus.client, "interactive", "first", body.as_str())
        .await
        .expect("the publish is acknowledged");
    let result = site.result("first").await;
    assert_eq!(result.verdict, Some(Verdict::Ok), "{result:#?}");
    assert_eq!(result.image.expect("of an image").to_string(), image);
    assert_eq!(result.attempt, 1);
    site.end([worker]).await;
    engine.end().await;
}
