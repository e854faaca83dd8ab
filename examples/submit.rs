//! A service submits a program, watches it, and reads the result again by its id.
//!
//! `envicutor up` prints the URL of the service. Then: `cargo run --example submit -- nats://service:…@127.0.0.1:…`

use std::error::Error;

use envicutor::{
    Client,
    client::Update,
    submission::{
        message::{EventsWanted, Submission, Test},
        names::{Lane, SubmissionId, Tenant},
    },
};
use futures_util::{StreamExt as _, pin_mut};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args()
        .nth(1)
        .ok_or("usage: submit nats://service:PASSWORD@HOST:PORT")?;
    let client = Client::connect(&url).await?;
    let tenant = Tenant::default_tenant();

    // The whole of it: submit, wait, read.
    let hello = Submission::new("python".parse()?)
        .source("print('Hello,', input())")
        .stdin("world");
    let result = client
        .submit_and_wait(&tenant, Lane::Interactive, None, &hello)
        .await?;
    let said = String::from_utf8_lossy(&result.runs[0].stdout.data);
    println!("{:?}: {}", result.verdict, said.trim_end());

    // With tests, watched while it runs. Watching begins before the submission is published, so nothing is missed.
    let mut sum = Submission::new("python".parse()?)
        .source("print(sum(map(int, input().split())))")
        .test(Test::new("1 2\n").named("small").expecting("3\n"))
        .test(Test::new("5 5\n").named("wrong").expecting("11\n"))
        .label("course", "cs101");
    sum.events = EventsWanted::Stages;
    // The id is the idempotency key: whoever publishes it again with the same content gets the same result.
    let id = SubmissionId::generate();
    let updates = client.watch(&tenant, &id).await?.into_stream();
    pin_mut!(updates);
    client
        .submit(&tenant, Lane::Batch, Some(id.clone()), &sum)
        .await?;
    while let Some(update) = updates.next().await {
        match update? {
            Update::Event(event) => println!("event: {}", event.happened.kind()),
            Update::Result(result) => {
                for run in &result.runs {
                    println!(
                        "{}: {:?}",
                        run.name.as_deref().unwrap_or("run"),
                        run.verdict
                    );
                }
            }
        }
    }

    // Later, and from anywhere: by id.
    let again = client.result(&tenant, &id).await?;
    println!("{id}: {:?}", again.and_then(|result| result.verdict));
    client.close().await;
    Ok(())
}
