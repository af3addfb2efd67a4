//! `trawl why`.

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use trawl_proto::v1::{WhyCrawl, WhyReply, WhyRequest};
use trawl_shared::{
    outcome::Class,
    units::{Size, Span},
    untrusted::Untrusted,
};

use super::{Operator, WhomArgs, about, exactly};
use crate::{
    exit::{Exit, Failure},
    render::{self, counted},
    tables::json_text,
};

#[derive(Args, Debug)]
pub(crate) struct WhyArgs {
    /// The URL
    #[arg(value_name = "URL")]
    url: String,

    /// Only this crawl
    #[arg(long, value_name = "NAME")]
    crawl: Option<String>,

    /// How long to look through the stored pages of a crawl that did not take the URL in, for
    /// one that leads to it; 3s at least
    #[arg(long, value_name = "DURATION", default_value = "3s")]
    search: Span,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    pub(super) whom: WhomArgs,
}

/// Tells what is known of a URL.
pub(super) async fn why(operator: &Operator, args: &WhyArgs) -> Result<Exit, Failure> {
    let search_until = Instant::now() + args.search.duration();
    let request = WhyRequest {
        url: args.url.clone(),
        crawl: args.crawl.clone().unwrap_or_default(),
        search_from: None,
    };
    let mut reply = operator.ask(async |mut it| it.why(request).await).await?;
    for crawl in &mut reply.crawls {
        // What is not looked through in one call is in further ones.
        while crawl.search_next.is_some() && Instant::now() < search_until {
            let request = WhyRequest {
                url: args.url.clone(),
                crawl: crawl.crawl.clone(),
                search_from: crawl.search_next,
            };
            let further = operator.ask(async |mut it| it.why(request).await).await?;
            let Some(further) = further.crawls.into_iter().next() else { break };
            *crawl = further;
        }
    }
    let text = if args.json { json_text(&as_json(&reply)) } else { as_text(&reply, &args.url) };
    render::print(&text)?;
    Ok(Exit::Done)
}

/// For people: one fact a line.
fn as_text(reply: &WhyReply, asked: &str) -> String {
    let mut text = Untrusted::new(&reply.canonical).to_string();
    if reply.canonical != asked {
        text += &format!("\n  is the canonical form of {}", Untrusted::new(asked));
    }
    if reply.crawls.is_empty() {
        text += "\n  the master has no crawl";
    }
    let mut crawls: Vec<_> = reply.crawls.iter().collect();
    // Who knows it comes first.
    crawls.sort_by_key(|crawl| crawl.state == "unknown");
    for crawl in crawls {
        text += &format!("\nin crawl \"{}\": {}", crawl.crawl, crawl.state);
        for fact in facts(crawl) {
            text += &format!("\n  {fact}");
        }
    }
    text
}

fn facts(crawl: &WhyCrawl) -> Vec<String> {
    let mut facts = Vec::new();
    let mut tell = |is_known: bool, fact: &dyn Fn() -> String| {
        if is_known {
            facts.push(fact());
        }
    };
    tell(!crawl.canon_rules.is_empty(), &|| {
        let (url, rules) = (Untrusted::new(&crawl.canonical), crawl.canon_rules.join(", "));
        format!("known as {url}, by {rules}")
    });
    tell(!crawl.reason.is_empty(), &|| Untrusted::new(&crawl.reason).to_string());
    if let Some(next) = &crawl.search_next {
        tell(true, &|| {
            let pages = counted(next.pages, "page");
            format!("the first {pages} lead nowhere to it; --search looks at more of them")
        });
    }
    tell(!crawl.via.is_empty(), &|| format!("first found on {}", Untrusted::new(&crawl.via)));
    if let Some(depth) = crawl.depth {
        tell(true, &|| match depth {
            0 => "a seed, or where one leads".to_owned(),
            depth => format!("{} from a seed", counted(depth.into(), "link")),
        });
    }
    tell(!crawl.scope.is_empty(), &|| format!("scope: {}", Untrusted::new(&crawl.scope)));
    tell(crawl.off_site > 0, &|| format!("{} off-site", counted(crawl.off_site.into(), "hop")));
    tell(!crawl.rule.is_empty(), &|| format!("rule: {}", Untrusted::new(&crawl.rule)));
    tell(crawl.priority != 0, &|| format!("priority {}", crawl.priority));
    for budget in &crawl.budgets {
        tell(true, &|| format!("budget: {}", Untrusted::new(budget)));
    }
    tell(!crawl.trap.is_empty(), &|| format!("trap: {}", Untrusted::new(&crawl.trap)));
    tell(crawl.hops > 0, &|| format!("reached by {}", counted(crawl.hops.into(), "redirect")));
    tell(crawl.failures > 0, &|| {
        let tries = if crawl.failures == 1 { "try" } else { "tries" };
        format!("{} {tries} failed", crawl.failures)
    });
    for attempt in &crawl.tries {
        tell(true, &|| {
            let (at, class) = (moment(attempt.at_ms), class_text(&attempt.class));
            let took = exactly(attempt.took_ms);
            format!("  {at}: {class} after {took}: {}", Untrusted::new(&attempt.detail))
        });
    }
    tell(crawl.losses > 0, &|| {
        format!("{} lost with it in them", counted(crawl.losses.into(), "lease"))
    });
    if let Some(due) = crawl.due_ms {
        tell(true, &|| match due {
            0 => "due now".to_owned(),
            due => format!("due in {}", about(due)),
        });
    }
    tell(!crawl.worker.is_empty(), &|| {
        let worker = Untrusted::new(&crawl.worker);
        let left = about(crawl.lease_left_ms);
        format!("lent to {worker} by lease {}, which ends in {left} unless renewed", crawl.token)
    });
    tell(crawl.status > 0, &|| format!("answered with status {}", crawl.status));
    tell(!crawl.class.is_empty() && crawl.status == 0, &|| class_text(&crawl.class));
    tell(!crawl.detail.is_empty(), &|| Untrusted::new(&crawl.detail).to_string());
    tell(!crawl.location.is_empty(), &|| format!("leads to {}", Untrusted::new(&crawl.location)));
    tell(crawl.fetched_at_ms > 0, &|| {
        let (at, took) = (moment(crawl.fetched_at_ms), exactly(crawl.took_ms));
        format!("fetched at {at} in {took}")
    });
    tell(!crawl.sha1.is_empty(), &|| format!("body's SHA-1 {}", crawl.sha1));
    tell(!crawl.same_as.is_empty(), &|| {
        format!("the same body as {}", Untrusted::new(&crawl.same_as))
    });
    tell(!crawl.robots.is_empty(), &|| Untrusted::new(&crawl.robots).to_string());
    tell(!crawl.host.is_empty() && !crawl.reason.contains(&crawl.host), &|| {
        format!("its host is left alone: {}", Untrusted::new(&crawl.host))
    });
    tell(!crawl.segment.is_empty(), &|| {
        let length = Size::bytes(crawl.length);
        format!("kept in {} at byte {}, {length}", crawl.segment, crawl.offset)
    });
    facts
}

/// A class by its word, or the word itself if this build does not know it.
fn class_text(word: &str) -> String {
    let class = Class::all().find(|class| class.word() == word);
    class.map_or_else(
        || Untrusted::new(word).to_string(),
        |class| render::class_text(class).to_owned(),
    )
}

fn moment(millis: u64) -> String {
    let moment = i64::try_from(millis).ok().and_then(|it| Timestamp::from_millisecond(it).ok());
    moment.map_or_else(|| format!("{millis} ms after 1970"), |moment| moment.to_string())
}

fn as_json(reply: &WhyReply) -> Value {
    let crawls = reply.crawls.iter().map(|crawl| {
        json!({
            "crawl": crawl.crawl,
            "state": crawl.state,
            "reason": crawl.reason,
            "via": crawl.via,
            "depth": crawl.depth,
            "hops": crawl.hops,
            "failures": crawl.failures,
            "losses": crawl.losses,
            "due_ms": crawl.due_ms,
            "worker": crawl.worker,
            "token": crawl.token,
            "lease_left_ms": crawl.lease_left_ms,
            "class": crawl.class,
            "tries": crawl.tries.iter().map(|attempt| json!({
                "class": attempt.class,
                "detail": attempt.detail,
                "at_ms": attempt.at_ms,
                "took_ms": attempt.took_ms,
            })).collect::<Vec<_>>(),
            "same_as": crawl.same_as,
            "robots": crawl.robots,
            "host": crawl.host,
            "detail": crawl.detail,
            "status": crawl.status,
            "sha1": crawl.sha1,
            "fetched_at_ms": crawl.fetched_at_ms,
            "took_ms": crawl.took_ms,
            "location": crawl.location,
            "segment": crawl.segment,
            "offset": crawl.offset,
            "length": crawl.length,
            "canonical": crawl.canonical,
            "canon_rules": crawl.canon_rules,
            "scope": crawl.scope,
            "budgets": crawl.budgets,
            "trap": crawl.trap,
            "off_site": crawl.off_site,
            "rule": crawl.rule,
            "priority": crawl.priority,
            "searched_pages": crawl.search_next.map(|next| next.pages),
        })
    });
    json!({"canonical": reply.canonical, "crawls": crawls.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_told_one_fact_a_line() {
        let crawl = WhyCrawl {
            crawl: "docs".into(),
            state: "leased".into(),
            reason: "being fetched".into(),
            via: "http://a.example/\u{202e}".into(),
            depth: Some(2),
            failures: 1,
            canonical: "http://a.example/".into(),
            canon_rules: vec!["tracking".into()],
            scope: "scope host of a.example".into(),
            budgets: vec!["1 of 2 pages".into()],
            trap: "template".into(),
            worker: "w1".into(),
            token: "1-7".into(),
            lease_left_ms: 12_345,
            ..WhyCrawl::default()
        };
        let reply = WhyReply { canonical: "http://a.example/".into(), crawls: vec![crawl] };
        assert_eq!(
            as_text(&reply, "HTTP://A.example"),
            "http://a.example/\n  is the canonical form of HTTP://A.example\n\
             in crawl \"docs\": leased\n  known as http://a.example/, by tracking\n  \
             being fetched\n  \
             first found on http://a.example/\\u{202e}\n  2 links from a seed\n  \
             scope: scope host of a.example\n  budget: 1 of 2 pages\n  trap: template\n  \
             1 try failed\n  lent to w1 by lease 1-7, which ends in 12s unless renewed"
        );
    }
}
