//! What is only a cloud store's to keep.

use std::time::Duration;

use envicutor::{blobs::Store, config, submission::units::Micros};
use tokio::net::TcpListener;

use crate::{
    bed::{bytes, put, quick, read, tenant},
    server::config_of,
};

#[tokio::test]
async fn a_server_that_never_answers_is_told_within_the_configured_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("bound").to_string();
    let mut config = config::Config {
        blobs: config_of(&address, &quick()),
        ..config::Config::default()
    };
    config.blobs.call_timeout_us = Micros(200_000);
    config.blobs.outage_timeout_us = Micros(500_000);
    let store = Store::open(&config, None).expect("opened");
    let (data, blob) = bytes(10, 1);
    let blobs = store.of(&tenant());
    let put = tokio::time::timeout(Duration::from_mins(1), put(&blobs, &blob, &data));
    let error = put.await.expect("in time").expect_err("nobody answers");
    assert!(error.is_outage(), "{error}");
    let got = tokio::time::timeout(Duration::from_mins(1), read(&blobs, &blob));
    let error = got.await.expect("in time").expect_err("nobody answers");
    assert!(error.is_outage(), "{error}");
}
