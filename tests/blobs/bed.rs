//! A store of each kind, with the way in behind its back that a test needs to damage what is there.

use std::sync::Arc;

use bytes::Bytes;
use envicutor::{
    blobs::{Blobs, NatsObjects, Store},
    bus::{Bus, Role, objects::Bucket},
    config,
    submission::{
        content::Blob,
        names::{Digest, Tenant},
        units::{ByteSize, Micros},
    },
};
use futures_util::TryStreamExt as _;
use object_store::{
    ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, memory::InMemory, path::Path,
};

use crate::{
    fleet::nats::TestNats,
    server::{PREFIX, TestS3},
};

/// The bytes of a part: the least that S3 takes.
pub const PART: usize = 5 << 20;

/// A store.
pub struct Bed {
    pub store: Store,
    config: config::Blobs,
    behind: Behind,
}

/// What stands behind it.
enum Behind {
    /// Objects below the tenant's name, and what keeps them there.
    Objects(
        Arc<dyn ObjectStore>,
        #[expect(dead_code, reason = "it is removed with the bed")] Option<tempfile::TempDir>,
        Option<TestS3>,
    ),
    /// A bucket for each tenant.
    Nats(Box<TestNats>, Bus),
}

pub fn tenant() -> Tenant {
    Tenant::default_tenant()
}

pub fn other_tenant() -> Tenant {
    "other".parse().expect("valid")
}

/// The configuration of a store: everything is old at once, and nothing is waited for long.
pub fn quick() -> config::Blobs {
    config::Blobs {
        part_bytes: ByteSize(PART as u64),
        grace_us: Micros(0),
        outage_timeout_us: Micros(5_000_000),
        ..config::Blobs::default()
    }
}

impl Bed {
    #[allow(
        clippy::unused_async,
        reason = "as the beds of the other stores are made"
    )]
    pub async fn memory() -> Self {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        Self {
            store: Store::over(Arc::clone(&objects), Path::default(), &quick()),
            config: quick(),
            behind: Behind::Objects(objects, None, None),
        }
    }

    #[allow(
        clippy::unused_async,
        reason = "as the beds of the other stores are made"
    )]
    pub async fn file() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = config::Config {
            blobs: quick(),
            ..config::Config::default()
        };
        config.blobs.url = format!("file://{}", dir.path().display());
        let store = Store::open(&config, None).expect("opened");
        let behind = LocalFileSystem::new_with_prefix(dir.path()).expect("there");
        Self {
            store,
            config: config.blobs,
            behind: Behind::Objects(Arc::new(behind), Some(dir), None),
        }
    }

    pub async fn over_s3() -> Self {
        let s3 = TestS3::start().await;
        let config = config::Config {
            blobs: s3.config(&quick()),
            ..config::Config::default()
        };
        let store = Store::open(&config, None).expect("opened");
        let behind = s3.objects();
        Self {
            store,
            config: config.blobs,
            behind: Behind::Objects(behind, None, Some(s3)),
        }
    }

    pub async fn in_nats() -> Self {
        let nats = TestNats::start_with(|config| {
            config.nats.tenants.push(other_tenant());
            config.blobs = quick();
        });
        Self::over_nats(nats.await).await
    }

    pub async fn over_nats(nats: TestNats) -> Self {
        // What a service may do is enough for a client's part; removal is the worker's.
        let bus = nats.bus(Role::Worker).await;
        let config = nats.config(Role::Worker);
        let store = Store::open(&config, Some(&bus)).expect("opened");
        Self {
            store,
            config: config.blobs,
            behind: Behind::Nats(Box::new(nats), bus),
        }
    }

    /// The server, where it is one of NATS.
    pub fn nats(&self) -> &TestNats {
        match &self.behind {
            Behind::Nats(nats, _) => nats,
            Behind::Objects(..) => panic!("no NATS"),
        }
    }

    /// The default tenant's blobs.
    pub fn blobs(&self) -> Blobs {
        self.store.of(&tenant())
    }

    /// The same store for whoever keeps what was claimed for an hour.
    pub fn patient(&self) -> Blobs {
        let config = config::Config {
            blobs: config::Blobs {
                grace_us: Micros(3_600_000_000),
                ..self.config.clone()
            },
            ..config::Config::default()
        };
        let store = match &self.behind {
            Behind::Objects(objects, ..) => {
                Store::over(Arc::clone(objects), self.root(), &config.blobs)
            }
            Behind::Nats(_, bus) => Store::open(&config, Some(bus)).expect("opened"),
        };
        store.of(&tenant())
    }

    fn root(&self) -> Path {
        match &self.behind {
            Behind::Objects(_, _, Some(_)) => Path::from(PREFIX),
            _ => Path::default(),
        }
    }

    /// The objects behind the tenant's blobs, and where they are.
    pub fn objects(&self, tenant: &Tenant) -> (Arc<dyn ObjectStore>, Path) {
        match &self.behind {
            Behind::Objects(objects, ..) => {
                (Arc::clone(objects), self.root().join(tenant.as_str()))
            }
            Behind::Nats(_, bus) => {
                let objects = NatsObjects::new(Bucket::of(bus, tenant));
                (Arc::new(objects), Path::default())
            }
        }
    }

    /// Where a blob's only upload is.
    pub async fn upload(&self, blob: &Blob) -> (Arc<dyn ObjectStore>, Path) {
        let (objects, root) = self.objects(&tenant());
        let all: Vec<_> = objects
            .list(Some(&root))
            .try_collect()
            .await
            .expect("listed");
        let mut of_it = all
            .into_iter()
            .filter(|meta| meta.location.as_ref().contains(blob.digest.hex()));
        let found = of_it.next().expect("an upload");
        assert!(of_it.next().is_none(), "more than one upload");
        (objects, found.location)
    }

    /// Puts other bytes in the place of a blob's.
    pub async fn damage(&self, blob: &Blob, change: impl FnOnce(&mut Vec<u8>)) {
        let (objects, location) = self.upload(blob).await;
        let there = objects.get(&location).await.expect("there");
        let mut bytes = there.bytes().await.expect("read").to_vec();
        change(&mut bytes);
        objects
            .put(&location, Bytes::from(bytes).into())
            .await
            .expect("written");
    }
}

/// Bytes that are like no others, and their blob.
pub fn bytes(size: usize, seed: u8) -> (Bytes, Blob) {
    let mut state = u32::from(seed) + 1;
    let next = |_| {
        // An LCG's upper bits: no chunk is like another one.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let bytes: Bytes = (0..size).map(next).collect::<Vec<u8>>().into();
    let blob = blob_of(&bytes);
    (bytes, blob)
}

pub fn blob_of(bytes: &[u8]) -> Blob {
    Blob {
        digest: Digest::of(bytes),
        size_bytes: ByteSize(bytes.len() as u64),
    }
}

/// All of a blob, as far as it came, and how it ended.
pub async fn read(blobs: &Blobs, blob: &Blob) -> Result<Vec<u8>, envicutor::blobs::BlobError> {
    let mut chunks = blobs.get(blob).await?;
    let mut all = Vec::new();
    while let Some(chunk) = chunks.try_next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Puts bytes.
pub async fn put(
    blobs: &Blobs,
    blob: &Blob,
    bytes: &[u8],
) -> Result<envicutor::blobs::Put, envicutor::blobs::BlobError> {
    blobs.put(blob, bytes, &|_| ()).await
}
