//! robots.txt: a line is a path, the next a crawler's name, the rest is the file.

use std::time::Duration;

use trawl_shared::{
    robots::{Rules, path_as_written, product_token, read_part},
    url::CrawlUrl,
};

use super::{canonicalisation, split};

pub(super) fn run(data: &[u8]) {
    let (path, rest) = split(data, b'\n');
    let (agent, file) = split(rest, b'\n');
    let (path, agent) = (String::from_utf8_lossy(path), String::from_utf8_lossy(agent));
    assert!(agent.starts_with(product_token(&agent)));
    for is_cut in [false, true] {
        assert!(file.starts_with(read_part(file, is_cut)));
    }
    let rules = Rules::parse(file, &agent);
    assert_eq!(rules, Rules::parse(file, &agent), "the same file, the same rules");
    assert!(rules.crawl_delay() <= Some(Duration::from_secs(24 * 60 * 60)));
    rules.sitemaps().iter().for_each(canonicalisation::check);

    let verdict = rules.verdict_of_path(&path_as_written(&path));
    if let Some(line) = verdict.line {
        assert!(line.number >= 1 && line.number as usize <= file.len(), "line {}", line.number);
    }
    assert!(verdict.allowed || verdict.line.is_some(), "a line forbids");
    let Ok(site) = CrawlUrl::parse("http://h.test/") else { return };
    let (Ok(url), Ok(robots)) = (site.join(&path), site.join("/robots.txt")) else { return };
    assert_eq!(rules.verdict(&url).allowed, rules.allowed(&url));
    assert!(rules.allowed(&robots), "robots.txt itself is always allowed");
    assert!(Rules::allow_all().allowed(&url));
}
