//! A cluster of containers: the compose file that users have, on a private network, with real sites
//! in containers of their own.
//!
//! The images are made here, out of nothing: the program under test, which must be static, in the
//! last stage of deploy/Dockerfile as it stands; and nginx with its libraries. Nothing is pulled.
//!
//! Everything that Docker has of a cluster bears its project's name, which names this process. It
//! goes with the value; what a killed run left behind goes before the next one.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
    process::{self, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tempfile::TempDir;
use tokio::time::Instant;

use crate::{Duration, Pages, env, ms, real, secs};

/// A running cluster, gone with the value.
#[derive(Debug)]
pub struct Containers {
    project: String,
    folder: TempDir,
    wire: Wire,
    master: OnceLock<Container>,
}

/// What the parts of a cluster speak with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Plain text.
    Plain,
    /// TLS, with certificates on both sides, which the program makes.
    Tls,
}

/// One of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container(String);

/// Begins the name of every project.
const PREFIX: &str = "trawl-test-";

/// By this label compose knows what belongs to a project.
const LABEL: &str = "com.docker.compose.project";

/// Seconds that one command may take.
const COMMAND_SECONDS: &str = "180";

/// What a crawl of the sites is told, whoever does it. Docker takes its networks out of all of these.
const CRAWL: [&str; 6] = [
    "--name=sites",
    "--robots=ignore",
    "--retry-wait=100ms",
    "--allow-net=10.0.0.0/8",
    "--allow-net=172.16.0.0/12",
    "--allow-net=192.168.0.0/16",
];

impl Containers {
    /// A master, three workers, and the real sites, all of them up.
    ///
    /// # Panics
    /// If Docker or compose is missing, or something does not start.
    pub fn up(wire: Wire) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        check_docker();
        remove_left_overs();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let project = format!("{PREFIX}{}-{number}", process::id());
        // A process of the same number may have been killed before.
        remove(&project);

        let folder = TempDir::with_prefix(&project).unwrap();
        // From here on the value cleans up.
        let cluster = Self { project, folder, wire, master: OnceLock::new() };
        cluster.make_secrets();
        cluster.build_program();
        cluster.build_sites();
        cluster.compose(["up", "--detach", "--no-build", "--scale", "worker=3"]);
        eventually("the master serves", secs(60), || cluster.is_served());
        cluster
    }

    /// The containers of a service of the compose file.
    pub fn of(&self, service: &str) -> Vec<Container> {
        let ids = self.compose(["ps", "-q", service]);
        ids.lines().map(|id| Container(id.to_owned())).collect()
    }

    /// The one container of the master.
    pub fn master(&self) -> &Container {
        self.master.get_or_init(|| {
            let [master] = self.of("master").try_into().expect("there is one master");
            master
        })
    }

    /// What a command prints that an operator gives in the master's container.
    pub fn trawl<'a>(&'a self, args: impl IntoIterator<Item = &'a str>) -> String {
        // As `compose exec` does, but that takes its time.
        docker(["exec", &self.master().0, "/trawl"].into_iter().chain(args))
    }

    /// Starts the crawl of these sites with this delay, or goes on with it.
    pub fn submit(&self, sites: &[&str], delay: &str) {
        let seeds = seeds(sites);
        let args = ["submit", "--update", "--delay", delay].into_iter().chain(CRAWL);
        self.trawl(args.chain(seeds.iter().map(String::as_str)));
    }

    /// Whether the master serves.
    pub fn is_served(&self) -> bool {
        let mut health = bounded("docker");
        health.args(["exec", &self.master().0, "/trawl", "health"]);
        health.output().unwrap().status.success()
    }

    /// What a single process finds on these sites, by the same names.
    pub fn pages_of_one_process(&self, sites: &[&str]) -> Pages {
        let Self { project, folder, .. } = self;
        let name = format!("{project}-alone");
        docker(
            ["run", "--name", &name, "--network", &format!("{project}_cluster")]
                .into_iter()
                .chain(["--label", &format!("{LABEL}={project}"), &format!("trawl:{project}")])
                .chain(["crawl", "--data=/data", "--delay=0s"])
                .chain(CRAWL)
                .chain(seeds(sites).iter().map(String::as_str)),
        );
        let data = folder.path().join("alone");
        docker(["cp", &format!("{name}:/data"), &data.to_string_lossy()]);
        self.export("alone.jsonl", ["--data", &data.to_string_lossy()])
    }

    /// What the cluster has found, taken away by a command outside of the containers.
    pub fn pages(&self) -> Pages {
        let published = docker(["port", &self.master().0, "7070"]);
        let address = published.lines().next().expect("its port is published");
        let at = |name| self.folder.path().join(name).to_string_lossy().into_owned();
        let mut from = vec!["--token-file".to_owned(), at("token"), "--master".to_owned()];
        match self.wire {
            Wire::Plain => from.push(format!("http://{address}")),
            Wire::Tls => from.extend([
                format!("https://{address}"),
                format!("--ca={}", at("certs/ca.pem")),
                format!("--cert={}", at("certs/worker.pem")),
                format!("--key={}", at("certs/worker-key.pem")),
            ]),
        }
        self.export("cluster.jsonl", from.iter().map(String::as_str))
    }

    fn export<'a>(&self, name: &str, from: impl IntoIterator<Item = &'a str>) -> Pages {
        let path = self.folder.path().join(name);
        let to = ["--crawl", "sites", "--format", "jsonl", "--out"];
        let mut command = bounded(&env::trawl().to_string_lossy());
        output(command.arg("export").args(from).args(to).arg(&path));
        Pages::read(&path)
    }

    /// `kill -9`: it stays away.
    pub fn kill(&self, container: &Container) {
        docker(["kill", &container.0]);
    }

    /// Starts one that was killed.
    pub fn start(&self, container: &Container) {
        docker(["start", &container.0]);
    }

    /// Freezes one where it stands.
    pub fn pause(&self, container: &Container) {
        docker(["pause", &container.0]);
    }

    /// Lets one go on as if nothing had been.
    pub fn unpause(&self, container: &Container) {
        docker(["unpause", &container.0]);
    }

    /// What Docker knows of one, by a template such as `{{.State.ExitCode}}`.
    pub fn inspect(&self, container: &Container, template: &str) -> String {
        docker(["inspect", "--format", template, &container.0]).trim().to_owned()
    }

    /// Runs compose on the file that users have, with what the tests add to it.
    pub fn compose<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> String {
        output(self.composer().args(args))
    }

    fn composer(&self) -> Command {
        let tests = env::tests();
        let mut command = match compose() {
            Compose::Plugin => {
                let mut command = bounded("docker");
                command.arg("compose");
                command
            }
            Compose::Program => bounded("docker-compose"),
        };
        let mut files = vec!["../deploy/docker-compose.yml", "fixtures/cluster.yml"];
        if self.wire == Wire::Tls {
            files.push("../deploy/docker-compose.tls.yml");
        }
        for file in files {
            command.arg("--file").arg(tests.join(file));
        }
        command
            .args(["--project-name", &self.project])
            .env("TRAWL_VERSION", &self.project)
            .env("TRAWL_TOKEN", self.folder.path().join("token"))
            .env("TRAWL_CERTS", self.folder.path().join("certs"))
            // Any free port.
            .env("TRAWL_PUBLISH", "127.0.0.1:0")
            .env("TRAWL_TEST_ENV", env::folder());
        command
    }

    /// The token and the certificates, as the compose files want them: readable by all, in a folder
    /// that is not.
    fn make_secrets(&self) {
        let folder = self.folder.path();
        let trawl = || bounded(&env::trawl().to_string_lossy());
        output(trawl().arg("token").arg("--out").arg(folder.join("token")));
        output(trawl().args(["certs", "--host", "master", "--out"]).arg(folder.join("certs")));
        output(
            bounded("chmod")
                .args(["-R", "a+rX"])
                .args(["token", "certs"].map(|it| folder.join(it))),
        );
    }

    /// The image of the program: the last stage of the Dockerfile, on what its build would give it.
    fn build_program(&self) {
        let program = env::trawl();
        let linked = Command::new("ldd").arg(&program).output().unwrap();
        let linked = [linked.stdout, linked.stderr].concat();
        let linked = String::from_utf8_lossy(&linked);
        assert!(
            linked.contains("statically linked") || linked.contains("not a dynamic executable"),
            "{} is not static, and a container has no libraries: run tests/run, which builds it so",
            program.display()
        );
        let dockerfile = fs::read_to_string(env::tests().join("../deploy/Dockerfile")).unwrap();
        let (_, last_stage) = dockerfile.rsplit_once("\nFROM scratch\n").expect("its last stage");

        let files = self.folder.path().join("program");
        copy(&program, &files.join("out/trawl"));
        copy(
            Path::new("/etc/ssl/certs/ca-certificates.crt"),
            &files.join("out/etc/ssl/certs/ca-certificates.crt"),
        );
        fs::create_dir_all(files.join("out/data")).unwrap();
        self.build("trawl", &files, &format!("\nFROM scratch\n{last_stage}"));
    }

    /// The image of the sites: nginx, its libraries, and a configuration by which each site has a
    /// name instead of an address. The sites themselves are mounted.
    fn build_sites(&self) {
        let files = self.folder.path().join("sites");
        let sites = env::folder().join("sites");
        let nginx = sites.join("root/nginx/usr/sbin/nginx");
        let libraries = output(bounded("ldd").arg(&nginx));
        for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(path), &files.join(path.trim_start_matches('/')));
        }
        copy(&nginx, &files.join("nginx"));
        let conf = fs::read_to_string(sites.join("nginx.conf")).unwrap();
        // It names the folder by the path that it was laid at, which may lead here by a link.
        let laid_at =
            conf.lines().find_map(|line| line.strip_prefix("pid ")?.strip_suffix("/nginx.pid;"));
        let mut conf = conf
            .replace(laid_at.expect("nginx.conf says where its pid goes"), "/sites")
            .replace("/sites/nginx.pid", "/tmp/nginx.pid")
            .replace("/sites/temp", "/tmp");
        for site in real::laid() {
            let listen = format!("listen {};", site.address());
            assert!(conf.contains(&listen), "nginx.conf does not say {listen}");
            conf = conf.replace(&listen, &format!("listen 8480; server_name {};", site.name));
        }
        fs::write(files.join("nginx.conf"), conf).unwrap();
        let how = "ENTRYPOINT [\"/nginx\", \"-e\", \"stderr\", \"-p\", \"/tmp\", \"-c\", \"/nginx.conf\"]";
        self.build("trawl-sites", &files, how);
    }

    /// Makes an image: a first stage of these files alone, named as in our Dockerfile, and the rest.
    fn build(&self, name: &str, files: &Path, rest: &str) {
        let Self { project, .. } = self;
        let path = files.with_extension("Dockerfile");
        // The first stage has the label too, since it may stay as an image of its own.
        let first = format!("FROM scratch AS build\nLABEL {LABEL}={project}\nCOPY . /\n");
        fs::write(&path, first + rest).unwrap();
        docker(
            ["build", "--tag", &format!("{name}:{project}"), "--label"]
                .into_iter()
                .chain([&*format!("{LABEL}={project}"), "--file", &path.to_string_lossy()])
                .chain([&*files.to_string_lossy()]),
        );
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if thread::panicking() {
            let logs = self.composer().args(["logs", "--no-color", "--tail", "40"]).output();
            #[expect(
                clippy::disallowed_methods,
                reason = "the logs are those of our own containers"
            )]
            let _ = io::stderr().write_all(&logs.map(|logs| logs.stdout).unwrap_or_default());
        }
        remove(&self.project);
    }
}

impl Container {
    /// Whether a worker of this name runs in it: by default it is named after its host.
    pub fn is_named_in(&self, name: &str) -> bool {
        // Docker's own short form.
        self.0.get(..12).is_some_and(|short| name.starts_with(short))
    }
}

/// In which form compose is here.
#[derive(Clone, Copy, Debug)]
enum Compose {
    /// `docker compose`, version 2.
    Plugin,
    /// `docker-compose`, of either version.
    Program,
}

fn compose() -> Compose {
    static FOUND: OnceLock<Compose> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let is_there = |command: &mut Command| {
            command.arg("version").output().is_ok_and(|output| output.status.success())
        };
        if is_there(Command::new("docker").arg("compose")) {
            Compose::Plugin
        } else if is_there(&mut Command::new("docker-compose")) {
            Compose::Program
        } else {
            panic!("neither `docker compose` nor `docker-compose` is here: tests/setup installs it")
        }
    })
}

/// That there is a Docker that can be used.
fn check_docker() {
    let info = Command::new("docker").args(["info", "--format", "{{.ServerErrors}}"]).output();
    let info = info.unwrap_or_else(|error| {
        panic!("docker cannot be run ({error}): tests/setup installs it where it can be had")
    });
    assert!(
        info.status.success(),
        "Docker's service does not run here, or may not be used by this user: {}",
        String::from_utf8_lossy(&info.stderr)
    );
}

/// Where a crawl of these sites starts, by the names of their containers.
fn seeds(sites: &[&str]) -> Vec<String> {
    let laid = real::laid();
    let seed = |name: &&str| {
        let site = laid.iter().find(|site| site.name == **name).expect("a site of sites.toml");
        site.seed.replace(site.address(), &format!("{name}:8480"))
    };
    sites.iter().map(seed).collect()
}

/// Removes what processes that are no more have left behind.
fn remove_left_overs() {
    // Its image is the last of a project that goes.
    for project in docker(["images", "trawl", "--format", "{{.Tag}}"]).lines() {
        let Some(rest) = project.strip_prefix(PREFIX) else { continue };
        let process = rest.split('-').next().unwrap_or(rest);
        if !Path::new("/proc").join(process).exists() {
            remove(project);
        }
    }
}

/// Removes all that Docker has of a project. What is gone meanwhile does not matter.
fn remove(project: &str) {
    let label = format!("label={LABEL}={project}");
    let found = |list: &[&str]| {
        let ids = bounded("docker").args(list).args(["--quiet", "--filter", &label]).output();
        let ids = ids.map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&ids).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let remove = |how: &[&str], what: &[String]| {
        if !what.is_empty() {
            let _ = bounded("docker").args(how).args(what).output();
        }
    };
    remove(&["rm", "--force", "--volumes"], &found(&["ps", "--all"]));
    remove(&["volume", "rm", "--force"], &found(&["volume", "ls"]));
    remove(&["network", "rm"], &found(&["network", "ls"]));
    remove(&["rmi", "--force"], &found(&["images", "--all"]));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a file is in a folder")).unwrap();
    fs::copy(from, to).unwrap_or_else(|error| panic!("cannot copy {}: {error}", from.display()));
}

fn docker<'a>(args: impl IntoIterator<Item = &'a str>) -> String {
    output(bounded("docker").args(args))
}

/// A command that is ended if it takes too long.
fn bounded(program: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after", "5", COMMAND_SECONDS, program]).stdin(Stdio::null());
    command
}

/// What a command prints as its result.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// Looks again and again until it is so.
///
/// # Panics
/// If it is not in time.
pub fn eventually(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !is_so() {
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        thread::sleep(ms(100));
    }
}
