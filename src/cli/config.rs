//! `envicutor config`: the configuration in force, as a TOML file that would give the same. Passwords are not shown.

use super::{
    exit::{CliError, Exit},
    options::Options,
    printer::say_json,
    terminal::say,
};

/// Print the configuration in force: defaults, file, environment, flags, in this order.
///
/// Times are in microseconds and sizes in bytes; a file may also say "1.5s" and "256MiB". A password in `nats.url` is not shown.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

impl Config {
    /// Loads and prints.
    pub fn run(self, options: &Options) -> Result<Exit, CliError> {
        let mut config = options.load()?;
        config.nats.url = without_passwords(&config.nats.url);
        if self.json {
            say_json(&config)?;
        } else {
            let text =
                toml::to_string(&config).map_err(|error| CliError::Show(error.to_string()))?;
            say(text.trim_end())?;
        }
        Ok(Exit::Ok)
    }
}

fn without_passwords(urls: &str) -> String {
    let one = |url: &str| {
        let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
        match rest.rsplit_once('@') {
            Some((login, host)) => {
                let user = login.split(':').next().unwrap_or_default();
                format!("{scheme}://{user}:***@{host}")
            }
            None => url.to_owned(),
        }
    };
    urls.split(',').map(one).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let shown = without_passwords("nats://service:s3cret@h:1,nats://h:2,op:p@w@h");
        assert_eq!(shown, "nats://service:***@h:1,nats://h:2,nats://op:***@h");
    }
}
