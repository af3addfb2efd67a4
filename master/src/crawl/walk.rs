//! A walk through the store, a piece a turn: it takes a bounded time of each turn, and
//! whoever takes its pieces slowly slows the walk and nothing else.

use std::time::Duration;

use tokio::sync::mpsc::{self, error::TrySendError};

use super::{CrawlError, Owner, ask::Walking};
use crate::{
    frontier::{Moment, Piece},
    store::Store,
};

/// Rows that are read in a turn: some milliseconds' work.
const TURN_ROWS: usize = 2_000;

/// Pieces that wait for the client. While there are as many, no more is read.
const PIECES_MAX: usize = 4;

/// Bytes of changes that are kept for a client that takes nothing; then its walk ends.
const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a client may take nothing; then its walk ends, since others wait for theirs.
const STILL_MAX: Duration = Duration::from_secs(600);

/// Between two looks at whether a client has taken something.
const LOOK: Duration = Duration::from_millis(50);

/// A walk under way.
pub(super) struct Walker {
    pieces: mpsc::Sender<Piece>,
    /// When there was room for a piece last.
    moved_at: Moment,
    is_full: bool,
}

impl Walker {
    /// How long until it can be worth a turn.
    pub(super) fn wait(&self) -> Duration {
        if self.is_full { LOOK } else { Duration::ZERO }
    }
}

impl<S: Store> Owner<S> {
    pub(super) fn begin_walk(&mut self, now: Moment) -> Option<Walking> {
        if !self.frontier.begin_walk() {
            return None;
        }
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        self.walker = Some(Walker { pieces: sender, moved_at: now, is_full: false });
        Some(Walking { instance: self.frontier.instance().to_owned(), pieces })
    }

    /// Hands out the next piece, if a walk is under way and there is room for it.
    /// Everything must have been committed and synced.
    pub(super) fn walk_on(&mut self, now: Moment) -> Result<(), CrawlError> {
        let Some(walker) = &mut self.walker else { return Ok(()) };
        let pieces = walker.pieces.clone();
        let room = pieces.try_reserve();
        walker.is_full = matches!(room, Err(TrySendError::Full(())));
        let is_over = match room {
            Ok(room) => {
                walker.moved_at = now;
                let piece = self.frontier.walk_on(TURN_ROWS)?;
                let is_last = piece.is_last;
                room.send(piece);
                is_last
            }
            Err(TrySendError::Closed(())) => true,
            Err(TrySendError::Full(())) => {
                let is_slow = self.frontier.walk_backlog() > BACKLOG_BYTES_MAX
                    || now >= walker.moved_at + STILL_MAX;
                if is_slow {
                    tracing::warn!("a walk is ended: its client takes too little");
                }
                is_slow
            }
        };
        if is_over {
            self.frontier.end_walk();
            self.walker = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;
    use tokio_util::sync::CancellationToken;
    use trawl_shared::{spec::CrawlSpec, units::Size, url::CrawlUrl};

    use super::STILL_MAX;
    use crate::{
        crawl::{Crawls, Owner, PageSettings},
        frontier::{Frontier, Limits},
        store::memory::MemoryStore,
    };

    #[tokio::test(start_paused = true)]
    async fn a_walk_that_nobody_takes_holds_up_nobody_but_other_walks() {
        const URLS: u64 = 6_000;
        let opened = Frontier::open(MemoryStore::default(), Limits::default(), "test");
        let (mut frontier, now) = opened.unwrap();
        let url = |number| format!("http://h{}.example/{number}", number % 9).parse().unwrap();
        let seeds: Vec<CrawlUrl> = (0..URLS).map(url).collect();
        frontier.submit("c", CrawlSpec::default(), &seeds, now).unwrap();
        let (crawls, mailbox) = Crawls::mailbox(Duration::from_secs(30));
        let stop = CancellationToken::new();
        let pages = PageSettings { directory: "none".into(), segment: Size::mib(1) };
        let owner = tokio::spawn(Owner::new(frontier, now, pages).run(mailbox, stop.clone()));
        let discovered = async || {
            let overview = crawls.status(None, Duration::ZERO).await.unwrap().unwrap();
            overview.crawls[0].discovered
        };

        let idle = crawls.walk().await.unwrap().unwrap();
        for _ in 0..50 {
            assert_eq!(discovered().await, URLS);
        }
        assert!(crawls.walk().await.unwrap().is_none(), "one at a time");
        sleep(STILL_MAX + Duration::from_secs(1)).await;
        let next = crawls.walk().await.unwrap();
        assert!(next.is_some(), "the one that stands still has had its time");
        drop((idle, next));
        assert_eq!(discovered().await, URLS);
        let mut walking = crawls.walk().await.unwrap().expect("nobody walks any more");
        let (mut rows, mut is_whole) = (0, false);
        while let Some(piece) = walking.pieces.recv().await {
            rows += piece.rows.len() as u64;
            is_whole |= piece.is_last;
        }
        assert!(is_whole && rows > 2 * URLS, "{rows}");
        stop.cancel();
        owner.await.unwrap().unwrap();
    }
}
