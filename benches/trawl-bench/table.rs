//! Runs, and tables of their medians.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter, Write},
};

use serde::Serialize;

use crate::process::Cost;

/// What one run of one program gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// What ran.
    pub(crate) subject: String,
    /// Figures by their names in [`FIGURES`].
    pub(crate) figures: BTreeMap<&'static str, f64>,
}

/// A table: runs of several subjects on one workload.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    /// What was done.
    pub(crate) title: String,
    /// All runs, in the order in which they ran.
    pub(crate) runs: Vec<Run>,
}

/// All figures, in the order of the columns: name, heading, decimals.
const FIGURES: [(&str, &str, usize); 27] = [
    ("pages", "pages", 0),
    ("wall_s", "wall s", 2),
    ("pages_per_s", "pages/s", 0),
    ("cpu_ms_per_page", "CPU ms a page", 3),
    ("system_ms_per_page", "of it in the kernel", 3),
    ("times_floor", "times the floor", 2),
    ("worker_ms_per_page", "worker", 3),
    ("master_ms_per_page", "master", 3),
    ("frontier_thread_ms_per_page", "the frontier's thread", 3),
    ("master_percent", "master %", 1),
    ("memory_mib", "peak RSS MiB", 0),
    ("worker_memory_mib", "worker's peak RSS MiB", 0),
    ("master_memory_mib", "master's peak RSS MiB", 0),
    ("pages_bytes_per_page", "bytes a page on disk", 0),
    ("frontier_bytes_per_url", "frontier's bytes a URL on disk", 0),
    ("of_linear", "of linear", 3),
    ("of_possible", "of what the delays allow", 3),
    ("urls", "URLs", 0),
    ("offers_per_s", "new offers/s", 0),
    ("known_offers_per_s", "known offers/s", 0),
    ("leases_per_s", "URLs lent/s", 0),
    ("ends_per_s", "URLs ended/s", 0),
    ("lent_and_ended_per_s", "lent and ended/s", 0),
    ("offer_cpu_us", "CPU µs a new offer", 1),
    ("lent_and_ended_cpu_us", "CPU µs a URL lent and ended", 1),
    ("disk_bytes_per_url", "bytes a URL on disk", 0),
    ("memory_bytes_per_url", "bytes a URL in RAM", 0),
];

impl Run {
    pub(crate) fn new(subject: impl Into<String>) -> Self {
        Self { subject: subject.into(), figures: BTreeMap::new() }
    }

    /// A run of one process that fetched so many pages.
    pub(crate) fn of(subject: &str, pages: u64, cost: &Cost) -> Self {
        let per_page = 1_000.0 / pages.max(1) as f64;
        Self::new(subject)
            .with("pages", pages as f64)
            .with("wall_s", cost.wall)
            .with("pages_per_s", pages as f64 / cost.wall)
            .with("cpu_ms_per_page", cost.cpu() * per_page)
            .with("system_ms_per_page", cost.system * per_page)
            .with("memory_mib", mib(cost.memory_peak))
    }

    pub(crate) fn with(mut self, figure: &'static str, value: f64) -> Self {
        debug_assert!(FIGURES.iter().any(|(name, ..)| *name == figure), "{figure}");
        self.figures.insert(figure, value);
        self
    }

    pub(crate) fn figure(&self, figure: &str) -> Option<f64> {
        self.figures.get(figure).copied()
    }
}

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.subject)?;
        let figures = FIGURES.iter().filter_map(|(name, heading, decimals)| {
            self.figure(name).map(|value| (heading, value, *decimals))
        });
        for (at, (heading, value, decimals)) in figures.enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma} {value:.decimals$} {heading}")?;
        }
        Ok(())
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Table {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), runs: Vec::new() }
    }

    /// The median of a subject's figure.
    pub(crate) fn median(&self, subject: &str, figure: &str) -> Option<f64> {
        spread(&self.values(subject, figure)).map(|(median, ..)| median)
    }

    /// As Markdown: a row for each subject, medians and [least–most].
    pub(crate) fn markdown(&self) -> String {
        let mut subjects: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !subjects.contains(&run.subject.as_str()) {
                subjects.push(&run.subject);
            }
        }
        let is_used = |name: &str| self.runs.iter().any(|run| run.figures.contains_key(name));
        let figures: Vec<_> = FIGURES.iter().filter(|(name, ..)| is_used(name)).collect();
        let mut text = format!("### {}\n\n|  | runs |", self.title);
        for (_, heading, _) in &figures {
            // Writing to a string does not fail.
            let _ = write!(text, " {heading} |");
        }
        text.push_str("\n| --- | ---: |");
        text.push_str(&" ---: |".repeat(figures.len()));
        for subject in subjects {
            let runs = self.runs.iter().filter(|run| run.subject == subject).count();
            let _ = write!(text, "\n| {subject} | {runs} |");
            for (name, _, decimals) in &figures {
                let _ = match spread(&self.values(subject, name)) {
                    None => write!(text, "  |"),
                    Some((median, least, most)) if least == most => {
                        write!(text, " {median:.decimals$} |")
                    }
                    Some((median, least, most)) => {
                        write!(
                            text,
                            " {median:.decimals$} [{least:.decimals$}–{most:.decimals$}] |"
                        )
                    }
                };
            }
        }
        text.push('\n');
        text
    }

    fn values(&self, subject: &str, figure: &str) -> Vec<f64> {
        let runs = self.runs.iter().filter(|run| run.subject == subject);
        runs.filter_map(|run| run.figure(figure)).collect()
    }
}

/// Median, least and most.
fn spread(values: &[f64]) -> Option<(f64, f64, f64)> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    };
    Some((median, least, most))
}
