//! The crawl's options: on the command line, and in `crawl.toml`. An option given
//! on the command line wins over the file, and the file over the default.

#![allow(
    rustdoc::bare_urls,
    reason = "these comments are the help text, which shows them as they are"
)]

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, stdin},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use serde::Deserialize;
use toml::de::DeTable;
use trawl_shared::{
    canon::CanonRule,
    scope::ScopeKind,
    secret::ProxyUrl,
    spec::{CrawlSpec, DirectivesPolicy, LinkKind, RobotsPolicy},
    trap::TrapSpec,
    units::{Size, Span},
    url::CrawlUrl,
};

use crate::{exit::Failure, toml_error};

/// What a crawl starts from and how it goes about it.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct CrawlOptions {
    /// Seeds: the URLs to start from, such as https://example.org/
    #[arg(value_name = "URL")]
    pub(crate) seeds: Vec<String>,

    /// Read options from a file; its keys are these options' names, with `_` for `-`
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Name of the crawl; one data directory can hold several [default: default]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// How far from the seeds to go: their host, their registrable domain, below
    /// their directory, or anywhere [default: host]
    #[arg(long, value_enum, help_heading = "Scope")]
    scope: Option<ScopeOption>,

    /// Fetch only URLs that match this regular expression; may be repeated
    #[arg(long, value_name = "REGEX", help_heading = "Scope")]
    include: Vec<String>,

    /// Do not fetch URLs that match this regular expression; may be repeated
    #[arg(long, value_name = "REGEX", help_heading = "Scope")]
    exclude: Vec<String>,

    /// Links from a seed to the furthest page [default: no limit]
    #[arg(long, value_name = "LINKS", help_heading = "Scope")]
    depth: Option<u32>,

    /// Pages to fetch at most; redirects do not count [default: no limit]
    #[arg(long, value_name = "PAGES", help_heading = "Scope")]
    pages: Option<u64>,

    /// Pages to fetch of one host at most [default: no limit]
    #[arg(long, value_name = "PAGES", help_heading = "Scope")]
    pages_per_host: Option<u64>,

    /// Elements whose links to follow, and other lists of URLs to read, separated by commas
    /// [default: a,area]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KINDS", help_heading = "Scope")]
    follow: Vec<FollowOption>,

    /// Redirects to follow one after the other [default: 5]
    #[arg(long, value_name = "HOPS", help_heading = "Scope")]
    redirects: Option<u32>,

    /// Links to follow from a page in scope to pages out of it [default: 0]
    #[arg(long, value_name = "HOPS", help_heading = "Scope")]
    hops_off_site: Option<u32>,

    /// Rules of canonical form that take URLs for the same page, separated by commas,
    /// such as tracking,sort-query [default: none]
    #[arg(long, value_delimiter = ',', value_name = "RULES", help_heading = "Scope")]
    canon: Vec<CanonRule>,

    /// Query parameters to drop from all URLs, separated by commas, such as ref,src_*
    /// [default: none]
    #[arg(long, value_delimiter = ',', value_name = "NAMES", help_heading = "Scope")]
    drop_params: Vec<String>,

    /// Whether to look for traps, webs of endless pages [default: on]
    #[arg(long, value_enum, help_heading = "Scope")]
    traps: Option<Switch>,

    /// Wait between two fetches of a host; robots.txt may ask for more [default: 1s]
    #[arg(long, value_name = "DURATION", help_heading = "Politeness")]
    delay: Option<Span>,

    /// Leave a host alone for this many times as long as its last answer took
    /// [default: 5]
    #[arg(long, value_name = "TIMES", help_heading = "Politeness")]
    delay_factor: Option<u32>,

    /// The most that this makes of the delay, as its multiple [default: 10]
    #[arg(long, value_name = "TIMES", help_heading = "Politeness")]
    delay_stretch: Option<u32>,

    /// Fetches of one host at the same time [default: 1]
    #[arg(long, value_name = "FETCHES", help_heading = "Politeness")]
    host_connections: Option<u32>,

    /// Failures of a host in a row after which what waits for it is given up [default: 10]
    #[arg(long, value_name = "FAILURES", help_heading = "Politeness")]
    host_attempts: Option<u32>,

    /// Hosts of one address, or of one registrable domain, visited at the same time; 0
    /// for no limit [default: 8]
    #[arg(long, value_name = "HOSTS", help_heading = "Politeness")]
    group_hosts: Option<u32>,

    /// Whether to obey robots.txt [default: obey]
    #[arg(long, value_enum, help_heading = "Politeness")]
    robots: Option<RobotsOption>,

    /// Whether to obey pages and links that say `nofollow` [default: obey]
    #[arg(long, value_enum, help_heading = "Politeness")]
    directives: Option<DirectivesOption>,

    /// What to call itself; robots.txt rules are looked up by its first word
    /// [default: trawl/VERSION]
    #[arg(long, value_name = "TEXT", help_heading = "Politeness")]
    user_agent: Option<String>,

    /// Fetch through this proxy (http, https, socks5 or socks5h); proxy variables
    /// of the environment are not used; may be repeated, then each host is fetched
    /// through one of them [default: none]
    #[arg(long, value_name = "URL", help_heading = "Network")]
    proxy: Vec<ProxyUrl>,

    /// Allow fetching from this network, although it is not the public internet;
    /// may be repeated [default: none]
    #[arg(long, value_name = "CIDR", help_heading = "Network")]
    allow_net: Vec<ipnet::IpNet>,

    /// Keep cookies and send them back, each to its host, for this crawl alone
    #[arg(long, help_heading = "Network")]
    cookies: bool,

    /// Longest time for a connection to stand, TLS included [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Network")]
    connect_timeout: Option<Span>,

    /// Longest time for a host to send nothing [default: 10s]
    #[arg(long, value_name = "DURATION", help_heading = "Network")]
    read_timeout: Option<Span>,

    /// Longest time for one fetch in all [default: 30s]
    #[arg(long, value_name = "DURATION", help_heading = "Network")]
    fetch_timeout: Option<Span>,

    /// Bytes a second that a body must come at, after ten seconds; 0 for any
    /// [default: 1KiB]
    #[arg(long, value_name = "SIZE", help_heading = "Network")]
    rate_min: Option<Size>,

    /// Longest outage of our own network to wait for, when nobody can be reached any
    /// more; 0s for none [default: 24h]
    #[arg(long, value_name = "DURATION", help_heading = "Network")]
    outage_max: Option<Span>,

    /// Bytes of a body to keep, after decompression; the rest is cut off
    /// [default: 10MiB]
    #[arg(long, value_name = "SIZE", help_heading = "Network")]
    body_limit: Option<Size>,

    /// Tries of one URL at most, the first included [default: 3]
    #[arg(long, value_name = "TRIES", help_heading = "Retries")]
    attempts: Option<u32>,

    /// Wait before the second try; it doubles from try to try, and up to as much
    /// again is added by chance [default: 5s]
    #[arg(long, value_name = "DURATION", help_heading = "Retries")]
    retry_wait: Option<Span>,

    /// Longest wait between two tries [default: 5m]
    #[arg(long, value_name = "DURATION", help_heading = "Retries")]
    retry_wait_max: Option<Span>,

    /// Charsets to try on pages that declare none, separated by commas, such as
    /// utf-8,gbk [default: none, the charset is guessed]
    #[arg(long, value_delimiter = ',', value_name = "CHARSETS", help_heading = "Text")]
    charsets: Vec<String>,
}

/// [`ScopeKind`], as an option.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ScopeOption {
    Host,
    Domain,
    Prefix,
    Any,
}

/// Whether something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// [`RobotsPolicy`], as an option.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum RobotsOption {
    Obey,
    Ignore,
}

/// [`DirectivesPolicy`], as an option.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum DirectivesOption {
    Obey,
    Ignore,
}

/// [`LinkKind`], as an option.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum FollowOption {
    A,
    Area,
    Iframe,
    Frame,
    LinkNext,
    LinkCanonical,
    LinkAlternate,
    MetaRefresh,
    Sitemap,
    Feed,
}

/// The keys of `crawl.toml` beside those of the specification.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RunKeys {
    seeds: Vec<String>,
    name: Option<String>,
    data: Option<PathBuf>,
    lanes: Option<usize>,
}

/// Their names.
const RUN_KEYS: [&str; 4] = ["seeds", "name", "data", "lanes"];

/// A crawl to run, from the file and the command line.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) seeds: Vec<CrawlUrl>,
    pub(crate) name: String,
    pub(crate) spec: CrawlSpec,
    /// The file's data directory.
    pub(crate) data: Option<PathBuf>,
    /// The file's number of lanes.
    pub(crate) lanes: Option<usize>,
}

impl CrawlOptions {
    /// Puts the files and the options together, and checks them.
    ///
    /// # Errors
    /// With the setting that cannot be.
    pub(crate) fn resolve(self, seeds_file: Option<&Path>) -> Result<Resolved, Failure> {
        let (run, spec) = match &self.config {
            Some(path) => read_file(path)?,
            None => Default::default(),
        };
        let listed = seeds_file.map(read_seeds).transpose()?.unwrap_or_default();
        let seeds = run.seeds.iter().chain(&self.seeds).chain(&listed);
        let seeds = seeds.map(|seed| parse_seed(seed));
        let seeds: Vec<CrawlUrl> = seeds.collect::<Result<_, _>>()?;
        if seeds.is_empty() {
            return Err(Failure::usage(
                "no URL to start from; name one, such as: trawl crawl https://example.org/",
            ));
        }
        let name = self.name.clone().or(run.name).unwrap_or_else(|| "default".to_owned());
        trawl_shared::spec::check_name(&name).map_err(Failure::usage)?;
        let spec = self.over(spec);
        spec.validate().map_err(Failure::usage)?;
        // What only a worker can judge: selectors and charset labels.
        trawl_worker::parse::Parser::new(&spec).map_err(Failure::usage)?;
        Ok(Resolved { seeds, name, spec, data: run.data, lanes: run.lanes })
    }

    /// The specification with the options that were given.
    fn over(self, spec: CrawlSpec) -> CrawlSpec {
        let given = |list: Vec<String>, otherwise| if list.is_empty() { otherwise } else { list };
        CrawlSpec {
            scope: self.scope.map_or(spec.scope, Into::into),
            include: given(self.include, spec.include),
            exclude: given(self.exclude, spec.exclude),
            depth: self.depth.or(spec.depth),
            pages: self.pages.or(spec.pages),
            pages_per_host: self.pages_per_host.or(spec.pages_per_host),
            follow: match self.follow.is_empty() {
                true => spec.follow,
                false => self.follow.into_iter().map(Into::into).collect(),
            },
            redirects: self.redirects.unwrap_or(spec.redirects),
            hops_off_site: self.hops_off_site.unwrap_or(spec.hops_off_site),
            canon: if self.canon.is_empty() { spec.canon } else { self.canon },
            drop_params: given(self.drop_params, spec.drop_params),
            priority_per_link: spec.priority_per_link,
            rules: spec.rules,
            traps: TrapSpec {
                enabled: self.traps.map_or(spec.traps.enabled, |traps| traps == Switch::On),
                ..spec.traps
            },
            delay: self.delay.unwrap_or(spec.delay),
            delay_factor: self.delay_factor.unwrap_or(spec.delay_factor),
            delay_stretch: self.delay_stretch.unwrap_or(spec.delay_stretch),
            host_connections: self.host_connections.unwrap_or(spec.host_connections),
            host_attempts: self.host_attempts.unwrap_or(spec.host_attempts),
            group_hosts: self.group_hosts.unwrap_or(spec.group_hosts),
            groups: spec.groups,
            robots: self.robots.map_or(spec.robots, Into::into),
            directives: self.directives.map_or(spec.directives, Into::into),
            user_agent: self.user_agent.unwrap_or(spec.user_agent),
            proxy: if self.proxy.is_empty() { spec.proxy } else { None },
            proxies: if self.proxy.is_empty() { spec.proxies } else { self.proxy },
            allow_net: match self.allow_net.is_empty() {
                true => spec.allow_net,
                false => self.allow_net,
            },
            cookies: self.cookies || spec.cookies,
            attempts: self.attempts.unwrap_or(spec.attempts),
            retry_wait: self.retry_wait.unwrap_or(spec.retry_wait),
            retry_wait_max: self.retry_wait_max.unwrap_or(spec.retry_wait_max),
            connect_timeout: self.connect_timeout.unwrap_or(spec.connect_timeout),
            read_timeout: self.read_timeout.unwrap_or(spec.read_timeout),
            fetch_timeout: self.fetch_timeout.unwrap_or(spec.fetch_timeout),
            rate_min: self.rate_min.unwrap_or(spec.rate_min),
            outage_max: self.outage_max.unwrap_or(spec.outage_max),
            body_limit: self.body_limit.unwrap_or(spec.body_limit),
            charsets: given(self.charsets, spec.charsets),
            extract: spec.extract,
            headers: spec.headers,
            credentials: spec.credentials,
        }
    }
}

/// Seeds of one file at most.
const SEEDS_MAX: usize = 10_000_000;

/// Lanes at most; each is a connection.
const LANES_MAX: usize = 1_024;

/// Checks how many hosts to fetch from at the same time.
pub(crate) fn check_lanes(lanes: usize) -> Result<(), Failure> {
    check_range("lanes", lanes, 1, LANES_MAX)
}

/// Checks a setting against the smallest and the largest value that is allowed.
pub(crate) fn check_range<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    min: T,
    max: T,
) -> Result<(), Failure> {
    if min <= value && value <= max {
        return Ok(());
    }
    Err(Failure::usage(format!("{key} = {value} cannot be: {min} to {max} are allowed")))
}

fn parse_seed(seed: &str) -> Result<CrawlUrl, Failure> {
    CrawlUrl::parse(seed).map_err(|error| {
        let seed = trawl_shared::untrusted::Untrusted::new(seed);
        Failure::usage(format!("cannot start from \"{seed}\": {error}"))
    })
}

/// Reads a list of seeds, one a line.
fn read_seeds(path: &Path) -> Result<Vec<String>, Failure> {
    let source: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(stdin().lock()),
        _ => Box::new(File::open(path).map_err(|error| unreadable(path, &error))?),
    };
    let mut seeds = Vec::new();
    for line in BufReader::new(source).lines() {
        let line = line.map_err(|error| unreadable(path, &error))?;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if seeds.len() == SEEDS_MAX {
            return Err(Failure::usage(format!(
                "{}: more than {SEEDS_MAX} seeds; give them in several files, all but the first \
                 with --update",
                path.display()
            )));
        }
        seeds.push(line.to_owned());
    }
    Ok(seeds)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{}: cannot be read: {error}", path.display()))
}

/// Reads a settings file. Its errors name the file, the line and the key.
fn read_file(path: &Path) -> Result<(RunKeys, CrawlSpec), Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let in_file = |error: toml::de::Error| {
        Failure::usage(format!("{}: {}", path.display(), toml_error::told(&text, &error)))
    };
    let run: RunKeys = toml::from_str(&text).map_err(in_file)?;
    let spec_text = without_run_keys(&text).map_err(in_file)?;
    let spec = toml::from_str(&spec_text).map_err(in_file)?;
    Ok((run, spec))
}

/// The text with the run keys blanked out, so that the specification can be read
/// strictly, and its errors still point at the right line.
fn without_run_keys(text: &str) -> Result<String, toml::de::Error> {
    let table = DeTable::parse(text)?;
    let run_keys =
        table.get_ref().iter().filter(|(key, _)| RUN_KEYS.contains(&key.get_ref().as_ref()));
    let spans: Vec<_> = run_keys.map(|(key, value)| key.span().start..value.span().end).collect();
    let mut bytes = text.as_bytes().to_vec();
    for byte in spans.into_iter().flatten() {
        if let Some(byte) = bytes.get_mut(byte)
            && !matches!(byte, b'\n' | b'\r')
        {
            *byte = b' ';
        }
    }
    // Only whole keys and values were blanked, so that this never falls back.
    Ok(String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned()))
}

impl From<ScopeOption> for ScopeKind {
    fn from(option: ScopeOption) -> Self {
        match option {
            ScopeOption::Host => Self::Host,
            ScopeOption::Domain => Self::Domain,
            ScopeOption::Prefix => Self::Prefix,
            ScopeOption::Any => Self::Any,
        }
    }
}

impl From<RobotsOption> for RobotsPolicy {
    fn from(option: RobotsOption) -> Self {
        match option {
            RobotsOption::Obey => Self::Obey,
            RobotsOption::Ignore => Self::Ignore,
        }
    }
}

impl From<DirectivesOption> for DirectivesPolicy {
    fn from(option: DirectivesOption) -> Self {
        match option {
            DirectivesOption::Obey => Self::Obey,
            DirectivesOption::Ignore => Self::Ignore,
        }
    }
}

impl From<FollowOption> for LinkKind {
    fn from(option: FollowOption) -> Self {
        match option {
            FollowOption::A => Self::A,
            FollowOption::Area => Self::Area,
            FollowOption::Iframe => Self::Iframe,
            FollowOption::Frame => Self::Frame,
            FollowOption::LinkNext => Self::LinkNext,
            FollowOption::LinkCanonical => Self::LinkCanonical,
            FollowOption::LinkAlternate => Self::LinkAlternate,
            FollowOption::MetaRefresh => Self::MetaRefresh,
            FollowOption::Sitemap => Self::Sitemap,
            FollowOption::Feed => Self::Feed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(RunKeys, CrawlSpec), Failure> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crawl.toml");
        std::fs::write(&path, text).unwrap();
        read_file(&path)
    }

    #[test]
    fn a_file_holds_the_run_and_the_specification() {
        let (run, spec) = read(
            "seeds = [\n  'http://a.example/', # first\n]\nlanes = 4\ndelay = '2s'\nscope = 'any'\n\
             data = 'd'\n[[extract]]\nname = 'h'\nselect = 'h1'\n",
        )
        .unwrap();
        assert_eq!(run.seeds, ["http://a.example/"]);
        assert_eq!((run.lanes, run.data), (Some(4), Some("d".into())));
        assert_eq!((spec.delay, spec.scope), (Span::secs(2), ScopeKind::Any));
        assert_eq!(spec.extract[0].select, "h1");
    }

    #[test]
    fn errors_in_a_file_name_file_line_key_and_what_is_allowed() {
        for (text, parts) in [
            ("seeds = []\ndealy = '1s'\n", ["crawl.toml", "line 2", "dealy", "delay"]),
            ("lanes = 3\n\ndelay = 'soon'\n", ["crawl.toml", "line 3", "delay = 'soon'", "500ms"]),
            ("scope = 'planet'\n", ["crawl.toml", "line 1", "planet", "domain"]),
            ("lanes = 'many'\n", ["crawl.toml", "line 1", "lanes = 'many'", "usize"]),
        ] {
            let message = read(text).unwrap_err().message;
            for part in parts {
                assert!(message.contains(part), "{part:?} is missing in: {message}");
            }
        }
    }

    #[test]
    fn errors_in_a_file_show_no_secret() {
        let other = "[[headers]]\nhosts = ['a.example']\nname = 'X-Token'\nvalue = 'other'\n";
        for (text, parts) in [
            ("headers = 'hunter2'\n", ["line 1", "headers"]),
            ("headers = [{ name = 'X', valeu = 'hunter2' }]\n", ["line 1", "`valeu`"]),
            ("[[headers]]\nname = 'X'\nvalue = ['hunter2']\n", ["line 3", "headers"]),
            ("[[headers]]\nname = 'X'\nvalue.hunter2 = 1\n", ["line 3", "headers"]),
            (&format!("{other}[[headers]]\nvalue = ['hunter2']\n"), ["line 6", "headers"]),
            ("[[headers]]\nname = 'X'\nvalue = 'hunter2'\n", ["line 1", "missing field `hosts`"]),
            ("[[credentials]]\nbasic = { pass = 'hunter2' }\n", ["line 2", "`pass`"]),
            (
                "[[credentials]]\nbasic = { user = 1, password = 'hunter2' }\n",
                ["line 2", "credentials"],
            ),
            ("[[credentials]]\n[credentials.basic]\npass = 'hunter2'\n", ["line 3", "`pass`"]),
            ("delay = '1s'\nproxy = ['http://u:hunter2@p']\n", ["line 2", "proxy"]),
            ("proxies = 'http://u:hunter2@p'\n", ["line 1", "proxies"]),
            ("proxies = [\n  'a',\n  { url = 'hunter2' },\n]\n", ["line 3", "proxies"]),
            // What is no TOML, and what was to be one of those keys.
            ("proxy = 'http://u:hunter2@p\n", ["line 1", "string"]),
            ("proxies = [\n  'a',\n  'http://u:hunter2@p\n]\n", ["line 3", "string"]),
            ("[[headers]]\nname = 'X'\nvalue = hunter2\n", ["line 3", "string"]),
            ("proxy = 'a'\nproxy = 'http://u:hunter2@p'\n", ["line 2", "duplicate key"]),
            ("proxxy = 'http://u:hunter2@p'\n", ["line 1", "proxxy"]),
        ] {
            let message = read(text).unwrap_err().message;
            for part in [["crawl.toml"].as_slice(), &parts].concat() {
                assert!(message.contains(part), "{part:?} is missing in: {message}");
            }
            assert!(!message.contains("hunter2"), "{message}");
        }
        // Beside them errors are shown as ever.
        let message = read(&format!("delay = 'soon'\n{other}")).unwrap_err().message;
        assert!(message.contains("line 1") && message.contains("delay = 'soon'"), "{message}");
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let options = CrawlOptions { delay: Some(Span::secs(3)), ..CrawlOptions::default() };
        let file = CrawlSpec { delay: Span::secs(2), attempts: 7, ..CrawlSpec::default() };
        let spec = options.over(file);
        assert_eq!((spec.delay, spec.attempts), (Span::secs(3), 7));
    }

    #[test]
    fn every_key_is_in_the_configuration_reference() {
        let reference = include_str!("../../docs/configuration.md");
        let spec = serde_json::to_value(CrawlSpec::default()).unwrap();
        let keys = spec.as_object().unwrap().keys().map(String::as_str);
        for key in keys.chain(RUN_KEYS) {
            let forms = [format!("`{key}`"), format!("[[{key}]]")];
            let is_told = forms.iter().any(|form| reference.contains(form));
            assert!(is_told, "{key} is not documented");
        }
    }

    #[test]
    fn the_help_tells_the_real_defaults() {
        let spec = CrawlSpec::default();
        let command = CrawlOptions::augment_args(clap::Command::new("crawl"));
        let minutes = Span::secs(300);
        assert_eq!(spec.retry_wait_max, minutes);
        for (option, default) in [
            ("scope", "host".to_owned()),
            ("delay", spec.delay.to_string()),
            ("robots", "obey".to_owned()),
            ("redirects", spec.redirects.to_string()),
            ("hops_off_site", spec.hops_off_site.to_string()),
            ("traps", if spec.traps.enabled { "on" } else { "off" }.to_owned()),
            ("attempts", spec.attempts.to_string()),
            ("retry_wait", spec.retry_wait.to_string()),
            ("retry_wait_max", minutes.to_string()),
            ("connect_timeout", spec.connect_timeout.to_string()),
            ("read_timeout", spec.read_timeout.to_string()),
            ("fetch_timeout", spec.fetch_timeout.to_string()),
            ("body_limit", "10MiB".to_owned()),
        ] {
            let argument = command.get_arguments().find(|argument| argument.get_id() == option);
            let help = argument.and_then(clap::Arg::get_help).unwrap().to_string();
            let told = help.rsplit("[default: ").next().unwrap().trim_end_matches(']');
            match option {
                "body_limit" => assert_eq!(told.parse(), Ok(spec.body_limit)),
                _ if default.ends_with('s') => assert_eq!(told.parse(), default.parse::<Span>()),
                _ => assert_eq!(told, default, "{option}"),
            }
        }
    }
}
