//! From a host's name to addresses that may be connected to.
//!
//! The system's own settings are used: /etc/hosts first, then the name servers
//! of /etc/resolv.conf, both as they were when the resolver was made. A name
//! with a dot in it is looked up as it stands; the system's search list is for
//! single words only, or else a search domain that answers to everything would
//! make every dead host look alive. `localhost` is always loopback, and never
//! asked for.
//!
//! Answers are remembered here and not by hickory, which keeps whole messages as they
//! came: of 64 KiB, if a name server likes. Of ours only the addresses are kept.
//!
//! [`GuardedResolver`] is the only resolver that connections are made by. It
//! refuses a whole answer if one address in it is not allowed, so that no name
//! can lead to a forbidden address, at any time.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{LookupIpStrategy, ResolveHosts, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};
use moka::{Expiry, sync::Cache};
use reqwest::dns::{Addrs, Resolve, Resolving};
use tokio::{join, time::timeout};
use trawl_shared::units::Span;

use super::{FetchError, guard::Guard};

/// Bytes of answers that are kept at most. Two answers are kept for each name.
const ANSWERS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What an answer costs besides its name and its addresses.
const ANSWER_BYTES: usize = 256;

/// Records that an answer may have. One that has more is refused, since all addresses
/// are judged and kept.
const RECORDS_MAX: usize = 256;

/// Addresses of one name that are used at most.
const ADDRESSES_MAX: usize = 16;

/// How long a name server has for one try; there are three.
const TRY: Duration = Duration::from_millis(1_200);

/// An answer is used for at least that long, whatever it says, ...
const TTL_MIN: Duration = Duration::from_secs(30);

/// ... and for at most that long.
const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the absence of a name is believed at least, so that a page full of links to
/// nowhere asks once, ...
const NEGATIVE_TTL_MIN: Duration = Duration::from_secs(30);

/// ... and at most.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(5 * 60);

/// Looks names up. Clones share one cache.
#[derive(Clone)]
pub struct Resolver(Arc<Sources>);

struct Sources {
    hosts: Hosts,
    /// What asks the name servers, or why there is nothing to ask.
    servers: Result<TokioResolver, String>,
    /// What they said, by name and type of record.
    answers: Cache<(Name, RecordType), Answer>,
}

/// The addresses of a name; none is an answer too.
#[derive(Clone, Debug)]
struct Answer {
    addresses: Arc<[IpAddr]>,
    /// How long it is used.
    kept: Duration,
}

impl Resolver {
    /// A resolver with the system's settings. If they cannot be read, every
    /// look-up says so.
    pub fn from_system() -> Self {
        let servers = TokioResolver::builder_tokio().and_then(|mut builder| {
            set_options(builder.options_mut());
            builder.build()
        });
        let servers = servers.map_err(|error| error.to_string());
        Self::new(Hosts::from_system().unwrap_or_default(), servers)
    }

    fn new(hosts: Hosts, servers: Result<TokioResolver, String>) -> Self {
        let answers = Cache::builder().max_capacity(ANSWERS_BYTES_MAX);
        let answers = answers.weigher(weight).expire_after(EachItsTime).build();
        Self(Arc::new(Sources { hosts, servers, answers }))
    }

    /// The addresses of `host`, at least one; whether they are permitted is for
    /// [`GuardedResolver`] to say.
    ///
    /// # Errors
    /// If it has none, or no name server answers.
    pub(super) async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, FetchError> {
        self.lookup_by(host, |name| name.num_labels() == 1).await
    }

    /// The addresses of a host that the operator named, such as the master's: the
    /// system's search list counts for names with a dot in them too.
    ///
    /// # Errors
    /// If it has none, or no name server answers.
    pub async fn lookup_own(&self, host: &str) -> Result<Vec<IpAddr>, FetchError> {
        self.lookup_by(host, |_| true).await
    }

    async fn lookup_by(
        &self,
        host: &str,
        is_searched: impl FnOnce(&Name) -> bool,
    ) -> Result<Vec<IpAddr>, FetchError> {
        // A SOCKS proxy has us resolve whatever stands in the URL.
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![address]);
        }
        if is_localhost(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let no_such_host = || FetchError::NoSuchHost { host: host.to_owned().into() };
        let mut name = Name::from_ascii(host).map_err(|_| no_such_host())?;
        let may_search = !name.is_fqdn() && is_searched(&name);
        name.set_fqdn(true);

        let known = self.in_hosts_file(&name);
        if !known.is_empty() {
            return Ok(known);
        }
        match self.ask(name.clone(), host).await {
            Err(FetchError::NoSuchHost { .. }) if may_search => {
                name.set_fqdn(false);
                self.ask(name, host).await
            }
            answer => answer,
        }
    }

    fn in_hosts_file(&self, name: &Name) -> Vec<IpAddr> {
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .filter_map(|kind| self.0.hosts.lookup_static_host(&Query::query(name.clone(), kind)))
            .flat_map(|found| {
                found
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    async fn ask(&self, name: Name, host: &str) -> Result<Vec<IpAddr>, FetchError> {
        let answers = if name.is_fqdn() {
            let (v4, v6) = (RecordType::A, RecordType::AAAA);
            let (v4, v6) = join!(self.answer(&name, v4), self.answer(&name, v6));
            vec![v4, v6]
        } else {
            // Asked for one by one, the two might be found in different domains.
            vec![self.answer(&name, RecordType::ANY).await]
        };
        let addresses = answers.iter().flatten().flat_map(|answer| &*answer.addresses);
        let found: Vec<IpAddr> = addresses.copied().collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let host = host.to_owned();
        match answers.into_iter().find_map(Result::err) {
            Some(cause) => Err(FetchError::Dns { host: host.into(), cause: cause.into() }),
            None => Err(FetchError::NoSuchHost { host: host.into() }),
        }
    }

    /// The addresses of one type, [`RecordType::ANY`] for both, as they are remembered or
    /// else by the name servers; or why there is no answer, which is not remembered.
    async fn answer(&self, name: &Name, kind: RecordType) -> Result<Answer, String> {
        let question = (name.clone(), kind);
        if let Some(known) = self.0.answers.get(&question) {
            return Ok(known);
        }
        let servers = self
            .0
            .servers
            .as_ref()
            .map_err(|cause| format!("the system's DNS settings cannot be used: {cause}"))?;
        let answer = match kind {
            RecordType::ANY => {
                let found = servers.lookup_ip(name.clone()).await.map(Lookup::from);
                let mut answer = Answer::of(found)?;
                // One of the two may be missing, which is not believed for longer.
                answer.kept = answer.kept.min(NEGATIVE_TTL_MAX);
                answer
            }
            _ => Answer::of(servers.lookup(name.clone(), kind).await)?,
        };
        self.0.answers.insert(question, answer.clone());
        Ok(answer)
    }
}

impl Answer {
    /// The answer in what came of asking the name servers, or why it is none.
    fn of(found: Result<Lookup, NetError>) -> Result<Self, String> {
        let none = |ttl: Option<u32>| {
            let kept = Duration::from_secs(ttl.unwrap_or(0).into());
            Self { addresses: [].into(), kept: kept.clamp(NEGATIVE_TTL_MIN, NEGATIVE_TTL_MAX) }
        };
        let found = match found {
            Ok(found) => found,
            Err(NetError::Dns(DnsError::NoRecordsFound(no))) => return Ok(none(no.negative_ttl)),
            Err(NetError::Timeout) => return Err("request timed out".into()),
            Err(error) => return Err(error.to_string()),
        };
        let records = found.answers();
        if records.len() > RECORDS_MAX {
            let count = records.len();
            return Err(format!("{count} records, and no more than {RECORDS_MAX} are taken"));
        }
        let addresses: Arc<[IpAddr]> =
            records.iter().filter_map(|record| record.data.ip_addr()).collect();
        match records.iter().map(|record| record.ttl).min() {
            Some(ttl) if !addresses.is_empty() => {
                let kept = Duration::from_secs(ttl.into()).clamp(TTL_MIN, TTL_MAX);
                Ok(Self { addresses, kept })
            }
            _ => Ok(none(None)),
        }
    }
}

/// The bytes that an answer takes.
fn weight((name, _): &(Name, RecordType), answer: &Answer) -> u32 {
    let bytes = ANSWER_BYTES + name.len() + size_of_val(&*answer.addresses);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Forgets each answer when its own time is over.
struct EachItsTime;

impl Expiry<(Name, RecordType), Answer> for EachItsTime {
    fn expire_after_create(
        &self,
        _question: &(Name, RecordType),
        answer: &Answer,
        _now: Instant,
    ) -> Option<Duration> {
        Some(answer.kept)
    }

    fn expire_after_update(
        &self,
        _question: &(Name, RecordType),
        answer: &Answer,
        _now: Instant,
        _left: Option<Duration>,
    ) -> Option<Duration> {
        Some(answer.kept)
    }
}

fn set_options(options: &mut ResolverOpts) {
    options.timeout = TRY;
    options.attempts = 2;
    options.cache_size = 0;
    // The hosts file is asked by us, because hickory would still ask the name
    // server for the IPv6 address of a name that the file has an IPv4 one for.
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
}

/// Whether the name means this machine wherever it is said (RFC 6761).
pub(super) fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or(host);
    last.eq_ignore_ascii_case("localhost")
}

/// Looks names up for connections, and lets only permitted addresses through.
#[derive(Clone)]
pub(super) struct GuardedResolver {
    pub(super) names: Resolver,
    pub(super) guard: Arc<Guard>,
    /// The proxy's host. The operator named it, so it may be anywhere.
    pub(super) proxy_host: Option<Arc<str>>,
    /// How long a look-up may take.
    pub(super) limit: Span,
}

impl GuardedResolver {
    pub(super) async fn permitted(&self, host: &str) -> Result<Vec<IpAddr>, FetchError> {
        let late = |_| FetchError::Dns {
            host: host.to_owned().into(),
            cause: format!("nothing came within {}", self.limit).into(),
        };
        let mut found =
            timeout(self.limit.duration(), self.names.lookup(host)).await.map_err(late)??;
        let is_proxy = self.proxy_host.as_deref().is_some_and(|it| it.eq_ignore_ascii_case(host));
        if !is_proxy {
            self.check(host, &mut found)?;
        }
        found.truncate(ADDRESSES_MAX);
        Ok(found)
    }

    fn check(&self, host: &str, found: &mut Vec<IpAddr>) -> Result<(), FetchError> {
        let refusals = found.iter().filter_map(|address| self.guard.check(*address).err());
        let Some(mut refusal) = refusals.into_iter().next() else { return Ok(()) };
        // Nobody but us said what localhost is, so here one of two will do.
        if is_localhost(host) {
            found.retain(|address| self.guard.check(*address).is_ok());
            if !found.is_empty() {
                return Ok(());
            }
        }
        if let FetchError::ForbiddenAddress { host: name, .. } = &mut refusal {
            *name = Some(host.to_owned().into());
        }
        Err(refusal)
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let found = this.permitted(name.as_str()).await?;
            // The port is the URL's; 0 says so.
            let addresses = found.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::atomic::Ordering};

    use hickory_resolver::{
        config::{NameServerConfig, ResolverConfig},
        net::{NoRecords, runtime::TokioRuntimeProvider},
        proto::{op::ResponseCode, rr::Record},
    };

    use super::*;
    use crate::fetch::testing::{Reply, name_server};

    impl Resolver {
        /// A resolver that knows only that name server, and has a search list.
        pub(in crate::fetch) fn asking(server: SocketAddr) -> Self {
            let mut settings = NameServerConfig::udp(server.ip());
            settings.connections[0].port = server.port();
            let search = vec![Name::from_ascii("corp.example.").unwrap()];
            let config = ResolverConfig::from_parts(None, search, vec![settings]);
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            set_options(builder.options_mut());
            Self::new(Hosts::default(), Ok(builder.build().unwrap()))
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn reply(name: &str) -> Reply {
        match name {
            "both.example" => {
                Reply::Addresses(vec![ip("1.2.3.4"), ip("2606:4700::1"), ip("1.2.3.5")])
            }
            "under_score.example" | "wiki.corp.example" | "a.pod.corp.example" => {
                Reply::Addresses(vec![ip("1.2.3.4")])
            }
            "mixed.example" => Reply::Addresses(vec![ip("1.2.3.4"), ip("10.0.0.1")]),
            "inside.example" => Reply::Addresses(vec![ip("10.0.0.1")]),
            "mapped.example" => Reply::Addresses(vec![ip("::ffff:169.254.169.254")]),
            "empty.example" => Reply::Addresses(Vec::new()),
            "failing.example" => Reply::Code(2),
            "silent.example" => Reply::Nothing,
            _ => Reply::Code(3),
        }
    }

    fn guarded(names: Resolver, allow: &[&str]) -> GuardedResolver {
        let allow = allow.iter().map(|net| net.parse().unwrap()).collect();
        let guard = Arc::new(Guard { allow });
        GuardedResolver { names, guard, proxy_host: None, limit: Span::secs(5) }
    }

    #[tokio::test]
    async fn names_are_looked_up_and_remembered() {
        let (server, questions) = name_server(reply).await;
        let names = Resolver::asking(server);
        let found: HashSet<_> = names.lookup("both.example").await.unwrap().into_iter().collect();
        assert_eq!(found, HashSet::from([ip("1.2.3.4"), ip("2606:4700::1"), ip("1.2.3.5")]));
        assert_eq!(names.lookup("under_score.example").await.unwrap(), [ip("1.2.3.4")]);

        let asked = questions.load(Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(names.lookup("BOTH.example.").await.unwrap().len(), 3);
        }
        assert_eq!(questions.load(Ordering::SeqCst), asked);
    }

    #[tokio::test]
    async fn absence_is_remembered_and_failure_is_not() {
        let (server, questions) = name_server(reply).await;
        let names = Resolver::asking(server);
        let mut asked = 0;
        for (host, first, again) in
            [("gone.example", 2, 0), ("empty.example", 2, 0), ("failing.example", 2, 2)]
        {
            for more in [first, again] {
                assert!(names.lookup(host).await.is_err());
                let so_far = questions.load(Ordering::SeqCst);
                // A name server that fails is asked again.
                assert!((asked + more..=asked + 3 * more).contains(&so_far), "{host}");
                asked = so_far;
            }
        }
    }

    fn found(records: &[(u32, &str)]) -> Result<Answer, String> {
        let name = Name::from_ascii("h.example.").unwrap();
        let records: Vec<_> = records
            .iter()
            .map(|(ttl, address)| Record::from_rdata(name.clone(), *ttl, ip(address).into()))
            .collect();
        Answer::of(Ok(Lookup::new_with_max_ttl(Query::query(name, RecordType::A), records)))
    }

    #[test]
    fn an_answer_is_kept_by_its_ttl_within_limits() {
        let kept = |records: &[(u32, &str)]| found(records).unwrap().kept.as_secs();
        for (records, want) in [
            (&[(0, "1.2.3.4")][..], 30),
            (&[(29, "1.2.3.4"), (400, "1.2.3.5")], 30),
            (&[(500, "1.2.3.4"), (400, "1.2.3.5")], 400),
            (&[(u32::MAX, "1.2.3.4")], 24 * 60 * 60),
            (&[], 30),
        ] {
            assert_eq!(kept(records), want, "{records:?}");
        }
        for (ttl, want) in [(None, 30), (Some(0), 30), (Some(100), 100), (Some(u32::MAX), 300)] {
            let name = Name::from_ascii("h.example.").unwrap();
            let query = Query::query(name, RecordType::A);
            let mut none = NoRecords::new(query, ResponseCode::NXDomain);
            none.negative_ttl = ttl;
            let answer = Answer::of(Err(none.into())).unwrap();
            assert_eq!((answer.addresses.len(), answer.kept.as_secs()), (0, want), "{ttl:?}");
        }
    }

    #[test]
    fn giant_answers_are_refused_and_all_answers_are_limited_in_bytes() {
        let many = found(&[(60, "1.2.3.4"); RECORDS_MAX]).unwrap();
        assert_eq!(many.addresses.len(), RECORDS_MAX);
        let refused = found(&[(60, "1.2.3.4"); RECORDS_MAX + 1]).unwrap_err();
        assert_eq!(refused, "257 records, and no more than 256 are taken");

        let names = Resolver::new(Hosts::default(), Err("nothing".into()));
        let answers = &names.0.answers;
        for number in 0..10_000 {
            let name = Name::from_ascii(format!("{number}.h.example.")).unwrap();
            answers.insert((name, RecordType::A), many.clone());
        }
        answers.run_pending_tasks();
        // An address takes 17 bytes.
        assert!((3_000..3_700).contains(&answers.entry_count()), "{}", answers.entry_count());
        assert!(answers.weighted_size() <= ANSWERS_BYTES_MAX);
    }

    #[tokio::test]
    async fn what_does_not_resolve_says_why() {
        let (server, _) = name_server(reply).await;
        let names = guarded(Resolver::asking(server), &[]);
        for (host, phrase) in [
            ("gone.example", "no such host gone.example"),
            ("empty.example", "no such host empty.example"),
            ("no-such-host.invalid", "no such host no-such-host.invalid"),
            ("a..b", "no such host a..b"),
            ("{x}", "no such host {x}"),
            ("failing.example", "the name server has no answer for failing.example: "),
        ] {
            let error = names.permitted(host).await.unwrap_err().to_string();
            assert!(error.starts_with(phrase), "{error}");
        }
        let impatient = GuardedResolver { limit: Span::millis(200), ..names.clone() };
        assert_eq!(
            impatient.permitted("silent.example").await.unwrap_err().to_string(),
            "the name server has no answer for silent.example: nothing came within 200ms"
        );
        let label = "x".repeat(64);
        assert_eq!(
            names.permitted(&label).await,
            Err(FetchError::NoSuchHost { host: label.into() })
        );
    }

    #[tokio::test]
    async fn the_search_list_is_for_all_that_the_operator_names() {
        let (server, _) = name_server(reply).await;
        let names = Resolver::asking(server);
        for name in ["a.pod", "wiki", "a.pod.corp.example"] {
            assert_eq!(names.lookup_own(name).await.unwrap(), [ip("1.2.3.4")], "{name}");
        }
        assert!(names.lookup_own("a.pod.").await.is_err());
        assert!(names.lookup("a.pod").await.is_err());
    }

    #[tokio::test]
    async fn the_search_list_is_for_single_words() {
        let (server, _) = name_server(|name| match name {
            "dead.example.corp.example" => Reply::Addresses(vec![ip("1.2.3.4")]),
            name => reply(name),
        })
        .await;
        let names = Resolver::asking(server);
        assert_eq!(names.lookup("wiki").await.unwrap(), [ip("1.2.3.4")]);
        assert!(names.lookup("dead.example").await.is_err());
        assert!(names.lookup("wiki.").await.is_err());
    }

    #[tokio::test]
    async fn one_bad_address_spoils_the_answer() {
        let (server, _) = name_server(reply).await;
        let names = guarded(Resolver::asking(server), &[]);
        assert_eq!(names.permitted("both.example").await.unwrap().len(), 3);
        for (host, address) in [
            ("mixed.example", "10.0.0.1"),
            ("inside.example", "10.0.0.1"),
            ("mapped.example", "::ffff:169.254.169.254"),
            ("localhost", "127.0.0.1"),
            ("a.localhost.", "127.0.0.1"),
            ("10.1.2.3", "10.1.2.3"),
            ("[fe80::1]", "fe80::1"),
        ] {
            let error = names.permitted(host).await.unwrap_err().to_string();
            let phrase =
                format!("{host} at {address} is outside the public internet; --allow-net ");
            assert!(error.starts_with(&phrase), "{error}");
        }
        let mut names = guarded(names.names, &["10.0.0.0/8"]);
        assert_eq!(names.permitted("mixed.example").await.unwrap().len(), 2);
        names.guard = Arc::default();
        names.proxy_host = Some("Inside.example".into());
        assert_eq!(names.permitted("inside.example").await.unwrap(), [ip("10.0.0.1")]);
        assert!(names.permitted("mixed.example").await.is_err());
    }

    #[tokio::test]
    async fn localhost_is_loopback_as_far_as_it_is_allowed() {
        let (server, questions) = name_server(reply).await;
        let names = Resolver::asking(server);
        assert_eq!(names.lookup("localhost").await.unwrap(), [ip("127.0.0.1"), ip("::1")]);
        let v4 = guarded(names.clone(), &["127.0.0.0/8"]);
        assert_eq!(v4.permitted("localhost").await.unwrap(), [ip("127.0.0.1")]);
        let v6 = guarded(names, &["::1/128"]);
        assert_eq!(v6.permitted("LOCALHOST").await.unwrap(), [ip("::1")]);
        assert_eq!(questions.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn without_settings_every_look_up_fails_and_says_so() {
        let names = Resolver::new(Hosts::default(), Err("no such file".into()));
        let error = names.lookup("example.org").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the name server has no answer for example.org: \
             the system's DNS settings cannot be used: no such file"
        );
        assert!(names.lookup("localhost").await.is_ok());
    }

    #[tokio::test]
    async fn the_hosts_file_comes_first() {
        let (server, questions) = name_server(reply).await;
        let names = Resolver::asking(server);
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf("1.1.1.1 both.example wiki\n".as_bytes()).unwrap();
        let Ok(servers) = &names.0.servers else { panic!() };
        let names = Resolver::new(hosts, Ok(servers.clone()));
        for host in ["both.example", "BOTH.example.", "wiki"] {
            assert_eq!(names.lookup(host).await.unwrap(), [ip("1.1.1.1")]);
        }
        assert_eq!(questions.load(Ordering::SeqCst), 0);
    }
}
