//! What figures were measured on, and of what.

use std::{fs, path::Path, process::Command};

use serde::Serialize;
use trawl_shared::clock::wall_now;

use crate::Failure;

#[derive(Serialize)]
pub(crate) struct Machine {
    /// When this was, in UTC.
    at: String,
    trawl: String,
    /// What was last committed where this was started; empty outside of git.
    commit: String,
    cores: usize,
    processor: String,
    memory_gib: u64,
    system: String,
    /// Processes that wanted to run, over the last minute: others' at the start.
    load: f64,
}

impl Machine {
    pub(crate) fn look(trawl: &Path) -> Result<Self, Failure> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name| {
            let line = text.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_once(':'))
                .map_or("", |(_, value)| value.trim())
                .to_owned()
        };
        let said = |command: &mut Command| {
            let output = command.output().map(|output| output.stdout).unwrap_or_default();
            String::from_utf8_lossy(&output).trim().to_owned()
        };
        let version = said(Command::new(trawl).arg("--version"));
        if version.is_empty() {
            return Err(format!("{} does not run: build it first", trawl.display()).into());
        }
        let kib = field(&read("/proc/meminfo"), "MemTotal");
        let kib: u64 = kib.trim_end_matches(" kB").parse().unwrap_or(0);
        let load = read("/proc/loadavg");
        Ok(Self {
            at: format!("{:.0}", wall_now()),
            trawl: version,
            commit: said(Command::new("git").args(["rev-parse", "--short", "HEAD"])),
            cores: std::thread::available_parallelism()?.get(),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            memory_gib: (kib + (1 << 19)) >> 20,
            system: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(f64::NAN),
        })
    }

    pub(crate) fn markdown(&self) -> String {
        let Self { at, trawl, commit, cores, processor, memory_gib, system, load } = self;
        format!(
            "{at}: {trawl} (commit {commit}) on {cores} cores ({processor}), {memory_gib} GiB, Linux \
             {system}, over loopback; load {load} at the start.\n\
             Medians, [least–most] where they differ. A page is an answer 2xx.\n"
        )
    }
}
