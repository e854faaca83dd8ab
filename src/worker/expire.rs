//! Submissions that expire while nobody takes them, because every worker is full or cordoned: a worker looks at what waits from
//! time to time, and settles `expired` for what is too late. Without that they would have no result until a worker takes them.
//!
//! A look is bounded, and goes on where the last one ended: in a long queue one that expired may wait a few looks for its result.
//! The invariant: what was ever handed out is not touched, since it may run.

use std::{collections::HashMap, time::Duration};

use rand::RngExt as _;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Fleet, facts};
use crate::{
    bus::{
        api::Stored,
        waiting,
        withdraw::{Queued, WithdrawError, Withdrawal},
    },
    submission::{
        check::check_shape,
        names::{Lane, Tenant},
    },
};

/// The most messages of a lane in one look.
const MOST: usize = 200;

/// Looks from time to time, until `over`.
pub(crate) async fn keep(fleet: &Fleet, over: &CancellationToken) {
    let mut places = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait(fleet)) => {}
            () = over.cancelled() => return,
        }
        tokio::select! {
            () = look(fleet, &mut places) => {}
            () = over.cancelled() => return,
        }
    }
}

/// Until the next look. With jitter, so that workers that started together look at different times.
fn wait(fleet: &Fleet) -> Duration {
    let every = fleet.config.worker.expiry_look_us.duration();
    every.mul_f64(rand::rng().random_range(0.75..1.25))
}

/// One look at every queue; `places` says where to go on.
async fn look(fleet: &Fleet, places: &mut HashMap<(Tenant, Lane), u64>) {
    for tenant in &fleet.config.nats.tenants {
        for lane in Lane::ALL {
            let place = places.entry((tenant.clone(), lane)).or_default();
            match look_at(fleet, tenant, lane, *place).await {
                Ok(next) => *place = next,
                Err(error) => {
                    tracing::warn!(%error, %tenant, %lane, "the queue was not searched for what has expired");
                }
            }
        }
    }
}

/// Ends what has expired in a lane from the sequence `from` on; returns where to go on.
async fn look_at(
    fleet: &Fleet,
    tenant: &Tenant,
    lane: Lane,
    from: u64,
) -> Result<u64, WithdrawError> {
    let seen = waiting::look(&fleet.bus, tenant, lane, from, MOST).await?;
    let withdrawal = Withdrawal {
        bus: &fleet.bus,
        by: &fleet.id,
        patience: fleet.bus.request_timeout,
    };
    for message in seen.messages {
        let Some(queued) = Queued::of(&fleet.bus, message) else {
            continue;
        };
        if has_expired(&queued) {
            let sequence = queued.message().sequence;
            let is_ours = withdrawal.expire(queued).await?;
            tracing::info!(%tenant, %lane, sequence, is_ours, "expired while nobody took it");
        }
    }
    Ok(seen.next.unwrap_or_default())
}

/// Whether it is a valid submission whose time is over. Another one is for the worker that takes it to judge.
fn has_expired(queued: &Queued) -> bool {
    let message = queued.message();
    if !may_expire(message) || facts::newer_schema(&message.headers).is_some() {
        return false;
    }
    let submission = check_shape(&message.body, queued.encoding());
    let expires_at = submission.ok().and_then(|submission| submission.expires_at);
    expires_at.is_some_and(|instant| instant <= OffsetDateTime::now_utc())
}

/// Whether the field's name stands in the body: most have none, and are not read.
fn may_expire(message: &Stored) -> bool {
    let name = b"expires_at";
    message.body.windows(name.len()).any(|part| part == name)
}
