//! wget2 on the same seeds: it follows links and writes files, and no more.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Failure, process::Running, table::Run};

/// What it is called.
pub(crate) const WGET2: &str = "wget2, writes files";

/// Elements that it takes for links, and trawl does not follow.
const NO_LINKS: [&str; 15] = [
    "img", "link", "script", "frame", "iframe", "body", "object", "embed", "input", "form",
    "video", "audio", "source", "td", "table",
];

/// wget2, and where its libraries are.
pub(crate) struct Wget2 {
    program: PathBuf,
    libraries: Option<String>,
}

impl Wget2 {
    /// The one that was unpacked into `folder`, if there is one, or the system's.
    pub(crate) fn find(folder: &Path) -> Option<Self> {
        let unpacked = folder.join("usr/bin/wget2");
        let found = if unpacked.exists() {
            let libraries = folder.join("usr/lib");
            let paths = fs::read_dir(&libraries).ok()?.flatten().map(|entry| entry.path());
            let paths = paths.filter(|path| path.is_dir()).chain([libraries]);
            let paths: Vec<_> = paths.map(|path| path.to_string_lossy().into_owned()).collect();
            Self { program: unpacked, libraries: Some(paths.join(":")) }
        } else {
            Self { program: "wget2".into(), libraries: None }
        };
        found
            .command()
            .arg("--version")
            .output()
            .is_ok_and(|said| said.status.success())
            .then_some(found)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        command
    }

    /// Crawls the seeds' hosts as trawl does: links and image maps, no robots.txt.
    pub(crate) fn run(
        &self,
        seeds: &[String],
        folder: &Path,
        limit: Duration,
    ) -> Result<Run, Failure> {
        let stats = folder.join("stats.csv");
        let mut command = self.command();
        command
            .args(["--no-config", "-q", "-r", "-l", "inf", "--no-robots", "--tries=1"])
            .arg("--max-threads=32")
            // It would fetch what pages are made of, too.
            .arg(format!("--ignore-tags={}", NO_LINKS.join(",")))
            .arg(format!("--stats-site=csv:{}", stats.display()))
            .arg("-P")
            .arg(folder.join("files"))
            .args(seeds);
        // It ends with 8 as soon as one answer was an error.
        let running = Running::start(&mut command, folder)?;
        let cost = running.finish_with(limit, &[0, 8])?;
        let stats = fs::read_to_string(&stats)?;
        let pages =
            stats.lines().filter(|line| line.split(',').any(|field| field == "200")).count();
        Ok(Run::of(WGET2, pages as u64, &cost))
    }
}
