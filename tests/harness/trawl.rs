//! The program under test: one data directory, and the commands that a person gives on it.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::{self, Stdio},
};

use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command as Program},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use crate::{Duration, Pages, env, network::Host, secs};

/// A data directory of its own, gone with the value, and the commands on it.
#[derive(Debug)]
pub struct Trawl {
    folder: TempDir,
}

/// A command that has not been started.
#[derive(Clone, Debug)]
pub struct Command {
    words: Vec<OsString>,
    options: Vec<(OsString, Option<OsString>)>,
    variables: Vec<(OsString, OsString)>,
    folder: PathBuf,
    program: PathBuf,
    /// What runs it, if not the system: a program that becomes it.
    under: Vec<OsString>,
    limit: Duration,
}

/// A command that runs; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Output,
    stderr: Output,
    limit: Duration,
    what: String,
}

/// What a program prints, as far as it has.
#[derive(Debug)]
struct Output {
    text: watch::Receiver<String>,
    reader: JoinHandle<()>,
}

/// A command that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed as its result.
    pub stdout: String,
    /// What it printed besides.
    pub stderr: String,
    what: String,
}

/// Variables that a test sets for itself, and does not get from whoever runs it.
const VARIABLES: [&str; 13] = [
    "RUST_LOG",
    "TRAWL_LOG",
    "TRAWL_DATA",
    "TRAWL_LISTEN",
    "TRAWL_MASTER",
    "TRAWL_TOKEN_FILE",
    "TRAWL_TLS_CERT",
    "TRAWL_TLS_KEY",
    "TRAWL_CLIENT_CA",
    "TRAWL_CA",
    "TRAWL_CERT",
    "TRAWL_KEY",
    "SSL_CERT_FILE",
];

impl Trawl {
    /// A new data directory. It does not exist yet.
    #[expect(clippy::new_without_default, reason = "it makes a folder, which is no default")]
    pub fn new() -> Self {
        Self { folder: TempDir::with_prefix("trawl-test-").unwrap() }
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.file("data")
    }

    /// A file beside the data directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file beside the data directory.
    pub fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.file(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// `trawl crawl SEEDS --data DIR`, on loopback, without delay and without robots.txt, with short
    /// waits between tries. [`Command::set`] and [`Command::unset`] change that.
    pub fn crawl<S: AsRef<OsStr>>(&self, seeds: impl IntoIterator<Item = S>) -> Command {
        self.command("crawl", seeds)
            .set("--allow-net", "127.0.0.0/8")
            .set("--delay", "0s")
            .set("--robots", "ignore")
            .set("--retry-wait", "100ms")
    }

    /// `trawl VERB ARGS --data DIR`.
    pub fn command<S: AsRef<OsStr>>(
        &self,
        verb: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        let command = Command {
            words: [verb.into()].into_iter().chain(args).collect(),
            options: Vec::new(),
            variables: Vec::new(),
            folder: self.folder.path().to_owned(),
            program: env::trawl(),
            under: Vec::new(),
            limit: secs(120),
        };
        command.set("--data", self.data())
    }

    /// Exports to a file beside the data directory and returns its path.
    ///
    /// # Panics
    /// If the export fails.
    pub async fn export(&self, format: &str, name: &str) -> PathBuf {
        let path = self.file(name);
        let export = self.command::<&str>("export", []).set("--format", format);
        export.set("--out", &path).done().await.expect(0);
        path
    }

    /// The pages that it has, as the JSON lines tell them.
    pub async fn pages(&self) -> Pages {
        Pages::read(&self.export("jsonl", "pages.jsonl").await)
    }

    /// All WARC files of the data directory.
    pub fn segments(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(&self.data().join("pages"), &mut found);
        found.retain(|path| path.to_string_lossy().contains(".warc"));
        found.sort();
        found
    }
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { collect(&path, found) } else { found.push(path) }
    }
}

impl Command {
    /// With an option, in the place of an earlier value of it.
    pub fn set(self, option: &str, value: impl AsRef<OsStr>) -> Self {
        self.unset(option).option(option, Some(value.as_ref()))
    }

    /// With one more value of an option that can be given several times.
    pub fn and(self, option: &str, value: impl AsRef<OsStr>) -> Self {
        self.option(option, Some(value.as_ref()))
    }

    /// With an option that takes no value.
    pub fn set_flag(self, option: &str) -> Self {
        self.option(option, None)
    }

    /// With a variable in its environment.
    pub fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.into(), value.as_ref().into()));
        self
    }

    /// Without an option.
    pub fn unset(mut self, option: &str) -> Self {
        self.options.retain(|(name, _)| name != option);
        self
    }

    /// On a host of a network, instead of this machine.
    pub fn on(self, host: &Host) -> Self {
        self.under(["ip", "netns", "exec", host.namespace()])
    }

    /// Run by a program that becomes it, so that the process is the same.
    pub fn under<'a>(self, words: impl IntoIterator<Item = &'a str>) -> Self {
        Self { under: words.into_iter().map(OsString::from).collect(), ..self }
    }

    /// By a build of the program that is linked dynamically, so that a library can be loaded before
    /// its own.
    pub fn dynamic(self) -> Self {
        Self { program: env::dynamic_trawl(), ..self }
    }

    /// With another verb.
    pub(crate) fn verb(mut self, verb: &str) -> Self {
        self.words[0] = verb.into();
        self
    }

    /// With another limit than two minutes.
    pub fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    fn option(mut self, option: &str, value: Option<&OsStr>) -> Self {
        self.options.push((option.into(), value.map(OsStr::to_owned)));
        self
    }

    /// Starts it in a folder, with a file for all that it would print.
    ///
    /// # Panics
    /// If the file cannot be made.
    pub fn start_on(&self, folder: &Path, log: &Path) -> Running {
        let log = fs::File::create(log).unwrap();
        let streams = [log.try_clone().unwrap(), log].map(Stdio::from);
        self.spawn(folder, streams)
    }

    /// Starts it.
    ///
    /// It gets a proxy from its environment that does not answer, because it must not use it.
    pub fn start(&self) -> Running {
        self.spawn(&self.folder, [Stdio::piped(), Stdio::piped()])
    }

    fn spawn(&self, folder: &Path, [stdout, stderr]: [Stdio; 2]) -> Running {
        let line = self.under.iter().map(OsString::as_os_str).chain([self.program.as_os_str()]);
        let line: Vec<_> = line.chain(self.words.iter().map(OsString::as_os_str)).collect();
        let mut program = Program::new(line[0]);
        program.args(&line[1..]);
        for (name, value) in &self.options {
            program.arg(name).args(value);
        }
        let dead = "http://127.0.0.1:9";
        for name in VARIABLES {
            program.env_remove(name);
        }
        let mut child = program
            .envs(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].map(|name| (name, dead)))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = Output::read(child.stdout.take());
        let stderr = Output::read(child.stderr.take());
        Running { child, stdout, stderr, limit: self.limit, what: self.to_string() }
    }

    /// Starts it and waits for its end.
    ///
    /// # Panics
    /// If it takes too long, or panics itself.
    pub async fn done(&self) -> Ended {
        self.start().done().await
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "trawl")?;
        let options = self.options.iter().flat_map(|(name, value)| [Some(name), value.as_ref()]);
        for word in self.words.iter().chain(options.flatten()) {
            write!(f, " {}", word.to_string_lossy())?;
        }
        Ok(())
    }
}

impl Output {
    /// Nothing, if it goes to a file.
    fn read(stream: Option<impl AsyncReadExt + Unpin + Send + 'static>) -> Self {
        let (tell, text) = watch::channel(String::new());
        let reader = tokio::spawn(async move {
            let Some(mut stream) = stream else { return };
            let mut bytes = Vec::new();
            // What was printed before a pipe broke is all there is.
            while stream.read_buf(&mut bytes).await.is_ok_and(|length| length > 0) {
                tell.send_replace(String::from_utf8_lossy(&bytes).into_owned());
            }
        });
        Self { text, reader }
    }

    async fn whole(self) -> String {
        self.reader.await.unwrap();
        self.text.borrow().clone()
    }
}

impl Running {
    /// Ctrl-C.
    pub fn interrupt(&self) {
        self.signal("INT");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// SIGTERM to a master or worker, which then ends by itself.
    ///
    /// # Panics
    /// If that takes more than ten seconds, or its exit code is not 0.
    pub async fn stops(self) -> Ended {
        self.terminate();
        self.ends().await
    }

    /// The end of a master or worker that was sent SIGTERM.
    ///
    /// # Panics
    /// As [`Running::stops`].
    pub async fn ends(mut self) -> Ended {
        self.limit = secs(10);
        self.done().await.expect(0)
    }

    /// SIGSTOP: it stands still, as on a machine that swaps or sleeps.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT: it goes on where it stood.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// `kill -9` to a process that it has started, whose command line has this in it.
    ///
    /// # Panics
    /// If there is none.
    pub fn kill_child(&self, word: &str) {
        let pid = self.child.id().expect("it is still running");
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let children = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")));
        let children: Vec<_> = children.map(Result::unwrap).collect();
        let is_it = |child: &&str| {
            let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|arg| arg == word.as_bytes())
        };
        let child = children.iter().flat_map(|list| list.split_whitespace()).find(is_it);
        send("KILL", child.unwrap_or_else(|| panic!("{} has no child {word}", self.what)));
    }

    /// The most bytes of memory that it has had so far.
    ///
    /// # Panics
    /// If it has ended.
    pub fn memory_peak(&self) -> u64 {
        let pid = self.child.id().expect("it is still running");
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn signal(&self, name: &str) {
        send(name, &self.child.id().expect("it is still running").to_string());
    }

    /// Waits for a whole line on standard error with this in it, and returns it.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn says_line(&self, part: &str, limit: Duration) -> String {
        let mut text = self.stderr.text.clone();
        let find = |text: &str| {
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            whole.map(str::trim_end).find(|line| line.contains(part)).map(str::to_owned)
        };
        let said = timeout(limit, text.wait_for(|text| find(text).is_some())).await;
        let line = said.ok().and_then(|text| find(&text.ok()?));
        line.unwrap_or_else(|| {
            panic!("{} should say {part:?}, but: {}", self.what, *self.stderr.text.borrow())
        })
    }

    /// `kill -9`, and its end.
    pub async fn kill(mut self) -> Ended {
        self.child.start_kill().unwrap();
        self.done().await
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it takes too long, or panics itself.
    pub async fn done(mut self) -> Ended {
        let status = timeout(self.limit, self.child.wait()).await;
        if status.is_err() {
            self.child.start_kill().unwrap();
        }
        let ended = Ended {
            code: status.as_ref().ok().and_then(|status| status.as_ref().unwrap().code()),
            stdout: self.stdout.whole().await,
            stderr: self.stderr.whole().await,
            what: self.what,
        };
        assert!(status.is_ok(), "not done within {:?}: {ended}", self.limit);
        assert!(!ended.stderr.contains("panicked"), "it panicked: {ended}");
        assert!(
            !ended.stderr.contains('\u{1b}'),
            "it writes for a terminal, but is in a pipe: {ended}"
        );
        ended
    }
}

fn send(signal: &str, pid: &str) {
    let kill = format!("kill -{signal} \"$0\"");
    let sent = process::Command::new("sh").args(["-c", &kill, pid]).status();
    assert!(sent.unwrap().success(), "the signal could not be sent");
}

impl Ended {
    /// That it ended with this exit code.
    ///
    /// # Panics
    /// If not, with all it printed.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// That it said each of these, in its messages or in its summary.
    ///
    /// # Panics
    /// If not, with all it printed.
    #[track_caller]
    pub fn says<'a>(self, parts: impl IntoIterator<Item = &'a str>) -> Self {
        for part in parts {
            let is_said = self.stderr.contains(part) || self.stdout.contains(part);
            assert!(is_said, "it should say {part:?}: {self}");
        }
        self
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, stdout, stderr, what } = self;
        write!(f, "{what}\nexit code {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}
