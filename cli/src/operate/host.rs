//! `trawl host`.

use clap::Args;
use serde_json::{Value, json};
use trawl_proto::v1::{HostReply, HostRequest, HostStatus, RobotsAccount, SetHostRequest};
use trawl_shared::{
    units::{Size, Span},
    untrusted::{Untrusted, one_line},
};

use super::{Operator, WhomArgs, about, exactly, hosts};
use crate::{
    exit::{Exit, Failure},
    render::{self, counted},
    tables::json_text,
};

#[derive(Args, Debug)]
pub(crate) struct HostArgs {
    /// The host: scheme, name and port, such as `https://example.org:8443`, or a URL of it
    #[arg(value_name = "HOST")]
    host: String,

    /// Fetch nothing from it, in any crawl, until it is unblocked
    #[arg(long, conflicts_with = "unblock")]
    block: bool,

    /// Why it is blocked; shown wherever somebody may wonder
    #[arg(long, value_name = "TEXT", requires = "block")]
    reason: Option<String>,

    /// Let it be fetched from again
    #[arg(long)]
    unblock: bool,

    /// Wait between two visits, in place of the crawls' and of what is added for slow
    /// answers; "default" for theirs again. What robots.txt asks for holds if it is longer
    #[arg(long, value_name = "DURATION", value_parser = or_default::<Span>)]
    delay: Option<OrDefault<Span>>,

    /// Fetches at the same time, in place of the crawls'; "default" for theirs again
    #[arg(long, value_name = "FETCHES", value_parser = connections)]
    connections: Option<OrDefault<u32>>,

    /// Pages at most in each crawl, in place of the crawls' budget; "default" for theirs
    /// again
    #[arg(long, value_name = "PAGES", value_parser = or_default::<u64>)]
    limit: Option<OrDefault<u64>>,

    /// End its rest, and forget its failures
    #[arg(long)]
    rested: bool,

    /// Print its robots.txt, as it was fetched
    #[arg(long)]
    robots: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) whom: WhomArgs,
}

/// A value, or the crawls' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OrDefault<T> {
    Value(T),
    Default,
}

fn or_default<T>(text: &str) -> Result<OrDefault<T>, String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match text {
        "default" => Ok(OrDefault::Default),
        text => text.parse().map(OrDefault::Value).map_err(|error: T::Err| error.to_string()),
    }
}

fn connections(text: &str) -> Result<OrDefault<u32>, String> {
    match or_default(text)? {
        OrDefault::Value(0) => {
            Err("1 is the least; with --block nothing is fetched at all".to_owned())
        }
        connections => Ok(connections),
    }
}

/// Tells of a host, after it was changed if that was asked for.
pub(super) async fn host(operator: &Operator, args: &HostArgs) -> Result<Exit, Failure> {
    let change = change(args);
    let reply = if change == (SetHostRequest { host: args.host.clone(), ..Default::default() }) {
        let request = HostRequest { host: args.host.clone() };
        operator.ask(async |mut it| it.host(request).await).await?
    } else {
        operator.ask(async |mut it| it.set_host(change).await).await?
    };
    let text = match (args.robots, args.json) {
        (true, _) => robots_text(&reply)?,
        (false, true) => json_text(&as_json(&reply)),
        (false, false) => as_text(&reply),
    };
    render::print(&text)?;
    Ok(Exit::Done)
}

/// What the options want of the master.
fn change(args: &HostArgs) -> SetHostRequest {
    let delay_ms = match args.delay {
        Some(OrDefault::Value(delay)) => Some(delay.as_millis()),
        _ => None,
    };
    let connections = args.connections.map(|connections| match connections {
        OrDefault::Value(connections) => connections,
        OrDefault::Default => 0,
    });
    let pages = match args.limit {
        Some(OrDefault::Value(pages)) => Some(pages),
        _ => None,
    };
    SetHostRequest {
        host: args.host.clone(),
        blocked: args.block.then_some(true).or(args.unblock.then_some(false)),
        reason: args.reason.clone().unwrap_or_default(),
        delay_ms,
        clear_delay: args.delay == Some(OrDefault::Default),
        connections,
        pages,
        rested: args.rested,
        clear_pages: args.limit == Some(OrDefault::Default),
    }
}

/// For people: one fact a line.
fn as_text(reply: &HostReply) -> String {
    let mut text = Untrusted::new(&reply.key).to_string();
    for fact in facts(reply) {
        text += &format!("\n  {fact}");
    }
    for crawl in &reply.crawls {
        text += &format!("\nin crawl \"{}\": {}", crawl.crawl, in_crawl(crawl));
    }
    text
}

fn facts(reply: &HostReply) -> Vec<String> {
    let mut facts = Vec::new();
    if !reply.known {
        facts.push("never heard of".to_owned());
    }
    if reply.blocked {
        facts.push(match reply.blocked_reason.as_str() {
            "" => "blocked".to_owned(),
            reason => format!("blocked: {}", Untrusted::new(reason)),
        });
    }
    if let Some(delay) = reply.set_delay_ms {
        facts.push(format!("its delay is set to {}", exactly(delay)));
    }
    if let Some(connections) = reply.set_connections {
        facts.push(format!("{} at a time are set", counted(connections.into(), "fetch")));
    }
    if let Some(pages) = reply.set_pages {
        facts.push(format!("its limit is set to {} a crawl", counted(pages, "page")));
    }
    if reply.wait_ms > 0 {
        let (wait, why) = (about(reply.wait_ms), Untrusted::new(&reply.wait_reason));
        facts.push(format!("left alone for {wait} more: {why}"));
    }
    if reply.failures > 0 {
        facts.push(format!("{} of the host in a row", counted(reply.failures.into(), "failure")));
    }
    match reply.visited_ms {
        Some(visited) => facts.push(format!("last visited {} ago", about(visited))),
        None => facts.push("not visited yet".to_owned()),
    }
    if reply.answer_ms > 0 {
        facts.push(format!("its last fetch took {}", exactly(reply.answer_ms)));
    }
    if !reply.address.is_empty() {
        facts.push(format!("at {}", Untrusted::new(&reply.address)));
    }
    if reply.robots_delay_ms > 0 {
        let delay = exactly(reply.robots_delay_ms);
        facts.push(format!("its robots.txt asks for a delay of {delay}"));
    }
    facts.push(reply.robots.as_ref().map_or("robots.txt not fetched".to_owned(), robots_fact));
    facts
}

fn robots_fact(robots: &RobotsAccount) -> String {
    let mut fact = match robots.age_ms {
        Some(age) if robots.bytes == 0 => format!("no robots.txt {} ago", about(age)),
        Some(age) => {
            format!("robots.txt of {}, fetched {} ago", Size::bytes(robots.bytes), about(age))
        }
        None => "no robots.txt known".to_owned(),
    };
    if let Some(unavailable) = robots.unavailable_ms {
        let reason = Untrusted::new(&robots.unavailable_reason);
        fact += &format!("; it could not be had for {}: {reason}", about(unavailable));
    }
    fact
}

fn in_crawl(host: &HostStatus) -> String {
    let urls = format!(
        "{} queued, {} lent, {}, delay {}",
        host.queued,
        host.leased,
        counted(host.pages, "page"),
        exactly(host.delay_ms)
    );
    match (&*host.worker, host.due_ms) {
        ("", Some(0)) => format!("{urls}, due now"),
        ("", Some(due)) => format!("{urls}, due in {}", about(due)),
        ("", None) => urls,
        (worker, _) => format!("{urls}, lent to {}", Untrusted::new(worker)),
    }
}

/// The robots.txt, which may have lines of any length.
fn robots_text(reply: &HostReply) -> Result<String, Failure> {
    let known = reply.robots.as_ref().filter(|robots| robots.age_ms.is_some());
    let Some(robots) = known else {
        let host = Untrusted::new(&reply.key);
        return Err(Failure::new(Exit::Failed, format!("no robots.txt of {host} is known")));
    };
    let text = String::from_utf8_lossy(&robots.text);
    let lines: Vec<_> = text.lines().map(one_line).collect();
    Ok(lines.join("\n"))
}

pub(super) fn as_json(reply: &HostReply) -> Value {
    json!({
        "key": reply.key,
        "known": reply.known,
        "blocked": reply.blocked,
        "blocked_reason": reply.blocked_reason,
        "set_delay_ms": reply.set_delay_ms,
        "set_connections": reply.set_connections,
        "set_pages": reply.set_pages,
        "visited_ms": reply.visited_ms,
        "answer_ms": reply.answer_ms,
        "robots_delay_ms": reply.robots_delay_ms,
        "failures": reply.failures,
        "wait_ms": reply.wait_ms,
        "wait_reason": reply.wait_reason,
        "address": reply.address,
        "robots": reply.robots.as_ref().map(|robots| json!({
            "age_ms": robots.age_ms,
            "bytes": robots.bytes,
            "unavailable_ms": robots.unavailable_ms,
            "unavailable_reason": robots.unavailable_reason,
        })),
        "crawls": reply.crawls.iter().map(hosts::as_json).collect::<Vec<_>>(),
    })
}
