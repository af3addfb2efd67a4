//! What operators get to see: tables for people, JSON for programs. Text that came
//! from the web is printed through [`Untrusted`].

use serde_json::{Value, json};
use trawl_proto::v1::{CrawlStatus, StatusReply};
use trawl_shared::{
    outcome::Class,
    untrusted::{Untrusted, printable_json},
};

use crate::render::{errors, pages};

/// The crawls, one a line; of a single one, also what went wrong lately.
pub(crate) fn status(status: &StatusReply, is_single: bool) -> String {
    let mut table = Table::new(&[
        "NAME", "STATE", "PAGES", "ERRORS", "QUEUED", "LEASED", "HOSTS", "BUSY", "PAGES/S", "TIME",
    ]);
    for crawl in &status.crawls {
        let ran = crawl.ran_ms as f64 / 1000.0;
        let speed = if ran > 0.0 { pages(crawl) as f64 / ran } else { 0.0 };
        table.row([
            crawl.name.clone(),
            state(crawl),
            pages(crawl).to_string(),
            errors(crawl).to_string(),
            crawl.queued.to_string(),
            crawl.leased.to_string(),
            crawl.hosts.to_string(),
            crawl.hosts_busy.to_string(),
            format!("{speed:.1}"),
            crate::render::time(crawl.ran_ms),
        ]);
    }
    let mut text = table.to_string();
    if is_single {
        for trouble in status.crawls.iter().flat_map(|crawl| &crawl.troubles) {
            let (url, detail) = (Untrusted(&trouble.url), Untrusted(&trouble.detail));
            text.push_str(&format!("\n{url}: {detail}"));
        }
    }
    text
}

fn state(crawl: &CrawlStatus) -> String {
    match crawl.reason.as_str() {
        "" => crawl.state.clone(),
        reason => format!("{}: {reason}", crawl.state),
    }
}

/// The same as one JSON object, with all that is known.
pub(crate) fn status_json(status: &StatusReply) -> String {
    let value = json!({
        "crawls": status.crawls.iter().map(crawl_json).collect::<Vec<_>>(),
        "workers": {"working": status.workers_working, "idle": status.workers_idle},
        "version": status.version,
        "instance": status.instance,
    });
    printable_json(&value.to_string())
}

fn crawl_json(crawl: &CrawlStatus) -> Value {
    let outcomes = Class::all().filter_map(|class| {
        let count = crawl.outcomes.get(class.word())?;
        Some((class.word().to_owned(), Value::from(*count)))
    });
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
        "outcomes": outcomes.collect::<serde_json::Map<_, _>>(),
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
        "troubles": troubles.collect::<Vec<_>>(),
    })
}

/// Rows whose columns stand below each other. Columns of numbers stand to the right.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(titles: &[&str]) -> Self {
        Self { rows: vec![titles.iter().map(|&title| title.to_owned()).collect()] }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows[0].len();
        let column = |index: usize| self.rows.iter().map(move |row| row[index].as_str());
        let widths: Vec<usize> = (0..columns)
            .map(|index| column(index).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let is_number = |cell: &str| cell.starts_with(|char: char| char.is_ascii_digit());
        let are_numbers: Vec<bool> =
            (0..columns).map(|index| column(index).skip(1).all(is_number)).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (index, cell) in row.iter().enumerate() {
                let width = widths[index];
                if index > 0 {
                    line.push_str("  ");
                }
                line.push_str(&match are_numbers[index] {
                    true => format!("{cell:>width$}"),
                    false => format!("{cell:<width$}"),
                });
            }
            if number > 0 {
                writeln!(f)?;
            }
            f.write_str(line.trim_end())?;
        }
        Ok(())
    }
}
