//! Hosts of a test's own: network namespaces on a private wire, between which packets can be dropped.
//!
//! Nothing of it touches this machine's network. The hosts have addresses of 203.0.113.0/24, which
//! is kept for examples. Programs run on a host by [`Command::on`](crate::Command::on); a
//! [`Site`](crate::Site) of this process is there by a socket that was opened there. It needs root,
//! iproute2 and nftables.
//!
//! A network goes with the value; what a killed run left behind goes before the next one.

use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd as _,
    path::Path,
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The addresses of all hosts.
pub const NETWORK: &str = "203.0.113.0/24";

/// Where iproute2 keeps what a namespace has in the place of this machine's `/etc`.
const ETC: &str = "/etc/netns";

/// Begins the name of every namespace; then come this process, and which of its networks it is.
const PREFIX: &str = "trawl-test-";

/// Hosts on one wire.
#[derive(Debug)]
pub struct Network {
    /// The namespace that the wire is in.
    switch: String,
    hosts: Vec<Host>,
}

/// One host of a network.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
    address: Ipv4Addr,
}

/// Which packets are dropped between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All.
    Both,
    /// Those to the other one.
    To,
    /// Those from the other one.
    From,
}

impl Network {
    /// A network with so many hosts.
    ///
    /// # Panics
    /// If this machine does not let it be made.
    pub fn new(hosts: u8) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        remove_leftovers();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = |part: &str| format!("{PREFIX}{}-{number}-{part}", process::id());
        let mut network = Self { switch: name("switch"), hosts: Vec::new() };
        let switch = network.switch.clone();
        run(&["ip", "netns", "add", &switch]);
        run(&["ip", "-n", &switch, "link", "add", "wire", "type", "bridge"]);
        run(&["ip", "-n", &switch, "link", "set", "wire", "up"]);
        for number in 1..=hosts {
            let host = Host {
                namespace: name(&number.to_string()),
                address: Ipv4Addr::new(203, 0, 113, number),
            };
            network.hosts.push(host.clone());
            let (inside, port) = (&*host.namespace, &*format!("port{number}"));
            let address = format!("{}/24", host.address);
            run(&["ip", "netns", "add", inside]);
            let pair = ["type", "veth", "peer", "name", "eth0", "netns", inside];
            run(&[&["ip", "-n", &switch, "link", "add", port][..], &pair].concat());
            run(&["ip", "-n", &switch, "link", "set", port, "master", "wire", "up"]);
            run(&["ip", "-n", inside, "address", "add", &address, "dev", "eth0"]);
            run(&["ip", "-n", inside, "link", "set", "lo", "up"]);
            run(&["ip", "-n", inside, "link", "set", "eth0", "up"]);
            host.nft("add table inet cut");
            host.nft("add chain inet cut coming { type filter hook input priority 0; }");
            host.nft("add chain inet cut going { type filter hook output priority 0; }");
        }
        network
    }

    /// The hosts.
    pub fn hosts<const COUNT: usize>(&self) -> [Host; COUNT] {
        self.hosts.clone().try_into().expect("as many as were asked for")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.hosts.iter().map(|host| &host.namespace).chain([&self.switch]) {
            // One that could not be made cannot be removed either.
            let _ = Command::new("ip").args(["netns", "del", name]).status();
            let _ = fs::remove_dir_all(Path::new(ETC).join(name));
        }
    }
}

impl Host {
    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The name of its namespace.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A socket of this process that listens there, on a free port.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn listen(&self) -> TcpListener {
        self.listen_at((self.address, 0))
    }

    /// A socket of this process that listens at one of the host's addresses.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn listen_at(&self, address: impl Into<SocketAddr>) -> TcpListener {
        let address = address.into();
        self.within(move || {
            let listener = TcpListener::bind(address).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        })
    }

    /// A UDP socket of this process at one of the host's addresses.
    ///
    /// # Panics
    /// If it cannot be had.
    pub fn datagrams_at(&self, address: impl Into<SocketAddr>) -> UdpSocket {
        let address = address.into();
        self.within(move || {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
    }

    /// Makes sockets on this host.
    fn within<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = self.namespace.clone();
        // A socket stays in the namespace in which it was made; a thread moves there alone.
        let make = move || {
            let namespace = File::open(Path::new("/run/netns").join(namespace)).unwrap();
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).unwrap();
            make()
        };
        thread::spawn(make).join().expect("a socket on a host of the network")
    }

    /// Gives the host one more address, such as `198.51.100.1/32`.
    ///
    /// # Panics
    /// If it cannot have it.
    pub fn also_at(&self, address: &str) {
        let mut words = vec!["ip", "-n", &self.namespace, "address", "add", address, "dev", "eth0"];
        if address.contains("::") {
            // Nobody else has it, and nobody waits to find that out.
            words.push("nodad");
        }
        run(&words);
    }

    /// Sends what is for neither the host nor its wire to this neighbour.
    ///
    /// # Panics
    /// If it cannot be.
    pub fn goes_by(&self, neighbour: IpAddr) {
        let (family, neighbour) =
            (if neighbour.is_ipv4() { "-4" } else { "-6" }, neighbour.to_string());
        let way = ["route", "add", "default", "via", &neighbour, "dev", "eth0"];
        run(&[&["ip", family, "-n", &self.namespace][..], &way].concat());
    }

    /// Lets programs on the host ask this name server and no other.
    ///
    /// # Panics
    /// If that cannot be written down.
    pub fn asks(&self, server: Ipv4Addr) {
        let folder = Path::new(ETC).join(&self.namespace);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("resolv.conf"), format!("nameserver {server}\n")).unwrap();
    }

    /// Counts from now on, in the place of earlier counts, the packets of TCP and UDP that
    /// leave the host for another address than these.
    ///
    /// # Panics
    /// If they cannot be counted.
    pub fn count_packets_but_to(&self, allowed: &[&str]) {
        self.nft("add table inet watch");
        self.nft("delete table inet watch");
        self.nft("add table inet watch");
        self.nft("add chain inet watch going { type filter hook output priority 10; }");
        for allowed in allowed {
            self.nft(&format!("add rule inet watch going ip daddr {allowed} accept"));
        }
        self.nft("add rule inet watch going meta l4proto { tcp, udp } counter");
    }

    /// How many packets were counted.
    ///
    /// # Panics
    /// If they are not counted.
    pub fn packets(&self) -> u64 {
        let listed = ["nft", "list", "chain", "inet", "watch", "going"];
        let listed = [&["netns", "exec", &self.namespace][..], &listed].concat();
        let listed = Command::new("ip").args(listed).output().unwrap().stdout;
        let listed = String::from_utf8(listed).unwrap();
        let counted = listed.split("counter packets ").nth(1).expect("a counter");
        counted.split(' ').next().unwrap_or_default().parse().unwrap()
    }

    /// Drops what comes for this address of the host from now on, so that it is not even
    /// refused.
    ///
    /// # Panics
    /// If it cannot be dropped.
    pub fn swallow(&self, address: Ipv4Addr) {
        self.nft(&format!("add rule inet cut coming ip daddr {address} drop"));
    }

    /// Drops packets between this host and another one from now on, until [`Host::heal`].
    pub fn cut(&self, other: &Self, cut: Cut) {
        let address = other.address;
        if cut != Cut::From {
            self.nft(&format!("add rule inet cut going ip daddr {address} drop"));
        }
        if cut != Cut::To {
            self.nft(&format!("add rule inet cut coming ip saddr {address} drop"));
        }
    }

    /// Drops all packets that this host sends to others or gets from them, until
    /// [`Host::heal`].
    pub fn cut_off(&self) {
        self.nft("add rule inet cut going oifname != lo drop");
        self.nft("add rule inet cut coming iifname != lo drop");
    }

    /// Takes its network away, or brings it back; what it had been told with
    /// [`Host::goes_by`] is lost.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn plug(&self, is_in: bool) {
        let state = if is_in { "up" } else { "down" };
        run(&["ip", "-n", &self.namespace, "link", "set", "eth0", state]);
    }

    /// Drops nothing any more.
    pub fn heal(&self) {
        self.nft("flush table inet cut");
    }

    fn nft(&self, rule: &str) {
        run(&["ip", "netns", "exec", &self.namespace, "nft", rule]);
    }
}

/// Removes the namespaces of processes that are gone.
fn remove_leftovers() {
    let listed = Command::new("ip").args(["netns", "list"]).output();
    let listed = listed.expect("this test needs iproute2 (tests/setup installs it)").stdout;
    for line in String::from_utf8_lossy(&listed).lines() {
        let name = line.split(' ').next().unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            // Another test may have been quicker.
            let _ = Command::new("ip").args(["netns", "del", name]).status();
            let _ = fs::remove_dir_all(Path::new(ETC).join(name));
        }
    }
}

#[track_caller]
fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output =
        output.unwrap_or_else(|error| panic!("{words:?}: {error}; tests/setup installs it"));
    assert!(
        output.status.success(),
        "this test must make network namespaces, for which it needs root, iproute2 and nftables: \
         {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
