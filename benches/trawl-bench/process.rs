//! A program that is measured: started, watched while it runs, and waited for.
//!
//! CPU time is what the kernel tells of the process and its children when it is
//! waited for (`wait4`), so nothing is missed. Peak memory and the CPU time of
//! single threads are read from `/proc` while it runs, every [`LOOK`].

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;
use wait4::{ResUse, Wait4};

use crate::Failure;

/// Between two looks at a process.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// How long a program that was asked to stop may take before it is killed.
const STOP_MAX: Duration = Duration::from_secs(20);

/// A program that runs. Killed when dropped.
pub(crate) struct Running {
    /// None once it was waited for.
    child: Option<Child>,
    /// Once it has ended.
    ended: Option<ResUse>,
    name: String,
    output: PathBuf,
    started: Instant,
    seen: Seen,
}

/// What was read while it ran.
#[derive(Default)]
struct Seen {
    memory_peak: u64,
    /// CPU seconds by thread number, with the thread's name.
    threads: BTreeMap<String, (String, f64)>,
}

/// What it has cost.
#[derive(Debug)]
pub(crate) struct Cost {
    /// Seconds from its start to its end.
    pub(crate) wall: f64,
    /// CPU seconds, in user mode and in the system.
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// Bytes, of the process itself.
    pub(crate) memory_peak: u64,
    /// CPU seconds by the threads' names; a look too little.
    threads: BTreeMap<String, f64>,
    /// What it printed.
    pub(crate) stdout: String,
}

impl Cost {
    pub(crate) fn cpu(&self) -> f64 {
        self.user + self.system
    }

    /// CPU seconds of the threads whose name begins with one of `names`.
    pub(crate) fn threads(&self, names: &[&str]) -> f64 {
        let ours = |name: &str| names.iter().any(|prefix| name.starts_with(prefix));
        self.threads.iter().filter(|(name, _)| ours(name)).map(|(_, cpu)| cpu).sum()
    }
}

impl Running {
    /// Starts `command`. What it prints goes to files in `folder`.
    pub(crate) fn start(command: &mut Command, folder: &Path) -> Result<Self, Failure> {
        let program = command.get_program().to_owned();
        let program = Path::new(&program).file_name().unwrap_or(&program).to_string_lossy();
        let mut number = 0;
        let output = loop {
            let path = folder.join(format!("{program}-{number}.out"));
            if !path.exists() {
                break path;
            }
            number += 1;
        };
        let errors = output.with_extension("err");
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(&errors)?)
            .spawn()
            .map_err(|error| format!("{program} could not be started: {error}"))?;
        let (name, started) = (program.into_owned(), Instant::now());
        Ok(Self { child: Some(child), ended: None, name, output, started, seen: Seen::default() })
    }

    /// Waits until it ends by itself; fails if it takes longer than `limit`, or
    /// ends with another code than 0.
    pub(crate) fn finish(self, limit: Duration) -> Result<Cost, Failure> {
        self.finish_with(limit, &[0])
    }

    /// Likewise, where other exit codes are good, too.
    pub(crate) fn finish_with(mut self, limit: Duration, codes: &[i32]) -> Result<Cost, Failure> {
        let ended = self.wait(limit)?;
        if !ended.status.code().is_some_and(|code| codes.contains(&code)) {
            return Err(format!("{} failed: {}\n{}", self.name, ended.status, self.said()).into());
        }
        self.cost(&ended)
    }

    /// Asks it to stop and waits; its exit code does not matter.
    pub(crate) fn stop(mut self) -> Result<Cost, Failure> {
        self.look();
        self.signal(Signal::TERM)?;
        let ended = self.wait(STOP_MAX)?;
        self.cost(&ended)
    }

    /// Looks at it, while something else is waited for. Fails if it has ended.
    pub(crate) fn is_well(&mut self) -> Result<(), Failure> {
        if self.is_running()? {
            return Ok(());
        }
        Err(format!("{} has ended\n{}", self.name, self.said()).into())
    }

    /// Looks at it, and says whether it still runs.
    pub(crate) fn is_running(&mut self) -> Result<bool, Failure> {
        self.look();
        if let Some(child) = &mut self.child {
            self.ended = child.try_wait4()?;
            if self.ended.is_some() {
                self.child = None;
            }
        }
        Ok(self.child.is_some())
    }

    fn wait(&mut self, limit: Duration) -> Result<ResUse, Failure> {
        let deadline = Instant::now() + limit;
        while self.is_running()? {
            if Instant::now() >= deadline {
                let said = self.said();
                return Err(format!("{} took more than {limit:?}\n{said}", self.name).into());
            }
            thread::sleep(LOOK);
        }
        Ok(self.ended.ok_or("it never ran")?)
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.child {
            Some(child) => Ok(kill_process(Pid::from_child(child), signal)?),
            None => Ok(()),
        }
    }

    fn cost(&self, ended: &ResUse) -> Result<Cost, Failure> {
        let mut threads = BTreeMap::new();
        for (name, cpu) in self.seen.threads.values() {
            *threads.entry(name.clone()).or_default() += cpu;
        }
        Ok(Cost {
            wall: self.started.elapsed().as_secs_f64(),
            user: ended.rusage.utime.as_secs_f64(),
            system: ended.rusage.stime.as_secs_f64(),
            memory_peak: self.seen.memory_peak,
            threads,
            stdout: fs::read_to_string(&self.output)?,
        })
    }

    /// The end of what it said on standard error.
    fn said(&self) -> String {
        let said = fs::read(self.output.with_extension("err")).unwrap_or_default();
        String::from_utf8_lossy(&said[said.len().saturating_sub(2_000)..]).into_owned()
    }

    /// Reads what `/proc` tells. What has ended meanwhile tells nothing.
    fn look(&mut self) {
        let Some(child) = &self.child else { return };
        let process = PathBuf::from(format!("/proc/{}", child.id()));
        let status = fs::read_to_string(process.join("status")).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
        self.seen.memory_peak = self.seen.memory_peak.max(kib.unwrap_or(0) * 1024);
        let Ok(tasks) = fs::read_dir(process.join("task")) else { return };
        for task in tasks.flatten() {
            let read = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let on_cpu = read("schedstat");
            let nanos = on_cpu.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok());
            if let Some(nanos) = nanos {
                let number = task.file_name().to_string_lossy().into_owned();
                let name = read("comm").trim().to_owned();
                self.seen.threads.insert(number, (name, nanos / 1e9));
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
