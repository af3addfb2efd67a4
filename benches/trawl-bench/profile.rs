//! Where CPU time goes: one crawl of the real sites and one run of their floor,
//! under `perf`, with the samples summed up by what they were taken in.
//!
//! A sample is a stack of functions. In the kernel it counts for what the kernel
//! was asked for; outside of it for the first function, from the innermost out,
//! that a rule names, so that `memcpy` and `malloc` count for whoever called them.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use clap::Args;
use tempfile::TempDir;

use crate::{
    Failure,
    crawls::{Counts, MASTERS_THREADS, Trawl},
    plan,
    sites::Sites,
};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    places: plan::Places,

    /// Where to leave the crawl's stacks, as `perf script` prints them
    #[arg(long, value_name = "FILE")]
    stacks: Option<PathBuf>,
}

/// Samples a second of CPU time.
const SAMPLES_PER_S: u32 = 1_997;

/// Functions by which the kernel is entered.
const KERNEL_ENTRIES: [&str; 2] = ["entry_SYSCALL", "asm_exc"];

/// What the kernel was asked for, by parts of the names of any of its functions in
/// the stack; the first rule that fits counts.
const KERNEL_RULES: [(&str, &[&str]); 5] = [
    ("kernel: sync to disk", &["fsync", "fdatasync", "sync_file_range"]),
    ("kernel: sockets", &["__sys_send", "__sys_recv", "sock_", "tcp_", "inet_", "__sys_connect"]),
    ("kernel: files", &["vfs_", "ext4_", "ksys_", "do_sys_open"]),
    ("kernel: waiting and waking", &["epoll", "futex", "eventfd", "nanosleep", "sched_yield"]),
    ("kernel: memory", &["exc_page_fault", "madvise", "mmap", "munmap", "brk", "mprotect"]),
];

/// What else a sample belongs to, by parts of a function's name.
const RULES: [(&str, &[&str]); 14] = [
    ("links: lol_html", &["lol_html"]),
    ("gzip", &["zlib_rs", "flate2", "crc32", "MemberWriter"]),
    ("URLs: join and canonical form", &["url::", "idna", "percent_encoding", "CrawlUrl"]),
    ("digests", &["sha1"]),
    ("text: charset", &["encoding_rs", "chardetng", "charset", "prescan", "utf8"]),
    ("links: around lol_html", &["parse::", "html5gum", "cssparser", "selectors"]),
    ("page's JSON", &["serde_json", "PageMeta", "serde"]),
    ("WARC records, account", &["record::", "warc::", "account::"]),
    ("store: sled", &["sled", "crossbeam_epoch"]),
    ("frontier and commits", &["trawl_master"]),
    ("messages: protobuf, gRPC", &["prost", "tonic", "trawl_proto", "h2::"]),
    (
        "fetch: reqwest, hyper",
        &["hyper", "reqwest", "httparse", "tower", "trawl_worker::fetch", "http::"],
    ),
    ("worker's lanes and loops", &["trawl_worker", "trawl_shared", "moka"]),
    ("runtime: tokio", &["tokio", "mio::", "std::thread"]),
];

const OTHER: &str = "other";

/// Functions shown of what no rule names.
const OTHERS_SHOWN: usize = 5;

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let sites = Sites::serve(&options.places.test_env)?;
    let trawl = Trawl { program: options.places.trawl.clone() };
    let folder = TempDir::with_prefix("trawl-bench-")?;
    let data = folder.path().join("data");
    let crawl = trawl.crawl(&plan::real_sites_job(&sites), &data);
    let (said, crawl) = recorded(&crawl, folder.path())?;
    let pages = Counts::of_summary(&said)?.pages;
    let urls = folder.path().join("urls");
    trawl.urls(&data, &urls)?;
    let (_, floor) = recorded(&plan::floor_command(&urls)?, folder.path())?;
    if let Some(path) = &options.stacks {
        fs::write(path, &crawl)?;
    }
    println!("{}", summed_up(&floor, &crawl, pages));
    Ok(())
}

/// Runs a program under `perf`; what it printed, and its samples' stacks.
fn recorded(command: &Command, folder: &Path) -> Result<(String, String), Failure> {
    let data = folder.join("perf.data");
    let recorded = Command::new("perf")
        .args(["record", "--quiet", "--event", "cpu-clock", "--freq", &SAMPLES_PER_S.to_string()])
        .args(["--call-graph", "dwarf,16384", "--output"])
        .arg(&data)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .map_err(|error| format!("perf (Debian's linux-perf) could not be started: {error}"))?;
    if !recorded.status.success() {
        let said = String::from_utf8_lossy(&recorded.stderr);
        return Err(format!("perf record failed: {}\n{said}", recorded.status).into());
    }
    let stacks = Command::new("perf")
        .args(["script", "--no-inline", "--fields", "comm,ip,sym", "--input"])
        .arg(&data)
        .output()?;
    fs::remove_file(&data)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&recorded.stdout), text(&stacks.stdout)))
}

/// Who a sample counts for: the columns of the table.
const COLUMNS: [&str; 3] = ["the floor", "the worker's threads", "the master's threads"];

/// Microseconds a page by component, in the floor and in a crawl.
fn summed_up(floor: &str, crawl: &str, pages: u64) -> String {
    let mut components: BTreeMap<&str, [f64; COLUMNS.len()]> = BTreeMap::new();
    let mut others: BTreeMap<&str, f64> = BTreeMap::new();
    let sample = 1e6 / (f64::from(SAMPLES_PER_S) * pages as f64);
    for (stacks, is_floor) in [(floor, true), (crawl, false)] {
        for stack in stacks.split("\n\n") {
            let mut lines = stack.trim_matches('\n').lines();
            let Some(thread) = lines.next().map(str::trim) else { continue };
            // A line of a stack is an address and a function.
            let functions = lines.filter_map(|line| line.trim().split_once(' '));
            let functions: Vec<&str> = functions.map(|(_, function)| function).collect();
            let component = component(&functions);
            if component == OTHER {
                *others.entry(functions.first().copied().unwrap_or("?")).or_default() += sample;
            }
            let is_masters = MASTERS_THREADS.iter().any(|name| thread.starts_with(name));
            let column = if is_floor { 0 } else { 1 + usize::from(is_masters) };
            components.entry(component).or_default()[column] += sample;
        }
    }
    let mut text = format!("Microseconds of CPU time a page, {pages} pages.\n\n| component |");
    for column in COLUMNS {
        // Writing to a string does not fail.
        let _ = write!(text, " {column} |");
    }
    text.push_str(&format!("\n| --- |{}\n", " ---: |".repeat(COLUMNS.len())));
    let mut all = [0.0; COLUMNS.len()];
    for times in components.values() {
        all.iter_mut().zip(times).for_each(|(all, time)| *all += time);
    }
    let mut rows: Vec<_> = components.iter().collect();
    rows.sort_by(|(_, a), (_, b)| b.iter().sum::<f64>().total_cmp(&a.iter().sum()));
    for (component, times) in rows.into_iter().chain([(&"all", &all)]) {
        let times: String = times.iter().map(|time| format!(" {time:.1} |")).collect();
        let _ = writeln!(text, "| {component} |{times}");
    }
    let mut others: Vec<_> = others.into_iter().collect();
    others.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    for (function, time) in others.into_iter().take(OTHERS_SHOWN) {
        let _ = writeln!(text, "\n{OTHER}: {time:.2} {function}");
    }
    text
}

fn component(functions: &[&str]) -> &'static str {
    let is_any = |function: &str, parts: &[&str]| parts.iter().any(|part| function.contains(part));
    // What an interrupt did is not the doing of what it interrupted.
    let interrupted = functions.iter().rposition(|function| function.contains("asm_sysvec"));
    let functions = &functions[interrupted.map_or(0, |at| at + 1)..];
    if let Some(entry) = functions.iter().position(|function| is_any(function, &KERNEL_ENTRIES)) {
        let kernel = &functions[..=entry];
        let rule = KERNEL_RULES
            .iter()
            .find(|(_, parts)| kernel.iter().any(|function| is_any(function, parts)));
        return rule.map_or("kernel: other", |(name, _)| name);
    }
    let rule = |function: &&str| RULES.iter().find(|(_, parts)| is_any(function, parts));
    functions.iter().find_map(rule).map_or(OTHER, |(name, _)| name)
}
