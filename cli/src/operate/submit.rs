//! `trawl submit`.

use std::path::PathBuf;

use clap::Args;
use trawl_proto::v1::SubmitRequest;

use super::Operator;
use crate::{
    connect::MasterArgs,
    exit::{Exit, Failure},
    options::{CrawlOptions, Resolved},
    render::{self, counted},
};

/// Bytes of seeds in one call.
const CALL_BYTES: usize = 1024 * 1024;

#[derive(Args, Debug)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    options: CrawlOptions,

    /// Read further seeds from a file, one a line; `-` is standard input. Empty lines
    /// and those that begin with # do not count
    #[arg(long, value_name = "FILE")]
    seeds_file: Option<PathBuf>,

    /// Take up a crawl of that name that exists, with these settings and seeds
    #[arg(long)]
    update: bool,

    #[command(flatten)]
    master: MasterArgs,
}

/// Gives a crawl to a master, its seeds in as many calls as they need.
pub(super) async fn submit(args: SubmitArgs) -> Result<Exit, Failure> {
    let SubmitArgs { options, seeds_file, update, master } = args;
    let Resolved { seeds, name, spec, .. } = options.resolve(seeds_file.as_deref())?;
    let operator = Operator::new(&master)?;
    let mut calls = groups(seeds.iter().map(|seed| seed.as_str()), CALL_BYTES);
    let first = calls.next().unwrap_or_default();
    let request = |seeds: Vec<String>, take_up| SubmitRequest {
        name: name.clone(),
        seeds,
        spec_json: spec.to_json(),
        take_up,
    };
    let begun = operator.ask(async |mut it| it.submit(request(first, update)).await).await?;
    let mut new_seeds = begun.new_seeds;
    for seeds in calls {
        // What the first call has begun, the others go on with.
        let reply = operator.ask(async |mut it| it.submit(request(seeds, true)).await).await;
        let reply = reply.map_err(|failure| {
            failure.with(&format!(
                "{new_seeds} new seeds were taken, not all; the same command with --update sends \
                 them again"
            ))
        })?;
        new_seeds += reply.new_seeds;
    }
    let done = if begun.resumed { "updated" } else { "submitted" };
    render::print(&format!("crawl \"{name}\" {done}, {}", counted(new_seeds, "new seed")))?;
    Ok(Exit::Done)
}

/// Seeds in groups of so many bytes at most.
fn groups<'a>(
    seeds: impl Iterator<Item = &'a str>,
    bytes_max: usize,
) -> impl Iterator<Item = Vec<String>> {
    let mut seeds = seeds.peekable();
    std::iter::from_fn(move || {
        let mut group = vec![seeds.next()?.to_owned()];
        let mut bytes = group[0].len();
        while let Some(seed) = seeds.next_if(|seed| bytes + seed.len() <= bytes_max) {
            bytes += seed.len();
            group.push(seed.to_owned());
        }
        Some(group)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_grouped_by_bytes_and_none_is_lost() {
        let seeds = ["aaaa", "bb", "cc", "dddddddddddd", "e"];
        let groups: Vec<_> = groups(seeds.into_iter(), 6).collect();
        assert_eq!(groups, [vec!["aaaa", "bb"], vec!["cc"], vec!["dddddddddddd"], vec!["e"]]);
    }
}
