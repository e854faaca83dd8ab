//! Submits a directory and writes the files that it leaves to `results`. Needs a fleet: `envicutor up`; run it with `NATS_URL` set to its service URL.

use envicutor::{
    Client,
    submission::{
        message::Submission,
        names::{Lane, Tenant},
    },
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(&std::env::var("NATS_URL")?).await?;
    let submission = Submission::new("python".parse()?)
        .project("examples/report")
        .collect("out/*.svg");
    let tenant = Tenant::default_tenant();
    let result = client
        .submit_and_wait(&tenant, Lane::Batch, None, &submission)
        .await?;
    for file in client.fetch(&result, "results".as_ref(), false).await? {
        println!("{} {}", file.path.display(), file.size_bytes);
    }
    Ok(())
}
