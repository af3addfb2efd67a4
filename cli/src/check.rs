//! `trawl check`: what would be decided about a URL, without a crawl.

use std::{
    fmt,
    fs::File,
    io::{Read, Write, stdin},
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use trawl_shared::{
    robots::{BYTES_MAX, Line, Rules, Verdict, path_as_written, product_token, read_part},
    spec::CrawlSpec,
    untrusted::Untrusted,
    url::{CrawlUrl, UrlError},
};
use trawl_worker::fetch::{FetchError, HttpFetcher, RobotsTxt, fetch_robots};

use crate::{
    exit::{Exit, Failure},
    render,
    roles::runtime,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Check {
    /// Whether a robots.txt allows a URL, and by which line; exit code 0 if so, 1 if not
    Robots(RobotsArgs),
}

#[derive(Args, Debug)]
pub(crate) struct RobotsArgs {
    /// The URL
    #[arg(value_name = "URL")]
    url: String,

    /// Who asks: a product token such as mybot, or a user-agent string such as
    /// `mybot/1.0 (+https://example.org/bot)`
    #[arg(long, value_name = "NAME")]
    agent: String,

    /// A robots.txt to judge by, `-` for standard input; without it, the URL's host is asked
    /// for its own
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Allow asking a host in this network, although it is not the public internet; may be
    /// repeated
    #[arg(long, value_name = "CIDR", conflicts_with = "file")]
    allow_net: Vec<ipnet::IpNet>,
}

/// Answers what is asked.
pub(crate) fn check(check: &Check) -> Result<Exit, Failure> {
    match check {
        Check::Robots(args) => robots(args),
    }
}

fn robots(args: &RobotsArgs) -> Result<Exit, Failure> {
    let bad =
        |error: UrlError| Failure::usage(format!("\"{}\": {error}", Untrusted::new(&args.url)));
    let canonical = match (CrawlUrl::parse(&args.url), &args.file) {
        (Ok(url), _) => Some(url),
        // A file can be asked about what no crawl would fetch.
        (Err(UrlError::TooLong(_)), Some(_)) => None,
        (Err(_), Some(_)) if args.url.is_empty() => None,
        (Err(error), _) => return Err(bad(error)),
    };
    let found = match (&args.file, &canonical) {
        (Some(path), _) => Ok(RobotsTxt { text: Some(read(path)?.into()) }),
        (None, Some(url)) => fetch(url, &args.allow_net)?,
        (None, None) => return Err(bad(UrlError::TooLong(args.url.len()))),
    };
    let mut out = render::out();
    let robots = match found {
        Ok(robots) => robots,
        Err(error) => {
            writeln!(out, "not allowed: unavailable: {error}")?;
            return Ok(Exit::Failed);
        }
    };
    let rules = robots.rules(name_of(&args.agent));
    let written = rules.verdict_of_path(&path_as_written(&args.url));
    let fetched = canonical.as_ref().map_or(written, |url| rules.verdict(url));
    let verdict = if written.allowed { fetched } else { written };
    writeln!(out, "{}", word(verdict.allowed))?;
    match robots.text {
        Some(_) => writeln!(out, "{}", Because { verdict, rules: &rules, agent: &args.agent })?,
        None => writeln!(out, "the host has no robots.txt")?,
    }
    if let Some(url) = canonical.filter(|_| written.allowed != fetched.allowed) {
        let (written, fetched) = (word(written.allowed), word(fetched.allowed));
        writeln!(out, "as it is written it is {written}; a crawl asks for {url}: {fetched}")?;
    }
    Ok(if verdict.allowed { Exit::Done } else { Exit::Failed })
}

/// The name that rules are looked up by: a user-agent string's product token, as for a
/// crawl; a bare name is taken whole, as Google has it, be it a token or nobody's.
fn name_of(agent: &str) -> &str {
    if agent.contains(['/', '(']) { product_token(agent) } else { agent }
}

const fn word(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "not allowed" }
}

/// Why a verdict is what it is.
struct Because<'a> {
    verdict: Verdict<'a>,
    rules: &'a Rules,
    agent: &'a str,
}

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = self.verdict.agent.map(Untrusted::new);
        match (self.verdict.line, group) {
            (Some(Line { number, text }), Some(group)) => {
                write!(f, "line {number}: {text} (for {group})")?;
            }
            (_, Some(group)) => write!(f, "no line for {group} matches")?,
            (_, None) => write!(f, "no line is for {} or *", Untrusted::new(self.agent))?,
        }
        match self.rules.crawl_delay() {
            Some(delay) => write!(f, "\ncrawl-delay: {}s", delay.as_secs_f64()),
            None => Ok(()),
        }
    }
}

/// Reads a robots.txt as far as a crawler does.
fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("{}: cannot be read: {error}", path.display()))
    };
    let source: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(stdin().lock()),
        _ => Box::new(File::open(path).map_err(unreadable)?),
    };
    let mut text = Vec::new();
    source.take(BYTES_MAX as u64 + 1).read_to_end(&mut text).map_err(unreadable)?;
    text.truncate(read_part(&text, false).len());
    Ok(text)
}

/// Asks the URL's host for its robots.txt. The inner error says why it is not to be had, which
/// forbids everything; the outer one that it could not even be asked for.
fn fetch(
    url: &CrawlUrl,
    allow_net: &[ipnet::IpNet],
) -> Result<Result<RobotsTxt, FetchError>, Failure> {
    let spec = CrawlSpec { allow_net: allow_net.to_vec(), ..CrawlSpec::default() };
    let found = runtime()?.block_on(async {
        let fetcher = HttpFetcher::new(&spec).map_err(Failure::usage)?;
        let (pause, limit) = (spec.delay.duration(), spec.fetch_timeout);
        Ok::<_, Failure>(fetch_robots(&fetcher, url, pause, limit).await.0)
    })?;
    match found {
        Err(
            error @ (FetchError::NoSuchHost { .. }
            | FetchError::ForbiddenAddress { .. }
            | FetchError::Internal { .. }),
        ) => Err(Failure::usage(error)),
        found => Ok(found),
    }
}
