//! What the stores of blobs give beside their own clients, in the same run: 64 MiB put and got, and small blobs. `cargo bench --bench
//! blobs` prints rates, and ours over theirs as the median over the rounds; what is measured is the same bytes, by turns.
//!
//! Ours is what a service or a worker does: look whether it is there, hash, upload; and verify on the way out. Theirs is the stock
//! object store of async-nats, and `object_store`'s own client of a directory (with the sync that ours has) and of S3. The servers, a real
//! nats-server with the configuration of a fleet and `s3s-fs` over HTTP in this process, share the machine with both.

#[path = "../tests/fleet/mod.rs"]
mod fleet;
#[path = "../tests/blobs/server.rs"]
mod server;

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream;
use bytes::Bytes;
use envicutor::{
    blobs::{Blobs, Store},
    bus::Role,
    config,
    submission::{
        content::Blob,
        names::{Digest, Tenant},
        units::ByteSize,
    },
};
use fleet::nats::TestNats;
use futures_util::StreamExt as _;
use object_store::{
    ObjectStore, ObjectStoreExt as _, WriteMultipart, local::LocalFileSystem, path::Path,
};
use server::TestS3;

const LARGE: usize = 64 << 20;
const SMALL: usize = 16 << 10;
/// Reads of a small blob in a round: the stock client of NATS leaves a consumer for each, and fails at a thousand.
const READS: u32 = 100;
const ROUNDS: usize = 5;

/// The stock client of a store.
enum Stock {
    Nats(Box<jetstream::object_store::ObjectStore>),
    Objects(Arc<dyn ObjectStore>),
}

impl Stock {
    async fn put(&self, name: &str, data: &Bytes) {
        match self {
            Self::Nats(bucket) => {
                bucket.put(name, &mut &data[..]).await.expect("stored");
            }
            Self::Objects(objects) if data.len() > 5 << 20 => {
                let upload = objects.put_multipart(&Path::from(name)).await;
                let mut upload = WriteMultipart::new(upload.expect("begun"));
                for part in data.chunks(256 << 10) {
                    upload.wait_for_capacity(2).await.expect("sent");
                    upload.write(part);
                }
                upload.finish().await.expect("stored");
            }
            Self::Objects(objects) => {
                let path = Path::from(name);
                let put = objects.put(&path, data.clone().into());
                put.await.expect("stored");
            }
        }
    }

    async fn get(&self, name: &str) -> usize {
        match self {
            Self::Nats(bucket) => {
                let mut object = bucket.get(name).await.expect("there");
                let read = tokio::io::copy(&mut object, &mut tokio::io::sink()).await;
                usize::try_from(read.expect("read")).expect("it fits")
            }
            Self::Objects(objects) => {
                let got = objects.get(&Path::from(name)).await.expect("there");
                let mut bytes = got.into_stream();
                let mut length = 0;
                while let Some(chunk) = bytes.next().await {
                    length += chunk.expect("read").len();
                }
                length
            }
        }
    }
}

async fn get(blobs: &Blobs, blob: &Blob) -> usize {
    let mut chunks = blobs.get(blob).await.expect("there");
    let mut length = 0;
    while let Some(chunk) = chunks.next().await {
        length += chunk.expect("right").len();
    }
    length
}

/// Bytes that nobody has stored before.
fn fresh(size: usize) -> (Bytes, Blob) {
    use rand::{RngExt as _, SeedableRng as _};
    let mut random = rand::rngs::StdRng::seed_from_u64(rand::random());
    let mut data = vec![0_u8; size];
    random.fill(&mut data[..]);
    let data = Bytes::from(data);
    let blob = Blob {
        digest: Digest::of(&data),
        size_bytes: ByteSize(size as u64),
    };
    (data, blob)
}

async fn timed<T>(what: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (what.await, began.elapsed())
}

/// Ours and theirs, by rounds.
#[derive(Default)]
struct Series {
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

impl Series {
    fn show(&self, what: &str, unit: &str) {
        let ratios = self.ours.iter().zip(&self.theirs);
        let ratios: Vec<_> = ratios.map(|(ours, theirs)| ours / theirs).collect();
        let (least, most) = ratios
            .iter()
            .fold((f64::MAX, 0.0_f64), |(least, most), ratio| {
                (least.min(*ratio), most.max(*ratio))
            });
        println!(
            "{what:<28} ours {:>8.0} {unit}  theirs {:>8.0} {unit}  ratio {:.2} ({least:.2} to {most:.2})",
            median(&self.ours),
            median(&self.theirs),
            median(&ratios),
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[allow(clippy::cast_precision_loss, reason = "sizes here are far below 2^52")]
fn mebibytes(size: usize, time: Duration) -> f64 {
    size as f64 / f64::from(1 << 20) / time.as_secs_f64()
}

async fn measure(store: &str, blobs: &Blobs, stock: &Stock) {
    let (mut puts, mut gets) = (Series::default(), Series::default());
    for round in 0..ROUNDS {
        let (data, blob) = fresh(LARGE);
        let name = format!("stock/{round}");
        let ((), theirs) = timed(stock.put(&name, &data)).await;
        let (put, ours) = timed(blobs.put(&blob, &data[..], &|_| ())).await;
        put.expect("stored");
        puts.theirs.push(mebibytes(LARGE, theirs));
        puts.ours.push(mebibytes(LARGE, ours));
        let (length, theirs) = timed(stock.get(&name)).await;
        assert_eq!(length, LARGE);
        let (length, ours) = timed(get(blobs, &blob)).await;
        assert_eq!(length, LARGE);
        gets.theirs.push(mebibytes(LARGE, theirs));
        gets.ours.push(mebibytes(LARGE, ours));
    }
    puts.show(&format!("{store} put 64 MiB"), "MiB/s");
    gets.show(&format!("{store} get 64 MiB"), "MiB/s");

    let mut reads = Series::default();
    let (data, blob) = fresh(SMALL);
    stock.put("stock/small", &data).await;
    blobs.put(&blob, &data[..], &|_| ()).await.expect("stored");
    for _ in 0..ROUNDS {
        let ((), theirs) = timed(async {
            for _ in 0..READS {
                assert_eq!(stock.get("stock/small").await, SMALL);
            }
        })
        .await;
        let ((), ours) = timed(async {
            for _ in 0..READS {
                assert_eq!(get(blobs, &blob).await, SMALL);
            }
        })
        .await;
        reads.theirs.push(f64::from(READS) / theirs.as_secs_f64());
        reads.ours.push(f64::from(READS) / ours.as_secs_f64());
    }
    reads.show(&format!("{store} get 16 KiB"), "/s");
}

async fn nats() {
    let nats = TestNats::start().await;
    let bus = nats.bus(Role::Operator).await;
    let store = Store::open(&nats.config(Role::Operator), Some(&bus)).expect("opened");
    let context = jetstream::new(bus.client.clone());
    let stock = context.get_object_store("blobs-default").await;
    let stock = Stock::Nats(Box::new(stock.expect("a bucket")));
    measure("nats://", &store.of(&Tenant::default_tenant()), &stock).await;
}

async fn directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config::Config::default();
    config.blobs.url = format!("file://{}", dir.path().display());
    let store = Store::open(&config, None).expect("opened");
    let stock = LocalFileSystem::new_with_prefix(dir.path()).expect("there");
    let stock = Stock::Objects(Arc::new(stock.with_fsync(true)));
    measure("file://", &store.of(&Tenant::default_tenant()), &stock).await;
}

async fn s3() {
    let s3 = TestS3::start().await;
    let config = config::Config {
        blobs: s3.config(&config::Blobs::default()),
        ..config::Config::default()
    };
    let store = Store::open(&config, None).expect("opened");
    let stock = Stock::Objects(s3.objects());
    measure("s3://", &store.of(&Tenant::default_tenant()), &stock).await;
}

#[tokio::main]
async fn main() {
    Box::pin(nats()).await;
    Box::pin(directory()).await;
    Box::pin(s3()).await;
}
