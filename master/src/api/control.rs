//! The Control service.

use std::time::Duration;

use tonic::{Request, Response, Status};
use trawl_proto::v1::{self, StatusReply, StatusRequest, SubmitReply, SubmitRequest};
use trawl_shared::{
    spec::{CrawlSpec, check_name},
    untrusted::Untrusted,
    url::CrawlUrl,
};

use crate::{crawl::Crawls, frontier::CrawlStatus, store::rows::Finish};

/// The longest that a status call is held open.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Answers operators.
#[derive(Clone, Debug)]
pub struct ControlApi {
    crawls: Crawls,
}

impl ControlApi {
    /// A service in front of the owner of the crawls.
    pub fn new(crawls: Crawls) -> Self {
        Self { crawls }
    }
}

#[tonic::async_trait]
impl v1::control_server::Control for ControlApi {
    async fn submit(
        &self,
        request: Request<SubmitRequest>,
    ) -> Result<Response<SubmitReply>, Status> {
        let SubmitRequest { name, seeds, spec_json, .. } = request.into_inner();
        check_name(&name).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let spec = CrawlSpec::from_json(&spec_json).map_err(Status::invalid_argument)?;
        let seeds: Vec<CrawlUrl> =
            seeds.iter().map(|seed| seed_url(seed)).collect::<Result<_, _>>()?;
        let submitted = self.crawls.submit(name, spec, seeds).await?;
        let submitted = submitted.map_err(Status::invalid_argument)?;
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
        let name = (!name.is_empty()).then_some(name);
        let wait = Duration::from_millis(wait_ended_ms).min(WAIT_MAX);
        let crawls = self.crawls.status(name, wait).await?;
        let crawls = crawls.into_iter().map(crawl_status).collect();
        Ok(Response::new(StatusReply { crawls, ..StatusReply::default() }))
    }

    async fn steer(
        &self,
        _: Request<v1::SteerRequest>,
    ) -> Result<Response<v1::SteerReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn workers(
        &self,
        _: Request<v1::WorkersRequest>,
    ) -> Result<Response<v1::WorkersReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn drain(
        &self,
        _: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn hosts(
        &self,
        _: Request<v1::HostsRequest>,
    ) -> Result<Response<v1::HostsReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn why(&self, _: Request<v1::WhyRequest>) -> Result<Response<v1::WhyReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn quarantine(
        &self,
        _: Request<v1::QuarantineRequest>,
    ) -> Result<Response<v1::QuarantineReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    async fn release(
        &self,
        _: Request<v1::ReleaseRequest>,
    ) -> Result<Response<v1::ReleaseReply>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    type PageStream = tokio_stream::Empty<Result<v1::PagePart, Status>>;

    async fn page(
        &self,
        _: Request<v1::PageRequest>,
    ) -> Result<Response<Self::PageStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }

    type ExportStream = tokio_stream::Empty<Result<v1::ExportPart, Status>>;

    async fn export(
        &self,
        _: Request<v1::ExportRequest>,
    ) -> Result<Response<Self::ExportStream>, Status> {
        Err(Status::unimplemented("not yet"))
    }
}

fn seed_url(seed: &str) -> Result<CrawlUrl, Status> {
    CrawlUrl::parse(seed)
        .map_err(|error| Status::invalid_argument(format!("seed \"{}\": {error}", Untrusted(seed))))
}

fn crawl_status(status: CrawlStatus) -> v1::CrawlStatus {
    let (state, reason) = match status.finish {
        Finish::Running => ("running", ""),
        Finish::Complete => ("finished", "complete"),
        Finish::PageBudget => ("finished", "page budget"),
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
        troubles: status
            .troubles
            .into_iter()
            .map(|trouble| v1::Trouble {
                url: trouble.url,
                class: trouble.class.word().to_owned(),
                detail: trouble.detail,
            })
            .collect(),
        ..v1::CrawlStatus::default()
    }
}
