//! How much of the machine's processors an installation may use: what nobody else wants, and little where somebody does. A weight alone
//! does not do: what a container writes costs outside of it too, in the Engine and in a storage driver that is a process, and
//! a bound on the container is one on that as well.

use std::time::Duration;

/// Bounds are of this much time, in microseconds: the kernel's default.
pub(super) const PERIOD_US: i64 = 100_000;

/// The least bound that the kernel takes, in microseconds of a period.
const LEAST_US: i64 = 1_000;

/// Between two looks at the machine.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Where so much of the machine idles, in percent, the bound is raised; where less than the second, it is lowered.
const IDLE: (u64, u64) = (25, 10);

/// By how much it is raised or lowered at a time.
const STEP: i64 = 4;

/// What an installation may use now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    // Of each period, in microseconds of one processor.
    now: i64,
    least: i64,
    most: i64,
}

impl Share {
    /// The least: `percent` of the processors of this machine together. It begins with that.
    pub(super) fn least(percent: u64) -> Self {
        Self::least_of(percent, processors())
    }

    fn least_of(percent: u64, processors: usize) -> Self {
        let processors = i64::try_from(processors).unwrap_or(i64::MAX).max(1);
        let most = PERIOD_US.saturating_mul(processors);
        let percent = i64::try_from(percent).unwrap_or(100).clamp(1, 100);
        let least = (most / 100).saturating_mul(percent).max(LEAST_US);
        Self {
            now: least,
            least,
            most,
        }
    }

    /// What it may use of each period, in microseconds of one processor.
    pub(super) fn quota_us(self) -> i64 {
        self.now
    }

    /// What it may use after the machine has idled for so many percent of its time.
    pub(super) fn after(self, idle_percent: u64) -> Self {
        let now = if idle_percent >= IDLE.0 {
            self.now.saturating_mul(STEP)
        } else if idle_percent < IDLE.1 {
            self.now / STEP
        } else {
            self.now
        };
        Self {
            now: now.clamp(self.least, self.most),
            ..self
        }
    }
}

/// The machine's processors, whichever of them this process may use.
fn processors() -> usize {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    text.lines().filter(|line| is_of_one(line)).count()
}

/// Whether a line of `/proc/stat` is of a single processor.
fn is_of_one(line: &str) -> bool {
    let rest = line.strip_prefix("cpu");
    rest.is_some_and(|rest| rest.starts_with(|it: char| it.is_ascii_digit()))
}

/// The time of the machine's processors, in the kernel's ticks, since it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Times {
    idle: u64,
    all: u64,
}

impl Times {
    /// Of now; none where the kernel does not tell.
    pub(super) fn read() -> Option<Self> {
        Self::parse(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal; and guests, which are in the first two already.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.lines().next()?.split_whitespace();
        if fields.next() != Some("cpu") {
            return None;
        }
        let times: Option<Vec<u64>> = fields.take(8).map(|field| field.parse().ok()).collect();
        let times = times?;
        let idle = times.get(3)?.saturating_add(*times.get(4)?);
        Some(Self {
            idle,
            all: times.iter().fold(0, |sum, time| sum.saturating_add(*time)),
        })
    }

    /// How many percent of the time since `earlier` were idle; none where no time went by.
    pub(super) fn idle_percent_since(self, earlier: Self) -> Option<u64> {
        let idle = self.idle.saturating_sub(earlier.idle);
        idle.saturating_mul(100)
            .checked_div(self.all.saturating_sub(earlier.all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_machine_is_used_and_a_busy_one_is_left() {
        let least = Share::least_of(3, 2);
        assert_eq!(least.quota_us(), 6_000);
        let mut share = least;
        for quota in [24_000, 96_000, 200_000, 200_000] {
            share = share.after(80);
            assert_eq!(share.quota_us(), quota, "of two processors at most");
        }
        assert_eq!(
            share.after(15),
            share,
            "enough is left to others, and no more"
        );
        for quota in [50_000, 12_500, 6_000, 6_000] {
            share = share.after(2);
            assert_eq!(share.quota_us(), quota, "never nothing");
        }
    }

    #[test]
    fn every_share_is_one_that_the_kernel_takes() {
        assert_eq!(Share::least_of(1, 0).quota_us(), LEAST_US);
        assert_eq!(Share::least_of(0, 1).quota_us(), LEAST_US);
        assert_eq!(Share::least_of(100, 4).quota_us(), 4 * PERIOD_US);
        assert_eq!(Share::least_of(100, 4).after(50).quota_us(), 4 * PERIOD_US);
    }

    #[test]
    fn the_kernels_times_are_read() {
        let text = "cpu  10 2 8 60 5 1 4 10 3 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let earlier = Times::parse(text).expect("read");
        assert_eq!(earlier, Times { idle: 65, all: 100 });
        let later = Times { idle: 75, all: 140 };
        assert_eq!(later.idle_percent_since(earlier), Some(25));
        assert_eq!(earlier.idle_percent_since(earlier), None);
        assert_eq!(Times::parse("cpu 1 2\n"), None);
        assert_eq!(Times::parse("cpu 1 2 x 4 5\n"), None);
        assert_eq!(Times::parse(""), None);
        assert!(Times::read().is_some(), "this kernel's");
        let lines = text.lines().map(is_of_one);
        assert_eq!(lines.collect::<Vec<_>>(), [false, true]);
        assert!(processors() > 0, "this kernel's");
    }
}
