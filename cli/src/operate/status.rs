//! `trawl status` and `trawl crawls`.

use std::{collections::HashMap, time::Duration};

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep, sleep_until};
use trawl_proto::v1::{Commits, CrawlStatus, DiskLow, StatusReply, StatusRequest};
use trawl_shared::{
    backoff,
    outcome::{Class, FailureKind},
    units::Size,
    untrusted::Untrusted,
};

use super::{ANSWER_TIMEOUT, Operator, WhomArgs, about};
use crate::{
    exit::{Exit, Failure},
    render::{self, Screen, Speed, counted, pages},
    tables::{Table, json_text},
};

/// How long one call of `--wait` is held open.
const WAIT_INTERVAL: Duration = Duration::from_secs(20);

/// Between two looks of `--watch`, on a terminal and elsewhere.
const WATCH_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// The first wait when the master has gone away in between, and the longest.
const RETRY_WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Only this crawl, and what went wrong with it lately
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// Print one JSON object
    #[arg(long, conflicts_with = "watch")]
    json: bool,

    /// Wait until every crawl asked for has ended; a paused one has not
    #[arg(long)]
    wait: bool,

    /// Show it again every second, until Ctrl-C; with --wait, until every crawl has ended
    #[arg(long)]
    watch: bool,

    #[command(flatten)]
    pub(super) whom: WhomArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CrawlsArgs {
    #[command(flatten)]
    pub(super) whom: WhomArgs,
}

/// Lists the crawls.
pub(super) async fn crawls(operator: &Operator) -> Result<Exit, Failure> {
    let status = operator.status("", Duration::ZERO).await?;
    let mut table = Table::new(&["NAME", "STATE"]);
    for crawl in &status.crawls {
        table.row([crawl.name.clone(), state(crawl)]);
    }
    render::print(&table.to_string())?;
    Ok(Exit::Done)
}

/// Shows where the crawls stand.
pub(super) async fn status(operator: &Operator, args: &StatusArgs) -> Result<Exit, Failure> {
    if args.wait || args.watch {
        operator.refuse_alone(if args.wait { "--wait" } else { "--watch" })?;
    }
    let name = args.name.as_deref().unwrap_or_default();
    let mut status = operator.status(name, Duration::ZERO).await?;
    if args.watch {
        operator.watch(name, status, args.wait).await?;
        return Ok(Exit::Done);
    }
    while args.wait && !has_ended(&status) {
        status = operator.patient_status(name, WAIT_INTERVAL).await?;
    }
    let text = if args.json { json_text(&as_json(&status)) } else { as_text(&status, name, None) };
    render::print(&text)?;
    Ok(Exit::Done)
}

impl Operator {
    /// Where the crawls stand, now or when all have ended, if that is within `wait`.
    async fn status(&self, name: &str, wait: Duration) -> Result<StatusReply, Failure> {
        let wait_ended_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let request = StatusRequest { name: name.to_owned(), wait_ended_ms };
        self.ask_for(ANSWER_TIMEOUT + wait, async |mut it| it.status(request).await).await
    }

    /// The same of a master that was there before: if it has gone away it is waited for,
    /// since it goes on where it stood.
    async fn patient_status(&self, name: &str, wait: Duration) -> Result<StatusReply, Failure> {
        let mut failures = 0;
        loop {
            match self.status(name, wait).await {
                Ok(status) => {
                    if failures > 0 {
                        render::say("the master is back");
                    }
                    return Ok(status);
                }
                Err(failure) if failure.exit == Exit::Master => {
                    failures += 1;
                    if failures == 1 {
                        render::say(&format!("{}; waiting for it", failure.message));
                    }
                    let (first, longest) = RETRY_WAITS;
                    sleep(backoff::wait(failures, first, longest, fastrand::f64())).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Shows the status again and again; until all have ended if `to_the_end`.
    async fn watch(
        &self,
        name: &str,
        mut status: StatusReply,
        to_the_end: bool,
    ) -> Result<(), Failure> {
        let screen = Screen::of_stdout();
        let interval = if screen.is_terminal() { WATCH_INTERVALS.0 } else { WATCH_INTERVALS.1 };
        let mut speeds = HashMap::new();
        loop {
            let looked = Instant::now();
            speeds.retain(|name: &String, _| status.crawls.iter().any(|it| it.name == *name));
            for crawl in &status.crawls {
                let speed: &mut Speed = speeds.entry(crawl.name.clone()).or_default();
                speed.note(pages(crawl));
            }
            screen.show(&as_text(&status, name, Some(&speeds)))?;
            if to_the_end && has_ended(&status) {
                return Ok(());
            }
            sleep_until(looked + interval).await;
            status = self.patient_status(name, Duration::ZERO).await?;
        }
    }
}

fn has_ended(status: &StatusReply) -> bool {
    status.crawls.iter().all(|crawl| crawl.state == "finished")
}

/// For people: a table of the crawls, of a single one also its newest troubles. With
/// `speeds`, those of this moment instead of the average.
fn as_text(status: &StatusReply, name: &str, speeds: Option<&HashMap<String, Speed>>) -> String {
    let mut table = Table::new(&[
        "NAME", "STATE", "FOUND", "QUEUED", "LENT", "OK", "REDIR", "4XX", "5XX", "FAILED",
        "SKIPPED", "HOSTS", "BUSY", "PAGES/S", "RECEIVED", "TIME",
    ]);
    for crawl in &status.crawls {
        let speed = speeds.and_then(|speeds| speeds.get(&crawl.name)?.per_second());
        let speed = speed.unwrap_or_else(|| render::average_speed(crawl));
        let done = |column| count(crawl, column).to_string();
        table.row([
            crawl.name.clone(),
            state(crawl),
            crawl.discovered.to_string(),
            crawl.queued.to_string(),
            crawl.leased.to_string(),
            done(Column::Ok),
            done(Column::Redirect),
            done(Column::ClientError),
            done(Column::ServerError),
            done(Column::Failed),
            done(Column::Skipped),
            crawl.hosts.to_string(),
            crawl.hosts_busy.to_string(),
            format!("{speed:.1}"),
            Size::bytes(crawl.wire_bytes).to_string(),
            render::time(crawl.ran_ms),
        ]);
    }
    let mut text = table.to_string();
    if let Some(low) = &status.disk_low {
        text += &format!("\n{}", resting(low));
    }
    text += &format!("\n{}", leases(&status.crawls));
    if name.is_empty() {
        if let Some(commits) = &status.commits {
            text += &format!("\n{}", written(commits));
        }
        let working = counted(status.workers_working.into(), "worker");
        text += &format!("\n{working} working, {} idle", status.workers_idle);
    }
    for trouble in status.crawls.iter().flat_map(|crawl| &crawl.troubles) {
        if !name.is_empty() {
            let (url, detail) = (Untrusted::new(&trouble.url), Untrusted::new(&trouble.detail));
            text += &format!("\n{url}: {detail}");
        }
    }
    text
}

/// Why the master rests.
fn resting(low: &DiskLow) -> String {
    let (free, reserve) = (Size::bytes(low.free), Size::bytes(low.reserve));
    let reports = if low.refuses_reports { "; workers keep their reports" } else { "" };
    format!("resting: the disk has {free} left, the reserve is {reserve}{reports}")
}

/// What became of leases and reports otherwise than usual, in all of the crawls' time.
fn leases(crawls: &[CrawlStatus]) -> String {
    let sum = |count: fn(&CrawlStatus) -> u64| crawls.iter().map(count).sum::<u64>();
    format!(
        "leases: {} ran out, {} lent again, {} kept by a start of the master; reports: {} stale, {} \
         duplicate",
        sum(|crawl| crawl.leases_expired),
        sum(|crawl| crawl.leases_recovered),
        sum(|crawl| crawl.leases_kept),
        sum(|crawl| crawl.reports_stale),
        sum(|crawl| crawl.reports_already),
    )
}

/// What the master has written since its start.
fn written(commits: &Commits) -> String {
    let millis = |micros: u64| micros as f64 / 1000.0;
    format!(
        "in {} since the master's start: {} of {} ({}) in {}, the longest {:.1} ms; {}, the longest \
         {:.1} ms",
        about(commits.running_ms),
        counted(commits.commits, "commit"),
        counted(commits.rows, "row"),
        Size::bytes(commits.bytes),
        counted(commits.turns, "turn"),
        millis(commits.turn_longest_us),
        counted(commits.syncs, "sync"),
        millis(commits.sync_longest_us),
    )
}

/// The state, and why a crawl has finished.
fn state(crawl: &CrawlStatus) -> String {
    match crawl.reason.as_str() {
        "" => crawl.state.clone(),
        reason => format!("{}: {reason}", crawl.state),
    }
}

/// What has ended, in short.
#[derive(Clone, Copy, PartialEq)]
enum Column {
    Ok,
    Redirect,
    ClientError,
    ServerError,
    /// Tried, and no answer; or an answer of another status.
    Failed,
    /// Not tried, by a rule.
    Skipped,
}

fn count(crawl: &CrawlStatus, column: Column) -> u64 {
    let classes = Class::all().filter(|class| column_of(*class) == column);
    classes.filter_map(|class| crawl.outcomes.get(class.word())).sum()
}

fn column_of(class: Class) -> Column {
    match class {
        Class::Ok => Column::Ok,
        Class::Redirect => Column::Redirect,
        Class::ClientError => Column::ClientError,
        Class::ServerError => Column::ServerError,
        Class::OverBudget | Class::Failed(FailureKind::Disallowed) => Column::Skipped,
        Class::OtherStatus | Class::Quarantined | Class::Dropped | Class::Failed(_) => {
            Column::Failed
        }
    }
}

/// For programs: all that is known.
fn as_json(status: &StatusReply) -> Value {
    json!({
        "crawls": status.crawls.iter().map(crawl_json).collect::<Vec<_>>(),
        "workers": {"working": status.workers_working, "idle": status.workers_idle},
        "version": status.version,
        "instance": status.instance,
        "commits": commits_json(&status.commits.unwrap_or_default()),
        "disk_low": status.disk_low.map(|low| json!({
            "free": low.free,
            "reserve": low.reserve,
            "refuses_reports": low.refuses_reports,
        })),
    })
}

fn commits_json(commits: &Commits) -> Value {
    json!({
        "running_ms": commits.running_ms,
        "turns": commits.turns,
        "turn_longest_us": commits.turn_longest_us,
        "commits": commits.commits,
        "rows": commits.rows,
        "bytes": commits.bytes,
        "syncs": commits.syncs,
        "sync_longest_us": commits.sync_longest_us,
    })
}

fn crawl_json(crawl: &CrawlStatus) -> Value {
    let outcomes: Map<_, _> =
        crawl.outcomes.iter().map(|(class, count)| (class.clone(), json!(count))).collect();
    let troubles = crawl.troubles.iter().map(
        |trouble| json!({"url": trouble.url, "class": trouble.class, "detail": trouble.detail}),
    );
    json!({
        "name": crawl.name,
        "state": crawl.state,
        "reason": crawl.reason,
        "discovered": crawl.discovered,
        "queued": crawl.queued,
        "leased": crawl.leased,
        "outcomes": outcomes,
        "retries": crawl.retries,
        "body_bytes": crawl.body_bytes,
        "wire_bytes": crawl.wire_bytes,
        "stored_bytes": crawl.stored_bytes,
        "hosts": crawl.hosts,
        "hosts_busy": crawl.hosts_busy,
        "ran_ms": crawl.ran_ms,
        "reports_already": crawl.reports_already,
        "reports_stale": crawl.reports_stale,
        "leases_expired": crawl.leases_expired,
        "leases_recovered": crawl.leases_recovered,
        "leases_kept": crawl.leases_kept,
        "troubles": troubles.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use trawl_proto::v1::Trouble;

    use super::*;

    fn reply() -> StatusReply {
        let crawl = CrawlStatus {
            name: "docs".into(),
            state: "finished".into(),
            reason: "complete".into(),
            discovered: 31,
            outcomes: [("ok".into(), 20), ("client_error".into(), 10), ("robots".into(), 1)].into(),
            ran_ms: 2_000,
            troubles: vec![Trouble {
                url: "http://a.example/\u{1b}[2J".into(),
                class: "timeout".into(),
                detail: "no answer within 10s".into(),
            }],
            ..CrawlStatus::default()
        };
        StatusReply { crawls: vec![crawl], workers_working: 1, ..StatusReply::default() }
    }

    #[test]
    fn every_ended_url_stands_in_one_column() {
        let text = as_text(&reply(), "", None);
        let cells: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        let want =
            ["docs", "finished:", "complete", "31", "0", "0", "20", "0", "10", "0", "0", "1"];
        assert_eq!(cells[..12], want, "{text}");
        assert!(text.ends_with("1 worker working, 0 idle"), "{text}");
    }

    #[test]
    fn what_hosts_sent_is_printed_without_escapes() {
        let text = as_text(&reply(), "docs", None);
        assert!(text.ends_with(r"http://a.example/\u{1b}[2J: no answer within 10s"), "{text}");
        let json = json_text(&as_json(&reply()));
        assert!(!json.contains('\u{1b}'), "{json}");
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["crawls"][0]["troubles"][0]["url"], "http://a.example/\u{1b}[2J");
        assert_eq!(value["crawls"][0]["outcomes"]["client_error"], 10);
    }
}
