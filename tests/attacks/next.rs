//! The submission after an attack, in the same slot: it must find what the very first one found, and compute what it should.

use envicutor::submission::names::{Digest, SubmissionId};
use serde_json::{Value, json};

use crate::{bed::slowly_us, isolation::Isolation, report::Expected};

/// More than a clean Python needs.
const MEMORY_BYTES: u64 = 32 << 20;

/// One such submission: what it computes is its own.
pub struct Next {
    input: String,
}

impl Next {
    /// A new one.
    pub fn new() -> Self {
        Self {
            input: SubmissionId::generate().to_string(),
        }
    }

    /// As it is published.
    pub fn submission(&self) -> Value {
        json!({
            "runtime": "python",
            "files": [{"text": include_str!("next.py")}, {"path": "report.py", "text": include_str!("lib/report.py")}],
            "run": {
                "stdin": self.input,
                "env": {"PYTHONDONTWRITEBYTECODE": "1"},
                "limits": {"cpu_time_us": slowly_us(5_000_000), "wall_time_us": slowly_us(10_000_000)},
            },
        })
    }

    /// What is wrong with its result.
    pub fn judge(&self, isolation: Isolation, result: &Value) -> Vec<String> {
        let run = &result["runs"][0];
        let clean = result["verdict"] == "ok"
            && run["limits_hit"] == json!([])
            && run["stderr"]["text"] == "";
        if !clean {
            return vec![format!("it came to harm: {result:#}")];
        }
        let mut wrong = self.finds(isolation).differences(
            isolation,
            run["stdout"]["text"].as_str().unwrap_or_default(),
        );
        if run["memory_peak_bytes"]
            .as_u64()
            .is_none_or(|peak| peak > MEMORY_BYTES)
        {
            wrong.push(format!(
                "it is charged with somebody else's memory: {run:#}"
            ));
        }
        if run["processes_peak"].as_u64().is_none_or(|peak| peak > 2) {
            wrong.push(format!(
                "it is charged with somebody else's processes: {run:#}"
            ));
        }
        wrong
    }

    fn finds(&self, isolation: Isolation) -> Expected {
        let digest = Digest::of(self.input.as_bytes()).to_string();
        let digest = digest.trim_start_matches("sha256:");
        let mut expected = Expected::default();
        let mut finds = |what: &str, result: &str| expected.add(None, what, result);
        finds("digest", digest);
        finds("arguments", "main.py");
        finds(
            "environment",
            "HOME=/work LANG=C.UTF-8 PATH=/usr/local/bin:/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1",
        );
        finds("directory", "/work");
        finds("in /work", "[b'main.py', b'report.py']");
        for place in ["/tmp", "/dev/shm"] {
            finds(&format!("in {place}"), "[]");
            finds(&format!("used of {place}"), "0 blocks, 1 inodes");
        }
        finds("modes", "0700 1777 1777");
        finds("processes", "1 self");
        for kind in ["shm", "msg", "sem"] {
            finds(&format!("System V {kind}"), "0");
        }
        finds("POSIX queue", "ENOENT");
        for table in [
            "tcp", "tcp6", "udp", "udp6", "raw", "raw6", "icmp", "packet",
        ] {
            finds(&format!("sockets of {table}"), "0");
        }
        finds("loopback", "0 bytes in 0 packets");
        finds("abstract socket", "ECONNREFUSED");
        finds("port", "ECONNREFUSED");
        finds("key", "EPERM");
        finds("descriptors", "0 1 2");
        finds("host name", "envicutor");
        finds("umask", "0o22");
        finds(
            "signals",
            "0000000000000000 0000000001001000 0000000000000002",
        );
        finds("OOM score", "1000");
        for place in ["/work", "/tmp", "/dev/shm"] {
            finds(&format!("write {place}"), "ok");
        }
        finds("child", "7");
        finds("own port", "ok");
        finds("labels", "0");
        let in_a_container = isolation == Isolation::Container;
        // Both ends of the agent's connection.
        finds("sockets of unix", if in_a_container { "2" } else { "0" });
        finds("niceness", if in_a_container { "10" } else { "0" });
        expected
    }
}
