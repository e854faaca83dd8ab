//! Plays the worker to a tool.

use envicutor_protocol::{
    Command, Limits, Stdin, Task, Tool, ToolReport, decode, encode, frame_length,
};

use crate::harness::{Outcome, Worker, slowly};

/// How much goes in a frame.
const CHUNK_BYTES: usize = 64 << 10;

/// Has the tool do `task` with `data` after it; what it says, and what came of it.
pub fn tool(worker: &mut Worker, task: &Task, data: &[u8]) -> (Vec<ToolReport>, Outcome) {
    let mut input = encode(task).expect("encodes");
    input.extend_from_slice(data);
    let (first, rest) = input.split_at(input.len().min(CHUNK_BYTES));
    worker.send(&Command::Tool(Box::new(Tool {
        limits: Limits {
            cpu_time_us: slowly(10_000_000),
            extra_time_us: 0,
            wall_time_us: slowly(20_000_000),
            memory_bytes: 128 << 20,
            stack_bytes: 8 << 20,
            processes: 4,
            open_files: 128,
            file_size_bytes: 64 << 20,
            output_bytes: 64 << 20,
        },
        stdin: Stdin {
            data: first.to_vec(),
            last: rest.is_empty(),
        },
    })));
    let outcome = worker.collect(rest);
    let mut said = Vec::new();
    let mut bytes = &outcome.stdout[..];
    while let Some((prefix, after)) = bytes.split_first_chunk::<4>() {
        let (payload, after) = after.split_at(frame_length(*prefix).expect("a fine length"));
        said.push(decode(payload).expect("a report"));
        bytes = after;
    }
    (said, outcome)
}
