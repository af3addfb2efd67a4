//! The Control service.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Request, Response, Status};
use trawl_proto::v1::{
    self, DrainReply, DrainRequest, ExportRequest, HostReply, HostRequest, HostsReply,
    HostsRequest, PageRequest, QuarantineReply, QuarantineRequest, ReleaseReply, ReleaseRequest,
    SetHostRequest, StatusReply, StatusRequest, SteerReply, SteerRequest, SubmitReply,
    SubmitRequest, WalkRequest, WhyReply, WhyRequest, WorkersReply, WorkersRequest,
};
use trawl_shared::{
    VERSION,
    spec::{CrawlSpec, check_name},
    untrusted::Untrusted,
    url::{CrawlUrl, HostKey},
};

use super::{
    host::{self, host_status},
    millis,
    pages::{self, Exports},
    source, walk, why,
};
use crate::{
    crawl::{Crawls, Inmates, Quarantine, Submission, Tally},
    frontier::{CrawlStatus, HostAccount, HostChange, Release},
    store::rows::{Finish, Wish},
    workers::{WorkerState, WorkerStatus},
};

/// The longest that a status call is held open.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Hosts, and URLs in quarantine, that are told of unless the caller says how many,
/// and at most.
const LISTED: (usize, usize) = (100, 500);

/// Answers operators.
#[derive(Clone, Debug)]
pub struct ControlApi {
    crawls: Crawls,
    exports: Exports,
}

impl ControlApi {
    /// A service in front of the owner of the crawls and of the exports.
    pub fn new(crawls: Crawls, exports: Exports) -> Self {
        Self { crawls, exports }
    }

    /// The hosts that people have set something of, whose key contains a text.
    async fn set_hosts(&self, contains: String, limit: usize) -> Result<HostsReply, Status> {
        let mut reply = HostsReply::default();
        let mut after = Some(String::new());
        while let Some(key) = after {
            let (keys, next) = self.crawls.set_hosts(key, contains.clone()).await?;
            reply.matched += keys.len() as u64;
            for key in keys.into_iter().take(limit - reply.set.len()) {
                let (account, due) = self.crawls.host(key.clone(), HostChange::default()).await?;
                let account = HostAccount { robots: None, ..account };
                reply.set.push(host::told(&key, account, due));
            }
            after = next;
        }
        Ok(reply)
    }
}

#[tonic::async_trait]
impl v1::control_server::Control for ControlApi {
    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitReply>, Status> {
        let SubmitRequest { name, seeds, spec_json, take_up } = request.into_inner();
        check_name(&name).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let spec = CrawlSpec::from_json(&spec_json).map_err(Status::invalid_argument)?;
        let seeds: Vec<CrawlUrl> =
            seeds.iter().map(|seed| checked_url("seed", seed)).collect::<Result<_, _>>()?;
        let submission = Submission { name, spec, seeds, take_up };
        let submitted = self.crawls.submit(submission).await??;
        Ok(Response::new(SubmitReply {
            crawl: submitted.crawl,
            resumed: submitted.resumed,
            new_seeds: submitted.new_seeds,
        }))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusReply>, Status> {
        let StatusRequest { name, wait_ended_ms } = request.into_inner();
        let wait = Duration::from_millis(wait_ended_ms).min(WAIT_MAX);
        let overview = self.crawls.status(some(name), wait).await??;
        Ok(Response::new(StatusReply {
            crawls: overview.crawls.into_iter().map(crawl_status).collect(),
            workers_working: overview.working,
            workers_idle: overview.idle,
            version: VERSION.to_owned(),
            instance: overview.instance,
            disk_low: overview.disk_low.map(|low| v1::DiskLow {
                free: low.free,
                reserve: low.reserve,
                refuses_reports: low.refuses_reports,
            }),
            commits: Some(commits(&overview.tally)),
        }))
    }

    async fn steer(&self, request: Request<SteerRequest>) -> Result<Response<SteerReply>, Status> {
        let request = request.into_inner();
        let wish = match request.wish() {
            v1::Wish::Run => Wish::Run,
            v1::Wish::Pause => Wish::Pause,
            v1::Wish::Stop => Wish::Stop,
            v1::Wish::Unspecified => {
                return Err(Status::invalid_argument("say whether to run, pause or stop"));
            }
        };
        let crawl = self.crawls.steer(request.name, wish).await??;
        Ok(Response::new(SteerReply { crawl: Some(crawl_status(crawl)) }))
    }

    async fn workers(&self, _: Request<WorkersRequest>) -> Result<Response<WorkersReply>, Status> {
        let workers = self.crawls.workers().await?;
        Ok(Response::new(WorkersReply {
            workers: workers.into_iter().map(worker_status).collect(),
        }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let DrainRequest { worker, undo } = request.into_inner();
        let leases = self.crawls.drain(worker.clone(), !undo).await?;
        let leases = leases.ok_or_else(|| {
            let worker = Untrusted::new(&worker);
            Status::not_found(format!("no worker \"{worker}\" is here; `trawl workers` lists them"))
        })?;
        Ok(Response::new(DrainReply { leases }))
    }

    async fn hosts(&self, request: Request<HostsRequest>) -> Result<Response<HostsReply>, Status> {
        let HostsRequest { crawl, contains, limit, set } = request.into_inner();
        if set {
            return self.set_hosts(contains, listed(limit)).await.map(Response::new);
        }
        let (hosts, matched) = self.crawls.hosts(some(crawl), contains, listed(limit)).await??;
        let hosts = hosts.into_iter().map(host_status).collect();
        Ok(Response::new(HostsReply { hosts, matched, set: Vec::new() }))
    }

    async fn host(&self, request: Request<HostRequest>) -> Result<Response<HostReply>, Status> {
        let key = host_key(&request.into_inner().host)?;
        let (account, due) = self.crawls.host(key.clone(), HostChange::default()).await?;
        Ok(Response::new(host::told(&key, account, due)))
    }

    async fn set_host(
        &self,
        request: Request<SetHostRequest>,
    ) -> Result<Response<HostReply>, Status> {
        let request = request.into_inner();
        let (key, change) = (host_key(&request.host)?, host::change(&request)?);
        let (account, due) = self.crawls.host(key.clone(), change).await?;
        Ok(Response::new(host::told(&key, account, due)))
    }

    async fn why(&self, request: Request<WhyRequest>) -> Result<Response<WhyReply>, Status> {
        let WhyRequest { url, crawl, search_from } = request.into_inner();
        if search_from.is_some() && crawl.is_empty() {
            let message = "a search that goes on needs the name of its crawl";
            return Err(Status::invalid_argument(message));
        }
        let canon_rules = CrawlUrl::changed_by(&url).into_iter().map(str::to_owned).collect();
        let url = checked_url("URL", &url)?;
        let mut crawls = Vec::new();
        let search_until = Instant::now() + source::SEARCHES_MAX;
        for view in self.crawls.why(some(crawl), url.clone()).await?? {
            crawls.push(why::told(&self.crawls, view, search_from, search_until).await?);
        }
        let canonical = url.as_str().to_owned();
        Ok(Response::new(WhyReply { canonical, crawls, canon_rules }))
    }

    async fn quarantine(
        &self,
        request: Request<QuarantineRequest>,
    ) -> Result<Response<QuarantineReply>, Status> {
        let QuarantineRequest { crawl, after, limit } = request.into_inner();
        let limit = listed(limit);
        let Quarantine { inmates, forgotten, pages } =
            self.crawls.quarantine(some(crawl), after, limit).await??;
        // Fewer than asked for are the last ones.
        let last = (inmates.len() == limit).then(|| inmates.last()).flatten();
        let next = last.map(|inmate| inmate.key.clone()).unwrap_or_default();
        let mut urls = Vec::new();
        for inmate in inmates {
            urls.push(v1::QuarantinedUrl {
                via: why::via_url(&pages, inmate.via).await,
                url: inmate.url,
                detail: inmate.detail,
                depth: inmate.depth,
                attempts: inmate.attempts,
                worker: inmate.worker,
                trap: inmate.trap,
            });
        }
        Ok(Response::new(QuarantineReply { urls, next, forgotten }))
    }

    async fn release(
        &self,
        request: Request<ReleaseRequest>,
    ) -> Result<Response<ReleaseReply>, Status> {
        let ReleaseRequest { crawl, urls, all, drop } = request.into_inner();
        let inmates = match (all, urls.is_empty()) {
            (true, true) => Inmates::All,
            (false, false) => {
                let urls = urls.iter().map(|url| checked_url("URL", url));
                Inmates::Urls(urls.collect::<Result<_, _>>()?)
            }
            _ => return Err(Status::invalid_argument("name URLs, or say that all are meant")),
        };
        let how = if drop { Release::Drop } else { Release::Retry };
        let released = self.crawls.release(some(crawl), inmates, how).await??;
        Ok(Response::new(ReleaseReply { released: released.count, not_found: released.not_found }))
    }

    type PageStream = pages::PageStream;

    async fn page(
        &self,
        request: Request<PageRequest>,
    ) -> Result<Response<Self::PageStream>, Status> {
        let PageRequest { url, crawl } = request.into_inner();
        let url = checked_url("URL", &url)?;
        let crawl = self.crawls.pages(some(crawl)).await??;
        let known = self.crawls.look_up(crawl.crawl, url.clone()).await?;
        Ok(Response::new(pages::page(&crawl, pages::place(&url, known)?)?))
    }

    type ExportStream = pages::ExportStream;

    async fn export(
        &self,
        request: Request<ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        let ExportRequest { crawl, format } = request.into_inner();
        let crawl = self.crawls.pages(some(crawl)).await??;
        Ok(Response::new(self.exports.start(crawl, &format)?))
    }

    type WalkStream = walk::WalkStream;

    async fn walk(&self, _: Request<WalkRequest>) -> Result<Response<Self::WalkStream>, Status> {
        let walking = self.crawls.walk().await?.ok_or_else(|| {
            Status::resource_exhausted("another walk through the store is under way; try again")
        })?;
        Ok(Response::new(walk::stream(walking)))
    }
}

/// A name, if one is given.
fn some(name: String) -> Option<String> {
    (!name.is_empty()).then_some(name)
}

fn listed(limit: u32) -> usize {
    if limit == 0 { LISTED.0 } else { (limit as usize).min(LISTED.1) }
}

/// A URL that a person gave; `what` says what it is.
fn checked_url(what: &str, url: &str) -> Result<CrawlUrl, Status> {
    CrawlUrl::parse(url).map_err(|error| {
        Status::invalid_argument(format!("{what} \"{}\": {error}", Untrusted::new(url)))
    })
}

/// The host that a person names: by a URL of it, or by its key, which is a URL too.
fn host_key(text: &str) -> Result<HostKey, Status> {
    Ok(checked_url("host", text)?.host_key())
}

fn worker_status(worker: WorkerStatus) -> v1::WorkerStatus {
    let state = match worker.state {
        WorkerState::Working => "working",
        WorkerState::Idle => "idle",
        WorkerState::Draining => "draining",
        WorkerState::Drained => "drained",
        WorkerState::Silent => "silent",
    };
    v1::WorkerStatus {
        name: worker.name.to_string(),
        version: worker.hello.version,
        address: worker.hello.address.map(|address| address.to_string()).unwrap_or_default(),
        state: state.into(),
        lanes: worker.hello.lanes,
        lanes_busy: worker.activity.lanes_busy,
        leases: worker.leases,
        urls: worker.urls,
        joined_ms: millis(worker.joined),
        heard_ms: millis(worker.heard),
        pages: worker.activity.pages,
        failures: worker.activity.failures,
        wire_bytes: worker.activity.wire_bytes,
        outbox_bytes: worker.activity.outbox_bytes,
    }
}

fn commits(tally: &Tally) -> v1::Commits {
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    v1::Commits {
        running_ms: millis(tally.running()),
        turns: tally.turns,
        turn_longest_us: micros(tally.turn_longest),
        commits: tally.written.batches,
        rows: tally.written.rows,
        bytes: tally.written.bytes,
        syncs: tally.syncs,
        sync_longest_us: micros(tally.sync_longest),
    }
}

fn crawl_status(status: CrawlStatus) -> v1::CrawlStatus {
    let (state, reason) = match (status.finish, status.wish) {
        (Finish::Running, Wish::Run) => ("running", ""),
        (Finish::Running, Wish::Pause) => ("paused", ""),
        (Finish::Running, Wish::Stop) => ("stopping", ""),
        (Finish::Complete, _) => ("finished", "complete"),
        (Finish::PageBudget, _) => ("finished", "page budget"),
        (Finish::Stopped, _) => ("finished", "stopped"),
    };
    v1::CrawlStatus {
        crawl: status.crawl,
        name: status.name,
        state: state.into(),
        reason: reason.into(),
        discovered: status.discovered,
        queued: status.queued,
        leased: status.leased,
        outcomes: status
            .outcomes
            .into_iter()
            .map(|(class, count)| (class.word().to_owned(), count))
            .collect(),
        retries: status.retries,
        body_bytes: status.body_bytes,
        wire_bytes: status.wire_bytes,
        hosts: status.hosts,
        hosts_busy: status.hosts_busy,
        ran_ms: status.ran_ms,
        reports_already: status.reports_already,
        reports_stale: status.reports_stale,
        leases_expired: status.leases_expired,
        leases_recovered: status.leases_recovered,
        leases_kept: status.leases_kept,
        troubles: status
            .troubles
            .into_iter()
            .map(|trouble| v1::Trouble {
                url: trouble.url,
                class: trouble.class.word().to_owned(),
                detail: trouble.detail,
            })
            .collect(),
        stored_bytes: status.stored_bytes,
    }
}
