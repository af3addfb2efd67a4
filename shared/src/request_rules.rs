//! What requests to some hosts carry besides: headers and credentials, as a person
//! writes them for a crawl.
//!
//! A rule is looked up by the host of each single request. A redirect is a request of
//! its own, so that nothing follows a page to another host.

use serde::{Deserialize, Serialize};

use crate::{
    host_pattern::HostPattern,
    secret::{Secret, VARIABLE_PREFIX},
    spec::SpecError,
};

/// A header for requests to some hosts. Of several rules with the same name, the last
/// that is for the host counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderRule {
    /// The hosts that get it.
    pub hosts: Vec<HostPattern>,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Secret,
}

/// Credentials for requests to some hosts: either `basic` or `bearer`. The first rule
/// that is for the host counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialRule {
    /// The hosts that get them.
    pub hosts: Vec<HostPattern>,
    /// User and password (RFC 7617).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<Basic>,
    /// A bearer token (RFC 6750).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer: Option<Secret>,
    /// Whether they are sent without TLS too, where everybody on the way can read them.
    #[serde(default)]
    pub insecure: bool,
}

/// A user and the password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// The user's name, without a colon.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// Rules of each kind, and hosts of one rule, at most.
const RULES_MAX: usize = 100;

/// Bytes of a header's value, a password or a token at most.
const VALUE_BYTES_MAX: usize = 8 * 1024;

/// Headers that are the fetcher's own: they frame the message, belong to one
/// connection (RFC 9110, section 7.6.1), have a setting of their own, or would make
/// the answer something else than the page.
const RESERVED: [&str; 20] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];

/// Checks a crawl's rules.
///
/// # Errors
/// With the first one that cannot be. No error shows a secret.
pub(crate) fn validate(
    headers: &[HeaderRule],
    credentials: &[CredentialRule],
    cookies: bool,
) -> Result<(), SpecError> {
    at_most("headers", headers.len())?;
    at_most("credentials", credentials.len())?;
    headers.iter().try_for_each(|rule| rule.validate(cookies))?;
    credentials.iter().try_for_each(CredentialRule::validate)
}

impl HeaderRule {
    fn validate(&self, cookies: bool) -> Result<(), SpecError> {
        let Self { hosts, name, value } = self;
        check_hosts("headers.hosts", hosts)?;
        let is_char = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if name.is_empty() || name.len() > 100 || !name.bytes().all(is_char) {
            let allowed = "a header's name, such as X-Token, is allowed";
            return Err(SpecError::new("headers.name", name, allowed));
        }
        let lower = name.to_ascii_lowercase();
        if RESERVED.contains(&&*lower) || lower.starts_with("if-") {
            let allowed = "this one is the fetcher's own; user agent, credentials and proxies \
                have settings of their own";
            return Err(SpecError::new("headers.name", name, allowed));
        }
        if cookies && lower == "cookie" {
            let allowed = "it is either this or cookies = true";
            return Err(SpecError::new("headers.name", name, allowed));
        }
        check_secret("headers.value", name, value)
    }
}

impl CredentialRule {
    fn validate(&self) -> Result<(), SpecError> {
        check_hosts("credentials.hosts", &self.hosts)?;
        if let Some(wide) = self.hosts.iter().find(|hosts| hosts.is_of_many_owners()) {
            let allowed = "credentials are for the hosts of one owner";
            return Err(SpecError::new("credentials.hosts", wide, allowed));
        }
        let hosts = self.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        match (&self.basic, &self.bearer) {
            (Some(Basic { user, password }), None) => {
                if user.contains(':') || user.chars().any(char::is_control) || user.len() > 256 {
                    let allowed = "a name without a colon is allowed";
                    return Err(SpecError::new("credentials.basic.user", user, allowed));
                }
                check_secret("credentials.basic.password", hosts, password)
            }
            (None, Some(token)) => check_secret("credentials.bearer", hosts, token),
            _ => Err(SpecError::new(
                "credentials.hosts",
                hosts,
                "they need either basic = { user = \"…\", password = \"…\" } or bearer = \"…\"",
            )),
        }
    }
}

fn at_most(key: &'static str, count: usize) -> Result<(), SpecError> {
    match count {
        0..=RULES_MAX => Ok(()),
        _ => Err(SpecError::new(key, count, format!("{RULES_MAX} are allowed at most"))),
    }
}

fn check_hosts(key: &'static str, hosts: &[HostPattern]) -> Result<(), SpecError> {
    if hosts.is_empty() {
        return Err(SpecError::new(key, "[]", "name the hosts, such as [\"*.example.org\"]"));
    }
    at_most(key, hosts.len())
}

/// Checks a secret, which belongs to `what`.
fn check_secret(key: &'static str, what: impl ToString, secret: &Secret) -> Result<(), SpecError> {
    if let Some(variable) = secret.variable() {
        let allowed = format!(
            "a variable is allowed whose name begins with {VARIABLE_PREFIX}, such as \
             env:{VARIABLE_PREFIX}TOKEN"
        );
        return match variable.strip_prefix(VARIABLE_PREFIX) {
            Some(rest) if !rest.is_empty() => Ok(()),
            _ => Err(SpecError::new(key, what, allowed)),
        };
    }
    let text = secret.literal().unwrap_or_default();
    if text.len() > VALUE_BYTES_MAX || text.chars().any(char::is_control) {
        let allowed = format!(
            "its value is not shown; at most {VALUE_BYTES_MAX} bytes without control characters \
             are allowed"
        );
        return Err(SpecError::new(key, what, allowed));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::spec::CrawlSpec;

    fn refusal(toml: &str) -> String {
        let spec: CrawlSpec = toml::from_str(toml).unwrap();
        spec.validate().map(|()| "nothing".to_owned()).unwrap_or_else(|error| error.to_string())
    }

    fn header(name: &str, value: &str) -> String {
        format!("[[headers]]\nhosts = ['a.example']\nname = '{name}'\nvalue = '{value}'\n")
    }

    fn credentials(hosts: &str, rest: &str) -> String {
        format!("[[credentials]]\nhosts = ['{hosts}']\n{rest}\n")
    }

    #[test]
    fn rules_are_read_and_travel() {
        let toml = header("X-Token", "env:TRAWL_SECRET_TOKEN")
            + &credentials("*.a.example", "basic = { user = 'me', password = 'word' }")
            + &credentials("b.example:8443", "bearer = 'abc'\ninsecure = true");
        let spec: CrawlSpec = toml::from_str(&toml).unwrap();
        spec.validate().unwrap();
        assert_eq!(CrawlSpec::from_json(&spec.to_json()).unwrap(), spec);
        let debug = format!("{spec:?}");
        assert!(!debug.contains("word\"") && !debug.contains("abc"), "{debug}");
    }

    #[test]
    fn what_cannot_be_is_refused_without_telling_secrets() {
        for (toml, part) in [
            (header("Host", "hunter2"), "headers.name = \"Host\" cannot be"),
            (header("Transfer-Encoding", "hunter2"), "fetcher's own"),
            (header("Authorization", "hunter2"), "credentials"),
            (header("If-None-Match", "hunter2"), "fetcher's own"),
            (header("a b", "hunter2"), "headers.name"),
            (header("", "hunter2"), "headers.name"),
            (header("X-A", "env:HOME"), "TRAWL_SECRET_"),
            (header("X-A", "env:TRAWL_SECRET_"), "TRAWL_SECRET_TOKEN"),
            (header("X-A", &"hunter2".repeat(2000)), "headers.value = \"X-A\" cannot be"),
            ("cookies = true\n".to_owned() + &header("Cookie", "hunter2"), "cookies = true"),
            (header("X-A", "hunter2").replace("'a.example'", ""), "headers.hosts"),
            (header("X-A", "hunter2").replace("'hunter2'", "\"hunter2\\n\""), "headers.value"),
            (credentials("*.co.uk", "bearer = 'hunter2'"), "one owner"),
            (credentials("*", "bearer = 'hunter2'"), "one owner"),
            (credentials("a.example", ""), "either basic"),
            (
                credentials(
                    "a.example",
                    "bearer = 'hunter2'\nbasic = { user = 'u', password = 'hunter2' }",
                ),
                "either basic",
            ),
            (credentials("a.example", "basic = { user = 'u:v', password = 'hunter2' }"), "colon"),
        ] {
            let refusal = refusal(&toml);
            assert!(refusal.contains(part) && !refusal.contains("hunter2"), "{toml}: {refusal}");
        }
        assert_eq!(refusal(&header("Cookie", "a=b")), "nothing");
    }
}
