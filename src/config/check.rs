//! What a configuration must keep to, so that nothing is refused later that could be refused at the start.

use super::{Config, ConfigError};

/// Refuses what would only fail later.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    nats(config)?;
    blobs(config)?;
    worker(config)?;
    container(config)?;
    installer(config)
}

fn require(holds: bool, key: &'static str, problem: &str) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError::Value {
        key,
        problem: problem.to_owned(),
    })
}

fn nats(config: &Config) -> Result<(), ConfigError> {
    let token = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    require(
        !config.nats.prefix.is_empty() && config.nats.prefix.chars().all(token),
        "nats.prefix",
        "expected [a-z0-9_-]+",
    )?;
    require(
        !config.nats.tenants.is_empty(),
        "nats.tenants",
        "expected one tenant or more",
    )?;
    require(
        matches!(config.nats.replicas, 1 | 3 | 5),
        "nats.replicas",
        "expected 1, 3 or 5",
    )?;
    // To JetStream 0 would mean without a bound.
    require(
        config.nats.history_bytes.0 >= 1 << 20,
        "nats.history_bytes",
        "expected 1 MiB or more",
    )?;
    require(
        config.nats.ack_wait_us.0 >= 1_000_000,
        "nats.ack_wait_us",
        "expected 1 s or more",
    )?;
    require(
        config.nats.ping_us.0 > 0,
        "nats.ping_us",
        "expected more than 0",
    )?;
    Ok(())
}

fn blobs(config: &Config) -> Result<(), ConfigError> {
    require(
        (64 << 10..=1 << 30).contains(&config.blobs.part_bytes.0),
        "blobs.part_bytes",
        "expected 64 KiB to 1 GiB",
    )?;
    require(
        (1..=64).contains(&config.blobs.uploads),
        "blobs.uploads",
        "expected 1 to 64",
    )?;
    require(
        config.blobs.call_timeout_us.0 > 0,
        "blobs.call_timeout_us",
        "expected more than 0",
    )?;
    require(
        config.blobs.grace_us.0 >= 1_000_000,
        "blobs.grace_us",
        "expected 1 s or more",
    )?;
    require(
        config.blobs.gc_us.0 >= 1_000_000,
        "blobs.gc_us",
        "expected 1 s or more",
    )?;
    // To JetStream 0 would mean without a bound.
    require(
        config.blobs.tenant_bytes.0 >= 1 << 20,
        "blobs.tenant_bytes",
        "expected 1 MiB or more",
    )?;
    require(
        config.client.transfers > 0,
        "client.transfers",
        "expected 1 or more",
    )?;
    Ok(())
}

fn worker(config: &Config) -> Result<(), ConfigError> {
    require(
        config.worker.slots != Some(0),
        "worker.slots",
        "expected 1 or more",
    )?;
    require(
        config.worker.compilations != Some(0),
        "worker.compilations",
        "expected 1 or more",
    )?;
    require(
        config.worker.max_attempts > 0,
        "worker.max_attempts",
        "expected 1 or more",
    )?;
    require(
        config.worker.interactive_weight > 0,
        "worker.interactive_weight",
        "expected 1 or more",
    )?;
    require(
        config.worker.expiry_look_us.0 >= 100_000,
        "worker.expiry_look_us",
        "expected 100 ms or more",
    )?;
    require(
        config.worker.downloads > 0,
        "worker.downloads",
        "expected 1 or more",
    )?;
    require(
        config.worker.uploads > 0,
        "worker.uploads",
        "expected 1 or more",
    )?;
    require(
        config.worker.inline_output_bytes.0 >= 1 << 10,
        "worker.inline_output_bytes",
        "expected 1 KiB or more",
    )?;
    Ok(())
}

fn container(config: &Config) -> Result<(), ConfigError> {
    if let Some((key, problem)) = config.container.useless_bounds() {
        require(false, key, problem)?;
    }
    let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    require(
        config.container.cpus > 0.0,
        "container.cpus",
        "expected more than 0",
    )?;
    require(
        config.container.slot_uses > 0,
        "container.slot_uses",
        "expected 1 or more",
    )?;
    require(
        config.container.runtimes_volume.chars().all(name)
            && config
                .container
                .runtimes_volume
                .starts_with(|c: char| c.is_ascii_alphanumeric()),
        "container.runtimes_volume",
        "expected the name of a Docker volume, [A-Za-z0-9][A-Za-z0-9_.-]*",
    )?;
    require(
        config.container.uid_first > 0,
        "container.uid_first",
        "expected 1 or more: stages never run as root",
    )?;
    require(
        config.container.uid_count > 0,
        "container.uid_count",
        "expected 1 or more",
    )?;
    Ok(())
}

fn installer(config: &Config) -> Result<(), ConfigError> {
    require(
        config.egress.connections > 0,
        "egress.connections",
        "expected 1 or more",
    )?;
    require(
        config.installer.ack_wait_us.0 >= 1_000_000,
        "installer.ack_wait_us",
        "expected 1 s or more",
    )?;
    require(
        config.installer.max_attempts > 0,
        "installer.max_attempts",
        "expected 1 or more",
    )?;
    require(
        (1_024..=256 << 10).contains(&config.installer.log_bytes.0),
        "installer.log_bytes",
        "expected 1 KiB to 256 KiB",
    )?;
    // The Engine's own bounds.
    require(
        (2..=262_144).contains(&config.installer.cpu_shares),
        "installer.cpu_shares",
        "expected 2 to 262144",
    )?;
    require(
        (1..=100).contains(&config.installer.busy_percent),
        "installer.busy_percent",
        "expected 1 to 100",
    )?;
    require(
        (1..=100).contains(&config.installer.export_percent),
        "installer.export_percent",
        "expected 1 to 100",
    )?;
    require(
        config.installer.memory_bytes.0 >= 64 << 20,
        "installer.memory_bytes",
        "expected 64 MiB or more",
    )?;
    Ok(())
}
