//! Publishes a submission, shows what happens, and prints its result: `NATS_URL=… cargo run --example publish`. The README
//! shows it.

use envicutor::{
    Client,
    client::Update,
    submission::{
        message::{Submission, Test},
        names::{Lane, SubmissionId, Tenant},
    },
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(&std::env::var("NATS_URL")?).await?;
    let (tenant, id) = (Tenant::default_tenant(), SubmissionId::generate());
    let submission = Submission::new("python".parse()?)
        .source("print(sum(map(int, input().split())))")
        .test(Test::new("1 2").expecting("3"))
        .test(Test::new("20 22").expecting("42"));

    // Watched before it is published, so that nothing is missed. Where only the result counts: `submit_and_wait`.
    let mut watch = client.watch(&tenant, &id).await?;
    client
        .submit(&tenant, Lane::Interactive, Some(id), &submission)
        .await?;
    while let Some(update) = watch.next().await {
        match update? {
            Update::Event(event) => println!("{:?}", event.happened),
            Update::Result(result) => {
                println!("{:?} {:?}", result.outcome, result.verdict);
                for run in result.runs {
                    let output = String::from_utf8_lossy(&run.stdout.data).into_owned();
                    println!("{:?} {} {output:?}", run.verdict, run.wall_us);
                }
            }
        }
    }
    client.close().await;
    Ok(())
}
