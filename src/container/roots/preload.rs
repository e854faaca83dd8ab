//! A root's large files in huge pages of the page cache, where the kernel and the volume's file system have them: compilers and
//! interpreters are mapped faster then. Once for each root that this process uses; what cannot be done is left undone.

use envicutor_protocol::RUNTIMES_DIR;
use tracing::{debug, warn};
use uuid::Uuid;

use super::Inner;
use crate::container::{
    ContainerError,
    helper::{Errand, Helper},
};

/// Preloads the root `name`.
pub(super) async fn root(roots: &Inner, name: &str) {
    if roots.starter.config.preload_bytes.0 == 0 {
        return;
    }
    let start = std::time::Instant::now();
    match in_helper(roots, name).await {
        Ok(Ok(())) => debug!(root = name, took = ?start.elapsed(), "a runtime's root is preloaded"),
        Ok(Err(problem)) => debug!(root = name, problem, "a runtime's root is not preloaded"),
        Err(error) => warn!(root = name, %error, "a runtime's root is not preloaded"),
    }
}

async fn in_helper(roots: &Inner, name: &str) -> Result<Result<(), String>, ContainerError> {
    let starter = &roots.starter;
    let bytes = starter.config.preload_bytes.0.to_string();
    let errand = Errand {
        image: &roots.image,
        agent: &starter.state_dir.agent(),
        labels: starter.labels.of_helper(),
        arguments: ["preload", RUNTIMES_DIR, name, &bytes]
            .map(str::to_owned)
            .to_vec(),
        // What only its owner may read, no submission maps.
        capabilities: &[],
        mount: super::mount(&starter.config.runtimes_volume, true),
    };
    let container = format!("envicutor-preload-{}", Uuid::now_v7().simple());
    let helper = Helper::create(&starter.remover, container, errand).await?;
    helper.run().await
}
