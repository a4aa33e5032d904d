//! Load scenarios and micro-benchmarks. What the programs of this crate share; it must not know the proxies.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};

/// Command-line arguments of the form `--name value`.
#[derive(Debug)]
pub struct Arguments(HashMap<String, String>);

impl Arguments {
    /// Those that this process was started with.
    ///
    /// # Errors
    /// On an argument without its value, or a value without its name.
    pub fn from_environment() -> Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let mut named = HashMap::new();
        while let Some(name) = arguments.next() {
            let Some(name) = name.strip_prefix("--") else {
                bail!("`{name}` is not of the form --name value")
            };
            let value = arguments.next().with_context(|| format!("--{name} wants a value"))?;
            named.insert(name.to_owned(), value);
        }
        Ok(Self(named))
    }

    /// The value of `--name`.
    ///
    /// # Errors
    /// If it is missing or cannot be read.
    pub fn get<T>(&self, name: &str) -> Result<T>
    where
        T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        let value = self.0.get(name).with_context(|| format!("--{name} is missing"))?;
        value.parse().with_context(|| format!("--{name} {value}"))
    }

    /// The same, or `default` where it is missing.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn get_or<T>(&self, name: &str, default: T) -> Result<T>
    where
        T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
    {
        if self.0.contains_key(name) { self.get(name) } else { Ok(default) }
    }
}
