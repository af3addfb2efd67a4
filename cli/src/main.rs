//! trawl, a distributed web crawler: the one program. It reads the command line,
//! calls, prints, and chooses the exit code; nothing else is decided here.

mod certs;
mod check;
mod connect;
mod crawl;
mod data;
mod exit;
mod export;
mod operate;
mod options;
mod page;
mod render;
mod repair;
mod roles;
mod selftest;
mod source;
mod tables;
mod toml_error;
mod verify;
mod walk;

use std::{io::ErrorKind, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::exit::{Exit, Failure};

/// A web crawler that loses nothing, fetches nothing twice, and hurts no site.
#[derive(Debug, Parser)]
#[command(name = "trawl", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Write logs as JSON, one object a line. What is logged is chosen by the
    /// environment variable TRAWL_LOG, such as TRAWL_LOG=info [default: warn]
    #[arg(long, global = true)]
    log_json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Crawl from one or more URLs, or go on with a crawl that was interrupted
    Crawl(Box<crawl::CrawlArgs>),
    /// Run a master: it keeps the crawls, and lends URLs to workers
    Master(roles::MasterArgs),
    /// Run a worker for a master: it fetches, parses and reports
    Worker(roles::WorkerArgs),
    #[command(flatten)]
    Operate(operate::Verb),
    /// Write a crawl's pages as JSON lines, WARC, CDXJ or BSON
    Export(export::ExportArgs),
    /// Print a stored page
    Page(page::PageArgs),
    /// Prove that a data directory is as it should be, also while it is in use: frontier,
    /// counts and pages
    Verify(verify::VerifyArgs),
    /// Mend a data directory that nothing uses: the index from the pages, the counts from
    /// the rows
    Repair(repair::RepairArgs),
    /// Write the frontier of a data directory to a file, also while it is in use
    Dump(data::DumpArgs),
    /// Make a data directory of a dump, and of the pages that belong to it
    Load(data::LoadArgs),
    /// Make a small authority, and certificates for a master and its workers
    Certs(certs::CertsArgs),
    /// Make a token for a master and those who call it
    Token(certs::TokenArgs),
    /// Ask what would be decided about a URL
    #[command(subcommand)]
    Check(check::Check),
    /// Try a crawl on this machine whose master and workers are killed at random, and see whether
    /// every page came through; exit code 0 if so, 7 if not
    Selftest(selftest::SelftestArgs),
    /// Ask a master whether it serves; exit code 0 if so
    Health(roles::HealthArgs),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error).into(),
    };
    let ended = trawl_shared::telemetry::start(cli.log_json).map_err(Failure::usage).and_then(
        |()| match cli.command {
            Command::Crawl(args) => crawl::run(*args),
            Command::Master(args) => roles::master(args),
            Command::Worker(args) => roles::worker(args),
            Command::Operate(verb) => verb.run(),
            Command::Export(args) => export::export(&args),
            Command::Page(args) => page::page(&args),
            Command::Verify(args) => verify::verify(&args),
            Command::Repair(args) => repair::repair(&args),
            Command::Dump(args) => data::dump(&args),
            Command::Load(args) => data::load(&args),
            Command::Certs(args) => certs::certs(&args),
            Command::Token(args) => certs::token(&args),
            Command::Check(asked) => check::check(&asked),
            Command::Selftest(args) => selftest::selftest(&args),
            Command::Health(args) => roles::health(&args),
        },
    );
    ended
        .unwrap_or_else(|failure: Failure| {
            if failure.exit != Exit::Done {
                render::error(&failure.message);
            }
            failure.exit
        })
        .into()
}

/// What there is to say of a command line that asks for help, or is wrong. What was typed may
/// come from anywhere, so that our own printing says it.
fn not_parsed(error: &clap::Error) -> Exit {
    if error.use_stderr() {
        render::say(error.render().to_string().trim_end());
        return Exit::Usage;
    }
    // Without a reader there is nothing to be done.
    let _ = error.print();
    Exit::Done
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // The reader of our output has had enough.
            ErrorKind::BrokenPipe => Self::new(Exit::Done, ""),
            ErrorKind::StorageFull => Self::new(Exit::DiskFull, error),
            _ => Self::new(Exit::Failed, error),
        }
    }
}
