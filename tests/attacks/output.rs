//! Attacks by what a program writes.

use serde_json::Value;

use crate::attack::{Attack, c, python, stages};

const LIMIT: u64 = 300_000;

/// What `output/terminal.py` writes, in base64.
const TERMINAL: &str = "G10wO3RpdGxlBxtbMkoNCnsidmVyZGljdCI6Im9rIn0KAJv//u2ggA==";

/// All of them.
pub fn attacks() -> Vec<Attack> {
    vec![
        c("flood.c", include_str!("output/flood.c"))
            .limit("output_bytes", LIMIT)
            .events("output")
            .ends("output_exceeded")
            .hits("output_bytes")
            .checked(not_more_than_the_limit),
        c("nul.c", include_str!("output/nul.c"))
            .times(8)
            .checked(a_result_of_bounded_size),
        python("terminal.py", include_str!("output/terminal.py")).checked(|result| {
            let stdout = &result["runs"][0]["stdout"];
            (stdout["base64"] != TERMINAL).then(|| format!("other bytes came: {stdout}"))
        }),
        c("pipe_games.c", include_str!("output/pipe_games.c"))
            .sees(
                "ok",
                &[
                    "resize",
                    "own",
                    "signal",
                    "open stdout for reading",
                    "open stdin for writing",
                ],
            )
            .sees("EINVAL", &["lease"])
            .sees("ENOTDIR", &["notify"])
            .sees("1", &["feed itself", "is fed"])
            .sees("ok", &["descriptor"])
            .sees("yes", &["alive"]),
    ]
}

fn not_more_than_the_limit(result: &Value) -> Option<String> {
    let sizes: Vec<_> = stages(result)
        .flat_map(|stage| [&stage["stdout"], &stage["stderr"]])
        .filter_map(|output| output["size_bytes"].as_u64())
        .collect();
    let exact = sizes.iter().max() == Some(&LIMIT);
    (!exact).then(|| format!("expected {LIMIT} bytes at most, and once: {sizes:?}"))
}

fn a_result_of_bounded_size(result: &Value) -> Option<String> {
    const MOST: usize = 768 << 10;
    let size = result.to_string().len();
    let cut = &result["runs"][0]["stdout"]["truncated"] == true;
    (size > MOST || !cut)
        .then(|| format!("the result has {size} bytes, expected at most {MOST}, cut"))
}
