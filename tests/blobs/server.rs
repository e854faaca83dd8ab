//! A real S3 server over HTTP, `s3s-fs`, with one bucket in a directory of its own.

#![allow(dead_code, reason = "the tests and the bench use their own parts")]

use std::sync::Arc;

use envicutor::config;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use object_store::{ObjectStore, aws::AmazonS3Builder};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tokio::{net::TcpListener, task::JoinHandle};

const BUCKET: &str = "bucket";
/// Where in the bucket the fleet's blobs are.
pub const PREFIX: &str = "fleet/one";
const KEY: &str = "a-key";
const SECRET: &str = "a-secret";

/// A running server.
pub struct TestS3 {
    address: String,
    serving: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl TestS3 {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join(BUCKET)).expect("a bucket");
        let files = s3s_fs::FileSystem::new(dir.path()).expect("a file system");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound").to_string();
        let serving = tokio::spawn(async move {
            let http = auto::Builder::new(TokioExecutor::new());
            while let Ok((socket, _)) = listener.accept().await {
                let connection = http.serve_connection(TokioIo::new(socket), service.clone());
                tokio::spawn(connection.into_owned());
            }
        });
        Self {
            address,
            serving,
            _dir: dir,
        }
    }

    /// Where it listens, `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What a fleet is configured with, and `bounds`.
    pub fn config(&self, bounds: &config::Blobs) -> config::Blobs {
        config_of(&self.address, bounds)
    }

    /// The objects of the bucket.
    pub fn objects(&self) -> Arc<dyn ObjectStore> {
        let objects = AmazonS3Builder::new()
            .with_endpoint(format!("http://{}", self.address))
            .with_allow_http(true)
            .with_bucket_name(BUCKET)
            .with_region("here")
            .with_access_key_id(KEY)
            .with_secret_access_key(SECRET)
            .build();
        Arc::new(objects.expect("a client"))
    }
}

impl Drop for TestS3 {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// What a fleet is configured with whose store is at an address.
pub fn config_of(address: &str, bounds: &config::Blobs) -> config::Blobs {
    let option = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    config::Blobs {
        url: format!("s3://{BUCKET}/{PREFIX}"),
        options: [
            option("aws_endpoint", &format!("http://{address}")),
            option("allow_http", "true"),
            option("aws_region", "here"),
            option("aws_access_key_id", KEY),
            option("aws_secret_access_key", SECRET),
        ]
        .into(),
        ..bounds.clone()
    }
}
