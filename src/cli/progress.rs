//! How far something is that takes a while: a bar on a terminal, elsewhere a line now and then. On standard error, and in the
//! way of nothing: a line that is told meanwhile stands above the bar.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::terminal::tell;
use crate::submission::units::Micros;

/// The characters of a bar.
const WIDTH: u64 = 30;
/// Between two drawings on a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// Between two lines elsewhere.
const LINE: Duration = Duration::from_secs(10);

/// Something that is done bit by bit.
#[derive(Debug)]
pub struct Progress {
    is_terminal: bool,
    of_bytes: bool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// What is being done, where that is more than one thing.
    what: &'static str,
    /// Since when.
    started: Instant,
    done: u64,
    /// 0 where that is not known.
    all: u64,
    shown_at: Instant,
    is_drawn: bool,
}

impl Progress {
    /// Of `all` steps, of which none is done.
    pub fn new(all: u64) -> Self {
        Self::of(all, false)
    }

    /// Of bytes, how many will be told.
    pub fn of_bytes() -> Self {
        Self::of(0, true)
    }

    fn of(all: u64, of_bytes: bool) -> Self {
        let now = Instant::now();
        Self {
            is_terminal: io::stderr().is_terminal(),
            of_bytes,
            state: Mutex::new(State {
                what: "",
                started: now,
                done: 0,
                all,
                shown_at: now,
                is_drawn: false,
            }),
        }
    }

    /// One step more is done.
    pub fn step(&self) {
        let mut state = self.state();
        state.done += 1;
        self.show(&mut state);
    }

    /// So much of `all` is done of `what`; 0 where it is not known how much there is.
    pub fn reach(&self, what: &'static str, done: u64, all: u64) {
        let mut state = self.state();
        if state.what != what {
            state.what = what;
            state.started = Instant::now();
        }
        state.done = done;
        state.all = all;
        self.show(&mut state);
    }

    fn show(&self, state: &mut State) {
        let wait = if self.is_terminal { REDRAW } else { LINE };
        if state.shown_at.elapsed() < wait && (state.is_drawn || !self.is_terminal) {
            return;
        }
        state.shown_at = Instant::now();
        if self.is_terminal {
            self.draw(state);
        } else {
            tell(self.line(state));
        }
    }

    /// Tells a line meanwhile.
    pub fn tell(&self, line: &str) {
        let mut state = self.state();
        state.wipe();
        tell(line);
    }

    /// Leaves nothing behind.
    pub fn end(&self) {
        self.state().wipe();
    }

    fn draw(&self, state: &mut State) {
        state.is_drawn = true;
        let filled = u128::from(state.done.min(state.all)) * u128::from(WIDTH);
        let filled = filled.checked_div(state.all.into());
        // Of an unknown number nothing is filled.
        let filled = filled.map_or(0, |filled| u64::try_from(filled).unwrap_or(WIDTH));
        let bar: String = (0..WIDTH)
            .map(|at| if at < filled { '#' } else { '.' })
            .collect();
        // A drawing that cannot be written is of no use to anybody.
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "\r\x1b[2K[{bar}] {}", self.line(state));
        let _ = stderr.flush();
    }

    /// `1200 of 5000, 310 a second, 12 s left`.
    fn line(&self, state: &State) -> String {
        let line = line(
            state.done,
            state.all,
            state.started.elapsed(),
            self.of_bytes,
        );
        match state.what {
            "" => line,
            what => format!("{what}: {line}"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wipe(&mut self) {
        if std::mem::take(&mut self.is_drawn) {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[2K");
            let _ = stderr.flush();
        }
    }
}

fn line(done: u64, all: u64, elapsed: Duration, of_bytes: bool) -> String {
    let shown = |number: u64| {
        if of_bytes {
            in_short(number)
        } else {
            number.to_string()
        }
    };
    let milliseconds = u64::try_from(elapsed.as_millis())
        .unwrap_or(u64::MAX)
        .max(1);
    let rate = done.saturating_mul(1_000) / milliseconds;
    let left = all.saturating_sub(done).saturating_mul(milliseconds);
    let left = left.checked_div(if all == 0 { 0 } else { done });
    let left = left.map_or(String::new(), |left| {
        let seconds = left.div_ceil(1_000).saturating_mul(1_000_000);
        format!(", {} left", Micros(seconds))
    });
    let of_all = match all {
        0 => String::new(),
        all => format!(" of {}", shown(all)),
    };
    format!("{}{of_all}, {} a second{left}", shown(done), shown(rate))
}

/// Bytes for a line that changes: `12.3 MiB`.
fn in_short(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..1_024 => return format!("{bytes} B"),
        1_024..0x10_0000 => (1_u128 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    let tenths = u128::from(bytes) * 10 / unit;
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_is_done() {
        let ten = Duration::from_secs(10);
        assert_eq!(
            line(2_500, 5_000, ten, false),
            "2500 of 5000, 250 a second, 10 s left"
        );
        assert_eq!(
            line(0, 5_000, Duration::ZERO, false),
            "0 of 5000, 0 a second"
        );
        assert_eq!(line(5, 5, ten, false), "5 of 5, 0 a second, 0 us left");
    }

    #[test]
    fn bytes_are_told_in_units() {
        let ten = Duration::from_secs(10);
        assert_eq!(
            line(5 << 20, 20 << 20, ten, true),
            "5.0 MiB of 20.0 MiB, 512.0 KiB a second, 30 s left"
        );
        assert_eq!(line(1_000, 0, ten, true), "1000 B, 100 B a second");
        assert_eq!(in_short((3 << 30) + (1 << 29)), "3.5 GiB");
    }
}
