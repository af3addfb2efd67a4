//! People step in: crawls are paused, resumed and stopped, durably.

use super::{Frontier, Moment};
use crate::store::{
    Store,
    keys::HostRef,
    rows::{Finish, Wish},
};

impl<S: Store> Frontier<S> {
    /// Notes what people want of the crawl of this name. Returns whether there is
    /// one. A finished crawl stays as it is, unless it was stopped and is to run.
    pub fn steer(&mut self, name: &str, wish: Wish, now: Moment) -> bool {
        let Some((number, crawl)) = self.crawls.iter_mut().find(|(_, c)| c.row.name == name) else {
            return false;
        };
        let was_stopped = crawl.row.finish == Finish::Stopped as i32;
        let goes_on = was_stopped && wish == Wish::Run;
        if !crawl.is_running() && !goes_on {
            return true;
        }
        // Time in which it was not wanted is not counted as running.
        crawl.settle(now);
        crawl.row.wish = wish as i32;
        crawl.dirty = true;
        let number = *number;
        if was_stopped {
            self.restart(number, now);
        }
        self.wake_hosts_of_others(number);
        true
    }

    /// Says anew when the hosts of a crawl may be visited by others.
    fn wake_hosts_of_others(&mut self, crawl: u32) {
        let hosts: Vec<HostRef> =
            self.hosts.keys().copied().filter(|at| at.crawl == crawl).collect();
        for at in hosts {
            self.wake_others(at);
        }
    }
}
