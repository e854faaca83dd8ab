//! An upload in parts. A bucket keeps the chunks of an object in the order in which they come, so the parts go one behind the other;
//! while one is stored, the next is read and hashed.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use object_store::{
    MultipartUpload, PutMode, PutPayload, PutResult, Result, UploadPart, path::Path,
};
use tokio::sync::watch;

use super::{NatsObjects, failed};
use crate::bus::{api::ApiError, objects::Upload};

/// An upload in parts.
#[derive(Debug)]
pub(super) struct Parts {
    objects: NatsObjects,
    location: Path,
    mode: PutMode,
    shared: Arc<Shared>,
    /// The number of the next part.
    next: u64,
}

#[derive(Debug)]
struct Shared {
    upload: tokio::sync::Mutex<Upload>,
    /// The part whose turn it is.
    turn: watch::Sender<u64>,
    /// Why a part is missing: nothing can follow it.
    broken: Mutex<Option<ApiError>>,
}

impl Parts {
    pub(super) fn new(objects: NatsObjects, location: Path, mode: PutMode, upload: Upload) -> Self {
        Self {
            objects,
            location,
            mode,
            shared: Arc::new(Shared {
                upload: tokio::sync::Mutex::new(upload),
                turn: watch::Sender::new(0),
                broken: Mutex::new(None),
            }),
            next: 0,
        }
    }
}

/// A part's turn ends when it is stored, or when it was given up: then no other part is taken.
struct Turn {
    shared: Arc<Shared>,
    number: u64,
    is_stored: bool,
}

impl Turn {
    /// The part is stored.
    fn end(&mut self) {
        self.is_stored = true;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_stored {
            self.shared.give_up(ApiError::Answer {
                subject: "an upload".to_owned(),
                message: "a part of it was given up".to_owned(),
            });
        }
        self.shared.turn.send_if_modified(|turn| {
            let next = self.number + 1;
            let is_later = next > *turn;
            *turn = next.max(*turn);
            is_later || !self.is_stored
        });
    }
}

impl Shared {
    /// Notes why a part is missing: the first reason counts.
    fn give_up(&self, error: ApiError) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get_or_insert(error);
    }

    fn check(&self) -> Result<()> {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.clone().map_or(Ok(()), |error| Err(failed(error)))
    }
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut turn = Turn {
            shared: Arc::clone(&self.shared),
            number: self.next,
            is_stored: false,
        };
        self.next += 1;
        Box::pin(async move {
            let turn = &mut turn;
            let shared = Arc::clone(&turn.shared);
            let mut told = shared.turn.subscribe();
            // The sender lives in `shared`, so that waiting cannot fail.
            let _ = told
                .wait_for(|now| *now >= turn.number || shared.check().is_err())
                .await;
            shared.check()?;
            let mut upload = shared.upload.lock().await;
            for data in data {
                if let Err(error) = upload.write(data).await {
                    shared.give_up(error.clone());
                    return Err(failed(error));
                }
            }
            turn.end();
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.shared.check()?;
        let upload = self.shared.upload.lock().await;
        self.objects
            .publish(&upload, &self.location, &self.mode)
            .await
    }

    async fn abort(&mut self) -> Result<()> {
        self.shared.give_up(ApiError::NotConnected);
        self.shared.turn.send_modify(|_| ());
        let upload = self.shared.upload.lock().await;
        let cleared = self.objects.bucket().clear(upload.nuid()).await;
        cleared.map_err(failed)
    }
}
