//! What came of testing runtimes, and the table of it. No I/O.

use std::fmt;

use serde::Serialize;

use crate::{
    runtimes::self_test::SelfTest,
    submission::{
        names::{Digest, RuntimeRef},
        result::Run,
        units::{ByteSize, Micros},
    },
};

/// What came of one runtime.
#[derive(Debug, Clone, Serialize)]
pub struct Tested {
    /// Which, with its version.
    pub runtime: RuntimeRef,
    /// How many self-tests passed.
    pub passed: usize,
    /// Those that did not.
    pub failed: Vec<Failed>,
    /// What a program that does nothing costs.
    pub start: Option<Cost>,
    /// The id of its image.
    pub image: Option<Digest>,
    /// The size of the image with its base, where this machine's Engine has it.
    pub image_bytes: Option<ByteSize>,
    /// What the compile command gains over another one.
    pub gains: Vec<Gain>,
}

/// A self-test that failed.
#[derive(Debug, Clone, Serialize)]
pub struct Failed {
    /// Its name.
    pub test: String,
    /// A line for people.
    pub reason: String,
}

/// The middle of a few runs.
#[derive(Debug, Clone, Serialize)]
pub struct Cost {
    /// Time on the wall.
    pub wall_us: Micros,
    /// CPU time.
    pub cpu_us: Micros,
    /// The peak of its memory.
    pub memory_bytes: ByteSize,
}

/// How long a self-test's program compiled each way, in turns.
#[derive(Debug, Clone, Serialize)]
pub struct Gain {
    /// The self-test.
    pub test: String,
    /// By the runtime's command.
    pub own: Cost,
    /// By the other one.
    pub beside: Cost,
    /// The other command.
    pub command: Vec<String>,
}

impl Tested {
    /// Of a runtime that nothing is known of yet.
    pub fn new(runtime: RuntimeRef) -> Self {
        Self {
            runtime,
            passed: 0,
            failed: Vec::new(),
            start: None,
            image: None,
            image_bytes: None,
            gains: Vec::new(),
        }
    }
}

impl Cost {
    /// The middle of `runs`, each number by itself.
    pub fn of(runs: &[Run]) -> Self {
        let middle = |number: fn(&Run) -> u64| {
            let mut all: Vec<u64> = runs.iter().map(number).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        Self {
            wall_us: Micros(middle(|run| run.wall_us.0)),
            cpu_us: Micros(middle(|run| run.cpu_user_us.0 + run.cpu_system_us.0)),
            memory_bytes: ByteSize(middle(|run| run.memory_peak_bytes.0)),
        }
    }
}

impl Gain {
    /// Of the compile stages of `test`.
    pub fn of(test: &SelfTest, own: &[Run], beside: &[Run]) -> Self {
        Self {
            test: test.name.clone(),
            own: Cost::of(own),
            beside: Cost::of(beside),
            command: test.beside.clone().unwrap_or_default(),
        }
    }

    /// How many times as long the other command takes.
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    fn ratio(&self) -> f64 {
        self.beside.wall_us.0 as f64 / self.own.wall_us.0.max(1) as f64
    }
}

/// One line.
impl fmt::Display for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed", self.passed)?;
        for Failed { test, reason } in &self.failed {
            write!(f, "; {test} failed: {reason}")?;
        }
        Ok(())
    }
}

/// The table, in Markdown, and below it what failed and what was gained.
pub fn table(tested: &[Tested]) -> String {
    let head = ["runtime", "self-tests", "starts in", "memory", "image"];
    let mut rows = vec![
        head.map(str::to_owned),
        ["---", "---", "---:", "---:", "---:"].map(str::to_owned),
    ];
    rows.extend(tested.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths = [0, 1, 2, 3, 4].map(width);
    let line = |row: &[String; 5]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.push(String::new());
    let passed = tested.iter().filter(|one| one.failed.is_empty()).count();
    lines.push(format!("{passed} of {} runtimes passed.", tested.len()));
    for one in tested {
        let failed = one.failed.iter();
        lines
            .extend(failed.map(|Failed { test, reason }| {
                format!("{}: {test} failed: {reason}", one.runtime)
            }));
    }
    for one in tested {
        lines.extend(one.gains.iter().map(|gain| gained(one, gain)));
    }
    lines.join("\n")
}

fn row(one: &Tested) -> [String; 5] {
    let all = one.passed + one.failed.len();
    [
        format!("`{}`", one.runtime),
        if one.failed.is_empty() {
            format!("{all} passed")
        } else {
            format!("{} of {all} passed", one.passed)
        },
        one.start
            .as_ref()
            .map_or("-".to_owned(), |start| milliseconds(start.wall_us)),
        one.start
            .as_ref()
            .map_or("-".to_owned(), |start| megabytes(start.memory_bytes)),
        one.image_bytes.map_or("-".to_owned(), megabytes),
    ]
}

fn gained(one: &Tested, gain: &Gain) -> String {
    format!(
        "{}: {} compiles in {} with {}, and in {} with {} by `{}`: {:.1} times as long.",
        one.runtime,
        gain.test,
        milliseconds(gain.own.wall_us),
        megabytes(gain.own.memory_bytes),
        milliseconds(gain.beside.wall_us),
        megabytes(gain.beside.memory_bytes),
        gain.command.join(" "),
        gain.ratio(),
    )
}

fn milliseconds(us: Micros) -> String {
    format!("{:.1} ms", us.duration().as_secs_f64() * 1000.0)
}

/// Decimal, as Docker shows the sizes of images.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: ByteSize) -> String {
    format!("{:.1} MB", bytes.0 as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(wall: u64) -> Cost {
        Cost {
            wall_us: Micros(wall),
            cpu_us: Micros(wall),
            memory_bytes: ByteSize(1_000_000),
        }
    }

    #[test]
    fn the_table_shows_what_passed_what_failed_and_what_was_gained() {
        let mut good = Tested::new("cpp@12".parse().expect("valid"));
        good.passed = 4;
        good.start = Some(cost(1_234));
        good.image_bytes = Some(ByteSize(251_000_000));
        good.gains.push(Gain {
            test: "precompiled".into(),
            own: cost(500_000),
            beside: cost(2_000_000),
            command: vec!["g++".into(), "main.cpp".into()],
        });
        let mut bad = Tested::new("logo@6".parse().expect("valid"));
        bad.passed = 1;
        bad.failed.push(Failed {
            test: "echo".into(),
            reason: "wrong_answer instead of ok".into(),
        });
        let table = table(&[good, bad]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[0].starts_with("| runtime "), "{table}");
        assert!(
            lines
                .iter()
                .all(|line| !line.starts_with('|') || line.len() == lines[0].len())
        );
        for expected in [
            "| `cpp@12` | 4 passed      | 1.2 ms    | 1.0 MB | 251.0 MB |",
            "| `logo@6` | 1 of 2 passed | -         | -      | -        |",
            "1 of 2 runtimes passed.",
            "logo@6: echo failed: wrong_answer instead of ok",
            "cpp@12: precompiled compiles in 500.0 ms with 1.0 MB, and in 2000.0 ms with 1.0 MB by `g++ main.cpp`: 4.0 times as long.",
        ] {
            assert!(lines.contains(&expected), "{expected}\n{table}");
        }
    }
}
