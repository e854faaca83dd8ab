//! A queue that is full is an error that its publisher understands, whoever it is, and that passes when there is room again.

mod fleet;

use std::time::Duration;

use envicutor::{
    Client,
    bus::{Role, publish::PublishError, queue::Puller},
    client::ClientError,
    submission::{
        message::Submission,
        names::{Lane, SubmissionId},
        units::ByteSize,
    },
};
use fleet::{
    connect,
    messages::{self, DEADLINE, id, tenant},
    nats::TestNats,
    publish,
    site::{Site, results},
};
use serde_json::Value;

fn submission() -> Submission {
    Submission::new("python".parse().expect("valid")).source("print(1)")
}

async fn submit(client: &Client, name: &str) -> Result<(), ClientError> {
    client
        .submit(&tenant(), Lane::Batch, Some(id(name)), &submission())
        .await
        .map(drop)
}

#[tokio::test]
async fn a_publisher_without_our_library_is_told_in_the_servers_words() {
    let nats = TestNats::start_with(|config| config.nats.queue_messages = 2).await;
    let service = connect(&nats.url(Role::Service)).await;
    for name in ["a1", "a2"] {
        publish(&service, "batch", name, "{}")
            .await
            .expect("stored");
    }
    let told = async |name: &str| {
        let refusal = publish(&service, "batch", name, "{}").await;
        let refusal = refusal.expect_err("refused");
        serde_json::from_str::<Value>(&refusal).expect("JSON")
    };
    let full = told("a3").await;
    assert_eq!(
        (&full["err_code"], &full["description"]),
        (&10077.into(), &"maximum messages exceeded".into()),
        "{full}"
    );
    let queued = told("a1").await;
    assert_eq!(
        (&queued["err_code"], &queued["description"]),
        (
            &10077.into(),
            &"maximum messages per subject exceeded".into()
        ),
        "{queued}"
    );

    let nats = TestNats::start_with(|config| config.nats.queue_bytes = ByteSize(4 << 10)).await;
    let service = connect(&nats.url(Role::Service)).await;
    let refusal = publish(&service, "batch", "a1", "x".repeat(8 << 10)).await;
    let full: Value = serde_json::from_str(&refusal.expect_err("refused")).expect("JSON");
    assert_eq!(
        (&full["err_code"], &full["description"]),
        (&10077.into(), &"maximum bytes exceeded".into()),
        "{full}"
    );
}

#[tokio::test]
async fn the_client_backs_off_until_there_is_room() {
    let nats = TestNats::start_with(|config| {
        config.nats.queue_messages = 1;
        config.client.publish_tries = 8;
    })
    .await;
    let client = Client::connect_with(&nats.config(Role::Service))
        .await
        .expect("connected");
    submit(&client, "first").await.expect("stored");
    let worker = nats.bus(Role::Worker).await;
    let mut puller = Puller::new(&worker).await.expect("a puller");
    let delivery = messages::pull(&mut puller, Lane::Batch).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { submit(&client, "second").await }
    });
    // In the worker's hands it is in the queue still.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    delivery.ack().await.expect("acknowledged");
    let submitted = tokio::time::timeout(DEADLINE, waiting).await;
    let submitted = submitted.expect("in time").expect("no panic");
    submitted.expect("stored at last");
    let second = messages::pull(&mut puller, Lane::Batch).await;
    assert_eq!(second.address.raw_id, "second");
}

#[tokio::test]
async fn a_client_that_gives_up_says_how_long_to_wait() {
    let nats = TestNats::start_with(|config| {
        config.nats.queue_messages = 1;
        config.client.publish_tries = 1;
    })
    .await;
    let client = Client::connect_with(&nats.config(Role::Service))
        .await
        .expect("connected");
    submit(&client, "first").await.expect("stored");
    let refused = submit(&client, "second").await.expect_err("refused");
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(5)));
    assert!(
        matches!(
            &refused,
            ClientError::Publish(PublishError::QueueFull { .. })
        ),
        "{refused:?}"
    );
    let still = submit(&client, "first").await.expect_err("refused");
    assert_eq!(still.retry_after(), None, "{still}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_it_and_exits_with_3() {
    let site = Site::start_with(|config| config.nats.queue_messages = 1).await;
    let client = site.service().await;
    let _heard = results(&client).await;
    publish(&client, "batch", "first", "{}")
        .await
        .expect("stored");
    let file = tempfile::Builder::new().suffix(".py").tempfile();
    let file = file.expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    let command = [
        "submit",
        path,
        "--runtime",
        "python",
        "--id",
        SubmissionId::generate().as_str(),
    ]
    .map(str::to_owned);
    let config = site.write_config("[client]\npublish_tries = 2\n");
    let mut command: Vec<&str> = command.iter().map(String::as_str).collect();
    command.extend(["--config", &config]);
    let told = site.cli_as(Role::Service, &command).await;
    assert_eq!(told.status.code(), Some(3), "{told:?}");
    let said = String::from_utf8_lossy(&told.stderr);
    assert!(
        said.contains("the queue of default is full (maximum messages exceeded)")
            && said.contains("Try again in 5 s"),
        "{said}"
    );
    assert!(told.stdout.is_empty(), "{told:?}");
}
