//! Shows a submission while it runs, and its result: what the program writes goes to our standard output and standard error
//! as it comes, the report to standard output, everything else that is said to standard error. With `--json` the messages of
//! the contract take their place, one a line.
//!
//! The invariant: of a run that is shown, each byte is written once, in order, whether it came with an event or with the
//! result. Where the result has only the beginning and the end of a stream, a line in between says how much is left out.

use std::{collections::HashMap, io, io::IsTerminal as _};

use envicutor_protocol::Stream;
use serde::Serialize;

use super::{
    exit::CliError,
    report::{report, word},
    terminal::{self, Place, Sink, escape_line, has_colors, say, tell},
};
use crate::submission::{
    event::{Event, Happened, StageName},
    output::Output,
    result::{Outcome, Run, SubmissionResult, Verdict},
};

/// Shows one submission.
#[derive(Debug)]
pub struct Printer {
    form: Form,
    stdout: Sink<io::Stdout>,
    stderr: Sink<io::Stderr>,
    attempt: u64,
    /// What came of the first run, until the second one starts.
    first: Option<Verdict>,
    /// How much of each stream was written already, in this attempt.
    written: HashMap<(StageName, Stream), u64>,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// The result as a message.
    JsonResult,
    /// Every event and the result as messages.
    JsonAll,
}

impl Form {
    /// The form for `--json`, where only the result is shown.
    pub const fn of_result(json: bool) -> Self {
        if json { Self::JsonResult } else { Self::Text }
    }

    /// The form for `--json`, where events are shown too.
    pub const fn of_all(json: bool) -> Self {
        if json { Self::JsonAll } else { Self::Text }
    }
}

impl Printer {
    /// Has shown nothing yet.
    pub fn new(form: Form) -> Self {
        Self {
            form,
            stdout: terminal::stdout(),
            stderr: terminal::stderr(),
            attempt: 0,
            first: None,
            written: HashMap::new(),
        }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event) -> Result<(), CliError> {
        match self.form {
            Form::JsonResult => return Ok(()),
            Form::JsonAll => return say_json(event),
            Form::Text => {}
        }
        let is_start = matches!(event.happened, Happened::Started);
        if is_start || event.attempt != self.attempt {
            let is_again = self.attempt > 0;
            self.attempt = event.attempt;
            self.written.clear();
            self.first = None;
            if is_again {
                self.tell(&format!("once more, on {}", escape_line(&event.worker)))?;
            }
        }
        match &event.happened {
            Happened::StageStarted {
                stage: StageName::Compile,
            } => self.tell("compiling"),
            Happened::StageStarted {
                stage: StageName::Run { run: 0 },
            } => self.tell("running"),
            Happened::StageStarted {
                stage: StageName::Run { .. },
            } => match self.first.take() {
                // Only now it is known that there are several.
                Some(verdict) => self.tell(&format!("test 1: {}", word(&verdict))),
                None => Ok(()),
            },
            Happened::StageEnded {
                stage: StageName::Run { run: 0 },
                verdict,
            } => {
                self.first = Some(*verdict);
                Ok(())
            }
            Happened::StageEnded {
                stage: StageName::Run { run },
                verdict,
            } => self.tell(&format!("test {}: {}", run + 1, word(verdict))),
            Happened::Output {
                stage,
                stream,
                offset_bytes,
                data,
            } => self.output(*stage, *stream, offset_bytes.0, &data.data),
            Happened::Started | Happened::StageEnded { .. } => Ok(()),
        }
    }

    /// Shows the result: the output that was not shown yet, and the report.
    pub fn result(&mut self, result: &SubmissionResult) -> Result<(), CliError> {
        if self.form != Form::Text {
            return say_json(result);
        }
        if result.attempt != self.attempt {
            self.written.clear();
        }
        if result.outcome == Outcome::Finished {
            let id = escape_line(&result.id);
            if let Some(compile) = &result.compile {
                self.outputs(&id, StageName::Compile, compile)?;
            }
            if let Some((run, shown)) = run_to_show(result) {
                if result.runs.len() > 1 {
                    self.tell(&format!("the output of test {}:", run + 1))?;
                }
                self.outputs(&id, StageName::Run { run }, shown)?;
            }
        }
        self.end_lines()?;
        let text = report(result, has_colors(io::stdout().is_terminal()));
        Ok(say(text.trim_end())?)
    }

    /// Shows what a stage wrote, and says where that is not all.
    fn outputs(&mut self, id: &str, stage: StageName, run: &Run) -> Result<(), CliError> {
        let streams = [(Stream::Stdout, &run.stdout), (Stream::Stderr, &run.stderr)];
        let mut cuts = Vec::new();
        for (stream, output) in streams {
            self.output(stage, stream, 0, &output.data)?;
            let left_out = self.tail(stage, stream, output)?;
            let written = self.written.get(&(stage, stream)).copied();
            let shown = written.unwrap_or_default() - left_out;
            cuts.push((stream, shown, output));
        }
        for (stream, shown, output) in cuts {
            let size = output.size_bytes.0;
            if shown < size {
                let stream = word(&stream);
                let all = output.blob.as_ref().map_or(String::new(), |_| {
                    format!("; envicutor result {id} --output DIR has all of it")
                });
                self.tell(&format!(
                    "{stream} is cut: {shown} of {size} bytes are shown{all}"
                ))?;
            }
        }
        Ok(())
    }

    /// Writes the end of a stream of which the result has not all. How many bytes before it were left out.
    fn tail(&mut self, stage: StageName, stream: Stream, output: &Output) -> Result<u64, CliError> {
        let Some(tail) = &output.tail else {
            return Ok(0);
        };
        let from = output.size_bytes.0.saturating_sub(tail.len() as u64);
        let written = self.written.entry((stage, stream)).or_default();
        let left_out = from.saturating_sub(*written);
        if left_out > 0 {
            *written = from;
            let line = format!("[… {left_out} bytes are left out here …]");
            self.sink(stage, stream).gap(&line)?;
        }
        self.output(stage, stream, from, tail)?;
        Ok(left_out)
    }

    /// Writes the part of `data` that follows what was written. A compiler's output is all for people.
    fn output(
        &mut self,
        stage: StageName,
        stream: Stream,
        offset: u64,
        data: &[u8],
    ) -> Result<(), CliError> {
        let written = self.written.entry((stage, stream)).or_default();
        // After a gap nothing fits; the result brings the rest.
        let Some(known) = written.checked_sub(offset) else {
            return Ok(());
        };
        let fresh = usize::try_from(known)
            .ok()
            .and_then(|known| data.get(known..));
        let fresh = fresh.unwrap_or_default();
        *written += fresh.len() as u64;
        Ok(self.sink(stage, stream).write(fresh)?)
    }

    /// Where a stream of a stage goes.
    fn sink(&mut self, stage: StageName, stream: Stream) -> &mut dyn Place {
        match (stage, stream) {
            (StageName::Run { .. }, Stream::Stdout) => &mut self.stdout,
            (StageName::Compile, _) | (_, Stream::Stderr) => &mut self.stderr,
        }
    }

    fn tell(&mut self, line: &str) -> Result<(), CliError> {
        self.end_lines()?;
        tell(line);
        Ok(())
    }

    fn end_lines(&mut self) -> Result<(), CliError> {
        self.stdout.end()?;
        Ok(self.stderr.end()?)
    }
}

/// Writes a message of the contract to standard output.
pub fn say_json(message: &impl Serialize) -> Result<(), CliError> {
    let line = serde_json::to_string(message).map_err(|error| CliError::Show(error.to_string()))?;
    Ok(say(line)?)
}

/// The run whose output is shown: the only one, or the first that is not ok.
fn run_to_show(result: &SubmissionResult) -> Option<(usize, &Run)> {
    let is_shown = |run: &Run| result.runs.len() == 1 || run.verdict != Verdict::Ok;
    let mut runs = result.runs.iter().enumerate();
    runs.find(|(_, run)| is_shown(run))
        .filter(|(_, run)| run.verdict != Verdict::Skipped)
}
