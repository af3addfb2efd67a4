//! How hosts are treated: rest, backoff, budgets of groups, what people set.

use std::time::Duration;

use trawl_shared::{
    outcome::{Class, FailureKind},
    politeness::GroupRule,
    spec::CrawlSpec,
    units::Span,
    url::{HostKey, UrlId},
};

use super::{
    super::{
        Batch, Frontier, HandBack, HostNews, HostTold, Judgement, LeaseRequest, Moment, Outcome,
        Report, RobotsNews,
        model::{PLACE, answer, answered, frontier, lend, limits, spec, submit, urls},
    },
    HostChange,
};
use crate::store::{memory::MemoryStore, rows::Finish};

type Memory = Frontier<MemoryStore>;

fn at(secs: u64) -> Moment {
    Moment(secs * 1_000)
}

fn key(host: &str) -> HostKey {
    HostKey::trusted(format!("http://{host}.example"))
}

/// Reports on the first URL of a batch, and gives the rest back.
fn report(frontier: &mut Memory, batch: &Batch, outcome: Outcome, news: HostNews, secs: u64) {
    let id = UrlId::of(&batch.urls[0].url);
    let Judgement::Apply(ticket) = frontier.judge("w", batch.token, batch.at, &id).unwrap() else {
        panic!("{} is lent", batch.urls[0].url)
    };
    let place = matches!(outcome, Outcome::Answered { .. }).then_some(PLACE);
    let report = Report {
        token: batch.token,
        at: batch.at,
        id,
        outcome,
        offers: Vec::new(),
        host_delay: None,
        news: Some(news),
        reported_at: 1_000_000 + secs * 1_000,
    };
    frontier.apply(ticket, report, place, at(secs), 0.0).unwrap();
    frontier.hand_back("w", &HandBack::Tokens(vec![batch.token]), at(secs)).unwrap();
    frontier.commit(at(secs)).unwrap();
}

fn refused() -> Outcome {
    let detail = "connection refused".to_owned();
    Outcome::Failed { kind: FailureKind::Connect, detail, retry_after: None }
}

fn troubled() -> HostNews {
    HostNews { troubled: true, ..HostNews::default() }
}

fn seeds(host: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("http://{host}.example/{n}")).collect()
}

fn refs(seeds: &[String]) -> Vec<&str> {
    seeds.iter().map(String::as_str).collect()
}

/// Seconds at which the host is next lent, tried one by one.
fn next_lent(frontier: &mut Memory, from: u64) -> (u64, Batch) {
    (from..from + 100_000)
        .find_map(|secs| Some((secs, lend(frontier, secs).into_iter().next()?)))
        .expect("it is lent again some time")
}

#[test]
fn a_host_in_trouble_rests_twice_as_long_each_time_and_an_answer_ends_that() {
    let seeds = seeds("a", 20);
    let spec = CrawlSpec { retry_wait: Span::secs(5), ..spec() };
    let mut frontier = frontier(spec, &refs(&seeds));
    let (mut now, mut waits) = (0, Vec::new());
    for _ in 0..4 {
        let (lent_at, batch) = next_lent(&mut frontier, now);
        waits.push(lent_at - now);
        now = lent_at;
        report(&mut frontier, &batch, refused(), troubled(), now);
    }
    let (lent_at, batch) = next_lent(&mut frontier, now);
    waits.push(lent_at - now);
    assert_eq!(waits, [0, 5, 10, 20, 40]);
    report(&mut frontier, &batch, answered(200), HostNews::default(), lent_at);
    let (next, batch) = next_lent(&mut frontier, lent_at);
    assert_eq!(next - lent_at, 1, "an answer ends it: the crawl's own delay holds again");
    report(&mut frontier, &batch, refused(), troubled(), next);
    assert_eq!(next_lent(&mut frontier, next).0 - next, 5, "and the count begins anew");
}

#[test]
fn what_was_under_way_when_a_host_began_to_rest_is_no_further_failure() {
    let seeds = seeds("a", 40);
    let spec = CrawlSpec { host_attempts: 3, delay: Span::secs(0), ..spec() };
    let mut frontier = frontier(spec, &refs(&seeds));
    let (_, batch) = next_lent(&mut frontier, 0);
    assert_eq!(batch.urls.len(), 3);
    for lent in &batch.urls {
        let one = Batch { urls: vec![lent.clone()], ..batch.clone() };
        let id = UrlId::of(&lent.url);
        let Judgement::Apply(ticket) = frontier.judge("w", one.token, one.at, &id).unwrap() else {
            panic!("{} is lent", lent.url)
        };
        let report = Report {
            token: one.token,
            at: one.at,
            id,
            outcome: refused(),
            offers: Vec::new(),
            host_delay: None,
            news: Some(troubled()),
            reported_at: 0,
        };
        frontier.apply(ticket, report, None, at(1), 0.0).unwrap();
    }
    frontier.hand_back("w", &HandBack::All, at(1)).unwrap();
    frontier.commit(at(1)).unwrap();
    let account = frontier.host_account(&key("a"), at(1)).unwrap();
    assert_eq!((account.gate.failures, account.rests), (1, Duration::from_secs(5)));
    assert_eq!(frontier.status(None)[0].queued, 40, "nothing is given up");
}

#[test]
fn a_rest_can_be_ended_by_people() {
    let mut frontier = frontier(spec(), &["http://a.example/1"]);
    let (_, batch) = next_lent(&mut frontier, 0);
    let asked = Some(Duration::from_secs(86_400));
    let news = HostNews { retry_after: asked, ..troubled() };
    report(&mut frontier, &batch, refused(), news, 1);
    assert_eq!(lend(&mut frontier, 1_000), []);
    let rested = HostChange { rested: true, ..HostChange::default() };
    frontier.change_host(&key("a"), rested).unwrap();
    assert_eq!(lend(&mut frontier, 1_001).len(), 1);
}

#[test]
fn a_delay_of_robots_txt_holds_for_a_crawl_that_has_not_read_it() {
    let mut frontier = frontier(spec(), &["http://a.example/1"]);
    let (_, batch) = next_lent(&mut frontier, 0);
    let id = UrlId::of(&batch.urls[0].url);
    let Judgement::Apply(ticket) = frontier.judge("w", batch.token, batch.at, &id).unwrap() else {
        panic!("it is lent")
    };
    let report = Report {
        token: batch.token,
        at: batch.at,
        id,
        outcome: answered(200),
        offers: Vec::new(),
        host_delay: Some(Duration::from_secs(30)),
        news: None,
        reported_at: 0,
    };
    frontier.apply(ticket, report, Some(PLACE), at(1), 0.0).unwrap();
    frontier.commit(at(1)).unwrap();
    submit(&mut frontier, "d", spec(), &["http://a.example/2"]);
    assert_eq!(lend(&mut frontier, 30), []);
    assert_eq!(lend(&mut frontier, 31).len(), 1);
}

#[test]
fn a_host_gives_its_place_to_one_that_waits_for_it() {
    let a = seeds("a", 1_000);
    let spec = CrawlSpec { group_hosts: 1, ..spec() };
    let mut frontier = frontier(spec, &refs(&a));
    let (_, batch) = next_lent(&mut frontier, 0);
    submit(
        &mut frontier,
        "d",
        CrawlSpec { group_hosts: 1, ..self::spec() },
        &["http://b.a.example/"],
    );
    assert_eq!(lend(&mut frontier, 1), [], "it waits for the place");
    let more = LeaseRequest { worker: "w".into(), hosts: 0, extend: vec![batch.at], crawl: None };
    assert_eq!(frontier.lease(&more, at(2)).unwrap(), [], "no more of the one that has it");
    frontier.hand_back("w", &HandBack::All, at(3)).unwrap();
    assert_eq!(urls(&lend(&mut frontier, 3)), ["http://b.a.example/"]);
}

#[test]
fn what_a_host_asks_for_holds_for_all_of_it_in_all_crawls_and_outlives_a_restart() {
    let mut frontier = frontier(spec(), &["http://a.example/1", "http://a.example/2"]);
    submit(&mut frontier, "d", spec(), &["http://a.example/3"]);
    let (_, batch) = next_lent(&mut frontier, 0);
    let asked = Some(Duration::from_secs(3_600));
    let news = HostNews { troubled: true, retry_after: asked, ..HostNews::default() };
    report(&mut frontier, &batch, answered(503), news, 10);
    let (mut frontier, now) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    assert_eq!(now, at(10));
    assert_eq!(lend(&mut frontier, 3_609), []);
    let account = frontier.host_account(&key("a"), at(3_000)).unwrap();
    assert_eq!(account.rests, Duration::from_secs(610));
    assert_eq!(account.gate.trouble, "status 503");
    assert_eq!(lend(&mut frontier, 3_610).len(), 1);
}

#[test]
fn a_host_that_fails_too_often_in_a_row_is_given_up() {
    let seeds = seeds("a", 1_000);
    let spec = CrawlSpec { host_attempts: 3, ..spec() };
    let mut frontier = frontier(spec, &refs(&seeds));
    let mut now = 0;
    for _ in 0..3 {
        let (lent_at, batch) = next_lent(&mut frontier, now);
        now = lent_at;
        report(&mut frontier, &batch, refused(), troubled(), now);
    }
    // It is swept in steps, each when somebody asks for leases.
    for _ in 0..10 {
        assert_eq!(lend(&mut frontier, now), [], "nothing more is tried");
    }
    let status = &frontier.status(None)[0];
    assert_eq!(status.finish, Finish::Complete);
    assert_eq!(status.outcomes, [(Class::Failed(FailureKind::Connect), 1_000)]);
    let account = &frontier.why(None, &seeds[500].parse().unwrap(), at(now)).unwrap()[0];
    let said = format!("{:?}", account.state);
    assert!(said.contains("given up after 3 failures in a row") && said.contains("refused"));
}

#[test]
fn what_came_of_a_robots_txt_holds_also_if_its_host_is_given_back_without_a_report() {
    let seeds = seeds("a", 3);
    let mut frontier = frontier(spec(), &refs(&seeds));
    let told = |at, news, delay, secs: u64| {
        let delay = Some(Duration::from_secs(delay));
        [HostTold { at, news, delay, told_at: 1_000_000 + secs * 1_000 }]
    };
    let robots = |robots| HostNews { robots: Some(robots), ..HostNews::default() };
    let (_, batch) = next_lent(&mut frontier, 0);
    let found = robots(RobotsNews::Found(b"zlib".to_vec()));
    let found = told(batch.at, found, 600, 1);
    frontier.note_told("somebody else", &found, at(1)).unwrap();
    assert_eq!(frontier.robots(batch.at.host).unwrap(), None);
    frontier.note_told("w", &found, at(1)).unwrap();
    frontier.hand_back("w", &HandBack::All, at(1)).unwrap();
    frontier.commit(at(1)).unwrap();
    let (mut frontier, _) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    let (lent_at, batch) = next_lent(&mut frontier, 1);
    assert_eq!(lent_at, 601);
    assert_eq!(batch.robots.map(|row| row.fetched_at), Some(1_001_000));

    let retry_after = Some(Duration::from_secs(3_600));
    let gone = robots(RobotsNews::Unavailable("status 503".into()));
    let gone = HostNews { retry_after, troubled: true, ..gone };
    let gone = told(batch.at, gone, 0, 601);
    frontier.note_told("w", &gone, at(601)).unwrap();
    frontier.hand_back("w", &HandBack::All, at(601)).unwrap();
    assert_eq!(next_lent(&mut frontier, 601).0, 601 + 3_600);
    let account = frontier.host_account(&key("a"), at(601)).unwrap();
    assert_eq!(account.gate.trouble, "status 503");
}

#[test]
fn a_host_that_was_given_up_is_tried_again_by_all_crawls_when_people_say_so() {
    let seeds = seeds("a", 300);
    let spec = CrawlSpec { host_attempts: 1, ..spec() };
    let mut frontier = frontier(spec, &refs(&seeds));
    let (_, batch) = next_lent(&mut frontier, 0);
    report(&mut frontier, &batch, refused(), troubled(), 0);
    let rested = HostChange { rested: true, ..HostChange::default() };
    frontier.change_host(&key("a"), rested).unwrap();
    assert_eq!(next_lent(&mut frontier, 0).0, 1, "it is tried, and its queue is not ended");
    assert_eq!(frontier.status(None)[0].outcomes, []);
}

#[test]
fn a_slow_host_is_asked_less_often() {
    let mut frontier = frontier(
        CrawlSpec { delay: Span::secs(2), ..spec() },
        &["http://a.example/1", "http://a.example/2", "http://a.example/3"],
    );
    let (_, batch) = next_lent(&mut frontier, 0);
    let news = HostNews { elapsed: Duration::from_secs(3), ..HostNews::default() };
    report(&mut frontier, &batch, answered(200), news, 10);
    let (next, batch) = next_lent(&mut frontier, 10);
    assert_eq!(next, 25, "five times as long as the answer took");
    assert_eq!(batch.delay, Duration::from_secs(2), "the worker adds its own measure");
}

#[test]
fn a_blocked_host_is_left_alone_until_it_is_unblocked() {
    let mut frontier = frontier(spec(), &["http://a.example/1", "http://b.example/1"]);
    let block = HostChange { blocked: Some(Err("asked by mail".into())), ..HostChange::default() };
    frontier.change_host(&key("a"), block).unwrap();
    frontier.commit(at(0)).unwrap();
    let (mut frontier, _) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    assert_eq!(urls(&lend(&mut frontier, 100)), ["http://b.example/1"]);
    let account = &frontier.why(None, &"http://a.example/1".parse().unwrap(), at(100)).unwrap()[0];
    assert_eq!(account.held_up, "its host is left alone: blocked: asked by mail");
    let unblock = HostChange { blocked: Some(Ok(())), ..HostChange::default() };
    frontier.change_host(&key("a"), unblock).unwrap();
    assert_eq!(urls(&lend(&mut frontier, 101)), ["http://a.example/1"]);
}

#[test]
fn a_host_can_be_blocked_before_it_is_known() {
    let mut frontier = frontier(spec(), &["http://b.example/1"]);
    let block = HostChange { blocked: Some(Err(String::new())), ..HostChange::default() };
    frontier.change_host(&key("a"), block).unwrap();
    submit(&mut frontier, "d", spec(), &["http://a.example/1"]);
    assert_eq!(urls(&lend(&mut frontier, 100)), ["http://b.example/1"]);
}

#[test]
fn a_delay_that_people_set_takes_the_place_of_the_crawls() {
    let seeds = seeds("a", 3);
    let mut frontier = frontier(CrawlSpec { delay: Span::secs(60), ..spec() }, &refs(&seeds));
    let set = |delay| HostChange { delay: Some(delay), ..HostChange::default() };
    frontier.change_host(&key("a"), set(Some(Duration::from_secs(3)))).unwrap();
    let (_, batch) = next_lent(&mut frontier, 0);
    assert_eq!((batch.delay, batch.delay_is_set), (Duration::from_secs(3), true));
    let slow = HostNews { elapsed: Duration::from_secs(30), ..HostNews::default() };
    report(&mut frontier, &batch, answered(200), slow, 10);
    let (next, batch) = next_lent(&mut frontier, 10);
    assert_eq!(next, 13);
    report(&mut frontier, &batch, answered(200), HostNews::default(), 20);
    frontier.change_host(&key("a"), set(None)).unwrap();
    assert_eq!(next_lent(&mut frontier, 20).0, 170, "five times its last fetch's 30 s");
}

#[test]
fn a_limit_that_people_set_takes_the_place_of_the_crawls() {
    let seeds = seeds("a", 5);
    let mut frontier = frontier(spec(), &refs(&seeds));
    let limit = HostChange { pages: Some(Some(2)), ..HostChange::default() };
    frontier.change_host(&key("a"), limit).unwrap();
    assert_eq!(lend(&mut frontier, 0)[0].urls.len(), 2);
}

#[test]
fn hosts_of_one_domain_share_a_budget() {
    let seeds: Vec<String> = (0..20).map(|n| format!("http://h{n}.farm.example/")).collect();
    let spec = CrawlSpec { group_hosts: 3, ..spec() };
    let mut frontier = frontier(spec, &refs(&seeds));
    submit(&mut frontier, "d", self::spec(), &["http://other.test/"]);
    let mut lent = lend(&mut frontier, 0);
    assert_eq!(lent.len(), 4, "three of the farm, and the other host: {lent:?}");
    lent.retain(|batch| !batch.urls[0].url.contains("other"));
    for ended in 0..17 {
        let batch = lent.remove(0);
        report(&mut frontier, &batch, answered(200), HostNews::default(), ended);
        let next = lend(&mut frontier, ended);
        assert_eq!(next.len(), 1, "a place that is free is taken by the next in line");
        lent.extend(next);
    }
}

#[test]
fn hosts_behind_one_address_share_a_budget_and_a_restart_keeps_it() {
    let hosts: Vec<String> = (0..6).map(|n| format!("http://host{n}.test{n}/1")).collect();
    let more: Vec<String> = (0..6).map(|n| format!("http://host{n}.test{n}/2")).collect();
    let spec = CrawlSpec { group_hosts: 2, ..spec() };
    let mut frontier = frontier(spec.clone(), &refs(&hosts));
    let lent = lend(&mut frontier, 0);
    assert_eq!(lent.len(), 6, "nobody knows where they live");
    let address = Some("203.0.113.7".parse().unwrap());
    for batch in &lent {
        let news = HostNews { address, ..HostNews::default() };
        report(&mut frontier, batch, answered(200), news, 1);
    }
    submit(&mut frontier, "c", spec, &refs(&more));
    assert_eq!(lend(&mut frontier, 10).len(), 2);
    frontier.commit(at(10)).unwrap();
    let (mut frontier, _) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    assert_eq!(lend(&mut frontier, 11), [], "what is lent still is");
    frontier.hand_back("w", &HandBack::All, at(12)).unwrap();
    assert_eq!(lend(&mut frontier, 20).len(), 2);
}

#[test]
fn hosts_that_turn_out_to_be_neighbours_take_their_places_while_they_are_lent() {
    let seeds: Vec<String> = (0..5).map(|n| format!("http://host{n}.test{n}/1")).collect();
    let spec = CrawlSpec { group_hosts: 2, ..spec() };
    let mut frontier = frontier(spec, &refs(&seeds));
    let lent = lend(&mut frontier, 0);
    assert_eq!(lent.len(), 5);
    // One network of IPv6 is as one address.
    let found: Vec<_> = lent
        .iter()
        .take(4)
        .map(|batch| batch.at)
        .zip(1..)
        .map(|(host, n)| (host, format!("2001:db8::{n}").parse().unwrap()))
        .collect();
    frontier.note_addresses("somebody else", &found, at(0));
    assert_eq!(frontier.recalled("w"), []);
    frontier.note_addresses("w", &found, at(0));
    let over = [lent[2].token, lent[3].token];
    assert_eq!(frontier.recalled("w"), over, "two may stay, and the one that lives elsewhere");
    frontier.note_addresses("w", &found, at(0));
    frontier.hand_back("w", &HandBack::Tokens(over.to_vec()), at(1)).unwrap();
    assert_eq!(lend(&mut frontier, 10), []);
    frontier.hand_back("w", &HandBack::Tokens(vec![lent[0].token]), at(11)).unwrap();
    let next = lend(&mut frontier, 20);
    assert_eq!(next.iter().map(|batch| batch.at).collect::<Vec<_>>(), [lent[2].at]);
    let address = frontier.host_account(&HostKey::trusted(next[0].host_key.clone()), at(20));
    assert_eq!(address.unwrap().address, Some("2001:db8::3".parse().unwrap()));
}

#[test]
fn a_host_of_several_addresses_keeps_the_place_that_it_has() {
    let seeds: Vec<String> = (0..3).map(|n| format!("http://host{n}.test{n}/1")).collect();
    let more: Vec<String> = (0..3).map(|n| format!("http://host{n}.test{n}/2")).collect();
    let spec = CrawlSpec { group_hosts: 1, ..spec() };
    let mut frontier = frontier(spec.clone(), &refs(&[seeds, more].concat()));
    let lent = lend(&mut frontier, 0);
    let (one, two) = ("203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap());
    let found: Vec<_> = lent.iter().take(2).map(|batch| (batch.at, one)).collect();
    frontier.note_addresses("w", &found, at(0));
    assert_eq!(frontier.recalled("w"), [lent[1].token]);
    frontier.hand_back("w", &HandBack::Tokens(vec![lent[1].token]), at(0)).unwrap();

    // It answers from elsewhere, and goes on.
    let id = UrlId::of(&lent[0].urls[0].url);
    let judged = frontier.judge("w", lent[0].token, lent[0].at, &id).unwrap();
    let Judgement::Apply(ticket) = judged else { panic!("it is lent") };
    let report = Report {
        token: lent[0].token,
        at: lent[0].at,
        id,
        outcome: answered(200),
        offers: Vec::new(),
        host_delay: None,
        news: Some(HostNews { address: Some(two), ..HostNews::default() }),
        reported_at: 0,
    };
    frontier.apply(ticket, report, Some(PLACE), at(1), 0.0).unwrap();
    assert_eq!(lend(&mut frontier, 10), [], "its place is not free");
    frontier.hand_back("w", &HandBack::Tokens(vec![lent[0].token]), at(11)).unwrap();
    assert_eq!(lend(&mut frontier, 20).len(), 2, "now they are neighbours no more");
}

#[test]
fn a_group_that_the_crawl_names_has_a_budget_and_a_rest_of_its_own() {
    let rule = GroupRule {
        name: "owner".into(),
        hosts: vec!["*.one.example".parse().unwrap(), "two.example".parse().unwrap()],
        hosts_at_once: 1,
        delay: Span::secs(10),
    };
    let spec = CrawlSpec { groups: vec![rule], ..spec() };
    let seeds = ["http://a.one.example/", "http://two.example/", "http://other.example/"];
    let mut frontier = frontier(spec, &seeds);
    let first = lend(&mut frontier, 0);
    assert_eq!(urls(&first), ["http://a.one.example/", "http://other.example/"]);
    report(&mut frontier, &first[0], answered(200), HostNews::default(), 5);
    assert_eq!(lend(&mut frontier, 14), [], "its place rests");
    assert_eq!(urls(&lend(&mut frontier, 15)), ["http://two.example/"]);
}

#[test]
fn the_rest_of_a_group_outlives_a_restart_although_one_of_its_hosts_is_lent_then() {
    let rule = GroupRule {
        name: "owner".into(),
        hosts: vec!["*.one.example".parse().unwrap()],
        hosts_at_once: 2,
        delay: Span::secs(10),
    };
    let spec = CrawlSpec { groups: vec![rule], ..spec() };
    let seeds: Vec<String> = (0..4).map(|n| format!("http://{n}.one.example/")).collect();
    let mut frontier = frontier(spec, &refs(&seeds));
    let lent = lend(&mut frontier, 0);
    assert_eq!(lent.len(), 2);
    report(&mut frontier, &lent[0], answered(200), HostNews::default(), 5);
    let (mut frontier, now) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    assert_eq!(now, at(5));
    assert_eq!(lend(&mut frontier, 14), [], "a place rests, and the other one is taken");
    assert_eq!(lend(&mut frontier, 15).len(), 1);
}

#[test]
fn a_group_that_nothing_was_lent_of_is_forgotten() {
    let spec = CrawlSpec { depth: Some(5), ..spec() };
    let mut frontier = frontier(spec, &["http://a.example/", "http://b.example/"]);
    let lent = lend(&mut frontier, 0);
    let links: Vec<String> = (0..20).map(|n| format!("http://www.site{n}.test/")).collect();
    answer(&mut frontier, &lent[..1], &refs(&links), 1);
    // Each is called, and found to lie deeper than the crawl has come.
    assert_eq!(lend(&mut frontier, 2), []);
    assert_eq!(frontier.groups_in_memory(), 1, "that of the host that is lent");
}

#[test]
fn a_host_in_a_groups_line_says_so_and_is_not_due() {
    let seeds: Vec<String> = (0..2).map(|n| format!("http://h{n}.farm.example/")).collect();
    let spec = CrawlSpec { group_hosts: 1, ..spec() };
    let mut frontier = frontier(spec, &refs(&seeds));
    let lent = lend(&mut frontier, 0);
    assert_eq!(lent.len(), 1);
    let waits = |frontier: &Memory| {
        let hosts = frontier.hosts(None, "", 10, at(1)).0;
        hosts.into_iter().find(|host| host.key != lent[0].host_key).unwrap()
    };
    let status = waits(&frontier);
    assert!(status.rests.contains("at the same time"), "{status:?}");
    assert_eq!(status.ready, None);
    report(&mut frontier, &lent[0], answered(200), HostNews::default(), 1);
    let status = waits(&frontier);
    assert_eq!((status.rests.as_str(), status.ready), ("", Some(at(0))));
}

#[test]
fn no_more_is_lent_of_a_host_whose_waits_are_long() {
    let seeds = seeds("a", 20);
    let mut frontier = frontier(spec(), &refs(&seeds));
    let (_, batch) = next_lent(&mut frontier, 0);
    let more = LeaseRequest { worker: "w".into(), hosts: 0, extend: vec![batch.at], crawl: None };
    assert_eq!(frontier.lease(&more, at(0)).unwrap().len(), 1);
    let delay = HostChange { delay: Some(Some(limits().lease / 2)), ..HostChange::default() };
    frontier.change_host(&key("a"), delay).unwrap();
    frontier.hand_back("w", &HandBack::All, at(1)).unwrap();
    let (now, _) = next_lent(&mut frontier, 1);
    assert_eq!(frontier.lease(&more, at(now)).unwrap().len(), 1, "they fit into its lease");
    let delay = limits().lease / 2 + Duration::from_secs(1);
    let delay = HostChange { delay: Some(Some(delay)), ..HostChange::default() };
    frontier.change_host(&key("a"), delay).unwrap();
    frontier.hand_back("w", &HandBack::All, at(now)).unwrap();
    let (now, _) = next_lent(&mut frontier, now);
    assert_eq!(frontier.lease(&more, at(now)).unwrap(), []);
}

#[test]
fn a_host_that_is_changed_while_it_is_lent_is_wanted_back() {
    let mut frontier = frontier(spec(), &["http://a.example/1", "http://a.example/2"]);
    let (_, batch) = next_lent(&mut frontier, 0);
    assert_eq!(frontier.recalled("w"), []);
    let delay = HostChange { delay: Some(Some(Duration::from_secs(9))), ..HostChange::default() };
    frontier.change_host(&key("a"), delay).unwrap();
    assert_eq!(frontier.recalled("w"), [batch.token]);
    frontier.hand_back("w", &HandBack::All, at(1)).unwrap();
    assert_eq!(frontier.recalled("w"), []);
    let (_, batch) = next_lent(&mut frontier, 1);
    assert_eq!(batch.delay, Duration::from_secs(9));
    assert_eq!(frontier.recalled("w"), []);
}

#[test]
fn a_full_group_keeps_nobody_waiting_who_could_go_on() {
    let farm: Vec<String> = (0..4).map(|n| format!("http://h{n}.farm.example/")).collect();
    let spec = CrawlSpec { group_hosts: 1, ..spec() };
    let mut frontier = frontier(spec.clone(), &refs(&farm));
    submit(&mut frontier, "d", spec, &["http://x.farm.example/"]);
    let first = lend(&mut frontier, 0);
    assert_eq!(first.len(), 1);
    // The next in line is of a crawl that is paused meanwhile.
    frontier.steer("c", crate::store::rows::Wish::Pause, at(1));
    let expected = if first[0].at.crawl == 1 { "http://x.farm.example/" } else { "" };
    report(&mut frontier, &first[0], answered(200), HostNews::default(), 2);
    assert_eq!(urls(&lend(&mut frontier, 3)), [expected]);
}

#[test]
fn a_robots_txt_is_kept_with_its_age_and_what_was_had_stays() {
    let seeds = seeds("a", 3);
    let mut frontier = frontier(spec(), &refs(&seeds));
    let (_, batch) = next_lent(&mut frontier, 0);
    assert_eq!(batch.robots, None);
    let text: Vec<u8> = (0..100_000u32).map(|n| (n * 7 + n / 256) as u8).collect();
    let robots = |robots| HostNews { robots: Some(robots), ..HostNews::default() };
    report(&mut frontier, &batch, answered(200), robots(RobotsNews::Found(text.clone())), 1);
    let (mut frontier, _) = Frontier::open(frontier.into_store(), limits(), "").unwrap();
    let (_, batch) = next_lent(&mut frontier, 1);
    let row = batch.robots.clone().unwrap();
    assert_eq!((row.fetched_at, row.unavailable_since), (1_001_000, 0));
    assert_eq!(frontier.robots(batch.at.host).unwrap().unwrap().1, text);

    let gone = robots(RobotsNews::Unavailable("status 500".into()));
    report(&mut frontier, &batch, answered(200), gone, 5);
    let (row, kept) = frontier.robots(batch.at.host).unwrap().unwrap();
    assert_eq!((row.fetched_at, row.unavailable_since), (1_001_000, 1_005_000));
    assert_eq!(kept, text);

    let (_, batch) = next_lent(&mut frontier, 5);
    report(&mut frontier, &batch, answered(200), robots(RobotsNews::Found(Vec::new())), 9);
    let (row, kept) = frontier.robots(batch.at.host).unwrap().unwrap();
    assert_eq!((row.fetched_at, row.unavailable_since, kept.len()), (1_009_000, 0, 0));
}

#[test]
fn why_tells_each_try_and_the_page_that_had_the_body_first() {
    let mut frontier = frontier(spec(), &["http://a.example/1", "http://a.example/2"]);
    let (lent_at, batch) = next_lent(&mut frontier, 0);
    let news = HostNews { elapsed: Duration::from_millis(30), ..troubled() };
    report(&mut frontier, &batch, refused(), news, lent_at);
    let (_, batch) = next_lent(&mut frontier, lent_at);
    report(&mut frontier, &batch, answered(200), HostNews::default(), 100);
    let (_, batch) = next_lent(&mut frontier, 100);
    report(&mut frontier, &batch, answered(200), HostNews::default(), 200);
    let fetched = |url: &str| frontier.fetched(1, url).unwrap().unwrap().1;
    let (one, two) = (fetched("http://a.example/1"), fetched("http://a.example/2"));
    let tries: Vec<_> = one.tries.iter().chain(&two.tries).collect();
    assert_eq!(tries.len(), 1);
    assert_eq!((tries[0].detail.as_str(), tries[0].took_ms), ("connection refused", 30));
    let same: Vec<bool> = [&one, &two].map(|row| row.same_as.is_empty()).into();
    assert!(same.contains(&true) && same.contains(&false), "the second names the first");
}

#[test]
fn hosts_that_people_have_set_something_of_are_found_piece_by_piece() {
    let mut frontier = frontier(spec(), &[]);
    for host in ["a", "b", "c", "d", "e"] {
        frontier.change_host(&key(host), HostChange { rested: true, ..<_>::default() }).unwrap();
    }
    for host in ["b", "d"] {
        let change = HostChange { pages: Some(Some(0)), ..HostChange::default() };
        frontier.change_host(&key(host), change).unwrap();
    }
    frontier.commit(at(1)).unwrap();
    let find = |contains: &str, rows: usize| {
        let (mut found, mut after) = (Vec::new(), Some(String::new()));
        while let Some(key) = after {
            let (keys, next) = frontier.set_hosts(&key, contains, rows).unwrap();
            found.extend(keys);
            after = next;
        }
        found
    };
    for rows in 1..7 {
        assert_eq!(find("", rows), [key("b"), key("d")], "{rows} at a time");
        assert_eq!(find("//d.", rows), [key("d")], "{rows} at a time");
    }
}
