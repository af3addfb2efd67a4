//! The verdict: what a crawl brought under attack, held against what the web has served.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufRead as _, BufReader},
    path::Path,
    time::Duration,
};

use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde_json::json;
use trawl_proto::v1::CrawlStatus;

use super::{machine::Machine, web::Account};
use crate::{
    render::{counted, pages},
    tables::json_text,
};

/// URLs named for each thing that is wrong.
const EXAMPLES: usize = 3;

/// What was done to the cluster, and how it took it.
#[derive(Debug, Default)]
pub(super) struct Attack {
    /// Until a killed master's successor answered.
    master_kills: Vec<Duration>,
    /// Until a dead worker's hosts were fetched from again.
    worker_kills: Vec<Duration>,
    /// Until a stopped master's successor answered; until a worker had stopped.
    master_stops: Vec<Duration>,
    worker_stops: Vec<Duration>,
    /// URLs that were lent to whom it concerned when something was killed.
    pub(super) lent_at_kills: u64,
    /// The crawl at its end.
    pub(super) crawl: CrawlStatus,
    /// How long it took.
    pub(super) crawl_time: Duration,
    /// What came of the last blow, for people.
    pub(super) last: String,
}

impl Attack {
    pub(super) fn master_killed(&mut self, ready: Duration) {
        self.master_kills.push(ready);
        self.last = format!("ready again after {}", time(ready));
    }

    pub(super) fn master_stopped(&mut self, ready: Duration) {
        self.master_stops.push(ready);
        self.last = format!("ready again after {}", time(ready));
    }

    pub(super) fn worker_killed(&mut self, recovered: Duration) {
        self.worker_kills.push(recovered);
        self.last = format!("all its hosts fetched from again after {}", time(recovered));
    }

    pub(super) fn worker_stopped(&mut self, ended: Duration) {
        self.worker_stops.push(ended);
        self.last = format!("it had handed everything back after {}", time(ended));
    }
}

/// What was exported.
#[derive(Debug, Default)]
pub(super) struct Export {
    /// Status and digest by URL.
    pages: BTreeMap<String, (u16, [u8; 20])>,
    /// URLs that were there more than once.
    double: Vec<String>,
}

/// What matters of a line of the export.
#[derive(Deserialize)]
struct Line {
    url: String,
    status: u16,
    sha1: String,
}

impl Export {
    /// Reads an export in JSON lines.
    ///
    /// # Errors
    /// If the file is not one.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut export = Self::default();
        for line in BufReader::new(File::open(path)?).lines() {
            let line: Line = serde_json::from_str(&line?)?;
            let sha1 = HEXLOWER.decode(line.sha1.as_bytes()).ok();
            // No page has this one, so that it is found to be another.
            let sha1 = sha1.and_then(|sha1| sha1.try_into().ok()).unwrap_or_default();
            if export.pages.insert(line.url.clone(), (line.status, sha1)).is_some() {
                export.double.push(line.url);
            }
        }
        Ok(export)
    }
}

/// How the test went.
#[derive(Debug)]
pub(super) struct Verdict<'a> {
    machine: &'a Machine,
    attack: &'a Attack,
    time: Duration,
    again: u64,
    lost: u64,
    double: u64,
    different: u64,
    /// What is wrong, a sentence each.
    faults: Vec<String>,
}

impl<'a> Verdict<'a> {
    /// The verdict on an attack. `broken` says why it could not be brought to its end; then
    /// there may be no export.
    pub(super) fn of(
        machine: &'a Machine,
        attack: &'a Attack,
        web: &Account,
        export: Option<&Export>,
        broken: Option<String>,
        time: Duration,
    ) -> Self {
        let mut verdict = Self {
            machine,
            attack,
            time,
            again: web.again,
            lost: 0,
            double: 0,
            different: 0,
            faults: broken.into_iter().collect(),
        };
        if let Some(export) = export {
            verdict.compare(web, export);
        }
        verdict
    }

    fn compare(&mut self, web: &Account, export: &Export) {
        let kept: BTreeSet<&String> = export.pages.keys().collect();
        let wanted: BTreeSet<&String> = web.linked.iter().collect();
        let lost: Vec<_> = wanted.difference(&kept).copied().collect();
        let different = export.pages.iter().filter(|(url, page)| {
            let served = web.served.get(*url);
            served.is_none_or(|served| (served.status, served.sha1) != **page)
        });
        let different: Vec<_> = different.map(|(url, _)| url).collect();
        let double: Vec<_> = export.double.iter().collect();
        self.lost = self.fault("lost", &lost);
        self.double = self.fault("stored twice", &double);
        self.different = self.fault("stored otherwise than served", &different);
        if web.most_at_once > 1 {
            let most = web.most_at_once;
            self.faults.push(format!("{most} requests at once to one host; one is allowed"));
        }
        if self.again > self.attack.lent_at_kills {
            let (again, lent) = (self.again, self.attack.lent_at_kills);
            self.faults
                .push(format!("{again} fetched again, but the kills explain {lent} at most"));
        }
        let crawl = &self.attack.crawl;
        if crawl.reason != "complete" || crawl.queued + crawl.leased > 0 {
            self.faults.push(format!("the crawl ended as {:?}, not as complete", crawl.reason));
        }
    }

    /// Notes what is wrong with some URLs, and returns how many they are.
    fn fault(&mut self, what: &str, urls: &[&String]) -> u64 {
        if !urls.is_empty() {
            let examples: Vec<_> = urls.iter().take(EXAMPLES).map(|url| url.as_str()).collect();
            let count = counted(urls.len() as u64, "URL");
            self.faults.push(format!("{count} {what}, such as {}", examples.join(", ")));
        }
        urls.len() as u64
    }

    pub(super) fn is_passed(&self) -> bool {
        self.faults.is_empty()
    }

    fn pages_per_second(&self) -> f64 {
        pages(&self.attack.crawl) as f64 / self.attack.crawl_time.as_secs_f64().max(0.001)
    }

    /// For people.
    pub(super) fn as_text(&self, seed: u64) -> String {
        let Self { machine, attack, again, lost, double, different, .. } = self;
        let crawl = &attack.crawl;
        let files = machine.open_files.map_or("no limit".into(), |files| files.to_string());
        let mut lines = vec![
            format!(
                "disk         {} in the middle and {} at the 99th percentile until a write is safe, \
                 {} free",
                time(machine.sync_median),
                time(machine.sync_p99),
                machine.free
            ),
            format!("open files   {files}"),
            format!(
                "pages        {} in {:.1} s, {:.0} a second",
                pages(crawl),
                attack.crawl_time.as_secs_f64(),
                self.pages_per_second()
            ),
            format!(
                "master       killed {}; ready again after {}; stopped {}, {}",
                times(&attack.master_kills),
                spread(&attack.master_kills),
                times(&attack.master_stops),
                spread(&attack.master_stops)
            ),
            format!(
                "workers      killed {}; their hosts fetched from again after {}; stopped {}, {}",
                times(&attack.worker_kills),
                spread(&attack.worker_kills),
                times(&attack.worker_stops),
                spread(&attack.worker_stops)
            ),
            format!(
                "again        {again} fetched again of {} that were lent when something was killed: \
                 nobody can know whether a dead worker had fetched them",
                attack.lent_at_kills
            ),
            format!(
                "leases       {} ran out; reports: {} stale, {} that had counted before",
                crawl.leases_expired, crawl.reports_stale, crawl.reports_already
            ),
            format!("lost         {lost}"),
            format!("twice        {double}"),
            format!("different    {different}, by the digests of all pages"),
        ];
        lines.extend(machine.advice().iter().map(|advice| format!("advice       {advice}")));
        lines.extend(self.faults.iter().map(|fault| format!("fault        {fault}")));
        let verdict = if self.is_passed() { "PASSED" } else { "FAILED" };
        lines.push(format!("{verdict} in {:.0} s, --seed {seed}", self.time.as_secs_f64()));
        lines.join("\n")
    }

    /// For programs: the same.
    pub(super) fn as_json(&self, seed: u64) -> String {
        let Self { machine, attack, .. } = self;
        let crawl = &attack.crawl;
        let figures = |times: &[Duration]| {
            let (middle, most) = (median(times).map(micros), times.iter().max().copied());
            json!({"count": times.len(), "median_us": middle, "max_us": most.map(micros)})
        };
        json_text(&json!({
            "passed": self.is_passed(),
            "faults": self.faults,
            "advice": machine.advice(),
            "seed": seed,
            "seconds": self.time.as_secs_f64(),
            "disk": {
                "sync_median_us": micros(machine.sync_median),
                "sync_p99_us": micros(machine.sync_p99),
                "free_bytes": machine.free.as_bytes(),
            },
            "open_files": machine.open_files,
            "pages": pages(crawl),
            "pages_per_second": self.pages_per_second(),
            "master_kills": figures(&attack.master_kills),
            "master_stops": figures(&attack.master_stops),
            "worker_kills": figures(&attack.worker_kills),
            "worker_stops": figures(&attack.worker_stops),
            "lent_at_kills": attack.lent_at_kills,
            "fetched_again": self.again,
            "leases_expired": crawl.leases_expired,
            "reports_stale": crawl.reports_stale,
            "reports_already": crawl.reports_already,
            "lost": self.lost,
            "double": self.double,
            "different": self.different,
        }))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn median(times: &[Duration]) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// A short time, as exact as it is worth.
fn time(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    if ms < 10.0 {
        format!("{ms:.2} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

fn times(times: &[Duration]) -> String {
    counted(times.len() as u64, "time")
}

fn spread(times: &[Duration]) -> String {
    match (median(times), times.iter().max()) {
        (Some(middle), Some(most)) => {
            format!("{} in the middle, {} at most", time(middle), time(*most))
        }
        _ => "no time".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use trawl_shared::units::Size;

    use super::{super::web::Served, *};

    fn machine() -> Machine {
        let time = Duration::from_millis(1);
        Machine { sync_median: time, sync_p99: time, free: Size::mib(1024), open_files: Some(1024) }
    }

    fn attack() -> Attack {
        let crawl = CrawlStatus { reason: "complete".into(), ..CrawlStatus::default() };
        Attack { crawl, lent_at_kills: 2, ..Attack::default() }
    }

    /// A web of two pages, one of which was asked for twice.
    fn account() -> Account {
        let served = |body: u8| Served::for_test(200, [body; 20]);
        Account {
            served: [("http://h/".to_owned(), served(1)), ("http://h/a".to_owned(), served(2))]
                .into(),
            linked: ["http://h/".to_owned(), "http://h/a".to_owned()].into(),
            again: 1,
            most_at_once: 1,
        }
    }

    fn export() -> Export {
        let pages =
            [("http://h/".to_owned(), (200, [1; 20])), ("http://h/a".to_owned(), (200, [2; 20]))];
        Export { pages: pages.into(), double: Vec::new() }
    }

    fn faults(attack: &Attack, account: &Account, export: &Export) -> Vec<String> {
        let machine = machine();
        let time = Duration::from_secs(1);
        Verdict::of(&machine, attack, account, Some(export), None, time).faults
    }

    #[test]
    fn what_was_served_and_stored_passes() {
        assert_eq!(faults(&attack(), &account(), &export()), Vec::<String>::new());
    }

    #[test]
    fn each_broken_promise_is_a_fault_that_says_so() {
        let fault = |attack: &Attack, account: &Account, export: &Export| {
            let faults = faults(attack, account, export);
            assert_eq!(faults.len(), 1, "{faults:?}");
            faults.into_iter().next().unwrap()
        };
        let (usual, web, good) = (attack(), account(), export());

        let mut less = export();
        less.pages.remove("http://h/a");
        assert_eq!(fault(&usual, &web, &less), "1 URL lost, such as http://h/a");
        let twice = Export { double: vec!["http://h/".into()], ..export() };
        assert_eq!(fault(&usual, &web, &twice), "1 URL stored twice, such as http://h/");
        let mut other = export();
        other.pages.insert("http://h/a".into(), (200, [9; 20]));
        let different = "1 URL stored otherwise than served, such as http://h/a";
        assert_eq!(fault(&usual, &web, &other), different);
        let hurried = Account { most_at_once: 2, ..account() };
        assert_eq!(
            fault(&usual, &hurried, &good),
            "2 requests at once to one host; one is allowed"
        );
        let busy = Account { again: 3, ..account() };
        assert_eq!(fault(&usual, &busy, &good), "3 fetched again, but the kills explain 2 at most");
        let stopped = Attack {
            crawl: CrawlStatus { reason: "stopped".into(), ..CrawlStatus::default() },
            ..attack()
        };
        assert_eq!(fault(&stopped, &web, &good), "the crawl ended as \"stopped\", not as complete");
    }
}
