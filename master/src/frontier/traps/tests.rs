//! What a crawl leaves out, and in which order it takes the rest.

use proptest::prelude::*;
use trawl_shared::{
    canon::CanonRule, rules::UrlRule, scope::ScopeKind, spec::CrawlSpec, trap::TrapSpec,
};

use super::super::{
    Batch, Frontier, Judgement, LeaseRequest, Moment, Offer, Outcome, Quarantined, Release, Report,
    State, Via,
    model::{PLACE, frontier, spec, urls},
};
use super::*;
use crate::store::memory::MemoryStore;

/// A fake site's answer: its links, and the fingerprint of its text.
pub(in crate::frontier) type Answer = (Vec<String>, Option<u64>);

pub(in crate::frontier) fn lend(frontier: &mut Frontier<MemoryStore>, now: Moment) -> Vec<Batch> {
    let request = LeaseRequest { worker: "w".into(), hosts: 10, extend: Vec::new(), crawl: None };
    frontier.lease(&request, now).unwrap()
}

pub(in crate::frontier) fn answer(
    frontier: &mut Frontier<MemoryStore>,
    batches: &[Batch],
    site: &dyn Fn(&str) -> Answer,
    now: Moment,
) {
    for (batch, lent) in
        batches.iter().flat_map(|batch| batch.urls.iter().map(move |url| (batch, url)))
    {
        let id = UrlId::of(&lent.url);
        let judged = frontier.judge("w", batch.token, batch.at, &id).unwrap();
        let Judgement::Apply(ticket) = judged else { panic!("{} is lent", lent.url) };
        let (links, simhash) = site(&lent.url);
        let outcome = Outcome::Answered {
            status: 200,
            sha1: [1; 20],
            body_bytes: 1,
            wire_bytes: 1,
            fetched_at: 0,
            simhash,
        };
        let offers = links.into_iter().map(|url| Offer { url, ..Offer::default() }).collect();
        let (token, at) = (batch.token, batch.at);
        let report =
            Report { token, at, id, outcome, offers, host_delay: None, news: None, reported_at: 0 };
        frontier.apply(ticket, report, Some(PLACE), now, 0.0).unwrap();
    }
    frontier.commit(now).unwrap();
}

/// Crawls a site to its end, as far as that comes. Returns what was fetched, in order.
pub(in crate::frontier) fn crawl(
    frontier: &mut Frontier<MemoryStore>,
    site: &dyn Fn(&str) -> Answer,
) -> Vec<String> {
    let mut fetched = Vec::new();
    for round in 1..3_000 {
        let now = Moment(round * 10_000);
        let lent = lend(frontier, now);
        fetched.extend(urls(&lent).into_iter().map(str::to_owned));
        answer(frontier, &lent, site, now);
        let status = &frontier.status(None)[0];
        if status.queued + status.leased == 0 {
            return fetched;
        }
    }
    panic!("the crawl does not end");
}

pub(in crate::frontier) fn inmates(frontier: &Frontier<MemoryStore>) -> Vec<Quarantined> {
    frontier.quarantined(1, &[], 10_000).unwrap()
}

fn spec_of(traps: TrapSpec) -> CrawlSpec {
    CrawlSpec { traps, ..spec() }
}

/// A site whose pages lead to the next two.
fn endless(prefix: &'static str, print: impl Fn(u64) -> Option<u64>) -> impl Fn(&str) -> Answer {
    move |url: &str| {
        let number = url.strip_prefix(prefix).map_or(0, |rest| rest.parse().unwrap());
        (vec![format!("{prefix}{}", number + 1), format!("{prefix}{}", number + 2)], print(number))
    }
}

/// A fingerprint that no other number's is like.
pub(in crate::frontier) fn new_text(number: u64) -> Option<u64> {
    Some((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[test]
fn an_endless_web_with_nothing_new_ends_at_its_budget() {
    let traps = TrapSpec { template_pages: 20, ..TrapSpec::default() };
    for print in [Some(trap::THIN), Some(7)] {
        let mut frontier = frontier(spec_of(traps.clone()), &["http://a.example/"]);
        let fetched = crawl(&mut frontier, &endless("http://a.example/p", |_| print));
        let new = usize::from(print == Some(7));
        // The seed has the template's first new text.
        assert_eq!(fetched.len(), 1 + 20, "{new}");
        let caught = inmates(&frontier);
        assert!(!caught.is_empty());
        for inmate in caught {
            assert_eq!(inmate.trap, "template");
            assert!(inmate.detail.contains("/p{n}"), "{}", inmate.detail);
        }
        assert_eq!(frontier.status(None)[0].finish, crate::store::rows::Finish::Complete);
    }
}

#[test]
fn an_endless_web_over_two_hosts_ends_as_one_on_one_host_does() {
    let traps = TrapSpec { template_pages: 20, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    // Each page leads to one of the other host, so that none has anything left.
    let site = |url: &str| -> Answer {
        let other = if url.contains("a.example") { "b" } else { "a" };
        let number = url.rsplit('p').next().and_then(|it| it.parse().ok()).unwrap_or(0u64);
        (vec![format!("http://{other}.example/p{}", number + 1)], Some(7))
    };
    let fetched = crawl(&mut frontier, &site);
    // The first page of each host is its first text.
    assert_eq!(fetched.len(), 2 + 2 * 20, "{}", inmates(&frontier)[0].url);
}

#[test]
fn a_large_site_with_something_new_on_each_page_is_fetched_whole() {
    let traps = TrapSpec { template_pages: 20, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let site = |url: &str| -> Answer {
        let number: u64 =
            url.strip_prefix("http://a.example/p").map_or(0, |rest| rest.parse().unwrap());
        let next = (number < 200).then(|| format!("http://a.example/p{}", number + 1));
        (next.into_iter().collect(), new_text(number))
    };
    assert_eq!(crawl(&mut frontier, &site).len(), 201);
    assert!(inmates(&frontier).is_empty());
}

#[test]
fn sessions_have_no_end_at_any_content() {
    let traps = TrapSpec { template_pages: 10, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let site = endless("http://a.example/a?PHPSESSID=12345678", new_text);
    assert_eq!(crawl(&mut frontier, &site).len(), 1 + 10);
}

#[test]
fn combinations_of_filters_have_no_end_at_any_content_either() {
    let traps = TrapSpec { template_pages: 10, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/shop"]);
    // Each page lets one more filter be chosen.
    let site = |url: &str| -> Answer {
        let sign = if url.contains('?') { '&' } else { '?' };
        let others = (1..9).filter(|n| !url.contains(&format!("f{n}=")));
        let number = UrlId::of(url).0[..8].iter().fold(0, |id, byte| id << 8 | u64::from(*byte));
        (others.map(|n| format!("{url}{sign}f{n}=on")).collect(), Some(number))
    };
    let fetched = crawl(&mut frontier, &site);
    // One and two filters are no combinations; of three there are sets until they are many.
    let few = 1 + 8 + 8 * 7;
    let most = few + 6 * (Template::SETS_MAX + 1) + 10;
    assert!((few..=most).contains(&fetched.len()), "{}", fetched.len());
    assert!(inmates(&frontier).iter().all(|it| it.detail.contains("of the kind /shop?**")));
}

#[test]
fn a_program_that_needs_three_parameters_is_fetched_whole() {
    let traps = TrapSpec { template_pages: 10, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let site = |url: &str| -> Answer {
        let number = url.rsplit('=').next().and_then(|it| it.parse().ok()).unwrap_or(0u64);
        let topic = |n| format!("http://a.example/viewtopic.php?f=2&start=20&t={n}");
        (if number < 200 { vec![topic(number + 1)] } else { vec![] }, new_text(number))
    };
    assert_eq!(crawl(&mut frontier, &site).len(), 201);
    assert!(inmates(&frontier).is_empty());
}

#[test]
fn what_cannot_be_compared_makes_up_for_nothing() {
    let traps = TrapSpec { template_pages: 10, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    // Each day's page is empty, and leads to itself as a file for calendars.
    let site = |url: &str| -> Answer {
        if url.ends_with("ical") {
            return (Vec::new(), None);
        }
        let day = url.rsplit('=').next().and_then(|it| it.parse().ok()).unwrap_or(0u64);
        let next = format!("http://a.example/cal?day={}", day + 1);
        (vec![format!("{next}&as=ical"), next], Some(7))
    };
    let days = crawl(&mut frontier, &site).iter().filter(|url| !url.ends_with("ical")).count();
    assert_eq!(days, 1 + 10);
}

#[test]
fn pages_with_something_new_make_up_for_others() {
    let traps = TrapSpec { template_pages: 10, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let site = |url: &str| -> Answer {
        let number = url.rsplit('p').next().and_then(|it| it.parse().ok()).unwrap_or(0u64);
        let next = (number < 200).then(|| format!("http://a.example/p{}", number + 1));
        // Two in five are much like others.
        let print = if number % 5 < 2 { Some(trap::THIN) } else { new_text(number) };
        (next.into_iter().collect(), print)
    };
    assert_eq!(crawl(&mut frontier, &site).len(), 201);
    assert!(inmates(&frontier).is_empty());
}

/// A site of words, each of which leads to another.
fn words(print: impl Fn(u64) -> Option<u64>, last: u64) -> impl Fn(&str) -> Answer {
    move |url: &str| {
        let number = url.matches("o").count() as u64;
        let next = (number < last)
            .then(|| format!("http://a.example/w{}d", "o".repeat(number as usize + 1)));
        (next.into_iter().collect(), print(number))
    }
}

#[test]
fn an_endless_web_of_words_with_nothing_new_ends_too() {
    let traps = TrapSpec { plain_pages: 20, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let fetched = crawl(&mut frontier, &words(|_| Some(7), u64::MAX));
    assert_eq!(fetched.len(), 1 + 20);
    let caught = inmates(&frontier).remove(0);
    let why = "20 pages of URLs without numbers with nothing new were fetched of its host";
    assert_eq!((caught.trap.as_str(), caught.detail.as_str()), ("template", why));
}

#[test]
fn a_site_of_words_that_say_something_is_fetched_whole_and_counted_nowhere() {
    let traps = TrapSpec { plain_pages: 20, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    assert_eq!(crawl(&mut frontier, &words(new_text, 100)).len(), 101);
    let at = HostRef { crawl: 1, host: 1 };
    assert_eq!(count_rows(&frontier.into_store(), at).unwrap(), 0);
}

#[test]
fn a_url_that_somebody_names_is_no_trap_any_more() {
    let caught = "http://a.example/a/b/a/b/a/b/";
    let mut frontier = frontier(spec(), &["http://a.example/"]);
    crawl(&mut frontier, &|_| (vec![caught.to_owned()], new_text(1)));
    assert_eq!(inmates(&frontier)[0].url, caught);
    let now = Moment(100_000_000);
    let seeds = [caught.parse().unwrap()];
    assert_eq!(frontier.submit("c", spec(), &seeds, now).unwrap().new_seeds, 0);
    assert_eq!(urls(&lend(&mut frontier, now)), [caught]);
}

#[test]
fn a_url_that_was_given_up_as_a_trap_is_fetched_if_somebody_names_it() {
    let caught = "http://a.example/a/b/a/b/a/b/";
    let mut frontier = frontier(spec(), &["http://a.example/"]);
    crawl(&mut frontier, &|_| (vec![caught.to_owned()], new_text(1)));
    let inmate = inmates(&frontier).remove(0);
    let now = Moment(100_000_000);
    assert!(frontier.release(inmate.at, &inmate.id, Release::Drop, now).unwrap());
    frontier.commit(now).unwrap();
    frontier.submit("c", spec(), &[caught.parse().unwrap()], now).unwrap();
    let lent = lend(&mut frontier, now);
    assert_eq!(urls(&lent), [caught]);
    answer(&mut frontier, &lent, &|_| (Vec::new(), new_text(2)), now);
    let status = &frontier.status(None)[0];
    assert_eq!((status.discovered, status.queued, status.leased), (2, 0, 0));
    assert_eq!(status.outcomes, [(Class::Ok, 2)]);
}

#[test]
fn a_journal_is_fetched_whole_however_many_dates_and_titles_it_has() {
    let traps = TrapSpec { template_pages: 5, templates: 3, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/0"]);
    let site = |url: &str| -> Answer {
        let number: u64 = url.rsplit('a').next().and_then(|it| it.parse().ok()).unwrap_or(0);
        let (day, next) = (number % 28 + 1, number + 1);
        let title: String =
            format!("{next}").chars().map(|c| char::from(b'a' + c as u8 % 16)).collect();
        let link = format!("http://a.example/2024/05/{day:02}/on-{title}-a{next}");
        (if number < 300 { vec![link] } else { vec![] }, new_text(number))
    };
    assert_eq!(crawl(&mut frontier, &site).len(), 301);
    assert!(inmates(&frontier).is_empty());
}

#[test]
fn a_calendar_of_empty_days_ends_at_its_budget() {
    let traps = TrapSpec { template_pages: 20, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    // A month's days, their events, and the next month.
    let site = |url: &str| -> Answer {
        let month: u32 = url.split('/').nth(4).and_then(|it| it.parse().ok()).unwrap_or(1_900);
        let days =
            (1..4).map(|day| format!("http://a.example/cal/{month}/05/{day:02}/events-{day}"));
        let next = format!("http://a.example/cal/{}/05/01/", month + 1);
        (days.chain([next]).collect(), Some(7))
    };
    assert_eq!(crawl(&mut frontier, &site).len(), 1 + 20);
    let caught = inmates(&frontier);
    assert!(caught[0].detail.contains("/cal/{date}/*"), "{}", caught[0].detail);
}

#[test]
fn pages_that_are_all_alike_end_early() {
    let traps = TrapSpec { alike_pages: 5, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let fetched =
        crawl(&mut frontier, &endless("http://a.example/p", |number| Some(8 | number & 3)));
    assert!(fetched.len() <= 1 + 5 + 3, "{fetched:?}");
    assert!(inmates(&frontier).iter().all(|inmate| inmate.trap == "alike"));
}

#[test]
fn templates_beyond_the_limit_are_counted_together() {
    let traps = TrapSpec { template_pages: 5, templates: 3, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    // Every page is of a template of its own.
    let site = |url: &str| -> Answer {
        let depth = url.matches('q').count();
        let links = (0..3)
            .map(|n| format!("http://a.example/{}{}1", "q".repeat(depth + 1), ["x", "y", "z"][n]));
        (if depth < 12 { links.collect() } else { vec![] }, Some(trap::THIN))
    };
    let fetched = crawl(&mut frontier, &site);
    // Three that have a row, five of the rest, and what is lent with them.
    assert!(fetched.len() <= 1 + 3 + 5 + 3, "{fetched:?}");
    let caught = inmates(&frontier);
    assert!(caught.iter().any(|inmate| inmate.detail.contains("5 pages of further kinds")));
}

#[test]
fn kinds_without_a_row_go_on_as_long_as_most_of_them_bring_something_new() {
    let traps = TrapSpec { template_pages: 5, templates: 3, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    // Every page is of a kind of its own, and one in three has nothing new.
    let site = |url: &str| -> Answer {
        let number = url.matches('q').count() as u64;
        let next = format!("http://a.example/{}1", "q".repeat(number as usize + 1));
        let print = if number.is_multiple_of(3) { Some(trap::THIN) } else { new_text(number) };
        (if number < 60 { vec![next] } else { vec![] }, print)
    };
    assert_eq!(crawl(&mut frontier, &site).len(), 61);
    assert!(inmates(&frontier).is_empty());
}

#[test]
fn what_a_url_alone_shows_is_caught_as_it_is_found_and_may_be_let_out() {
    let mut frontier = frontier(spec(), &["http://a.example/"]);
    let site = |url: &str| -> Answer {
        let path = url.strip_prefix("http://a.example/").unwrap();
        (vec![format!("http://a.example/{path}a/b/")], None)
    };
    let fetched = crawl(&mut frontier, &site);
    assert_eq!(
        fetched,
        ["http://a.example/", "http://a.example/a/b/", "http://a.example/a/b/a/b/"]
    );
    let caught = inmates(&frontier);
    assert_eq!(caught.len(), 1);
    assert_eq!((caught[0].trap.as_str(), caught[0].depth), ("path_repeats", 3));
    let account = &frontier.why(None, &caught[0].url.parse().unwrap(), Moment(0)).unwrap()[0];
    assert_eq!(account.trap, "path_repeats");
    assert!(frontier.release(caught[0].at, &caught[0].id, Release::Retry, Moment(0)).unwrap());
    let lent = crawl(&mut frontier, &|_| (vec![caught[0].url.clone()], None));
    assert_eq!(lent, [caught[0].url.as_str()], "it is not caught again");
    assert!(inmates(&frontier).is_empty());
}

#[test]
fn what_robots_names_counts_like_any_page_and_lies_as_deep_as_the_page_it_came_with() {
    let traps = TrapSpec { template_pages: 5, ..TrapSpec::default() };
    let spec = CrawlSpec { depth: Some(2), ..spec_of(traps) };
    let mut frontier = frontier(spec, &["http://a.example/"]);
    let mut fetched = 0;
    for round in 1..100 {
        let now = Moment(round * 10_000);
        let lent = lend(&mut frontier, now);
        fetched += urls(&lent).len();
        for (batch, lent) in
            lent.iter().flat_map(|batch| batch.urls.iter().map(move |url| (batch, url)))
        {
            let id = UrlId::of(&lent.url);
            let judged = frontier.judge("w", batch.token, batch.at, &id).unwrap();
            let Judgement::Apply(ticket) = judged else { panic!("{} is lent", lent.url) };
            // Each host's robots.txt names sitemaps without end, and each page a further host.
            let sitemap = |n: u64| Offer {
                url: format!("{}s{}", lent.url, round * 10 + n),
                is_of_robots: true,
                ..Offer::default()
            };
            let host = Offer { url: format!("http://h{round}.example/"), ..Offer::default() };
            let is_page = lent.url.ends_with('/');
            let offers = if is_page { (0..9).map(sitemap).chain([host]).collect() } else { vec![] };
            let (token, at) = (batch.token, batch.at);
            let outcome = Outcome::Answered {
                status: 200,
                sha1: [1; 20],
                body_bytes: 1,
                wire_bytes: 1,
                fetched_at: 0,
                simhash: Some(trap::THIN),
            };
            let report = Report {
                token,
                at,
                id,
                outcome,
                offers,
                host_delay: None,
                news: None,
                reported_at: 0,
            };
            frontier.apply(ticket, report, Some(PLACE), now, 0.0).unwrap();
        }
        frontier.commit(now).unwrap();
    }
    let status = &frontier.status(None)[0];
    assert_eq!(status.queued + status.leased, 0, "the depth limit is an end");
    // Three hosts, one a link deeper than the other, and of each five sitemaps.
    assert_eq!(fetched, 3 + 3 * 5);
    let caught = inmates(&frontier);
    assert_eq!(caught.len(), 3 * 4);
    assert!(caught.iter().all(|inmate| inmate.depth <= 2 && inmate.via != Via::Seed));
}

#[test]
fn what_was_let_out_is_no_trap_by_its_template_either() {
    let traps = TrapSpec { template_pages: 2, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let site = endless("http://a.example/p", |_| Some(trap::THIN));
    crawl(&mut frontier, &site);
    let caught = inmates(&frontier);
    for inmate in &caught {
        frontier.release(inmate.at, &inmate.id, Release::Retry, Moment(0)).unwrap();
    }
    let fetched = crawl(&mut frontier, &site);
    assert_eq!(fetched.len(), caught.len());
}

#[test]
fn a_url_that_is_caught_after_a_failure_keeps_its_tries() {
    let traps = TrapSpec { template_pages: 1, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let links = |_: &str| (vec!["http://a.example/p1".into()], None);
    let lent = lend(&mut frontier, Moment(0));
    answer(&mut frontier, &lent, &links, Moment(0));
    let now = Moment(10_000);
    let lent = lend(&mut frontier, now);
    let (batch, url) = (&lent[0], &lent[0].urls[0].url);
    let (token, at, id) = (batch.token, batch.at, UrlId::of(url));
    let Judgement::Apply(ticket) = frontier.judge("w", token, at, &id).unwrap() else {
        panic!("{url} is lent")
    };
    let kind = trawl_shared::outcome::FailureKind::Busy;
    let outcome = Outcome::Failed { kind, detail: "status 503".into(), retry_after: None };
    let report = Report {
        token,
        at,
        id,
        outcome,
        offers: vec![],
        host_delay: None,
        news: None,
        reported_at: 0,
    };
    frontier.apply(ticket, report, None, now, 0.0).unwrap();
    frontier.commit(now).unwrap();
    frontier
        .change_pattern(at, Template::of(&url.parse().unwrap()).key, |row| row.pages = 1)
        .unwrap();
    frontier.commit(now).unwrap();
    assert_eq!(crawl(&mut frontier, &|_| (vec![], None)), [""; 0]);
    let account = &frontier.why(None, &url.parse().unwrap(), now).unwrap()[0];
    let State::Ended { row, .. } = &account.state else { panic!("{account:?}") };
    assert_eq!((row.trap.as_str(), row.attempts, row.tries.len()), ("template", 1, 1));
}

#[test]
fn a_full_quarantine_takes_no_more() {
    let traps = TrapSpec { quarantine: 2, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let site = |_: &str| -> Answer {
        ((0..5).map(|n| format!("http://a.example/x/x/x/{n}")).collect(), None)
    };
    crawl(&mut frontier, &site);
    assert_eq!((inmates(&frontier).len(), frontier.traps_forgotten(1)), (2, 3));
    assert_eq!(frontier.status(None)[0].discovered, 3);
}

#[test]
fn a_full_quarantine_leaves_no_trace_of_hosts_that_only_traps_are_of() {
    let traps = TrapSpec { quarantine: 1, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let site = |_: &str| -> Answer {
        ((0..5).map(|n| format!("http://h{n}.example/x/x/x")).collect(), None)
    };
    crawl(&mut frontier, &site);
    let known = |n: u32| frontier.known_host(&format!("http://h{n}.example")).unwrap().is_some();
    assert_eq!((0..5).filter(|n| known(*n)).count(), 1);
}

#[test]
fn what_waits_and_is_caught_while_the_quarantine_is_full_is_given_up() {
    let traps = TrapSpec { quarantine: 2, template_pages: 5, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let site = |url: &str| -> Answer {
        let pages = (0..20).map(|n| format!("http://a.example/p{n}"));
        (if url.ends_with('/') { pages.collect() } else { vec![] }, Some(trap::THIN))
    };
    assert_eq!(crawl(&mut frontier, &site).len(), 1 + 5);
    assert_eq!(inmates(&frontier).len(), 2);
    let outcomes = &frontier.status(None)[0].outcomes;
    assert!(outcomes.contains(&(Class::Quarantined, 2)), "{outcomes:?}");
    assert!(outcomes.contains(&(Class::Dropped, 13)), "{outcomes:?}");
    let last = &frontier.why(None, &"http://a.example/p19".parse().unwrap(), Moment(0)).unwrap()[0];
    let State::Ended { row, .. } = &last.state else { panic!("{last:?}") };
    assert!(row.detail.contains("the quarantine was full: 5 pages"), "{}", row.detail);
}

#[test]
fn a_crawl_that_looks_for_no_traps_finds_none() {
    let traps = TrapSpec { enabled: false, template_pages: 1, ..TrapSpec::default() };
    let mut frontier = frontier(spec_of(traps), &["http://a.example/"]);
    let site = |url: &str| -> Answer {
        let links = (0..9).map(|n| format!("http://a.example/x/x/x/x{n}"));
        (if url.contains('x') && url.contains("/x/") { vec![] } else { links.collect() }, Some(7))
    };
    assert_eq!(crawl(&mut frontier, &site).len(), 10);
    assert!(inmates(&frontier).is_empty());
}

fn rule(prefix: &str, change: impl FnOnce(&mut UrlRule)) -> UrlRule {
    let mut rule = UrlRule { prefix: Some(prefix.into()), ..UrlRule::default() };
    change(&mut rule);
    rule
}

#[test]
fn a_rules_budget_is_spent_to_the_page_and_no_further() {
    let rules = vec![rule("http://a.example/docs/", |rule| rule.pages = Some(4))];
    let mut frontier = frontier(CrawlSpec { rules, ..spec() }, &["http://a.example/"]);
    let site = |_: &str| -> Answer {
        let docs = (0..9).map(|n| format!("http://a.example/docs/{n}"));
        (docs.chain((0..3).map(|n| format!("http://a.example/{n}"))).collect(), None)
    };
    let fetched = crawl(&mut frontier, &site);
    assert_eq!(fetched.iter().filter(|url| url.contains("docs")).count(), 4);
    assert_eq!(fetched.len(), 1 + 4 + 3);
    let status = &frontier.status(None)[0];
    let over = status.outcomes.iter().find(|(class, _)| *class == Class::OverBudget);
    assert_eq!(over.map(|(_, count)| *count), Some(5));
    let left_out: CrawlUrl = "http://a.example/docs/8".parse().unwrap();
    let account = &frontier.why(None, &left_out, Moment(0)).unwrap()[0];
    let State::Ended { row, .. } = &account.state else { panic!("{account:?}") };
    assert!(row.detail.contains("4 pages of prefix http://a.example/docs/"), "{}", row.detail);
    assert_eq!(account.budgets[0], "4 of 4 pages of prefix http://a.example/docs/ are fetched");
}

#[test]
fn urls_come_by_priority_then_shallow_and_old_first() {
    let rules = vec![
        rule("http://a.example/late/", |rule| rule.priority = -5),
        rule("http://a.example/soon/", |rule| rule.priority = 5),
    ];
    let mut frontier = frontier(CrawlSpec { rules, ..spec() }, &["http://a.example/"]);
    let site = |url: &str| -> Answer {
        let links = match url {
            "http://a.example/" => &["late/1", "1", "soon/1", "2"][..],
            "http://a.example/soon/1" => &["soon/x", "x"],
            _ => &[],
        };
        (links.iter().map(|path| format!("http://a.example/{path}")).collect(), None)
    };
    let fetched = crawl(&mut frontier, &site);
    let paths: Vec<&str> =
        fetched.iter().map(|url| url.strip_prefix("http://a.example/").unwrap()).collect();
    assert_eq!(paths, ["", "soon/1", "1", "2", "soon/x", "x", "late/1"]);
}

#[test]
fn a_depth_limit_holds_whatever_the_priority() {
    let rules = vec![rule("http://a.example/soon/", |rule| rule.priority = 5)];
    let spec = CrawlSpec { rules, depth: Some(2), priority_per_link: 1, ..spec() };
    let mut frontier = frontier(spec, &["http://a.example/", "http://b.example/"]);
    let now = Moment(0);
    let seeds = lend(&mut frontier, now);
    let links =
        |_: &str| (vec!["http://a.example/soon/1".into(), "http://a.example/1".into()], None);
    answer(&mut frontier, &seeds[..1], &links, now);
    let later = Moment(10_000);
    assert_eq!(urls(&lend(&mut frontier, later)), [""; 0], "the other seed is not done");
    answer(&mut frontier, &seeds[1..], &|_| (vec![], None), later);
    let lent = lend(&mut frontier, Moment(20_000));
    assert_eq!(urls(&lent), ["http://a.example/soon/1", "http://a.example/1"]);
}

#[test]
fn a_rules_delay_is_told_with_its_urls_and_waited_for_after_them() {
    let delay = Some("7s".parse().unwrap());
    let rules = vec![rule("http://a.example/slow/", |rule| rule.delay = delay)];
    let seeds = ["http://a.example/slow/1", "http://a.example/2"];
    let mut frontier = frontier(CrawlSpec { rules, ..spec() }, &seeds);
    let lent = lend(&mut frontier, Moment(0));
    let delays: Vec<Option<u64>> =
        lent[0].urls.iter().map(|url| url.delay.map(|delay| delay.as_secs())).collect();
    assert_eq!(delays, [Some(7), None]);
    let links = |_: &str| (vec!["http://a.example/3".into()], None);
    answer(&mut frontier, &lent, &links, Moment(1_000));
    assert_eq!(urls(&lend(&mut frontier, Moment(7_999))), [""; 0]);
    assert_eq!(urls(&lend(&mut frontier, Moment(8_000))), ["http://a.example/3"]);
}

#[test]
fn a_crawl_follows_so_many_links_off_site_and_no_more() {
    let host = CrawlSpec { scope: ScopeKind::Host, hops_off_site: 2, ..spec() };
    let mut frontier = frontier(host, &["http://a.example/"]);
    let site = |url: &str| -> Answer {
        let next = match url {
            "http://a.example/" => "http://b.example/",
            "http://b.example/" => "http://c.example/",
            "http://c.example/" => "http://d.example/",
            _ => return (vec![], None),
        };
        (vec![next.into(), "http://a.example/back".into()], None)
    };
    let fetched = crawl(&mut frontier, &site);
    assert!(fetched.contains(&"http://c.example/".to_owned()));
    assert!(!fetched.contains(&"http://d.example/".to_owned()), "{fetched:?}");
    assert_eq!(fetched.len(), 4);
}

#[test]
fn a_crawl_knows_its_urls_by_the_rules_it_has_chosen_and_keeps_them() {
    let canon = vec![CanonRule::Tracking, CanonRule::TrailingSlash];
    let chosen = CrawlSpec { canon, ..spec() };
    let seed = "http://a.example/x/?utm_source=y";
    let mut frontier = frontier(chosen.clone(), &[seed]);
    let site = |_: &str| -> Answer {
        (
            ["/x", "/x/?gclid=1", "/y/", "/y"].map(|path| format!("http://a.example{path}")).into(),
            None,
        )
    };
    let fetched = crawl(&mut frontier, &site);
    assert_eq!(fetched, ["http://a.example/x", "http://a.example/y"]);
    let account = &frontier.why(None, &seed.parse().unwrap(), Moment(0)).unwrap()[0];
    assert!(matches!(account.state, State::Fetched { .. }), "{account:?}");
    assert_eq!(account.canonical.changed_by, ["trailing-slash", "tracking"]);
    assert!(frontier.look_up(1, &seed.parse().unwrap()).unwrap().is_some());
    let error = frontier.submit("c", spec(), &[], Moment(0)).unwrap_err().to_string();
    assert!(error.contains("canon"), "{error}");
    let same = CrawlSpec { depth: Some(3), ..chosen };
    assert!(frontier.submit("c", same, &[], Moment(0)).is_ok(), "the rest may change");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the priorities, each URL is lent once, in the order that they say.
    #[test]
    fn a_hosts_urls_are_lent_by_priority_depth_and_age(
        priorities in prop::collection::vec(-100..=100i32, 1..8),
        links in prop::collection::vec((0..8usize, 0..2u16), 1..24),
        per_link in -50..=50i32,
    ) {
        let path = |index: usize| format!("http://a.example/r{index}/");
        let rules = priorities.iter().enumerate();
        let rules = rules.map(|(index, priority)| rule(&path(index), |rule| rule.priority = *priority));
        let spec = CrawlSpec { rules: rules.collect(), priority_per_link: per_link, ..spec() };
        let mut frontier = frontier(spec, &["http://a.example/", "http://b.example/"]);
        let url = |index: usize| format!("{}{index}", path(links[index].0));
        // Those of one depth are found on the first page, the others a link later.
        let at_depth = |depth: u16| -> Vec<String> {
            (0..links.len()).filter(|index| links[*index].1 == depth).map(url).collect()
        };
        let seeds = lend(&mut frontier, Moment(0));
        answer(&mut frontier, &seeds[..1], &|_| (at_depth(0), None), Moment(0));
        answer(&mut frontier, &seeds[1..], &|_| (vec!["http://b.example/2".into()], None), Moment(0));
        let request = LeaseRequest { worker: "w".into(), hosts: 0, extend: vec![seeds[1].at], crawl: None };
        let second = frontier.lease(&request, Moment(10_000)).unwrap();
        answer(&mut frontier, &second, &|_| (at_depth(1), None), Moment(10_000));
        let rank = |index: usize| {
            let depth = i32::from(links[index].1) + 1;
            let by_rule = priorities.get(links[index].0).copied().unwrap_or_default();
            ((-(by_rule + per_link * depth)).clamp(-100, 100), depth, index)
        };
        let mut want: Vec<usize> = (0..links.len()).collect();
        want.sort_by_key(|index| rank(*index));
        let want: Vec<String> = want.into_iter().map(url).collect();
        prop_assert_eq!(crawl(&mut frontier, &|_| (vec![], None)), want);
    }
}
