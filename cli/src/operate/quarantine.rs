//! `trawl quarantine`.

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;
use trawl_proto::v1::{QuarantineRequest, QuarantinedUrl, ReleaseRequest};
use trawl_shared::untrusted::Untrusted;

use super::{Operator, WhomArgs};
use crate::{
    exit::{Exit, Failure},
    render::{self, counted},
    tables::json_text,
};

/// URLs that one call lists.
const CALL_URLS: u32 = 500;

#[derive(Args, Debug)]
pub(crate) struct QuarantineArgs {
    #[command(subcommand)]
    verb: QuarantineVerb,
}

impl QuarantineArgs {
    /// Whom to ask.
    pub(super) fn whom(&self) -> &WhomArgs {
        match &self.verb {
            QuarantineVerb::List(args) => &args.of.whom,
            QuarantineVerb::Release(args) | QuarantineVerb::Drop(args) => &args.of.whom,
        }
    }
}

#[derive(Debug, Subcommand)]
enum QuarantineVerb {
    /// List them, with what happened
    List(ListArgs),
    /// Try them again
    Release(ReleaseArgs),
    /// Give them up for good
    Drop(ReleaseArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    of: Of,
}

#[derive(Args, Debug)]
#[command(group = ArgGroup::new("which").required(true).args(["urls", "all"]))]
struct ReleaseArgs {
    /// The URLs
    #[arg(value_name = "URL")]
    urls: Vec<String>,

    /// All that are in quarantine
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    of: Of,
}

#[derive(Args, Debug)]
struct Of {
    /// The crawl, if the master has several
    #[arg(long, value_name = "NAME")]
    crawl: Option<String>,

    #[command(flatten)]
    pub(super) whom: WhomArgs,
}

/// Lists URLs in quarantine, or lets them out.
pub(super) async fn quarantine(
    operator: &Operator,
    args: &QuarantineArgs,
) -> Result<Exit, Failure> {
    match &args.verb {
        QuarantineVerb::List(args) => list(operator, args).await,
        QuarantineVerb::Release(args) => release(operator, args, false).await,
        QuarantineVerb::Drop(args) => release(operator, args, true).await,
    }
}

async fn list(operator: &Operator, args: &ListArgs) -> Result<Exit, Failure> {
    let crawl = args.of.crawl.clone().unwrap_or_default();
    let mut after = Default::default();
    loop {
        let request = QuarantineRequest { crawl: crawl.clone(), after, limit: CALL_URLS };
        let reply = operator.ask(async |mut it| it.quarantine(request).await).await?;
        for url in &reply.urls {
            render::print(&if args.json { as_json(url) } else { as_text(url) })?;
        }
        if reply.next.is_empty() {
            if reply.forgotten > 0 {
                let links = counted(reply.forgotten, "link");
                let what = "taken for traps while the quarantine was full, and forgotten";
                render::say(&format!("{links} {what}"));
            }
            return Ok(Exit::Done);
        }
        after = reply.next;
    }
}

async fn release(operator: &Operator, args: &ReleaseArgs, drop: bool) -> Result<Exit, Failure> {
    let request = ReleaseRequest {
        crawl: args.of.crawl.clone().unwrap_or_default(),
        urls: args.urls.clone(),
        all: args.all,
        drop,
    };
    let reply = operator.ask(async |mut it| it.release(request).await).await?;
    let what = if drop { "given up" } else { "released" };
    render::print(&format!("{} {what}", counted(reply.released, "URL")))?;
    for url in &reply.not_found {
        render::say(&format!("not in quarantine: {}", Untrusted::new(url)));
    }
    Ok(if reply.not_found.is_empty() { Exit::Done } else { Exit::Failed })
}

fn as_text(url: &QuarantinedUrl) -> String {
    let attempts = if url.attempts == 1 { "attempt" } else { "attempts" };
    let trap = match url.trap.as_str() {
        "" => String::new(),
        trap => format!("trap {}: ", Untrusted::new(trap)),
    };
    let mut text = format!(
        "{}\n  {trap}{}\n  {} {attempts}, depth {}",
        Untrusted::new(&url.url),
        Untrusted::new(&url.detail),
        url.attempts,
        url.depth,
    );
    if !url.via.is_empty() {
        text += &format!(", first found on {}", Untrusted::new(&url.via));
    }
    text
}

fn as_json(url: &QuarantinedUrl) -> String {
    json_text(&json!({
        "url": url.url,
        "detail": url.detail,
        "via": url.via,
        "depth": url.depth,
        "attempts": url.attempts,
        "worker": url.worker,
        "trap": url.trap,
    }))
}
