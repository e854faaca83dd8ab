//! What anybody may ask of the workers: the runtimes, the ceilings, to cancel a submission. Each question goes to one of them (a
//! queue group).
//!
//! They come over a connection of their own ([`Fleet::ears`]), since a question's headers can break the one that they reach.

use async_nats::{HeaderMap, Message, SubscribeError, Subscriber};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::Fleet;
use crate::{
    bus::{
        api::header_of,
        withdraw::{WithdrawError, Withdrawal},
    },
    submission::{
        cancellation::{Cancellation, Cancelled},
        encoding::Encoding,
    },
};

/// The queue group that answers: each question gets one answer.
const GROUP: &str = "info";

/// Cancellations that a worker sees to at a time.
const CANCELS_AT_A_TIME: usize = 16;

/// The questions that come to this worker.
pub(crate) struct Requests {
    runtimes: Subscriber,
    limits: Subscriber,
    cancels: Subscriber,
}

impl Requests {
    /// Begins to listen.
    pub(crate) async fn listen(fleet: &Fleet) -> Result<Self, SubscribeError> {
        let names = &fleet.bus.names;
        let listen = |subject| fleet.ears.client.queue_subscribe(subject, GROUP.to_owned());
        Ok(Self {
            runtimes: listen(names.info_runtimes()).await?,
            limits: listen(names.info_limits()).await?,
            cancels: listen(names.cancels()).await?,
        })
    }

    /// Answers until `over`; what it is at by then is seen to its end.
    pub(crate) async fn answer(mut self, fleet: &Fleet, over: &CancellationToken) {
        let mut cancelling = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(question) = self.runtimes.next() => {
                    let catalogue = fleet.start_costs.note(&fleet.runtimes.catalogue());
                    answer(fleet, question, &catalogue).await;
                }
                Some(question) = self.limits.next() => {
                    answer(fleet, question, &fleet.config.ceilings.0).await;
                }
                Some(question) = self.cancels.next(), if cancelling.len() < CANCELS_AT_A_TIME => {
                    cancelling.push(cancel(fleet, question));
                }
                Some(()) = cancelling.next() => {}
                () = over.cancelled() => break,
            }
        }
        while cancelling.next().await.is_some() {}
    }
}

/// Cancels what the subject names, and says what came of it. What failed gets no answer: whoever asked asks again.
async fn cancel(fleet: &Fleet, question: Message) {
    match cancelled(fleet, &question.subject).await {
        Ok(state) => answer(fleet, question, &Cancellation { state }).await,
        Err(error) => {
            let subject = question.subject.as_str();
            tracing::warn!(%error, subject, "a submission was not cancelled, or that is not known");
        }
    }
}

async fn cancelled(fleet: &Fleet, subject: &str) -> Result<Cancelled, WithdrawError> {
    let named = fleet.bus.names.tenant_and_id(subject);
    // Held to the rule for ids: a token with wildcards would name others' submissions.
    let named = named.and_then(|(tenant, raw_id)| Some((tenant, raw_id.parse().ok()?)));
    let Some((tenant, id)) = named else {
        return Ok(Cancelled::Unknown);
    };
    let withdrawal = Withdrawal {
        bus: &fleet.bus,
        by: &fleet.id,
        patience: fleet.bus.request_timeout,
    };
    let state = withdrawal.cancel(&tenant, &id).await?;
    tracing::info!(%tenant, %id, ?state, "asked to cancel");
    Ok(state)
}

/// Answers in the encoding of the question, and only into an inbox: the asker names the subject, and with our rights
/// another one could be a result's.
pub(super) async fn answer(fleet: &Fleet, question: Message, what: &impl Serialize) {
    let Some(reply) = question.reply.filter(|reply| reply.starts_with("_INBOX")) else {
        return;
    };
    let content_type = question
        .headers
        .as_ref()
        .and_then(|headers| header_of(headers, "Content-Type"));
    let encoding = Encoding::of_content_type(content_type).unwrap_or_default();
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", encoding.content_type());
    let sent = match encoding.encode(what) {
        Ok(body) => {
            fleet
                .bus
                .client
                .publish_with_headers(reply, headers, body.into())
                .await
        }
        Err(error) => {
            return tracing::error!(%error, "the answer to a request cannot be encoded");
        }
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "a request was not answered");
    }
}
