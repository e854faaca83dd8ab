//! How much of a processor an image's way into the store takes at most: submissions go on beside it. Its work is done in a thread of
//! its own, of little weight, and rests after each piece for so long that over all of it no more than a share of one processor is
//! used. So it is bounded too where priorities do not count: between the cgroups of two services, for one.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// Its priority: where processors are scarce it has 70 of weight beside the 1024 of a thread of the usual one, as the container of an
/// installation has 64 beside another one. With the lowest one it would stand still on a machine that is busy for long.
const NICE: i32 = 12;

/// What is rested at a time: a shorter rest is kept for the next one.
const REST: Duration = Duration::from_millis(5);

/// A bound on how much works.
#[derive(Debug)]
pub struct Pace {
    percent: u32,
    owed: Duration,
}

impl Pace {
    /// So many percent of one processor, 1 to 100.
    pub fn new(percent: u64) -> Self {
        let percent = u32::try_from(percent).unwrap_or(100).clamp(1, 100);
        Self {
            percent,
            owed: Duration::ZERO,
        }
    }

    /// Does `work`, and rests for it.
    pub(super) fn work<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (began, before) = (Instant::now(), used());
        let done = work();
        // Where that is not known the time that went by, although others may have had the processor meanwhile.
        let worked = before.and_then(|before| Some(used()?.saturating_sub(before)));
        let rest = self.rest(worked.unwrap_or_else(|| began.elapsed()));
        if !rest.is_zero() {
            std::thread::sleep(rest);
        }
        done
    }

    /// How long to rest now, after work of this time.
    fn rest(&mut self, worked: Duration) -> Duration {
        self.owed += worked * (100 - self.percent) / self.percent;
        if self.owed < REST {
            return Duration::ZERO;
        }
        std::mem::take(&mut self.owed)
    }
}

/// The time that this thread has had a processor: the first number of the kernel's.
fn used() -> Option<Duration> {
    let numbers = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = numbers.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// Runs `work` in a thread of a low priority.
pub(super) async fn behind<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = oneshot::channel();
    // What reads from asynchronous streams needs the runtime there too.
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("image-export".to_owned())
        .spawn(move || {
            let _entered = runtime.enter();
            // On Linux it is the thread's own. Nobody is kept from giving way; if so, the pace still holds.
            let own = rustix::process::getpriority_process(None).unwrap_or_default();
            if let Err(error) = rustix::process::setpriority_process(None, own.max(NICE)) {
                tracing::debug!(%error, "an image is stored with the priority of everything else");
            }
            // Nobody waits for it any more: given up.
            let _ = sender.send(work());
        })?;
    receiver.await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_a_fifth_of_the_time_rests_four_times_as_long() {
        let mut pace = Pace::new(20);
        let worked = Duration::from_millis(10);
        assert_eq!(pace.rest(worked), Duration::from_millis(40));
        // Short rests are taken together.
        let short = Duration::from_millis(1);
        assert_eq!(pace.rest(short), Duration::ZERO);
        assert_eq!(pace.rest(short), Duration::from_millis(8));
        assert_eq!(Pace::new(100).rest(worked), Duration::ZERO);
    }

    #[test]
    fn what_a_thread_used_is_read_from_the_kernel() {
        let (before, began) = (used().expect("known"), Instant::now());
        while used().expect("known") <= before {
            assert!(
                began.elapsed() < Duration::from_mins(1),
                "it works, and uses nothing"
            );
        }
    }

    #[tokio::test]
    async fn work_is_done_with_a_low_priority_and_nothing_else_is() {
        let own = rustix::process::getpriority_process(None).expect("known");
        let within = || rustix::process::getpriority_process(None).expect("known");
        assert_eq!(behind(within).await.expect("done"), NICE.max(own));
        assert_eq!(rustix::process::getpriority_process(None), Ok(own));
    }
}
