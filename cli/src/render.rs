//! What people see: the progress line, the summary, errors. Progress and errors
//! go to standard error, the summary to standard output.
//!
//! This is the only place that writes to standard output and error, and what it writes has no
//! control characters, terminal escapes or marks that turn text around, whoever wrote it. Only
//! [`pipe`] hands out bytes as they are, for what other programs read.
//!
//! Nothing here ends the program because nobody reads it, or because it goes to a file on a full
//! disk; so nothing is printed by macros that panic then.

#![expect(clippy::disallowed_methods, reason = "what is printed passes through here")]

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write, stderr, stdout},
    path::Path,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use trawl_proto::v1::CrawlStatus;
use trawl_shared::{
    outcome::{Class, FailureKind},
    units::Size,
    untrusted::{Untrusted, printable},
};

/// Between two updates of the line on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(500);

/// Between two lines in a pipe.
const PIPE_INTERVAL: Duration = Duration::from_secs(5);

/// Updates that the speed is averaged over.
const SPEED_UPDATES: usize = 10;

/// Shows how a crawl goes on: a line that changes on a terminal, plain lines now
/// and then in a pipe.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    speed: Speed,
}

impl Progress {
    pub(crate) fn start() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, speed: Speed::default() }
    }

    /// How long to wait between updates.
    pub(crate) fn interval(&self) -> Duration {
        if self.bar.is_some() { TERMINAL_INTERVAL } else { PIPE_INTERVAL }
    }

    /// Shows where the crawl stands.
    pub(crate) fn show(&mut self, status: &CrawlStatus) {
        let pages = pages(status);
        self.speed.note(pages);
        let line = format!(
            "{pages} pages  {:.0}/s  {}  {} queued  {} hosts busy  {} errors  {}",
            self.speed.per_second().unwrap_or_else(|| average_speed(status)),
            Size::bytes(status.wire_bytes),
            status.queued + status.leased,
            status.hosts_busy,
            errors(status),
            time(status.ran_ms),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None => say(&line),
        }
    }

    /// Says something once.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Clears the line.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How fast a count grows, over the last updates.
#[derive(Default)]
pub(crate) struct Speed {
    seen: VecDeque<(Instant, u64)>,
}

impl Speed {
    /// Notes where the count stands now.
    pub(crate) fn note(&mut self, count: u64) {
        self.seen.push_back((Instant::now(), count));
        if self.seen.len() > SPEED_UPDATES {
            self.seen.pop_front();
        }
    }

    /// How much it grows in a second; none before there were two updates.
    pub(crate) fn per_second(&self) -> Option<f64> {
        let (first, last) = (self.seen.front()?, self.seen.back()?);
        let secs = last.0.duration_since(first.0).as_secs_f64();
        (secs > 0.0).then(|| last.1.saturating_sub(first.1) as f64 / secs)
    }
}

/// Pages a second since the crawl's start.
pub(crate) fn average_speed(status: &CrawlStatus) -> f64 {
    pages(status) as f64 / (status.ran_ms.max(1) as f64 / 1000.0)
}

/// Standard output, for something that is shown again and again.
pub(crate) struct Screen {
    is_terminal: bool,
}

impl Screen {
    pub(crate) fn of_stdout() -> Self {
        Self { is_terminal: stdout().is_terminal() }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Shows a text: on a terminal in the place of all that stood there.
    pub(crate) fn show(&self, text: &str) -> std::io::Result<()> {
        let clear = if self.is_terminal { "\x1b[H\x1b[2J" } else { "" };
        writeln!(stdout(), "{clear}{}", printable(text))
    }
}

/// Prints how a crawl ended, or where it stands.
pub(crate) fn summary(status: &CrawlStatus, data: &Path, interrupted: bool) {
    let _ = write_summary(&mut out(), status, data, interrupted);
}

fn write_summary(
    out: &mut impl Write,
    status: &CrawlStatus,
    data: &Path,
    interrupted: bool,
) -> std::io::Result<()> {
    let name = &status.name;
    match (interrupted, status.reason.as_str()) {
        (true, _) => writeln!(
            out,
            "crawl \"{name}\" was interrupted; the same command goes on with the {} URLs left",
            status.queued + status.leased
        )?,
        (_, "complete") => writeln!(out, "crawl \"{name}\" is complete")?,
        (_, reason) => {
            writeln!(out, "crawl \"{name}\" has ended: {reason}; {} URLs left", status.queued)?
        }
    }
    for class in Class::all() {
        if let Some(count) = status.outcomes.get(class.word()) {
            writeln!(out, "  {count:>9}  {}", class_text(class))?;
        }
    }
    let secs = Duration::from_millis(status.ran_ms).as_secs_f64();
    writeln!(
        out,
        "  {} of bodies ({} received) from {}, in {:.1} s, {:.1} pages/s, {} retries",
        Size::bytes(status.body_bytes),
        Size::bytes(status.wire_bytes),
        counted(status.hosts, "host"),
        secs,
        if secs > 0.0 { pages(status) as f64 / secs } else { 0.0 },
        status.retries,
    )?;
    for trouble in status.troubles.iter().rev() {
        writeln!(out, "  {}: {}", Untrusted::new(&trouble.url), Untrusted::new(&trouble.detail))?;
    }
    if pages(status) > 0 {
        writeln!(out, "pages: {}", data.join("pages").join(name).display())?;
        writeln!(
            out,
            "read them: trawl export --data {} --crawl {name} --format jsonl --out pages.jsonl",
            data.display()
        )?;
    }
    Ok(())
}

/// Standard output, for text.
pub(crate) fn out() -> impl Write {
    Printed(stdout().lock())
}

/// Standard error, for text.
pub(crate) fn err() -> impl Write {
    Printed(stderr().lock())
}

/// Standard output, for bytes that other programs read.
pub(crate) fn pipe() -> impl Write {
    stdout().lock()
}

/// Whether people see what is printed to standard output.
pub(crate) fn is_seen() -> bool {
    stdout().is_terminal()
}

/// Where text is made safe to print. Each write is whole characters, as formatting makes them.
struct Printed<W>(W);

impl<W: Write> Write for Printed<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.write_all(printable(&String::from_utf8_lossy(text)).as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Prints a result.
pub(crate) fn print(text: &str) -> std::io::Result<()> {
    writeln!(out(), "{text}")
}

/// Says something on standard error.
pub(crate) fn say(text: &str) {
    let _ = writeln!(err(), "{text}");
}

/// Prints an error.
pub(crate) fn error(message: &str) {
    say(&format!("error: {message}"));
}

/// A number with its noun.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

pub(crate) fn pages(status: &CrawlStatus) -> u64 {
    let pages = Class::all().filter(|class| class.is_page());
    pages.filter_map(|class| status.outcomes.get(class.word())).sum()
}

pub(crate) fn errors(status: &CrawlStatus) -> u64 {
    let failed = Class::all().filter(|class| {
        !matches!(class, Class::Ok | Class::Redirect | Class::Failed(FailureKind::Disallowed))
    });
    failed.filter_map(|class| status.outcomes.get(class.word())).sum()
}

/// What became of URLs of this class.
pub(crate) fn class_text(class: Class) -> &'static str {
    match class {
        Class::Ok => "ok (2xx)",
        Class::Redirect => "redirects (3xx)",
        Class::ClientError => "client errors (4xx)",
        Class::ServerError => "server errors (5xx)",
        Class::OtherStatus => "other status",
        Class::OverBudget => "not fetched: the page budget of their host or rule was used up",
        Class::Quarantined => "quarantined: taken for traps, or lost with their worker too often",
        Class::Dropped => "given up by an operator",
        Class::Failed(kind) => match kind {
            FailureKind::NoSuchHost => "failed: no such host",
            FailureKind::Dns => "failed: name server",
            FailureKind::Connect => "failed: no connection",
            FailureKind::Tls => "failed: TLS",
            FailureKind::Timeout => "failed: too slow",
            FailureKind::Broken => "failed: connection broke",
            FailureKind::Protocol => "failed: not HTTP",
            FailureKind::Busy => "failed: host busy",
            FailureKind::RobotsUnavailable => "not fetched: robots.txt could not be had",
            FailureKind::Disallowed => "not fetched: disallowed by robots.txt",
            FailureKind::ForbiddenAddress => "not fetched: address outside the public internet",
            FailureKind::Internal => "failed: the worker gave up",
            FailureKind::Proxy => "failed: no proxy",
        },
    }
}

pub(crate) fn time(ms: u64) -> String {
    let secs = ms / 1000;
    format!("{}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60)
}
