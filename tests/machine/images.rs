//! What the worker has made in the Engine is deleted under it: a runtime's image, the volume of the runtimes' roots.

use envicutor::submission::result::{FailureCode, Outcome};

use crate::{
    container_bed,
    engine::Engine,
    fleet::publish,
    site::{Site, docker},
};

/// A runtime over the runtimes' base image, with an image of its own that installs nothing.
const DELETED: &str = r#"
name = "deleted"
version = "1"
default = true
description = "Its image is deleted"
source_file = "main.sh"
script = "true NAME"
[run]
command = ["/bin/sh", "{entry}"]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_deleted_is_made_again() {
    let site = Site::start().await;
    let name = container_bed::random();
    site.add_runtime("deleted.toml", &DELETED.replace("NAME", &name));
    let worker = site
        .worker("w")
        .env(
            "RUNTIMES__BASE_IMAGE",
            envicutor::config::Runtimes::default().base_image,
        )
        .start()
        .await;
    let body = r#"{"runtime": "deleted", "files": [{"text": "echo done"}]}"#;
    for (id, attempt) in [("before", 1), ("after", 2)] {
        publish(&site.bus.client, "interactive", id, body)
            .await
            .expect("the publish is acknowledged");
        let result = site.result(id).await;
        assert_eq!(
            (result.outcome, result.attempt),
            (Outcome::Finished, attempt)
        );
        let image = result.image.expect("of an image").to_string();
        docker(&["image", "rm", "--force", &image]).await;
    }
    let noted = site.attempts("after").await.expect("noted");
    assert_eq!(noted.last_code, Some(FailureCode::Image));
    assert!(site.letters().await.is_empty());
    site.end([worker]).await;
}

/// No container has the volume at that moment, else the Engine would not delete it.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_roots_that_is_deleted_is_filled_again() {
    let (site, engine) = tokio::join!(Site::start(), Engine::start());
    let worker = engine
        .worker(&site, "w")
        .env("CONTAINER__ISOLATION", "sandbox")
        .env("CONTAINER__POOL_SIZE", 2)
        .start()
        .await;
    site.submit("before", "echo done").await;
    assert_eq!(site.result("before").await.outcome, Outcome::Finished);
    site.await_empty_queue().await;
    engine.delete_volume(container_bed::VOLUME).await;
    site.submit("after", "echo done").await;
    let result = site.result("after").await;
    assert_eq!(result.outcome, Outcome::Finished, "{result:#?}");
    assert!(site.letters().await.is_empty());
    site.end([worker]).await;
    engine.end().await;
}
