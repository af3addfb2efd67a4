//! The real sites that `tests/setup` unpacks, served while a value lives.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde::Deserialize;

use crate::Failure;

/// The sites, and whoever serves them: it ends when its input does.
pub(crate) struct Sites {
    server: Child,
    pub(crate) seeds: Vec<String>,
}

#[derive(Deserialize)]
struct Site {
    seed: String,
}

impl Sites {
    /// Serves the sites that are unpacked in the folder of the tests' environment.
    pub(crate) fn serve(test_env: &Path) -> Result<Self, Failure> {
        let folder = test_env.join("sites");
        let list = folder.join("sites.json");
        let list = fs::read(&list).map_err(|error| {
            format!("{}: {error}; tests/setup unpacks the real sites", list.display())
        })?;
        let list: Vec<Site> = serde_json::from_slice(&list)?;
        let serve = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/sites/serve");
        let mut server = Command::new(serve)
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        if let Some(stdout) = server.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        let seeds = list.into_iter().map(|site| site.seed).collect();
        let sites = Self { server, seeds };
        if said != "ready\n" {
            return Err("the real sites could not be served".into());
        }
        Ok(sites)
    }
}

impl Drop for Sites {
    fn drop(&mut self) {
        drop(self.server.stdin.take());
        let _ = self.server.wait();
    }
}
