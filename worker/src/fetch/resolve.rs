//! From a host's name to addresses that may be connected to.
//!
//! The system's own settings are used: /etc/hosts first, then the name servers
//! of /etc/resolv.conf, both as they were when the resolver was made. A name
//! with a dot in it is looked up as it stands; the system's search list is for
//! single words only, or else a search domain that answers to everything would
//! make every dead host look alive. `localhost` is always loopback, and never
//! asked for.
//!
//! [`GuardedResolver`] is the only resolver that connections are made by. It
//! refuses a whole answer if one address in it is not allowed, so that no name
//! can lead to a forbidden address, at any time.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::{LookupIpStrategy, ResolveHosts, ResolverOpts},
    net::NetError,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};
use reqwest::dns::{Addrs, Resolve, Resolving};
use tokio::time::timeout;
use trawl_shared::units::Span;

use super::{FetchError, guard::Guard};

/// Answers that are kept at most. Two are kept for each name.
const ANSWERS_MAX: u64 = 16_384;

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
}

impl Resolver {
    /// A resolver with the system's settings. If they cannot be read, every
    /// look-up says so.
    pub fn from_system() -> Self {
        let servers = TokioResolver::builder_tokio().and_then(|mut builder| {
            set_options(builder.options_mut());
            builder.build()
        });
        Self(Arc::new(Sources {
            hosts: Hosts::from_system().unwrap_or_default(),
            servers: servers.map_err(|error| error.to_string()),
        }))
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
        let no_such_host = || FetchError::NoSuchHost { host: host.to_owned() };
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
        let failed = |cause: String| FetchError::Dns { host: host.to_owned(), cause };
        let servers = self.0.servers.as_ref().map_err(|cause| {
            failed(format!("the system's DNS settings cannot be used: {cause}"))
        })?;
        let found = match servers.lookup_ip(name).await {
            Ok(found) => found.iter().collect(),
            Err(error) if error.is_no_records_found() => Vec::new(),
            Err(NetError::Timeout) => return Err(failed("request timed out".into())),
            Err(error) => return Err(failed(error.to_string())),
        };
        if found.is_empty() {
            return Err(FetchError::NoSuchHost { host: host.to_owned() });
        }
        Ok(found)
    }
}

fn set_options(options: &mut ResolverOpts) {
    options.timeout = TRY;
    options.attempts = 2;
    options.cache_size = ANSWERS_MAX;
    options.positive_min_ttl = Some(TTL_MIN);
    options.positive_max_ttl = Some(TTL_MAX);
    options.negative_min_ttl = Some(NEGATIVE_TTL_MIN);
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
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
            host: host.to_owned(),
            cause: format!("nothing came within {}", self.limit),
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
            *name = Some(host.to_owned());
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
        net::runtime::TokioRuntimeProvider,
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
            Self(Arc::new(Sources {
                hosts: Hosts::default(),
                servers: Ok(builder.build().unwrap()),
            }))
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
        assert_eq!(names.permitted(&label).await, Err(FetchError::NoSuchHost { host: label }));
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
        let sources = Sources { hosts: Hosts::default(), servers: Err("no such file".into()) };
        let names = Resolver(Arc::new(sources));
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
        let names = Resolver(Arc::new(Sources { hosts, servers: Ok(servers.clone()) }));
        for host in ["both.example", "BOTH.example.", "wiki"] {
            assert_eq!(names.lookup(host).await.unwrap(), [ip("1.1.1.1")]);
        }
        assert_eq!(questions.load(Ordering::SeqCst), 0);
    }
}
