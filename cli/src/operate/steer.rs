//! `trawl pause`, `resume` and `stop`.

use clap::Args;
use trawl_proto::v1::{CrawlStatus, SteerRequest, Wish};

use super::Operator;
use crate::{
    connect::MasterArgs,
    exit::{Exit, Failure},
    render::{self, counted},
};

#[derive(Args, Debug)]
pub(crate) struct SteerArgs {
    /// The crawl
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    master: MasterArgs,
}

/// Tells a crawl to go on, to rest or to end.
pub(super) async fn steer(args: &SteerArgs, wish: Wish) -> Result<Exit, Failure> {
    let operator = Operator::new(&args.master)?;
    let request = SteerRequest { name: args.name.clone(), wish: wish.into() };
    let reply = operator.ask(async |mut it| it.steer(request).await).await?;
    render::print(&told(&args.name, &reply.crawl.unwrap_or_default()))?;
    Ok(Exit::Done)
}

fn told(name: &str, crawl: &CrawlStatus) -> String {
    let left = counted(crawl.queued, "URL");
    let out = counted(crawl.leased, "URL");
    match crawl.state.as_str() {
        "running" => format!("crawl \"{name}\" is running, {left} queued"),
        "paused" if crawl.leased > 0 => {
            format!("crawl \"{name}\" is paused; {out} still lent, to end or come back")
        }
        "stopping" => {
            format!("crawl \"{name}\" is stopping; {out} still lent, to end or come back")
        }
        "finished" => {
            format!("crawl \"{name}\" has finished: {}; {left} queued", crawl.reason)
        }
        state => format!("crawl \"{name}\" is {state}, {left} queued"),
    }
}
