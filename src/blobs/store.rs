//! The fleet's object store, as the configuration names it. Opening it asks nobody: what is away is told by the first call.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use object_store::{
    ObjectStore, ObjectStoreScheme, local::LocalFileSystem, memory::InMemory, path::Path,
};
use url::Url;

use super::{error::BlobError, nats::NatsObjects, shelf::Shelf, tenant::Blobs};
use crate::{
    bus::{Bus, objects::Bucket},
    config::{self, Config},
    submission::names::Tenant,
};

/// The most bytes of a part where a larger one gains nothing: NATS takes chunks, and a directory has no round trips.
const NEAR_PART: usize = 1 << 20;

/// What bounds a call to the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// The bytes of a part.
    pub(super) part: usize,
    /// The parts on their way at a time.
    pub(super) uploads: usize,
    /// How long a call may take.
    pub(super) call: Duration,
    /// How long to ask again.
    pub(super) outage: Duration,
    /// How long what nothing refers to is kept.
    pub(super) grace: Duration,
    /// How long a named entry stands that nobody uses.
    pub(super) cache_age: Duration,
}

impl Bounds {
    fn of(config: &config::Blobs) -> Self {
        Self {
            part: usize::try_from(config.part_bytes.0).unwrap_or(usize::MAX),
            uploads: config.uploads,
            call: config.call_timeout_us.duration(),
            outage: config.outage_timeout_us.duration(),
            grace: config.grace_us.duration(),
            cache_age: config.cache_age_us.duration(),
        }
    }
}

/// The fleet's store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    kind: Kind,
    bounds: Bounds,
}

/// Whose the bytes are.
#[derive(Debug, Clone)]
enum Kind {
    /// The fleet's NATS: a bucket for each tenant.
    Nats(Box<Bus>),
    /// Another store's, below a path.
    Other(Arc<dyn ObjectStore>, Path),
}

impl Store {
    /// The store that `config` names; `bus` is needed where that is the fleet's NATS.
    pub fn open(config: &Config, bus: Option<&Bus>) -> Result<Self, BlobError> {
        let blobs = &config.blobs;
        if blobs.is_nats() {
            if blobs.url != "nats://" {
                return Err(unusable("expected \"nats://\" for the fleet's own NATS"));
            }
            let bus = bus.ok_or_else(|| unusable("a connection to NATS is needed"))?;
            let mut bounds = Bounds::of(blobs);
            bounds.part = bounds.part.min(NEAR_PART);
            return Ok(Self {
                kind: Kind::Nats(Box::new(bus.clone())),
                bounds,
            });
        }
        let (store, root) = open(blobs)?;
        let mut opened = Self::over(store, root, blobs);
        if blobs.url.starts_with("file:") {
            opened.bounds.part = opened.bounds.part.min(NEAR_PART);
        }
        Ok(opened)
    }

    /// A store of another kind, below `root`; of the configuration only the bounds count.
    pub fn over(store: Arc<dyn ObjectStore>, root: Path, config: &config::Blobs) -> Self {
        Self {
            kind: Kind::Other(store, root),
            bounds: Bounds::of(config),
        }
    }

    /// The images of runtimes, which are no tenant's: no tenant's name holds a dot, and none leads here. Its blobs are collected by
    /// nobody.
    pub fn images(&self) -> Blobs {
        let shelf = match &self.kind {
            Kind::Nats(bus) => Shelf::nats(NatsObjects::new(Bucket::images(bus))),
            Kind::Other(store, path) => {
                Shelf::other(Arc::clone(store), path.clone().join("runtimes.images"))
            }
        };
        Blobs::new(&Tenant::default_tenant(), shelf, self.bounds)
    }

    /// The blobs of `tenant`.
    pub fn of(&self, tenant: &Tenant) -> Blobs {
        let shelf = match &self.kind {
            Kind::Nats(bus) => Shelf::nats(NatsObjects::new(Bucket::of(bus, tenant))),
            Kind::Other(store, path) => {
                Shelf::other(Arc::clone(store), path.clone().join(tenant.as_str()))
            }
        };
        Blobs::new(tenant, shelf, self.bounds)
    }
}

/// What the variables of a cloud store begin with.
const CLOUD_VARIABLES: [&str; 3] = ["AWS_", "AZURE_", "GOOGLE_"];

/// The URLs with a host at which the store of `config` is, as far as it says: of the URL itself, and endpoints among its options and
/// in the environment. None for the fleet's NATS and a directory.
pub fn endpoints(config: &config::Blobs) -> Vec<String> {
    if config.is_nats() || config.url.starts_with("file:") {
        return Vec::new();
    }
    let environment = std::env::vars_os().filter_map(|(key, value)| {
        let (key, value) = (key.into_string().ok()?, value.into_string().ok()?);
        let is_of_cloud = CLOUD_VARIABLES.iter().any(|it| key.starts_with(it));
        is_of_cloud.then(|| (key.to_ascii_lowercase(), value))
    });
    let options = config.options.clone().into_iter().chain(environment);
    let told = options.filter(|(key, value)| {
        (key.contains("endpoint") || key.contains("base_url")) && value.contains("://")
    });
    let own = Url::parse(&config.url).ok();
    // `s3://bucket` names no host.
    let own = own.filter(|url| url.host_str().is_some_and(|host| host.contains(['.', ':'])));
    let own = own.map(|_| config.url.clone());
    own.into_iter()
        .chain(told.map(|(_, value)| value))
        .collect()
}

fn unusable(problem: impl Into<String>) -> BlobError {
    BlobError::Config {
        key: "blobs.url",
        problem: problem.into(),
    }
}

/// The store of a URL, and the path within it.
fn open(config: &config::Blobs) -> Result<(Arc<dyn ObjectStore>, Path), BlobError> {
    let url = Url::parse(&config.url).map_err(|error| unusable(error.to_string()))?;
    let (scheme, path) =
        ObjectStoreScheme::parse(&url).map_err(|error| unusable(error.to_string()))?;
    match scheme {
        ObjectStoreScheme::Memory => Ok((Arc::new(InMemory::new()), path)),
        ObjectStoreScheme::Local => Ok((Arc::new(directory(&url)?), Path::default())),
        scheme => {
            let options = options(&scheme, config)?;
            let (store, path) = object_store::parse_url_opts(&url, options)
                .map_err(|error| unusable(error.to_string()))?;
            Ok((Arc::from(store), path))
        }
    }
}

/// What was stored is on the disk when it is said to be: a result may refer to it.
fn directory(url: &Url) -> Result<LocalFileSystem, BlobError> {
    let dir = url
        .to_file_path()
        .map_err(|()| unusable("expected file:///and/a/path"))?;
    std::fs::create_dir_all(&dir)
        .map_err(|error| unusable(format!("{}: {error}", dir.display())))?;
    let store =
        LocalFileSystem::new_with_prefix(&dir).map_err(|error| unusable(error.to_string()))?;
    Ok(store.with_fsync(true).with_automatic_cleanup(true))
}

/// A store that is reached by HTTP: whether it knows an option, and what its variables begin with.
#[cfg(feature = "cloud")]
type Cloud = (fn(&str) -> bool, &'static [&'static str]);

#[cfg(feature = "cloud")]
fn cloud(scheme: &ObjectStoreScheme) -> Option<Cloud> {
    match scheme {
        #[cfg(feature = "s3")]
        ObjectStoreScheme::AmazonS3 => Some((
            |key| key.parse::<object_store::aws::AmazonS3ConfigKey>().is_ok(),
            &["AWS_"],
        )),
        #[cfg(feature = "gcs")]
        ObjectStoreScheme::GoogleCloudStorage => Some((
            |key| key.parse::<object_store::gcp::GoogleConfigKey>().is_ok(),
            &["GOOGLE_"],
        )),
        #[cfg(feature = "azure")]
        ObjectStoreScheme::MicrosoftAzure => Some((
            |key| key.parse::<object_store::azure::AzureConfigKey>().is_ok(),
            &["AZURE_"],
        )),
        _ => None,
    }
}

/// The options of a cloud store: ours, the environment's, the configuration's, the later ones first.
#[cfg(feature = "cloud")]
fn options(
    scheme: &ObjectStoreScheme,
    config: &config::Blobs,
) -> Result<BTreeMap<String, String>, BlobError> {
    let Some((knows, prefixes)) = cloud(scheme) else {
        return Err(not_built_in(config));
    };
    if let Some(key) = config.options.keys().find(|key| !knows(key)) {
        return Err(BlobError::Config {
            key: "blobs.options",
            problem: format!("{key:?} is no option of {}", config.url),
        });
    }
    // The connection to NATS has chosen the same; where nobody has yet, we do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A transfer may take long: what bounds it is that it may not stand still.
    let mut options = BTreeMap::from([("timeout".to_owned(), "24 hours".to_owned())]);
    let environment = std::env::vars_os().filter_map(|(key, value)| {
        let (key, value) = (key.into_string().ok()?, value.into_string().ok()?);
        let is_ours = prefixes.iter().any(|prefix| key.starts_with(prefix));
        is_ours.then(|| (key.to_ascii_lowercase(), value))
    });
    options.extend(environment);
    options.extend(config.options.clone());
    Ok(options)
}

#[cfg(not(feature = "cloud"))]
fn options(
    _: &ObjectStoreScheme,
    config: &config::Blobs,
) -> Result<BTreeMap<String, String>, BlobError> {
    Err(not_built_in(config))
}

fn not_built_in(config: &config::Blobs) -> BlobError {
    unusable(format!(
        "{:?} is of no store that this program was built with: expected nats://, file:///dir, or one of s3://, gs://, az:// with \
         the feature s3, gcs or azure",
        config.url
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(url: &str, options: &[(&str, &str)]) -> Result<Store, BlobError> {
        let mut config = Config::default();
        config.blobs.url = url.into();
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        config.blobs.options = options.iter().map(pair).collect();
        Store::open(&config, None)
    }

    #[test]
    fn a_url_that_is_no_store_is_refused_by_its_key() {
        for url in [
            "",
            "bucket",
            "ftp://host/dir",
            "http://host/dir",
            "nats://other",
        ] {
            let error = open(url, &[]).expect_err(url).to_string();
            assert!(error.contains("blobs.url"), "{url}: {error}");
        }
    }

    #[test]
    fn an_option_that_the_store_does_not_know_is_refused_by_name() {
        let error = open("s3://bucket", &[("aws_regoin", "x")]).expect_err("refused");
        assert!(error.to_string().contains("aws_regoin"), "{error}");
        open(
            "s3://bucket/prefix",
            &[("aws_region", "eu-1"), ("allow_http", "true")],
        )
        .expect("a store that nobody is asked for yet");
    }
}
