//! What trawl costs, measured beside what it could cost at best and what another
//! crawler costs: on real sites, on a synthetic web of many hosts, and on one of
//! slow hosts with one to eight workers; and what its frontier does alone.
//!
//! `benches/run` builds and fetches what this needs and starts it. Programs that
//! are compared take turns, so that a busy machine is busy for all of them.
//! Results go to standard output as Markdown tables and to a file as JSON.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is a program for people")]

mod plan;

mod machine;

mod process;

mod sites;

mod synthetic;

mod crawls;

mod wget2;

mod floor;

mod frontier;

mod table;

mod profile;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Whatever ends a measurement, told to a person.
type Failure = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
#[command(about = "Measures trawl beside its floor and wget2")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the measurements
    Run(plan::Options),
    /// Sum up where the CPU time of a crawl of the real sites goes, by perf
    Profile(profile::Options),
    /// (for itself) Fetch and take apart every URL of a file, as the floor
    #[command(hide = true)]
    Floor { urls: PathBuf, lanes: usize },
    /// (for itself) Measure the frontier alone
    #[command(hide = true)]
    Frontier { urls: usize, folder: PathBuf },
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Run(options) => plan::run(&options),
        Verb::Profile(options) => profile::run(&options),
        Verb::Frontier { urls, folder } => print_json(frontier::run(urls, &folder)),
        Verb::Floor { urls, lanes } => print_json(floor::run(&urls, lanes)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints what a part that runs in a process of its own has found.
fn print_json(found: Result<impl serde::Serialize, Failure>) -> Result<(), Failure> {
    println!("{}", serde_json::to_string(&found?)?);
    Ok(())
}
