//! What a person gives a crawl and nobody else may read: passwords, tokens, and the
//! credentials in a proxy's URL. They travel in the specification and go to where they
//! are meant for; no log, message or record shows them, because nothing that prints
//! them prints more than where they stand.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// What stands where a secret would.
pub const REDACTED: &str = "[redacted]";

/// Begins a secret that a worker takes from its environment.
const FROM_ENVIRONMENT: &str = "env:";

/// Begins the names of the variables that can be taken. A specification comes from
/// whoever may submit one, and must not get at everything that a worker knows.
pub const VARIABLE_PREFIX: &str = "TRAWL_SECRET_";

/// A secret text, or `env:NAME`, the name of the worker's environment variable that
/// holds it. Its debug form shows neither.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// A secret that the environment should have and does not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {0} is not set here")]
pub struct SecretError(String);

impl Secret {
    /// The text itself.
    ///
    /// # Errors
    /// If it is kept in an environment variable that is not set.
    pub fn reveal(&self) -> Result<String, SecretError> {
        match self.variable() {
            Some(name) => std::env::var(name).map_err(|_| SecretError(name.to_owned())),
            None => Ok(self.0.clone()),
        }
    }

    /// The environment variable that has it, if one does.
    pub fn variable(&self) -> Option<&str> {
        self.0.strip_prefix(FROM_ENVIRONMENT)
    }

    /// The text, if it is not kept elsewhere.
    pub fn literal(&self) -> Option<&str> {
        self.variable().is_none().then_some(&*self.0)
    }
}

impl<T: Into<String>> From<T> for Secret {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// The URL of a proxy, which may hold credentials: `http://user:word@host:3128`. Its
/// display leaves them out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProxyUrl(String);

impl ProxyUrl {
    /// The URL with the credentials, for whoever connects to it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for ProxyUrl {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl FromStr for ProxyUrl {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(text.into())
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever it is, and also if it is no URL: nothing before the last @ is shown.
        let rest = self.0.rsplit('@').next().unwrap_or_default();
        match self.0.split_once("://") {
            Some((scheme, _)) if rest.len() < self.0.len() => write!(f, "{scheme}://{rest}"),
            _ => f.write_str(rest),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_display_nor_debug_shows_a_secret() {
        assert_eq!(format!("{:?}", Secret::from("hunter2")), REDACTED);
        for (url, shown) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("socks5://user:hunter2@proxy.example:1080/", "socks5://proxy.example:1080/"),
            ("http://u:hunter2/@x@proxy.example", "http://proxy.example"),
            ("http://u:hunter2@", "http://"),
            ("u:hunter2@proxy.example", "proxy.example"),
            ("ftp://x", "ftp://x"),
            ("http://", "http://"),
        ] {
            let url = ProxyUrl::from(url);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("{shown:?}"));
        }
    }

    #[test]
    fn a_secret_is_a_text_or_a_variable() {
        assert_eq!(Secret::from("word").reveal(), Ok("word".into()));
        let secret = Secret::from("env:TRAWL_SECRET_THAT_IS_NOT_SET");
        assert_eq!(secret.variable(), Some("TRAWL_SECRET_THAT_IS_NOT_SET"));
        let error = secret.reveal().unwrap_err().to_string();
        assert!(error.contains("TRAWL_SECRET_THAT_IS_NOT_SET is not set"), "{error}");
    }
}
