//! What requests to some hosts carry besides: headers and credentials.
//!
//! They are looked up by the URL of each request, so that no redirect takes them to
//! another host. Their values are marked as sensitive, by which they are kept out of
//! logs, of HTTP/2's tables and of the request's record.

use data_encoding::BASE64;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, ACCEPT_LANGUAGE, AUTHORIZATION, FROM},
};
use trawl_shared::{
    host_pattern::HostPattern,
    request_rules::{Basic, CredentialRule, HeaderRule},
    secret::SecretError,
    spec::{CrawlSpec, SpecError},
    url::CrawlUrl,
};

use super::FetchError;

/// Headers that are no secret, whatever their value.
const HARMLESS: [HeaderName; 3] = [ACCEPT, ACCEPT_LANGUAGE, FROM];

/// The rules of one crawl, ready to use.
pub(super) struct Extras(Vec<Rule>);

struct Rule {
    hosts: Vec<HostPattern>,
    /// Only with TLS.
    is_guarded: bool,
    name: HeaderName,
    /// The value, or why this worker does not have it.
    value: Result<HeaderValue, String>,
}

impl Extras {
    /// The rules of a crawl. A secret that this worker lacks is told by the requests
    /// that need it, since others need it not.
    ///
    /// # Errors
    /// If a name cannot be a header's.
    pub(super) fn new(spec: &CrawlSpec) -> Result<Self, SpecError> {
        let headers = spec.headers.iter().map(Rule::of_header);
        // The last one counts, and of credentials the first one is to.
        let credentials = spec.credentials.iter().rev().map(|rule| Ok(Rule::of_credentials(rule)));
        headers.chain(credentials).collect::<Result<_, _>>().map(Self)
    }

    /// What a request for `url` carries.
    ///
    /// # Errors
    /// If it should carry a secret that this worker does not have.
    pub(super) fn of(&self, url: &CrawlUrl) -> Result<HeaderMap, FetchError> {
        let mut headers = HeaderMap::new();
        for Rule { name, value, .. } in self.0.iter().filter(|rule| rule.is_for(url)) {
            let value =
                value.clone().map_err(|cause| FetchError::Internal { cause: cause.into() })?;
            headers.insert(name.clone(), value);
        }
        Ok(headers)
    }
}

impl Rule {
    fn of_header(rule: &HeaderRule) -> Result<Self, SpecError> {
        let name = HeaderName::from_bytes(rule.name.as_bytes())
            .map_err(|error| SpecError::new("headers.name", &rule.name, error.to_string()))?;
        let is_secret = !HARMLESS.contains(&name);
        let value = rule.value.reveal();
        Ok(Self {
            hosts: rule.hosts.clone(),
            is_guarded: false,
            value: header_value(&name, value, is_secret),
            name,
        })
    }

    fn of_credentials(rule: &CredentialRule) -> Self {
        let basic = |Basic { user, password }: &Basic| {
            let password = password.reveal()?;
            Ok(format!("Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes())))
        };
        let bearer = || rule.bearer.as_ref().map(|token| Ok(format!("Bearer {}", token.reveal()?)));
        let value = rule.basic.as_ref().map(basic).or_else(bearer).unwrap_or(Ok(String::new()));
        Self {
            hosts: rule.hosts.clone(),
            is_guarded: !rule.insecure,
            name: AUTHORIZATION,
            value: header_value(&AUTHORIZATION, value, true),
        }
    }

    fn is_for(&self, url: &CrawlUrl) -> bool {
        (!self.is_guarded || url.scheme() == "https")
            && self.hosts.iter().any(|hosts| hosts.matches(url))
    }
}

fn header_value(
    name: &HeaderName,
    text: Result<String, SecretError>,
    is_secret: bool,
) -> Result<HeaderValue, String> {
    let text = text.map_err(|error| error.to_string())?;
    let mut value = HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| format!("the value of the header {name} has a control character"))?;
    value.set_sensitive(is_secret);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::testing::url;

    fn extras(rules: &str) -> Extras {
        Extras::new(&serde_json::from_str(rules).unwrap()).unwrap()
    }

    fn sent(extras: &Extras, to: &str) -> Vec<(String, String)> {
        let headers = extras.of(&url(to)).unwrap();
        let text = |value: &HeaderValue| String::from_utf8(value.as_bytes().to_vec()).unwrap();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    #[test]
    fn each_host_gets_its_own_and_no_other() {
        let extras = extras(
            r#"{"headers": [
                {"hosts": ["*"], "name": "Accept-Language", "value": "de"},
                {"hosts": ["*.a.example"], "name": "X-Token", "value": "first"},
                {"hosts": ["www.a.example"], "name": "X-Token", "value": "second"}
            ], "credentials": [
                {"hosts": ["a.example"], "basic": {"user": "me", "password": "word"}},
                {"hosts": ["a.example", "b.example:8443"], "bearer": "abc"},
                {"hosts": ["c.example"], "bearer": "plain", "insecure": true}
            ]}"#,
        );
        let language = || ("accept-language".to_owned(), "de".to_owned());
        let with = |name: &str, value: &str| vec![language(), (name.into(), value.into())];
        for (url, headers) in [
            ("https://a.example/", with("authorization", "Basic bWU6d29yZA==")),
            ("http://a.example/", vec![language()]),
            ("https://b.example:8443/", with("authorization", "Bearer abc")),
            ("https://b.example/", vec![language()]),
            ("http://c.example/", with("authorization", "Bearer plain")),
            ("http://x.a.example/", with("x-token", "first")),
            ("http://www.a.example/", with("x-token", "second")),
            ("https://a.example.evil.example/", vec![language()]),
        ] {
            assert_eq!(sent(&extras, url), headers, "{url}");
        }
    }

    #[test]
    fn secrets_are_marked() {
        let extras = extras(
            r#"{"headers": [
                {"hosts": ["*"], "name": "Accept-Language", "value": "de"},
                {"hosts": ["*"], "name": "X-Token", "value": "abc"}
            ]}"#,
        );
        let headers = extras.of(&url("http://a.example/")).unwrap();
        assert!(headers["x-token"].is_sensitive() && !headers["accept-language"].is_sensitive());
    }

    #[test]
    fn a_secret_that_is_not_here_fails_the_requests_that_need_it() {
        let extras = extras(
            r#"{"credentials": [
                {"hosts": ["a.example"], "bearer": "env:TRAWL_SECRET_THAT_IS_NOT_SET"}
            ]}"#,
        );
        let error = extras.of(&url("https://a.example/")).unwrap_err().to_string();
        assert!(error.contains("TRAWL_SECRET_THAT_IS_NOT_SET is not set here"), "{error}");
        assert_eq!(extras.of(&url("https://b.example/")), Ok(HeaderMap::new()));
    }
}
