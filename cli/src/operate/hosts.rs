//! `trawl hosts`.

use clap::Args;
use serde_json::{Value, json};
use trawl_proto::v1::{HostReply, HostStatus, HostsRequest};
use trawl_shared::untrusted::Untrusted;

use super::{Operator, WhomArgs, about, exactly, host};
use crate::{
    exit::{Exit, Failure},
    render,
    tables::{Table, json_text},
};

#[derive(Args, Debug)]
pub(crate) struct HostsArgs {
    /// Only this crawl's
    #[arg(long, value_name = "NAME", conflicts_with = "set")]
    crawl: Option<String>,

    /// Instead those that `trawl host` has blocked, or set a delay, connections or a limit of,
    /// in the order of their names
    #[arg(long)]
    set: bool,

    /// Only hosts with this in their scheme, name and port
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,

    /// Hosts to list at most; without --set those with the fullest queues
    #[arg(long, value_name = "HOSTS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) whom: WhomArgs,
}

/// Lists hosts.
pub(super) async fn hosts(operator: &Operator, args: &HostsArgs) -> Result<Exit, Failure> {
    let request = HostsRequest {
        crawl: args.crawl.clone().unwrap_or_default(),
        contains: args.contains.clone().unwrap_or_default(),
        limit: args.limit,
        set: args.set,
    };
    let reply = operator.ask(async |mut it| it.hosts(request).await).await?;
    let text = match (args.json, args.set) {
        (true, set) => {
            let hosts: Vec<_> = if set {
                reply.set.iter().map(host::as_json).collect()
            } else {
                reply.hosts.iter().map(as_json).collect()
            };
            json_text(&json!({"hosts": hosts, "matched": reply.matched}))
        }
        (false, set) => {
            let table = if set { set_table(&reply.set) } else { table(&reply.hosts) };
            let shown = reply.hosts.len().max(reply.set.len()) as u64;
            match reply.matched.saturating_sub(shown) {
                0 => table.to_string(),
                more => format!("{table}\n{more} more; --limit shows more of them"),
            }
        }
    };
    render::print(&text)?;
    Ok(Exit::Done)
}

/// What people have set.
fn set_table(hosts: &[HostReply]) -> Table {
    let mut table = Table::new(&["HOST", "DELAY", "CONNECTIONS", "LIMIT", "BLOCKED"]);
    let set = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    for host in hosts {
        table.row([
            Untrusted::new(&host.key).to_string(),
            set(host.set_delay_ms.map(exactly)),
            set(host.set_connections.map(|many| many.to_string())),
            set(host.set_pages.map(|many| many.to_string())),
            match (host.blocked, host.blocked_reason.as_str()) {
                (false, _) => "-".to_owned(),
                (true, "") => "yes".to_owned(),
                (true, reason) => format!("yes: {}", Untrusted::new(reason)),
            },
        ]);
    }
    table
}

fn table(hosts: &[HostStatus]) -> Table {
    let mut table = Table::new(&[
        "CRAWL", "HOST", "QUEUED", "LENT", "PAGES", "DELAY", "DUE", "WORKER", "RESTS",
    ]);
    for host in hosts {
        table.row([
            host.crawl.clone(),
            Untrusted::new(&host.key).to_string(),
            host.queued.to_string(),
            host.leased.to_string(),
            host.pages.to_string(),
            exactly(host.delay_ms),
            match host.due_ms {
                None if host.worker.is_empty() => "-".to_owned(),
                None => "lent".to_owned(),
                Some(0) => "now".to_owned(),
                Some(millis) => format!("in {}", about(millis)),
            },
            Untrusted::new(&host.worker).to_string(),
            Untrusted::new(&host.rests).to_string(),
        ]);
    }
    table
}

pub(super) fn as_json(host: &HostStatus) -> Value {
    json!({
        "crawl": host.crawl,
        "key": host.key,
        "queued": host.queued,
        "leased": host.leased,
        "pages": host.pages,
        "delay_ms": host.delay_ms,
        "due_ms": host.due_ms,
        "worker": host.worker,
        "rests": host.rests,
    })
}
