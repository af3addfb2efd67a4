//! Printing a stored page, from a data directory or from a master that runs.

use std::io::Write;

use clap::{Args, ValueEnum};
use tonic::Status;
use trawl_master::{
    archive::{Archive, ArchiveError, Found},
    pages::StoredPage,
};
use trawl_proto::v1::{PagePart, PageRequest, page_part::Part};
use trawl_shared::{
    untrusted::{Untrusted, printable_json},
    url::CrawlUrl,
    warc::{Lengths, RECORD_BYTES_MAX},
};

use crate::{
    exit::{Exit, Failure},
    operate::Operator,
    render,
    roles::runtime,
    source::{Source, SourceArgs, Unreceived},
};

#[derive(Args, Debug)]
pub(crate) struct PageArgs {
    /// The page's URL
    #[arg(value_name = "URL")]
    url: String,

    #[command(flatten)]
    source: SourceArgs,

    /// What of the page to print
    #[arg(long, value_enum, default_value = "body")]
    show: ShowOption,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ShowOption {
    /// The body, decompressed, otherwise as it was served; on a terminal control characters and
    /// escapes are spelled out
    Body,
    /// The status line and the headers of the answer
    Headers,
    /// What the export to JSON lines says of it
    Json,
}

/// Prints a page.
pub(crate) fn page(args: &PageArgs) -> Result<Exit, Failure> {
    let url = CrawlUrl::parse(&args.url)
        .map_err(|error| Failure::usage(format!("\"{}\": {error}", Untrusted::new(&args.url))))?;
    let crawl = args.source.crawl.as_deref();
    let page = runtime()?.block_on(async {
        match args.source.open().await? {
            Source::Archive(archive) => from_archive(&archive, crawl, &url),
            Source::Master(master) => from_master(&master, crawl, &url).await,
        }
    })?;
    let mut out = render::out();
    match args.show {
        ShowOption::Body => {
            let meta = page.meta().map_err(ArchiveError::from)?;
            let body = page.body(&meta).map_err(ArchiveError::from)?;
            match render::is_seen() {
                true => out.write_all(&body)?,
                false => render::pipe().write_all(&body)?,
            }
        }
        ShowOption::Headers => {
            let response = page.response().map_err(ArchiveError::from)?;
            writeln!(out, "{}", Untrusted::new(&response.status_line))?;
            for (name, value) in &response.headers {
                let value = String::from_utf8_lossy(value);
                writeln!(out, "{}: {}", Untrusted::new(name), Untrusted::new(&value))?;
            }
        }
        ShowOption::Json => {
            let meta = page.meta().map_err(ArchiveError::from)?;
            let text = serde_json::to_string_pretty(&meta);
            let text = text.map_err(|error| Failure::new(Exit::Failed, error))?;
            writeln!(out, "{}", printable_json(&text))?;
        }
    }
    Ok(Exit::Done)
}

fn from_archive(
    archive: &Archive,
    crawl: Option<&str>,
    url: &CrawlUrl,
) -> Result<StoredPage, Failure> {
    let crawl = archive.crawl(crawl)?;
    match archive.find(&crawl, url)? {
        Found::Page(page) => Ok(page),
        Found::Unknown => Err(absent(url, "the crawl never heard of it")),
        Found::Pending => Err(absent(url, "it is still waiting to be fetched")),
        Found::Ended(detail) => Err(absent(url, &Untrusted::new(&detail).to_string())),
    }
}

fn absent(url: &CrawlUrl, why: &str) -> Failure {
    Failure::new(Exit::Failed, format!("there is no page {url}: {why}"))
}

async fn from_master(
    master: &Operator,
    crawl: Option<&str>,
    url: &CrawlUrl,
) -> Result<StoredPage, Failure> {
    let crawl = crawl.unwrap_or_default().to_owned();
    let request = PageRequest { url: url.as_str().to_owned(), crawl };
    let parts = master.ask(async |mut control| control.page(request).await).await;
    let mut parts = parts?;
    let (lengths, records) =
        read_parts(async || parts.message().await).await.map_err(|error| error.failure(master))?;
    Ok(StoredPage::received(records, lengths, &format!("what {} sent", master.url)))
}

/// Reads a page's records, which must be as long as was announced.
async fn read_parts(
    mut next: impl AsyncFnMut() -> Result<Option<PagePart>, Status>,
) -> Result<(Lengths, Vec<u8>), Unreceived> {
    let first = next().await?.and_then(|part| part.part);
    let Some(Part::Lengths(lengths)) = first else {
        return Err(Unreceived::NotWhole("it does not begin with its lengths"));
    };
    let lengths = Lengths {
        response: lengths.response,
        request: lengths.request,
        metadata: lengths.metadata,
    };
    if lengths.total() > RECORD_BYTES_MAX {
        return Err(Unreceived::NotWhole("it is longer than any page"));
    }
    let mut records = Vec::new();
    while let Some(part) = next().await? {
        let Some(Part::Chunk(chunk)) = part.part else {
            return Err(Unreceived::NotWhole("a part of it has no bytes"));
        };
        records.extend_from_slice(&chunk);
        if records.len() as u64 > lengths.total() {
            return Err(Unreceived::NotWhole("it is longer than it says"));
        }
    }
    if records.len() as u64 != lengths.total() {
        return Err(Unreceived::NotWhole("it is shorter than it says"));
    }
    Ok((lengths, records))
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

#[cfg(test)]
mod tests {
    use trawl_proto::v1::RecordLengths;

    use super::*;

    const LENGTHS: Part = Part::Lengths(RecordLengths { response: 3, request: 2, metadata: 1 });

    fn chunk(bytes: &'static [u8]) -> Part {
        Part::Chunk(bytes.into())
    }

    async fn read(parts: Vec<Part>) -> Result<(Lengths, Vec<u8>), Unreceived> {
        let mut parts = parts.into_iter();
        read_parts(async || Ok(parts.next().map(|part| PagePart { part: Some(part) }))).await
    }

    #[tokio::test]
    async fn a_page_is_whole_when_it_is_as_long_as_it_says() {
        let (lengths, records) = read(vec![LENGTHS, chunk(b"abcd"), chunk(b"ef")]).await.unwrap();
        assert_eq!(lengths, Lengths { response: 3, request: 2, metadata: 1 });
        assert_eq!(records, b"abcdef");
    }

    #[tokio::test]
    async fn a_page_of_another_length_is_not_whole() {
        let huge = RecordLengths { response: u32::MAX, request: 2, metadata: 1 };
        for (parts, why) in [
            (vec![], "begin"),
            (vec![chunk(b"abcdef")], "begin"),
            (vec![LENGTHS], "shorter"),
            (vec![LENGTHS, chunk(b"abcde")], "shorter"),
            (vec![LENGTHS, chunk(b"abcde"), chunk(b"fg")], "longer than it says"),
            (vec![LENGTHS, LENGTHS], "no bytes"),
            (vec![Part::Lengths(huge)], "longer than any"),
        ] {
            let error = read(parts).await.unwrap_err();
            assert!(format!("{error:?}").contains(why), "{error:?}");
        }
    }
}
