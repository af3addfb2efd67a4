//! Pages on their way to those who ask for them: exports, and single pages.
//!
//! Promises: nothing here waits for the owner of the crawls, and nothing makes it
//! wait. A client that reads slowly slows its own export; one that has gone, or
//! reads nothing at all for long, ends it. What is held for a client is a few
//! chunks.

use std::{
    error::Error,
    fs::File,
    io::{self, ErrorKind},
    mem,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use trawl_proto::{
    CHUNK_BYTES,
    v1::{ExportDone, ExportPart, PagePart, RecordLengths, export_part, page_part},
};
use trawl_shared::url::CrawlUrl;

use crate::{
    export::{ExportError, Format, Output, Summary, export},
    pages::{CrawlPages, Place, ReadError, RecordError},
    store::rows::UrlState,
};

/// Exports that run at the same time. Each has a thread, and holds lines of an index
/// in memory.
const EXPORTS_MAX: usize = 4;

/// Chunks that wait for a client. While there are as many, its export stands still.
const CHUNKS_MAX: usize = 4;

/// The longest that an export stands still for a client that takes nothing.
const STALL_MAX: Duration = Duration::from_secs(10 * 60);

/// The answer to an export: chunks, then what they were.
pub type ExportStream = BoxStream<'static, Result<ExportPart, Status>>;

/// The answer to a question for a page: lengths, then chunks.
pub type PageStream = BoxStream<'static, Result<PagePart, Status>>;

/// What the exports of a master share; cheap to clone.
#[derive(Clone, Debug)]
pub struct Exports {
    permits: Arc<Semaphore>,
    tmp: PathBuf,
    stop: CancellationToken,
}

impl Exports {
    /// Exports that sort in `tmp`, and end when `stop` is cancelled.
    pub fn new(tmp: PathBuf, stop: CancellationToken) -> Self {
        Self { permits: Arc::new(Semaphore::new(EXPORTS_MAX)), tmp, stop }
    }

    /// Starts an export of these pages on a thread of its own.
    ///
    /// # Errors
    /// If there is no such format, or as many exports run already as may.
    pub fn start(&self, pages: CrawlPages, format: &str) -> Result<ExportStream, Status> {
        let format: Format = format.parse().map_err(Status::invalid_argument)?;
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{EXPORTS_MAX} exports are running, and more are not made at the same time; try \
                 again when one has ended"
            ))
        })?;
        let (chunks, waiting) = mpsc::channel(CHUNKS_MAX);
        let mut client =
            Client { chunks, next: BytesMut::with_capacity(CHUNK_BYTES), stop: self.stop.clone() };
        let Self { tmp, stop, .. } = self.clone();
        let work = spawn_blocking(move || {
            let _permit = permit;
            let summary = export(&pages, format, &mut client, &tmp)?;
            client.finish().map_err(ExportError::Output)?;
            tracing::info!(crawl = pages.name, %format, pages = summary.pages, "exported");
            Ok(summary)
        });
        let end = async move {
            match work.await {
                Ok(Ok(summary)) => Ok(export_part::Part::Done(done(summary))),
                Ok(Err(_)) if stop.is_cancelled() => {
                    Err(Status::unavailable("the master is stopping"))
                }
                Ok(Err(error)) => Err(export_failed(&error)),
                Err(error) => Err(Status::internal(format!("the export ended by itself: {error}"))),
            }
        };
        let chunks = ReceiverStream::new(waiting).map(|chunk| Ok(export_part::Part::Chunk(chunk)));
        let parts = chunks.chain(stream::once(end));
        Ok(parts.map(|part| part.map(|part| ExportPart { part: Some(part) })).boxed())
    }
}

/// Who an export is for, at the other end of a queue of chunks.
struct Client {
    chunks: mpsc::Sender<Bytes>,
    /// The chunk that is being filled.
    next: BytesMut,
    stop: CancellationToken,
}

impl Output for Client {
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = CHUNK_BYTES - self.next.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.next.extend_from_slice(now);
            bytes = later;
            if self.next.len() == CHUNK_BYTES {
                self.send()?;
            }
        }
        Ok(())
    }

    fn is_wanted(&self) -> bool {
        !self.chunks.is_closed() && !self.stop.is_cancelled()
    }
}

impl Client {
    /// Sends what is left, if anything is.
    fn finish(&mut self) -> io::Result<()> {
        if self.next.is_empty() { Ok(()) } else { self.send() }
    }

    /// Sends the chunk, as soon as there is room for it.
    fn send(&mut self) -> io::Result<()> {
        let next = BytesMut::with_capacity(CHUNK_BYTES);
        let chunk = mem::replace(&mut self.next, next).freeze();
        let sent = timeout(STALL_MAX, self.chunks.send(chunk));
        match Handle::current().block_on(self.stop.run_until_cancelled(sent)) {
            Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(_))) => Err(io::Error::new(ErrorKind::BrokenPipe, "the client has gone")),
            Some(Err(_)) => {
                let text = format!("the client took nothing for {} s", STALL_MAX.as_secs());
                Err(io::Error::new(ErrorKind::TimedOut, text))
            }
            None => Err(io::Error::other("the master is stopping")),
        }
    }
}

fn done(summary: Summary) -> ExportDone {
    let Summary { pages, bytes, left_out } = summary;
    ExportDone { pages, bytes, left_out }
}

fn export_failed(error: &ExportError) -> Status {
    match error {
        ExportError::Read(error) => read_failed(error),
        error if error.is_disk_full() => Status::resource_exhausted(with_causes(error)),
        error => Status::aborted(with_causes(error)),
    }
}

/// Where the page of a URL is, by what is known of the URL.
///
/// # Errors
/// If it has none.
pub fn place(url: &CrawlUrl, known: Option<UrlState>) -> Result<Place, Status> {
    let why = match known {
        Some(UrlState::Fetched(row)) => {
            let place = Place::decode(&row.place);
            return place.ok_or_else(|| Status::data_loss("the page's place cannot be read"));
        }
        Some(UrlState::Pending(_)) => "it is still waiting to be fetched".to_owned(),
        Some(UrlState::Ended(row)) => row.detail,
        None => "the crawl never heard of it".to_owned(),
    };
    // Not found is what a crawl is that was named wrongly.
    Err(Status::failed_precondition(format!("there is no page {url}: {why}")))
}

/// The records of the page at `place`, as they were put away. A chunk is read when
/// the one before has gone.
///
/// # Errors
/// If the crawl's name leads to no segments.
pub fn page(pages: &CrawlPages, place: Place) -> Result<PageStream, Status> {
    let segments = pages.segments().map_err(|error| Status::internal(error.to_string()))?;
    let lengths = place.lengths();
    let lengths = page_part::Part::Lengths(RecordLengths {
        response: lengths.response,
        request: lengths.request,
        metadata: lengths.metadata,
    });
    let path = segments.path(place.segment);
    let chunks = stream::try_unfold(place.offset, move |at| {
        let path = path.clone();
        async move {
            let bytes = place.end().saturating_sub(at).min(CHUNK_BYTES as u64);
            if bytes == 0 {
                return Ok(None);
            }
            let mut chunk = vec![0; bytes as usize];
            let read = spawn_blocking(move || {
                let read = File::open(&path).and_then(|file| file.read_exact_at(&mut chunk, at));
                read.map(|()| chunk).map_err(|error| RecordError::from(error).at(&path, at))
            });
            let chunk = read.await.map_err(|error| Status::internal(error.to_string()))?;
            let chunk = chunk.map_err(|error| read_failed(&error))?;
            Ok(Some((page_part::Part::Chunk(chunk.into()), at + bytes)))
        }
    });
    let parts = stream::iter([Ok(lengths)]).chain(chunks);
    Ok(parts.map(|part| part.map(|part| PagePart { part: Some(part) })).boxed())
}

/// A page that was committed cannot be read.
fn read_failed(error: &ReadError) -> Status {
    Status::data_loss(with_causes(error))
}

fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
