//! What the benches work on, made the same way in every run.

use std::fmt::Write;

use trawl_shared::url::CrawlUrl;

/// A page of about 30 KB with 70 links to its own host, as documentation sites
/// have them: one in eight with a character reference, a third with a fragment.
pub fn page() -> String {
    let mut page = String::from("<!DOCTYPE html><title>A page</title><body>");
    for link in 0..70 {
        let (path, name) = (link * 7 % 50, link);
        let tail = match link % 24 {
            0..8 => format!("#part{link}"),
            8..11 => format!("?a=1&amp;b={link}"),
            _ => String::new(),
        };
        // Writing to a string does not fail.
        let _ = write!(page, "<p class='x'><a href=\"/d/p{path}.html{tail}\">link {name}</a> ");
        page.push_str(
            &"some words of <em>running</em> text, as they stand between links; ".repeat(6),
        );
    }
    page
}

/// The n-th of many URLs, fifty a host.
///
/// # Panics
/// Never: all of them are URLs.
pub fn url(n: usize) -> CrawlUrl {
    let text = format!("http://host{}.example/section/page{n}.html", n / 50);
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
