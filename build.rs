//! Builds the agent: static, for any container of this machine's kind, so that the programs can carry it.
//!
//! It is a cargo run of its own, because the agent needs another profile and other compiler flags than the rest. What the
//! outer run set for itself (clippy's wrapper, flags, profiles) must not reach it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// `CARGO_ENCODED_RUSTFLAGS` separates by this.
const SEPARATOR: &str = "\x1f";

/// Compiler flags of the agent: one file that needs nothing of the container's.
const FLAGS: [&str; 5] = [
    "-Ctarget-feature=+crt-static",
    "-Crelocation-model=static",
    "-Clink-arg=-Wl,--gc-sections",
    "-Clink-arg=-Wl,--build-id=none",
    "-Clink-arg=-Wl,-z,noseparate-code",
];

/// Variables that change how cargo or rustc builds, by their beginnings.
const LEAKS: [&str; 9] = [
    "CARGO_BUILD_",
    "CARGO_ENCODED_RUST",
    "CARGO_PROFILE_",
    "CARGO_TARGET_DIR",
    "CLIPPY_",
    "RUSTC_",
    "RUSTDOC",
    "RUSTFLAGS",
    "CARGO_UNSTABLE_",
];

fn main() -> ExitCode {
    match build() {
        Ok(agent) => {
            println!("cargo:rustc-env=ENVICUTOR_AGENT={}", agent.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("cargo:error={error}");
            ExitCode::FAILURE
        }
    }
}

/// The path of the agent, built.
fn build() -> Result<PathBuf, String> {
    let root = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    watch(&root);
    let target = variable("TARGET")?
        .into_string()
        .map_err(|_| "TARGET is not UTF-8, expected the name of a Rust target")?;
    let directory = PathBuf::from(variable("OUT_DIR")?).join("agent");
    let status = cargo(&root, &target, &directory)?
        .status()
        .map_err(|error| format!("cannot start cargo to build the agent: {error}"))?;
    if !status.success() {
        return Err(format!(
            "cargo could not build the agent for {target} ({status}); its messages are above"
        ));
    }
    let agent = directory.join(&target).join("agent/envicutor-agent");
    if !agent.is_file() {
        return Err(format!(
            "cargo built the agent, but left none at {}",
            agent.display()
        ));
    }
    Ok(agent)
}

/// The cargo run. The outer one has settled the lock file, which this one leaves alone; what only the agent is made of may not have been
/// fetched by it.
fn cargo(root: &Path, target: &str, directory: &Path) -> Result<Command, String> {
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(root)
        .args(["build", "--locked", "--quiet"])
        .args(["--package", "envicutor-agent", "--profile", "agent"])
        .args(["--target", target])
        .arg("--target-dir")
        .arg(directory);
    for (name, _) in env::vars_os() {
        if leaks(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    cargo.env(
        "CARGO_ENCODED_RUSTFLAGS",
        flags(root, target).join(SEPARATOR),
    );
    Ok(cargo)
}

/// [`FLAGS`], and what makes the agent smaller where the linker is known to be lld: Rust's default on this one target.
fn flags(root: &Path, target: &str) -> Vec<String> {
    let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    if target == "x86_64-unknown-linux-gnu" {
        let script = root.join("crates/agent/agent.ld");
        flags.push(format!("-Clink-arg=-Wl,-T,{}", script.display()));
        flags.push("-Clink-arg=-Wl,--no-eh-frame-hdr".to_owned());
        // The same instructions at many places become a call.
        flags.push("-Cllvm-args=-enable-machine-outliner=always".to_owned());
    }
    flags
}

fn leaks(name: &str) -> bool {
    LEAKS.iter().any(|beginning| name.starts_with(beginning))
}

fn variable(name: &str) -> Result<OsString, String> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set, expected cargo to set it"))
}

/// What the agent is made of.
fn watch(root: &Path) {
    for path in [
        "build.rs",
        "Cargo.lock",
        "Cargo.toml",
        "crates/agent/Cargo.toml",
        "crates/agent/agent.ld",
        "crates/agent/src",
        "crates/protocol/Cargo.toml",
        "crates/protocol/src",
    ] {
        println!("cargo:rerun-if-changed={}", root.join(path).display());
    }
}
