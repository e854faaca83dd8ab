//! A submission that is over runs again, whatever came of it: from its dead letter where it failed, else from what HISTORY keeps.

use super::{
    OperationError, Operations,
    replay::{Occasion, Origin, Replayed, Terms, after, gone, still_queued},
    whereabouts::Whereabouts,
};
use crate::{
    bus::{
        api::{header, header_of},
        history::{History, Kept},
        publish::{PublishError, Republication, kept_headers},
        results::Standing,
    },
    submission::{
        names::{SubmissionId, Tenant},
        replay::Trail,
        result::Outcome,
    },
};

/// What the next generation is made from.
enum Source {
    /// The letter under this sequence.
    Letter(u64),
    /// What is kept of a submission that is over.
    Kept(Origin),
}

impl Operations {
    /// Has a submission run again that is over.
    pub async fn replay(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        terms: &Terms,
    ) -> Result<Replayed, OperationError> {
        let occasion = Occasion {
            terms,
            batch: None,
            is_rehearsal: false,
        };
        let mut patience = self.patience();
        let source = loop {
            match self.source(tenant, id).await {
                Ok(source) => break source,
                Err(error) => patience.spend_on(error).await?,
            }
        };
        let origin = match source {
            Source::Letter(sequence) => return self.replay_letter(sequence, occasion).await,
            Source::Kept(origin) => origin,
        };
        // Fixed before the first try: a second one must not make one generation more.
        let (again, next) = self.next(origin, occasion)?;
        loop {
            match self.publish_fixed(&again).await {
                Ok(()) => return Ok(Replayed::Replayed(next)),
                Err(error) => patience.spend_on(error).await?,
            }
        }
    }

    /// What a submission's next generation is made from. Nothing is changed.
    async fn source(&self, tenant: &Tenant, id: &SubmissionId) -> Result<Source, OperationError> {
        let standing = match self.whereabouts(tenant, id).await? {
            Whereabouts::Over(standing) => standing,
            Whereabouts::Queued { generation, .. } => {
                return Err(still_queued(tenant, id, generation));
            }
        };
        if let Some(sequence) = self.letter_of(tenant, id, standing.as_deref()).await? {
            return Ok(Source::Letter(sequence));
        }
        let kept = self.kept(tenant, id, standing.as_deref()).await?;
        let last = standing.map_or(0, |standing| standing.result.generation);
        let content_type = header_of(&kept.headers, header::CONTENT_TYPE);
        Ok(Source::Kept(Origin {
            tenant: tenant.clone(),
            id: id.clone(),
            lane: kept.lane,
            generation: after(kept.generation.max(last))?,
            content_type: content_type.map(str::to_owned),
            headers: kept_headers(&kept.headers),
            body: kept.body.to_vec(),
            letter: None,
        }))
    }

    /// The letter that a submission's replay begins with: that of its `failed` result, or the newest where no result stands.
    async fn letter_of(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        standing: Option<&Standing>,
    ) -> Result<Option<u64>, OperationError> {
        if let Some(standing) = standing {
            let result = &standing.result;
            if result.outcome != Outcome::Failed {
                return Ok(None);
            }
            let (generation, digest) = (result.generation, &result.submission_digest);
            let letters = self.letters();
            let letter = letters.find_content(tenant, id, generation, digest).await;
            return Ok(letter?);
        }
        let last = self.letters().last_sequence().await?;
        let mut walk = self.letters().walk(Some(tenant), Some(id), 1, last);
        let mut newest = None;
        while let Some(letter) = walk.next().await? {
            newest = Some(letter.sequence);
        }
        Ok(newest)
    }

    /// What HISTORY keeps of the generation whose result stands, or else of another one of this submission; where no result
    /// stands, of the last one under its id.
    async fn kept(
        &self,
        tenant: &Tenant,
        id: &SubmissionId,
        standing: Option<&Standing>,
    ) -> Result<Kept, OperationError> {
        let history = History::new(&self.bus);
        let result = standing.map(|standing| &standing.result);
        let is_its_own =
            |kept: &Kept| result.is_none_or(|result| kept.digest == result.submission_digest);
        let is_it = |kept: &Kept| {
            is_its_own(kept) && result.is_none_or(|result| kept.generation == result.generation)
        };
        if let Some(kept) = history.last(tenant, id, is_it).await? {
            return Ok(kept);
        }
        if let Some(kept) = history.last(tenant, id, is_its_own).await? {
            return Ok(kept);
        }
        let (tenant, id) = (tenant.clone(), id.clone());
        if result.is_none() {
            return Err(OperationError::Unknown { tenant, id });
        }
        let (age, bytes) = history.bounds().await?;
        Err(OperationError::NotKept {
            tenant,
            id,
            age,
            bytes,
        })
    }

    /// Publishes a generation that was fixed before. One that an earlier try stored is known by its trail, or has a result.
    async fn publish_fixed(&self, again: &Republication) -> Result<(), OperationError> {
        match self.bus.publish_again(again).await {
            Ok(true) => return Ok(()),
            Ok(false) | Err(PublishError::StillQueued { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let ours = again.headers.get(header::REPLAYS).map(String::as_str);
        let ours = Trail::of_header(ours);
        match self.whereabouts(&again.tenant, &again.id).await? {
            Whereabouts::Queued { trail, .. } if trail == ours => Ok(()),
            Whereabouts::Queued { generation, .. } => {
                Err(still_queued(&again.tenant, &again.id, generation))
            }
            Whereabouts::Over(Some(standing)) if standing.result.generation >= again.generation => {
                Ok(())
            }
            Whereabouts::Over(_) => Err(gone(again)),
        }
    }
}
