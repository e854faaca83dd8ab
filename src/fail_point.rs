//! Fail points: where a test stops a worker, named by the steps of a submission's way. The feature `fail-points` compiles them in;
//! builds with dev-dependencies have it and no other: elsewhere `fail_point!` is nothing.
//!
//! `ENVICUTOR_FAIL_POINT=<point>[#<pass>]:<action>`, several separated by commas: `settled:abort`, `ran#2:panic`. Without a pass, each.
//!
//! | step | point | where |
//! | --- | --- | --- |
//! | 2 | `pulled`, `started` | the message is in hand, and nothing done; `started` is told |
//! | 5 | `staged` | what it needs of the object store is on this machine's disk |
//! | 6 | `renew`, `ran` | a renewal is to be sent; the run is over |
//! | 7 | `settle`, `stored`, `settled` | the result is to be sent; is stored, and that not heard of; is seen to stand |
//! | 7 | `ack`, `acked` | the ack is to be sent; is confirmed, and that not heard of |
//! | 8 | `counted`, `buried` | the failed attempt is noted; the dead letter is stored |
//!
//! | action | what |
//! | --- | --- |
//! | `abort`, `stop` | the process ends, nothing is unwound; it stops, until it gets SIGCONT |
//! | `hang`, `panic` | this submission goes no further, all else does; a bug |
//! | `lose` | the message that is to be sent is lost, or the answer that is not heard of |

/// Passes a point with a submission's id. The third argument is what the function then fails with where the message is lost.
macro_rules! fail_point {
    ($point:ident, $id:expr $(, $lost:expr)?) => {{
        #[cfg(feature = "fail-points")]
        if $crate::fail_point::FailPoint::$point.loses($id).await {
            $(return Err($lost);)?
        }
        #[cfg(not(feature = "fail-points"))]
        let _ = (|| $id, $(|| $lost)?);
    }};
}

#[cfg(feature = "fail-points")]
pub(crate) use points::FailPoint;

#[cfg(feature = "fail-points")]
mod points {
    use std::process::Command;
    use std::sync::{LazyLock, atomic::AtomicU64, atomic::Ordering};

    use clap::ValueEnum;

    #[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
    #[value(rename_all = "snake_case")]
    #[rustfmt::skip]
    pub(crate) enum FailPoint { Pulled, Started, Staged, Renew, Ran, Settle, Stored, Settled, Ack, Acked, Counted, Buried }

    #[derive(Debug, Clone, Copy, ValueEnum)]
    #[rustfmt::skip]
    enum Action { Abort, Stop, Hang, Panic, Lose }

    struct Planned {
        point: FailPoint,
        pass: Option<u64>,
        action: Action,
        passes: AtomicU64,
    }

    static PLAN: LazyLock<Vec<Planned>> = LazyLock::new(|| {
        let plan = std::env::var("ENVICUTOR_FAIL_POINT").unwrap_or_default();
        let parts = plan.split(',').filter(|part| !part.is_empty());
        let planned = |part| Planned::parse(part).expect("a fail point and an action");
        parts.map(planned).collect()
    });

    impl Planned {
        fn parse(text: &str) -> Option<Self> {
            let (place, action) = text.split_once(':')?;
            let (point, pass) = place.split_once('#').unzip();
            Some(Self {
                point: FailPoint::from_str(point.unwrap_or(place), false).ok()?,
                pass: pass.map(str::parse).transpose().ok()?,
                action: Action::from_str(action, false).ok()?,
                passes: AtomicU64::new(0),
            })
        }

        fn is_met(&self, point: FailPoint) -> bool {
            let passes = || self.passes.fetch_add(1, Ordering::Relaxed) + 1;
            self.point == point && self.pass.is_none_or(|pass| pass == passes())
        }
    }

    impl FailPoint {
        /// Does what is planned here. Whether the message is lost.
        pub(crate) async fn loses(self, id: &str) -> bool {
            let Some(planned) = PLAN.iter().find(|planned| planned.is_met(self)) else {
                return false;
            };
            tracing::warn!(point = ?self, action = ?planned.action, id, "a fail point");
            match planned.action {
                Action::Abort => std::process::abort(),
                Action::Stop => {
                    let pid = std::process::id().to_string();
                    let stopped = Command::new("kill").args(["-s", "STOP", &pid]).status();
                    stopped.expect("kill stops this process");
                }
                Action::Hang => std::future::pending().await,
                Action::Panic => panic!("the fail point {self:?}"),
                Action::Lose => return true,
            }
            false
        }
    }
}
