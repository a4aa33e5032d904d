//! The command line: what can be typed. It must not know what the commands do.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use sluice_config::{Override, Source};

use crate::product::Product;

/// The flags that every binary understands; its name and what it is come from its [`Product`].
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Cli {
    /// What to do; without one: `run`.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The flags of `run`.
    #[command(flatten)]
    pub(crate) run: Layers,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run (the default)
    Run(Layers),
    /// Check a configuration: every error with its place and remedy; exit code 0 or 64
    Check(Layers),
    /// Say what would happen to a request and why; exit code 0 allowed, 1 denied
    Explain(Explain),
    /// Look at this system: what works, what does not and what to do about it
    Doctor(Layers),
    /// Turn the configuration of something else into TOML on standard output; exit code 0 or 64
    #[command(subcommand)]
    Import(Import),
}

/// What can be imported.
#[derive(Debug, Subcommand)]
pub(crate) enum Import {
    /// Istio ServiceEntry resources (YAML or JSON), as [[service]] tables that decide the same
    Istio {
        /// The files; - is standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

/// Where the configuration comes from.
#[derive(Debug, Default, Args)]
pub(crate) struct Layers {
    /// The configuration file [default: $SLUICE_CONFIG, else /etc/sluice/sluice.toml if present]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What happens to destinations that match no service: allow_any or registry_only
    #[arg(long, value_name = "MODE")]
    mode: Option<String>,
    /// One http_proxy door here, instead of the doors of the file
    #[arg(long, value_name = "ADDRESS:PORT")]
    bind: Option<String>,
    /// Where the admin API listens (loopback)
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<String>,
    /// auto, uring or epoll
    #[arg(long, value_name = "ENGINE")]
    engine: Option<String>,
    /// Cores for workers, for example 1,2,3
    #[arg(long, value_name = "CORES")]
    cores: Option<String>,
    /// Any other key, for example --set limits.connect_timeout_ms=2000 (may be repeated)
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

/// The question that `explain` answers.
#[derive(Debug, Args)]
pub(crate) struct Explain {
    #[command(flatten)]
    pub(crate) layers: Layers,
    /// Who asks: namespace/name, a SPIFFE id or an IP address [default: somebody unknown]
    #[arg(long, value_name = "SOURCE")]
    pub(crate) from: Option<String>,
    /// What for: a URL, or host:port
    #[arg(long, value_name = "DESTINATION")]
    pub(crate) to: String,
    /// The original destination of a redirected connection
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) original: Option<String>,
    /// Answer as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

impl Layers {
    /// The configuration's source: this process's environment under these flags.
    pub(crate) fn source(self) -> Source {
        let flags = [
            ("--mode", "mode", self.mode),
            (
                "--bind",
                "listener",
                self.bind.map(|bind| format!("[{{ kind = \"http_proxy\", bind = {bind:?} }}]")),
            ),
            ("--admin", "admin.bind", self.admin),
            ("--engine", "dataplane.engine", self.engine),
            ("--cores", "dataplane.cores", self.cores),
        ];
        let named = flags.into_iter().filter_map(|(flag, key, value)| Some((flag, key.to_owned(), value?)));
        let set = self.set.into_iter().map(|(key, value)| ("--set", key, value));
        let overrides = named
            .chain(set)
            .map(|(flag, key, value)| Override { flag: flag.to_owned(), key, value })
            .collect();
        Source::from_process(self.config, overrides)
    }
}

/// Reads the command line.
///
/// # Errors
/// clap's, which are also `--help` and `--version`.
pub(crate) fn parse(
    product: &Product,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Command, clap::Error> {
    let command = Cli::command().name(product.name).about(product.about).long_about(None);
    let cli = Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)?;
    Ok(cli.command.unwrap_or(Command::Run(cli.run)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, clap::Error> {
        parse(&crate::product::tests::EPOLL, ["sluice"].iter().chain(arguments).map(OsString::from))
    }

    #[test]
    fn run_is_the_default_with_or_without_flags() {
        assert!(matches!(parsed(&[]), Ok(Command::Run(_))));
        let Ok(Command::Run(layers)) = parsed(&["--config", "x.toml", "--engine", "epoll"]) else {
            panic!("flags of run without its name")
        };
        let source = layers.source();
        assert_eq!(source.path, Some(PathBuf::from("x.toml")));
        assert_eq!(source.overrides[0].key, "dataplane.engine");
    }

    #[test]
    fn a_bind_becomes_one_door() {
        let Ok(Command::Run(layers)) = parsed(&["run", "--bind", "127.0.0.1:0"]) else { panic!("valid") };
        let source = layers.source();
        assert_eq!(source.overrides[0].value, r#"[{ kind = "http_proxy", bind = "127.0.0.1:0" }]"#);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(parsed(&["explode"]).is_err());
        assert!(parsed(&["run", "--set", "novalue"]).is_err());
        assert!(parsed(&["explain"]).is_err(), "--to is needed");
        assert!(parsed(&["import"]).is_err(), "of what?");
        assert!(parsed(&["import", "istio"]).is_err(), "a file is needed");
    }
}
