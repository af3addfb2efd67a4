//! The power goes while a master works: whatever it had acknowledged is there afterwards, whole.
//!
//! The disk is an ext4 file system whose power the test cuts ([`Disk`]). Of the two loads on it, one
//! is the program as it is. The other drives the whole master, its frontier and its segments, by
//! several workers without a web, which note on another disk what was acknowledged to them: it gets
//! through more in the same time. It runs in a process of its own, which is this test program
//! started once more.
//!
//! `TRAWL_POWER_CUTS` sets how many cuts that load gets (20), `TRAWL_POWER_SEED` when they come.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    thread::sleep,
};

use bytes::Bytes;
use harness::{Audit, Cluster, Disk, Duration, Pages, Sites, Trawl, audit, ms, secs};
use http::{HeaderMap, Version};
use sha1::{Digest, Sha1};
use tempfile::TempDir;
use tokio::time::Instant;
use trawl_master::{
    api::{ControlApi, WorkerApi},
    sabotage::{Hardening, leave_out},
    server::{Master, MasterConfig},
};
use trawl_proto::{
    PROTOCOL,
    v1::{
        HostBatch, JoinRequest, LeaseRequest, Offer, ReportHeader, ReportPart, Response,
        StatusRequest, SubmitRequest, UrlReport, control_client::ControlClient,
        control_server::ControlServer, report_part::Part, url_report::Outcome,
        worker_client::WorkerClient, worker_server::WorkerServer,
    },
};
use trawl_shared::{
    clock::wall_now,
    page::{Outlink, PageMeta},
    scope::ScopeKind,
    spec::{CrawlSpec, LinkKind},
    units::{Size, Span},
    url::{CrawlUrl, UrlId},
    warc::{seeded_rng, sha1_hex},
};
use trawl_worker::{
    fetch::Page,
    record::{Recorder, digest_page},
};

/// Pages of the web that is not there: page `n` leads to `3n + 1` to `3n + 3`.
const PAGES: usize = 5_000;

const HOSTS: usize = 12;
const WRITERS: usize = 4;

/// URLs reported in one call.
const REPORTED: usize = 8;

/// Cuts that one data directory lives through, before it is crawled to its end.
const CUTS_OF_A_DIRECTORY: u64 = 5;

/// Cuts within which a build without one of the two syncs has to be found out.
const CUTS_WITHOUT: usize = 10;

const CHILD_DATA: &str = "TRAWL_POWER_DATA";
const CHILD_NOTES: &str = "TRAWL_POWER_NOTES";
const CHILD_LEAVES_OUT: &str = "TRAWL_POWER_LEAVES_OUT";

#[test]
fn what_a_master_acknowledged_outlives_the_power() {
    let cuts = from_environment("TRAWL_POWER_CUTS", 20);
    let mut chance = fastrand::Rng::with_seed(from_environment("TRAWL_POWER_SEED", 1));
    let (mut done, mut acknowledged, mut early, mut opening) = (0, 0, 0, 0);
    let began = Instant::now();
    while done < cuts {
        let directory = Directory::new(None);
        for cut in 0..CUTS_OF_A_DIRECTORY.min(cuts - done) {
            let moment = Moment::draw(cut, &mut chance);
            early += u64::from(matches!(moment, Moment::AfterOpening(after) if after < ms(150)));
            opening += u64::from(matches!(moment, Moment::WhileOpening(_)));
            directory.work_until_cut(moment);
            done += 1;
            let lost = directory.lost();
            assert_eq!(lost, Ok(()), "cut {done}, {moment:?}; {}", directory.said());
        }
        acknowledged += directory.acknowledged().len();
        directory.work_to_the_end();
        let found = audit(&directory.data()).unwrap();
        for page in 0..PAGES {
            let (sha1, _) = found.pages.get(&url(page)).unwrap_or_else(|| panic!("no {page}"));
            assert_eq!(*sha1, sha1_hex(&Sha1::digest(body(page)).into()), "page {page}");
        }
        assert_eq!(found.pages.len(), PAGES, "and nothing else");
    }
    println!(
        "B2: {done} power cuts, {early} of them less than 150 ms after opening and {opening} while \
         opening; {acknowledged} pages with their links acknowledged before a cut, 0 lost, 0 torn, 0 failed \
         opens; every crawl equal to an undisturbed one; {:.1} s a cut",
        began.elapsed().as_secs_f64() / done as f64
    );
}

#[test]
fn without_the_stores_sync_the_same_test_fails() {
    println!("B2: {}", fails_without(Hardening::StoreSync));
}

#[test]
fn without_the_segments_sync_the_same_test_fails() {
    println!("B2: {}", fails_without(Hardening::PageSync));
}

/// How it was noticed that this was left out.
fn fails_without(hardening: Hardening) -> String {
    let mut chance = fastrand::Rng::with_seed(2);
    for cut in 1..=CUTS_WITHOUT {
        let directory = Directory::new(Some(hardening));
        directory.work_until_cut(Moment::AfterPages(chance.usize(50..500)));
        if let Err(found) = directory.lost() {
            return format!("without {hardening:?}, cut {cut} was noticed: {found}");
        }
    }
    panic!("{CUTS_WITHOUT} cuts, and that {hardening:?} was left out was not noticed");
}

/// Pages of a host of the load that is the program as it is.
const REAL_PAGES: usize = 300;

#[tokio::test]
async fn workers_go_on_after_the_power_was_cut_at_their_master() {
    let sites = Sites::trees(3, REAL_PAGES, ms(8)).await;
    let want = sites.undisturbed().await;
    let disk = Disk::new();
    let data = disk.path().join("data");
    let mut cluster = Cluster::absent(secs(30)).with("--data", &data).with("--segment", "1MiB");
    cluster.start_master().await;
    let workers = ["one", "two"].map(|name| cluster.worker(name).set("--lanes", "2").start());
    cluster.submit("c", sites.seeds()).done().await.expect(0);

    let (mut told, mut cuts) = (0, 0);
    for visits in [30, 70, 110, 150, 190, 230] {
        sites[0].visited(visits).await;
        told = cluster.crawl("c").await["outcomes"]["ok"].as_u64().unwrap_or(told);
        cluster.master().freeze();
        disk.cut();
        cluster.kill_master().await;
        disk.restore();
        let found = audit(&data).unwrap();
        let pages = found.pages.len() as u64;
        assert!(pages >= told, "{told} pages were there, {pages} are");
        cluster.start_master().await;
        cuts += 1;
    }
    cluster.complete().await;

    assert_eq!(cluster.pages("c").await.content(), want.content());
    let again = sites.again();
    println!("B2: {cuts} power cuts at a master with two workers, {again} fetched again");
    assert_eq!(again, 0, "what was fetched meanwhile was kept for the master");
    for worker in workers {
        worker.stops().await;
    }
}

#[tokio::test]
async fn a_crawl_of_one_process_goes_on_after_a_power_cut() {
    let sites = Sites::trees(3, REAL_PAGES, ms(8)).await;
    let want = sites.undisturbed().await;
    let disk = Disk::new();
    let trawl = Trawl::new();
    let data = disk.path().join("data");
    let crawl = trawl.crawl(sites.seeds()).set("--data", &data);
    let mut before = 0;
    for visits in [60, 120, 180] {
        let running = crawl.start();
        sites[0].visited(visits).await;
        running.freeze();
        disk.cut();
        running.kill().await;
        disk.restore();
        let found = audit(&data).unwrap();
        assert!(found.pages.len() >= before);
        before = found.pages.len();
    }
    crawl.done().await.expect(0);

    let out = trawl.file("pages.jsonl");
    let export = trawl.command::<&str>("export", []).set("--data", &data).set("--format", "jsonl");
    export.set("--out", &out).done().await.expect(0);
    assert_eq!(Pages::read(&out).content(), want.content());
    println!("B2: 3 power cuts at trawl crawl, {} fetched again", sites.again());
}

/// When the power goes.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after the process was started.
    WhileOpening(Duration),
    /// So long after the data directory was open.
    AfterOpening(Duration),
    /// After so many further pages were acknowledged.
    AfterPages(usize),
}

impl Moment {
    /// The moment of a directory's so manieth cut.
    fn draw(cut: u64, chance: &mut fastrand::Rng) -> Self {
        match cut {
            1 => Self::WhileOpening(ms(chance.u64(..100))),
            2 | 3 => Self::AfterOpening(ms(chance.u64(..150))),
            _ => Self::AfterPages(chance.usize(20..500)),
        }
    }
}

/// A data directory on a disk of its own, and what was acknowledged of it.
struct Directory {
    disk: Disk,
    elsewhere: TempDir,
    leaves_out: Option<Hardening>,
}

impl Directory {
    fn new(leaves_out: Option<Hardening>) -> Self {
        Self { disk: Disk::new(), elsewhere: TempDir::new().unwrap(), leaves_out }
    }

    fn data(&self) -> PathBuf {
        self.disk.path().join("data")
    }

    fn notes(&self) -> PathBuf {
        self.elsewhere.path().join("notes")
    }

    /// Numbers of the pages that were acknowledged.
    fn acknowledged(&self) -> BTreeSet<usize> {
        let notes = fs::read_to_string(self.notes()).unwrap_or_default();
        notes.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn start(&self) -> Child {
        let mut child = Command::new(env::current_exe().unwrap());
        child.args(["--exact", "the_load", "--ignored", "--nocapture"]);
        child.env(CHILD_DATA, self.data()).env(CHILD_NOTES, self.notes());
        if let Some(hardening) = self.leaves_out {
            child.env(CHILD_LEAVES_OUT, format!("{hardening:?}"));
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        child.stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn log(&self) -> PathBuf {
        self.elsewhere.path().join("log")
    }

    /// Lets the load run until the power goes at this moment.
    fn work_until_cut(&self, moment: Moment) {
        let opened = || {
            let notes = fs::read_to_string(self.notes()).unwrap_or_default();
            notes.lines().filter(|line| *line == "open").count()
        };
        let (opened_before, pages_before) = (opened(), self.acknowledged().len());
        let mut load = self.start();
        match moment {
            Moment::WhileOpening(after) => sleep(after),
            Moment::AfterOpening(after) => {
                wait_until(|| opened() > opened_before);
                sleep(after);
            }
            // All, if there are no more.
            Moment::AfterPages(pages) => {
                wait_until(|| self.acknowledged().len() >= (pages_before + pages).min(PAGES));
            }
        }
        self.disk.cut();
        // What still runs finds that nothing can be written any more, as on a dying disk.
        sleep(ms(20));
        load.kill().unwrap();
        load.wait().unwrap();
        self.disk.restore();
    }

    fn work_to_the_end(&self) {
        let ended = self.start().wait().unwrap();
        assert!(ended.success(), "the crawl was not finished: {}", self.said());
    }

    fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Whether all that was acknowledged is there, and nothing is there by half.
    fn lost(&self) -> Result<(), String> {
        if !self.data().exists() {
            return self.none_acknowledged();
        }
        if !self.data().join("format").exists() {
            self.none_acknowledged()?;
        }
        // The power may go before the store has been made.
        if !self.data().join("frontier").exists() {
            return self.none_acknowledged();
        }
        let found = audit(&self.data())?;
        let lost = |page: &&usize| !found.pages.contains_key(&url(**page));
        let acknowledged = self.acknowledged();
        let lost: Vec<_> = acknowledged.iter().filter(lost).collect();
        if !lost.is_empty() {
            return Err(format!("{} of {} lost: {lost:?}", lost.len(), acknowledged.len()));
        }
        links_are_known(&found)
    }

    fn none_acknowledged(&self) -> Result<(), String> {
        match self.acknowledged().len() {
            0 => Ok(()),
            count => Err(format!("the data directory is gone, with {count} acknowledged pages")),
        }
    }
}

/// Waits for what a load does, but not for ever if it cannot.
fn wait_until(is_so: impl Fn() -> bool) {
    let late = Instant::now() + secs(20);
    while !is_so() && Instant::now() < late {
        sleep(ms(2));
    }
}

/// A page and its links are committed in one: no page without them, acknowledged or not.
fn links_are_known(found: &Audit) -> Result<(), String> {
    for (url, (_, links)) in &found.pages {
        if let Some(link) = links.iter().find(|link| !found.knows(link)) {
            return Err(format!("torn: {url} is there, its link {link} is not"));
        }
    }
    Ok(())
}

/// The load, in a process of its own: works until there is nothing left to do.
#[test]
#[ignore = "runs in a process that the other tests start"]
fn the_load() {
    let (Some(data), Some(notes)) = (env::var_os(CHILD_DATA), env::var_os(CHILD_NOTES)) else {
        return;
    };
    match env::var(CHILD_LEAVES_OUT).as_deref() {
        Ok("StoreSync") => leave_out(Hardening::StoreSync),
        Ok("PageSync") => leave_out(Hardening::PageSync),
        Ok(other) => panic!("{other}"),
        Err(_) => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(work(Path::new(&data), Path::new(&notes)));
}

async fn work(data: &Path, notes: &Path) {
    let notes = OpenOptions::new().create(true).append(true).open(notes).unwrap();
    let mut config = MasterConfig::new(data.to_owned());
    // Small, so that the power also goes while one follows on another.
    config.segment = Size::bytes(512 * 1024);
    // These cuts follow each other faster than they would ever do.
    config.limits.losses = u32::MAX;
    let master = Master::start(config).unwrap();
    note(&notes, "open");
    let mut control = ControlClient::new(master.control_service());
    let spec = CrawlSpec { scope: ScopeKind::Any, delay: Span::secs(0), ..CrawlSpec::default() };
    let submitted = SubmitRequest {
        name: "c".into(),
        seeds: vec![url(0)],
        spec_json: spec.to_json(),
        take_up: true,
    };
    control.submit(submitted).await.unwrap();
    let writers = (0..WRITERS).map(|number| {
        let worker = WorkerClient::new(master.worker_service());
        let control = control.clone();
        Writer { name: format!("w{number}"), worker, control, notes: notes.try_clone().unwrap() }
    });
    let writers: Vec<_> = writers.map(|writer| tokio::spawn(writer.run())).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    master.stop().await.unwrap();
}

/// One write for one line, so that lines of several writers do not mix.
fn note(mut notes: &File, line: impl std::fmt::Display) {
    notes.write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// A worker that makes up its pages.
struct Writer {
    name: String,
    worker: WorkerClient<WorkerServer<WorkerApi>>,
    control: ControlClient<ControlServer<ControlApi>>,
    notes: File,
}

impl Writer {
    async fn run(mut self) {
        let join = JoinRequest {
            worker: self.name.clone(),
            protocol: PROTOCOL,
            lanes: 2,
            ..JoinRequest::default()
        };
        let session = self.worker.join(join).await.unwrap().into_inner().session;
        while !self.is_finished().await {
            let lease = LeaseRequest {
                worker: self.name.clone(),
                session,
                hosts: 2,
                wait_ms: 100,
                ..LeaseRequest::default()
            };
            let batches = self.worker.lease(lease).await.unwrap().into_inner().batches;
            for batch in batches {
                for urls in batch.urls.chunks(REPORTED) {
                    let pages: Vec<_> = urls.iter().map(|url| page_number(&url.url)).collect();
                    self.report(session, &batch, &pages).await;
                    pages.iter().for_each(|page| note(&self.notes, page));
                }
            }
        }
    }

    /// Returns when the master has acknowledged all of them.
    async fn report(&mut self, session: u64, batch: &HostBatch, pages: &[usize]) {
        let header = Part::Header(ReportHeader { worker: self.name.clone(), session });
        let reports = pages.iter().map(|page| Part::Url(url_report(batch, *page)));
        let parts = std::iter::once(header).chain(reports);
        let parts: Vec<_> = parts.map(|part| ReportPart { part: Some(part) }).collect();
        self.worker.report(tokio_stream::iter(parts)).await.unwrap();
    }

    async fn is_finished(&mut self) -> bool {
        let status = self.control.status(StatusRequest::default()).await.unwrap().into_inner();
        status.crawls[0].state == "finished"
    }
}

fn url_report(batch: &HostBatch, page: usize) -> UrlReport {
    static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);
    let body = Bytes::from(body(page));
    let url: CrawlUrl = url(page).parse().unwrap();
    let links: Vec<String> = links(page).map(self::url).collect();
    let fetched = Page {
        url: url.clone(),
        status: 200,
        version: Version::HTTP_11,
        headers: HeaderMap::new(),
        request_head: b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        wire: body.clone(),
        body: body.clone(),
        truncated: None,
        address: None,
        fetched_at: wall_now(),
        elapsed: ms(1),
    };
    let digests = digest_page(&fetched);
    let outlink = |url: &String| Outlink::new(url.clone(), LinkKind::A);
    let meta = PageMeta {
        url: url.as_str().to_owned(),
        outlinks: links.iter().map(outlink).collect(),
        ..PageMeta::default()
    };
    let mut recorder = RECORDER.lock().unwrap();
    let recorder = recorder.get_or_insert_with(|| Recorder::new(1, seeded_rng()));
    let records = recorder.records(&fetched, &digests, &meta).unwrap();
    UrlReport {
        token: batch.token,
        crawl: batch.crawl,
        host: batch.host,
        id: UrlId::of(url.as_str()).0.to_vec(),
        outcome: Some(Outcome::Response(Response {
            status: 200,
            sha1: digests.body.to_vec(),
            body_bytes: body.len() as u64,
            wire_bytes: body.len() as u64,
            fetched_at_ms: 0,
            response_len: records.lengths.response.into(),
            request_len: records.lengths.request.into(),
            metadata_len: records.lengths.metadata.into(),
            simhash: None,
        })),
        offers: links.into_iter().map(|url| Offer { url, hops: 0, ..Default::default() }).collect(),
        host_delay_ms: None,
        host_news: None,
        records: records.bytes,
    }
}

fn url(page: usize) -> String {
    format!("http://host{}.test/{page}", page % HOSTS)
}

fn page_number(url: &str) -> usize {
    url.rsplit('/').next().unwrap().parse().unwrap()
}

fn links(page: usize) -> impl Iterator<Item = usize> {
    (3 * page + 1..3 * page + 4).filter(|page| *page < PAGES)
}

/// Up to 8 KiB that cannot be compressed, the same for each page every time.
fn body(page: usize) -> Vec<u8> {
    let mut chance = fastrand::Rng::with_seed(page as u64);
    let length = chance.usize(..8 * 1024);
    std::iter::repeat_with(|| chance.u8(..)).take(length).collect()
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |number| number.parse().unwrap())
}
