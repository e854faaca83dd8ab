//! What is only NATS's to keep: no consumer, the stock layout, bounds, outages.

use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use envicutor::{
    blobs::{BlobError, NatsObjects, Put, Store},
    bus::{Bus, Role, objects::Bucket},
    submission::units::ByteSize,
};
use futures_util::TryStreamExt as _;
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, UpdateVersion, path::Path,
};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::{
    bed::{Bed, PART, bytes, other_tenant, put, quick, read, tenant},
    fleet::nats::TestNats,
};

async fn info(bus: &Bus, stream: &str) -> Value {
    let call = format!("STREAM.INFO.{stream}");
    bus.api(&call, &Value::Null).await.expect("asked")
}

async fn stock(bus: &Bus) -> jetstream::object_store::ObjectStore {
    let context = jetstream::new(bus.client.clone());
    context
        .get_object_store("blobs-default")
        .await
        .expect("a bucket")
}

#[tokio::test]
async fn many_small_reads_leave_no_consumer() {
    let nats = TestNats::start_with(|config| config.blobs = quick()).await;
    let (service, operator) = (
        nats.bus(Role::Service).await,
        nats.bus(Role::Operator).await,
    );
    let store = Store::open(&nats.config(Role::Service), Some(&service)).expect("opened");
    let blobs = store.of(&tenant());
    let (data, blob) = bytes(16 << 10, 1);
    put(&blobs, &blob, &data).await.expect("stored");
    for _ in 0..300 {
        assert!(read(&blobs, &blob).await.expect("read") == data);
    }
    let (data, blob) = bytes(3 << 20, 2);
    put(&blobs, &blob, &data).await.expect("stored");
    for _ in 0..30 {
        assert!(read(&blobs, &blob).await.expect("read") == data);
    }
    let info = info(&operator, "OBJ_blobs-default").await;
    assert_eq!(info["state"]["consumer_count"], 0);
}

/// With the rights that it has: of its tenants' blobs it reads and writes all, and sees no stream that is missing made.
#[tokio::test]
async fn a_service_puts_and_gets_and_nothing_is_created_on_read() {
    let nats = TestNats::start_with(|config| config.blobs = quick()).await;
    let (service, operator) = (
        nats.bus(Role::Service).await,
        nats.bus(Role::Operator).await,
    );
    let mut config = nats.config(Role::Service);
    config.blobs.outage_timeout_us = envicutor::submission::units::Micros(200_000);
    let store = Store::open(&config, Some(&service)).expect("opened");
    let blobs = store.of(&tenant());
    let (data, blob) = bytes(2 * PART, 1);
    assert_eq!(
        put(&blobs, &blob, &data).await.expect("stored"),
        Put::Uploaded
    );
    assert!(read(&blobs, &blob).await.expect("read") == data);
    // A tenant that nobody provisioned, asked for by whoever may make everything.
    let store = Store::open(&config, Some(&operator)).expect("opened");
    let nobody = store.of(&other_tenant());
    let within = Duration::from_mins(1);
    let asked = tokio::time::timeout(within, read(&nobody, &blob));
    let error = asked.await.expect("in time").expect_err("no bucket");
    assert!(error.is_outage(), "{error}");
    let streams: Value = operator
        .api("STREAM.NAMES", &Value::Null)
        .await
        .expect("asked");
    let names = streams["streams"].as_array().expect("names");
    assert!(!names.contains(&"OBJ_blobs-other".into()), "{names:?}");
}

#[tokio::test]
async fn the_stock_client_reads_what_we_wrote_and_we_what_it_wrote() {
    let nats = TestNats::start_with(|config| config.blobs = quick()).await;
    let operator = nats.bus(Role::Operator).await;
    let stock = stock(&operator).await;
    let objects = NatsObjects::new(Bucket::of(&operator, &tenant()));
    for size in [0, 1_000, 3_000_000] {
        let (data, _) = bytes(size, 1);
        let name = format!("ours/{size}");
        let location = Path::from(name.clone());
        objects
            .put(&location, data.clone().into())
            .await
            .expect("stored");
        let mut object = stock.get(&name).await.expect("there");
        let mut got = Vec::new();
        // It checks the digest as it reads.
        tokio::io::copy(&mut object, &mut got).await.expect("read");
        assert!(got == data, "{size}");
        assert_eq!(object.info().size, size);

        let name = format!("theirs/{size}");
        stock
            .put(name.as_str(), &mut &data[..])
            .await
            .expect("stored");
        let location = Path::from(name);
        let got = objects.get(&location).await.expect("there");
        assert!(got.bytes().await.expect("read") == data, "{size}");
        if size > 1 {
            let (start, end) = (size / 2, size - 1);
            let part = objects.get_range(&location, start as u64..end as u64);
            assert!(part.await.expect("read") == data[start..end], "{size}");
        }
    }
    let listed: Vec<_> = objects
        .list(Some(&Path::from("theirs")))
        .try_collect()
        .await
        .expect("listed");
    assert_eq!(listed.len(), 3);
    let top = objects.list_with_delimiter(None).await.expect("listed");
    let folders: Vec<_> = top.common_prefixes.iter().map(Path::to_string).collect();
    assert_eq!(folders, ["ours", "theirs"]);
}

#[tokio::test]
async fn of_two_writers_that_saw_the_same_one_loses() {
    let nats = TestNats::start_with(|config| config.blobs = quick()).await;
    let operator = nats.bus(Role::Operator).await;
    let objects = NatsObjects::new(Bucket::of(&operator, &tenant()));
    let name = Path::from("a/b");
    let write = |text: &'static str, mode: PutMode| {
        objects.put_opts(&name, PutPayload::from_static(text.as_bytes()), mode.into())
    };
    let first = write("1", PutMode::Create).await.expect("stored");
    let error = write("2", PutMode::Create).await.expect_err("there");
    assert!(
        matches!(error, object_store::Error::AlreadyExists { .. }),
        "{error}"
    );
    let seen = UpdateVersion {
        e_tag: first.e_tag,
        version: None,
    };
    let second = write("3", PutMode::Update(seen.clone())).await;
    second.expect("it was as it was seen");
    let error = write("4", PutMode::Update(seen))
        .await
        .expect_err("it is not");
    assert!(
        matches!(error, object_store::Error::Precondition { .. }),
        "{error}"
    );
    let got = objects.get(&name).await.expect("there").bytes().await;
    assert_eq!(got.expect("read"), Bytes::from_static(b"3"));
    objects.delete(&name).await.expect("deleted");
    write("5", PutMode::Create).await.expect("stored anew");
}

#[tokio::test]
async fn a_full_bucket_is_told_apart_and_leaves_nothing_visible() {
    let nats = TestNats::start_with(|config| {
        config.blobs = quick();
        config.blobs.tenant_bytes = ByteSize(2 << 20);
    });
    let bed = Bed::over_nats(nats.await).await;
    let blobs = bed.blobs();
    for size in [PART - 1, 2 * PART] {
        let (data, blob) = bytes(size, 1);
        let error = put(&blobs, &blob, &data).await.expect_err("no room");
        assert!(matches!(error, BlobError::Full { .. }), "{error}");
        assert!(error.to_string().contains("blobs.tenant_bytes"), "{error}");
        assert!(!blobs.claim(&blob).await.expect("asked"));
    }
    // What had been sent is out of the way.
    let (data, blob) = bytes(1 << 20, 2);
    put(&blobs, &blob, &data)
        .await
        .expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_and_a_download_go_on_after_the_server_was_away() {
    let mut nats = TestNats::start_with(|config| {
        config.blobs = quick();
        config.blobs.outage_timeout_us = envicutor::submission::units::Micros(60_000_000);
        config.nats.outage_timeout_us = envicutor::submission::units::Micros(60_000_000);
    })
    .await;
    let worker = nats.bus(Role::Worker).await;
    let store = Store::open(&nats.config(Role::Worker), Some(&worker)).expect("opened");
    let blobs = store.of(&tenant());
    let (data, blob) = bytes(4 * PART, 1);
    let (mut pipe, source) = tokio::io::duplex(1 << 20);
    let uploading = tokio::spawn({
        let (blobs, blob) = (blobs.clone(), blob.clone());
        async move { blobs.put(&blob, source, &|_| ()).await }
    });
    pipe.write_all(&data[..2 * PART + 100]).await.expect("read");
    nats.pause().await;
    let rest = tokio::spawn({
        let data = data.clone();
        async move {
            pipe.write_all(&data[2 * PART + 100..]).await.expect("read");
        }
    });
    nats.resume().await;
    let done = uploading.await.expect("no panic").expect("stored");
    assert_eq!(done, Put::Uploaded);
    rest.await.expect("all of it was read");
    let stock = stock(&nats.bus(Role::Operator).await).await;
    let name = format!("sha256/{}", blob.digest.hex());
    let mut got = Vec::new();
    let mut object = stock.get(&name).await.expect("there");
    tokio::io::copy(&mut object, &mut got)
        .await
        .expect("in its order");
    assert!(got == data);

    let mut chunks = blobs.get(&blob).await.expect("begun");
    let mut got = chunks
        .try_next()
        .await
        .expect("read")
        .expect("a chunk")
        .to_vec();
    nats.pause().await;
    let reading = tokio::spawn(async move {
        while let Some(chunk) = chunks.try_next().await? {
            got.extend_from_slice(&chunk);
        }
        Ok::<_, BlobError>(got)
    });
    nats.resume().await;
    let got = reading.await.expect("no panic").expect("read on");
    assert!(got == data);
}

/// A chunk is lost behind everybody's back.
#[tokio::test]
async fn a_blob_with_a_hole_is_corrupt() {
    let bed = Bed::in_nats().await;
    let blobs = bed.blobs();
    let (data, blob) = bytes(2 * PART, 1);
    put(&blobs, &blob, &data).await.expect("stored");
    let nats = bed.nats();
    let operator = nats.bus(Role::Operator).await;
    let state = info(&operator, "OBJ_blobs-default").await;
    let first = state["state"]["first_seq"].as_u64().expect("a number");
    let hole = serde_json::json!({ "seq": first + 3 });
    operator
        .api::<Value>("STREAM.MSG.DELETE.OBJ_blobs-default", &hole)
        .await
        .expect("deleted");
    let error = read(&blobs, &blob).await.expect_err("a hole");
    assert!(matches!(error, BlobError::Corrupt { .. }), "{error}");
}
