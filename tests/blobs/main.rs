//! Blobs: what was put is got back, whole and checked, from every kind of store: in memory, in a directory, in a real nats-server,
//! from a real S3 server over HTTP. One list of promises, each kept by all of them; then what only NATS has to keep, and the
//! collector.

#[path = "../fleet/mod.rs"]
mod fleet;

mod bed;
mod cluster;
mod collector;
mod commands;
mod nats;
mod promises;
mod s3;
mod server;

/// Each promise as a test over each store.
macro_rules! over_every_store {
    ($($promise:ident),+ $(,)?) => {
        over_every_store!(@ memory, $($promise),+);
        over_every_store!(@ file, $($promise),+);
        over_every_store!(@ in_nats, $($promise),+);
        over_every_store!(@ over_s3, $($promise),+);
    };
    (@ $store:ident, $($promise:ident),+) => {
        mod $store {
            use crate::{bed::Bed, promises};
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    promises::$promise(&Bed::$store().await).await;
                }
            )+
        }
    };
}

over_every_store!(
    what_was_put_is_got_back_whatever_its_size,
    what_is_there_is_not_sent_again,
    other_bytes_than_the_named_ones_are_refused_and_never_visible,
    corrupt_bytes_are_an_error_before_the_end_is_reached,
    a_truncated_blob_is_an_error_and_is_repaired_by_an_upload,
    what_was_never_put_is_missing,
    an_upload_that_breaks_off_leaves_nothing_visible,
    two_uploads_of_one_blob_at_once_both_succeed,
    a_digest_is_no_key_to_another_tenants_blob,
    any_range_of_a_blob_can_be_read,
    an_entry_is_read_as_it_was_written_last,
    a_claim_between_look_and_removal_wins,
    what_nobody_claims_is_removed,
    the_list_shows_every_blob_once,
    progress_ends_at_the_size,
);
