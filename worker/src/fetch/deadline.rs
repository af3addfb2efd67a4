//! How long a fetch may wait, and for what.
//!
//! One timer serves a whole fetch. It is set when the fetch begins and set
//! again only when it fires too early, so that a page that arrives in time costs
//! no more than reading the clock.

use std::{future::Future, pin::Pin, pin::pin};

use tokio::time::{Duration, Instant, Sleep, sleep_until};
use trawl_shared::units::{Size, Span};

use super::{FetchError, Timeout};

/// The limits that a crawl sets for a fetch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// The longest that a connection may take to stand.
    pub(super) connect: Span,
    /// The longest that the host may send nothing.
    pub(super) silence: Span,
    /// The longest that the fetch may take in all.
    pub(super) whole: Span,
    /// Bytes a second that a body must come at on average, once it has been coming for
    /// ten seconds.
    pub(super) rate: Size,
}

/// The running limits of one fetch.
#[derive(Debug)]
pub(super) struct Deadline {
    limits: Limits,
    started: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Deadline {
    /// A fetch that begins now.
    pub(super) fn new(limits: Limits) -> Self {
        let started = Instant::now();
        let first = limits.silence.min(limits.whole).duration();
        Self { limits, started, timer: Box::pin(sleep_until(started + first)) }
    }

    /// Bytes a second that are expected of the body.
    pub(super) fn rate(&self) -> Size {
        self.limits.rate
    }

    /// How long the fetch has been going on.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for what the host sends next. `silent` is what it is called when it
    /// sends nothing.
    ///
    /// # Errors
    /// [`FetchError::Timeout`], as soon as one of the limits is reached.
    pub(super) async fn wait<T>(
        &mut self,
        next: impl Future<Output = T>,
        silent: fn(Span) -> Timeout,
    ) -> Result<T, FetchError> {
        let end = self.started + self.limits.whole.duration();
        let silent_at = Instant::now() + self.limits.silence.duration();
        let mut next = pin!(next);
        loop {
            // A host that always has a byte ready must not outrun the limit.
            if Instant::now() >= end {
                return Err(FetchError::Timeout(Timeout::Whole(self.limits.whole)));
            }
            tokio::select! {
                biased;
                next = &mut next => return Ok(next),
                () = &mut self.timer => {}
            }
            let now = Instant::now();
            if now >= silent_at && silent_at < end {
                return Err(FetchError::Timeout(silent(self.limits.silence)));
            }
            self.timer.as_mut().reset(silent_at.min(end));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    fn limits(silence: u64, whole: u64) -> Limits {
        Limits {
            connect: Span::secs(1),
            silence: Span::secs(silence),
            whole: Span::secs(whole),
            rate: Size::bytes(1024),
        }
    }

    async fn after<T>(secs: u64, value: T) -> T {
        tokio::time::sleep(Duration::from_secs(secs)).await;
        value
    }

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_byte() {
        let mut deadline = Deadline::new(limits(10, 60));
        for _ in 0..4 {
            assert_eq!(deadline.wait(after(9, 1), Timeout::Stalled).await, Ok(1));
        }
        let error = deadline.wait(pending::<()>(), Timeout::Stalled).await.unwrap_err();
        assert_eq!(error, FetchError::Timeout(Timeout::Stalled(Span::secs(10))));
        assert_eq!(deadline.elapsed().as_secs(), 46);
    }

    #[tokio::test(start_paused = true)]
    async fn the_whole_has_an_end_however_busy_the_host() {
        let mut deadline = Deadline::new(limits(10, 30));
        let error = loop {
            if let Err(error) = deadline.wait(after(4, ()), Timeout::Stalled).await {
                break error;
            }
        };
        assert_eq!(error, FetchError::Timeout(Timeout::Whole(Span::secs(30))));
        assert_eq!(deadline.elapsed().as_secs(), 30);
        let error = deadline.wait(ready(()), Timeout::Stalled).await.unwrap_err();
        assert_eq!(error, FetchError::Timeout(Timeout::Whole(Span::secs(30))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_shorter_than_the_silence() {
        let mut deadline = Deadline::new(limits(10, 3));
        let error = deadline.wait(pending::<()>(), Timeout::Answer).await.unwrap_err();
        assert_eq!(error.to_string(), "not done within 3s");
        assert_eq!(deadline.elapsed().as_secs(), 3);
    }
}
