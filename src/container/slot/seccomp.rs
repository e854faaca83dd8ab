//! The outer wall's filter for system calls. It allows what makes the inner wall (namespaces, mounts) and denies what neither
//! the agent nor any stage needs; the stages' own filter, the agent's, is narrower by far. It is of one architecture: the
//! same calls by the numbers of another are refused by the kernel.

/// The profile as the Engine takes it.
pub(super) const PROFILE: &str = include_str!("seccomp.json");

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn profile() -> Value {
        serde_json::from_str(PROFILE).expect("JSON")
    }

    fn denied() -> HashSet<String> {
        let profile = profile();
        let rules = profile["syscalls"].as_array().expect("rules");
        let denying = rules
            .iter()
            .filter(|rule| rule["action"] == "SCMP_ACT_ERRNO");
        let names = denying.flat_map(|rule| rule["names"].as_array().expect("names"));
        names
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect()
    }

    #[test]
    fn what_no_submission_needs_is_denied() {
        let denied = denied();
        for name in [
            "add_key",
            "bpf",
            "delete_module",
            "finit_module",
            "init_module",
            "io_uring_setup",
            "kexec_load",
            "keyctl",
            "open_by_handle_at",
            "perf_event_open",
            "process_vm_readv",
            "reboot",
            "request_key",
            "settimeofday",
            "swapon",
            "syslog",
            "userfaultfd",
        ] {
            assert!(denied.contains(name), "{name}");
        }
    }

    #[test]
    fn what_makes_the_inner_wall_is_allowed() {
        let denied = denied();
        for name in [
            "clone",
            "clone3",
            "execve",
            "mount",
            "pivot_root",
            "prctl",
            // Sanitizers and debuggers, of their own processes.
            "ptrace",
            "seccomp",
            "sethostname",
            "setns",
            "umount2",
            "unshare",
        ] {
            assert!(!denied.contains(name), "{name}");
        }
    }

    #[test]
    fn it_allows_or_denies_and_nothing_else() {
        let profile = profile();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ALLOW");
        assert_eq!(
            profile["architectures"],
            serde_json::json!(["SCMP_ARCH_X86_64"])
        );
        let rules = profile["syscalls"].as_array().expect("rules");
        assert!(rules.iter().all(|rule| rule["action"] == "SCMP_ACT_ERRNO"));
    }
}
