//! Printing a stored page.

use std::{
    io::{Write, stdout},
    path::PathBuf,
};

use clap::{Args, ValueEnum};
use trawl_master::archive::{Archive, ArchiveError, Found};
use trawl_shared::{untrusted::Untrusted, url::CrawlUrl};

use crate::exit::{Exit, Failure};

#[derive(Args, Debug)]
pub(crate) struct PageArgs {
    /// The page's URL
    #[arg(value_name = "URL")]
    url: String,

    /// The data directory of the crawl
    #[arg(long, value_name = "DIR", default_value = "trawl-data")]
    data: PathBuf,

    /// The crawl, if the data directory holds several
    #[arg(long, value_name = "NAME")]
    crawl: Option<String>,

    /// What of the page to print
    #[arg(long, value_enum, default_value = "body")]
    show: ShowOption,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShowOption {
    /// The body, decompressed, otherwise as it was served
    Body,
    /// The status line and the headers of the answer
    Headers,
    /// What the export to JSON lines says of it
    Json,
}

/// Prints a page.
pub(crate) fn page(args: &PageArgs) -> Result<Exit, Failure> {
    let url = CrawlUrl::parse(&args.url)
        .map_err(|error| Failure::usage(format!("\"{}\": {error}", Untrusted(&args.url))))?;
    let archive = Archive::open(&args.data)?;
    let crawl = archive.crawl(args.crawl.as_deref())?;
    let page = match archive.find(&crawl, &url)? {
        Found::Page(page) => page,
        Found::Unknown => return Err(absent(&url, "the crawl never heard of it")),
        Found::Pending => return Err(absent(&url, "it is still waiting to be fetched")),
        Found::Ended(detail) => return Err(absent(&url, &Untrusted(&detail).to_string())),
    };
    let mut out = stdout().lock();
    match args.show {
        ShowOption::Body => {
            let meta = page.meta().map_err(ArchiveError::from)?;
            out.write_all(&page.body(&meta).map_err(ArchiveError::from)?)?;
        }
        ShowOption::Headers => {
            let response = page.response().map_err(ArchiveError::from)?;
            writeln!(out, "{}", Untrusted(&response.status_line))?;
            for (name, value) in &response.headers {
                let value = String::from_utf8_lossy(value);
                writeln!(out, "{}: {}", Untrusted(name), Untrusted(&value))?;
            }
        }
        ShowOption::Json => {
            let meta = page.meta().map_err(ArchiveError::from)?;
            let text = serde_json::to_string_pretty(&meta);
            writeln!(out, "{}", text.map_err(|error| Failure::new(Exit::Failed, error))?)?;
        }
    }
    Ok(Exit::Done)
}

fn absent(url: &CrawlUrl, why: &str) -> Failure {
    Failure::new(Exit::Failed, format!("there is no page {url}: {why}"))
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        let exit = match error {
            ArchiveError::NoSuchCrawl { .. } | ArchiveError::WhichCrawl { .. } => Exit::Usage,
            _ => Exit::DataDir,
        };
        Self::caused(exit, &error)
    }
}
