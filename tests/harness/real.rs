//! The real sites: served while a test runs, and what the oracle says of them.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use serde::Deserialize;
use sha1::{Digest, Sha1};

use crate::{env, tools};

/// A real site, served on loopback.
#[derive(Clone, Debug, Deserialize)]
pub struct RealSite {
    /// Its name in `sites.toml`.
    pub name: String,
    /// Where a crawl of it starts.
    pub seed: String,
    version: String,
}

/// Ends when this process does, because its input then ends.
static SERVER: OnceLock<Child> = OnceLock::new();

/// All real sites, being served from now on.
///
/// # Panics
/// If they cannot be served.
pub fn sites() -> Vec<RealSite> {
    SERVER.get_or_init(|| {
        let mut server = Command::new(env::tests().join("sites/serve"))
            .arg(env::folder().join("sites"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the real sites could not be served");
        server
    });
    laid()
}

/// All real sites, whether or not they are being served.
pub(crate) fn laid() -> Vec<RealSite> {
    let path = env::folder().join("sites/sites.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// One of them.
///
/// # Panics
/// If there is none of this name, or they cannot be served.
pub fn site(name: &str) -> RealSite {
    let found = sites().into_iter().find(|site| site.name == name);
    found.unwrap_or_else(|| panic!("no site {name} in sites.toml"))
}

impl RealSite {
    /// The address and port that it is served at.
    pub(crate) fn address(&self) -> &str {
        let rest = self.seed.strip_prefix("http://").expect("it is served without TLS");
        rest.split('/').next().unwrap_or(rest)
    }

    /// The oracle's account of it. It is made once for each version of the site and of the oracle.
    ///
    /// # Panics
    /// If the oracle fails.
    pub fn oracle(&self, depth: Option<u32>) -> PathBuf {
        let script = fs::read(env::tests().join("sites/oracle.py")).unwrap();
        let script: String =
            Sha1::digest(&script).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let depth = depth.map(|depth| depth.to_string());
        let name = format!(
            "{}-{}-{script}-{}",
            self.name,
            self.version,
            depth.as_deref().unwrap_or("all")
        );
        let folder = env::folder().join("oracle");
        let account = folder.join(format!("{name}.jsonl"));
        if !account.exists() {
            fs::create_dir_all(&folder).unwrap();
            // Under another name until it is whole; one of several that make it at once wins.
            let unfinished = tempfile::Builder::new().prefix(&name).tempfile_in(&folder).unwrap();
            let path = unfinished.path().to_string_lossy().into_owned();
            let mut args = vec![self.seed.as_str(), &path];
            if let Some(depth) = &depth {
                args.extend(["--max-depth", depth]);
            }
            tools::python("sites/oracle.py", args).ok();
            unfinished.persist(&account).unwrap();
        }
        account
    }
}
