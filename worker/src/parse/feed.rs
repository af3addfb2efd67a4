//! Sitemaps and feeds: lists of URLs, each with the time of its last change.
//!
//! Which of them an XML document is, its root element says: `urlset` and
//! `sitemapindex` of sitemaps.org; `rss` and `RDF` of RSS 2 and 1, `feed` of Atom. A
//! text is a sitemap if its lines are URLs, as far as one looks. Any of them may be
//! compressed by gzip. quick-xml's home: it reads a stream of tags, and knows no
//! entities but XML's own, so that nothing is fetched or multiplied.

use std::{borrow::Cow, collections::HashSet, time::Duration};

use quick_xml::{
    Reader,
    events::{BytesStart, Event},
};
use trawl_shared::{
    spec::LinkKind,
    url::{Base, CrawlUrl, URL_BYTES_MAX},
};

use super::{
    links::{FoundLink, Links, OUTLINKS_BYTES_MAX, OUTLINKS_MAX},
    reference,
};
use crate::fetch::gunzipped;

/// Characters of a time that are kept.
const TIME_CHARS_MAX: usize = 64;

/// Bytes of a text that are kept, of which a URL or a time is to be made.
const TEXT_BYTES_MAX: usize = 2 * URL_BYTES_MAX;

/// Attributes of a tag that are read; a link has a handful.
const ATTRIBUTES_MAX: usize = 64;

const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";

/// Bytes in which a document's root must begin.
const PROLOGUE_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a body of which is told whether it is a list.
pub(super) const START_BYTES: usize = 4 * PROLOGUE_BYTES_MAX;

/// Bytes of a list that are read. Its standard allows a sitemap more, which one with as
/// many URLs as are read seldom has.
pub(super) const BYTES_MAX: usize = 32 * 1024 * 1024;

/// CPU time that a list may have taken when its gzip is undone.
const GZIP_TIME_MAX: Duration = Duration::from_millis(150);

/// CPU time that a list may have taken when it is read. A sitemap of all the bytes and
/// URLs that its standard allows takes less, if the program is optimised.
const TIME_MAX: Duration = Duration::from_millis(400);

/// Events or lines read between two looks at the clock.
const EVENTS: u32 = 64;

/// What lists URLs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// XML with these elements.
    Xml(&'static Shape),
    /// One URL a line.
    Lines,
}

/// The elements that matter in a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: LinkKind,
    /// The root element, without a prefix.
    root: &'static str,
    /// The elements of one entry: itself, its URL, its times, the best first.
    entry: &'static str,
    url: &'static str,
    times: &'static [&'static str],
}

const SHAPES: [Shape; 5] = [
    Shape {
        kind: LinkKind::Sitemap,
        root: "urlset",
        entry: "url",
        url: "loc",
        times: &["lastmod"],
    },
    Shape {
        kind: LinkKind::Sitemap,
        root: "sitemapindex",
        entry: "sitemap",
        url: "loc",
        times: &["lastmod"],
    },
    Shape {
        kind: LinkKind::Feed,
        root: "rss",
        entry: "item",
        url: "link",
        times: &["pubDate", "dc:date"],
    },
    Shape { kind: LinkKind::Feed, root: "RDF", entry: "item", url: "link", times: &["dc:date"] },
    Shape {
        kind: LinkKind::Feed,
        root: "feed",
        entry: "entry",
        url: "link",
        times: &["updated", "published"],
    },
];

impl List {
    /// The kind of links that it holds.
    pub(super) fn kind(self) -> LinkKind {
        match self {
            Self::Xml(shape) => shape.kind,
            Self::Lines => LinkKind::Sitemap,
        }
    }

    /// What the text at `url` lists, if it is a list.
    pub(super) fn of(text: &str, url: &CrawlUrl) -> Option<Self> {
        let start = text.trim_start();
        if !start.starts_with('<') {
            return are_urls(whole_lines(start), url).then_some(Self::Lines);
        }
        let start = &start[..start.floor_char_boundary(PROLOGUE_BYTES_MAX)];
        let mut reader = Reader::from_str(start);
        loop {
            match reader.read_event().ok()? {
                Event::Start(root) | Event::Empty(root) => {
                    let name = root.local_name();
                    let shape = SHAPES.iter().find(|shape| shape.root == name.as_ref());
                    return shape.map(Self::Xml);
                }
                Event::Text(space) if space.trim_ascii().is_empty() => {}
                Event::Decl(_) | Event::Comment(_) | Event::DocType(_) | Event::PI(_) => {}
                _ => return None,
            }
        }
    }

    /// The URLs of the text at `url`. `clock` tells the CPU time spent on the page.
    pub(super) fn links(self, text: &str, url: &CrawlUrl, clock: &dyn Fn() -> Duration) -> Links {
        let is_late = || clock() >= TIME_MAX;
        // A canonical URL can always be parsed.
        let Ok(base) = url.to_url() else { return Links::default() };
        let mut found = Entries::of(Base::new(base), self.kind());
        let is_whole = match self {
            Self::Xml(shape) => xml(text, shape, &is_late, &mut found),
            Self::Lines => lines(text, &is_late, &mut found),
        };
        Links { outlinks: found.links, cut: !is_whole, ..Links::default() }
    }
}

/// The entries found so far.
struct Entries {
    kind: LinkKind,
    base: Base,
    seen: HashSet<CrawlUrl>,
    links: Vec<FoundLink>,
    bytes_left: usize,
}

/// A list is full.
struct Full;

impl Entries {
    fn of(base: Base, kind: LinkKind) -> Self {
        let (seen, links) = (HashSet::new(), Vec::new());
        Self { kind, base, seen, links, bytes_left: OUTLINKS_BYTES_MAX }
    }

    fn add(&mut self, url: &str, time: Option<&str>) -> Result<(), Full> {
        let Ok(url) = self.base.join(url.trim()) else { return Ok(()) };
        let bytes = url.as_str().len() + TIME_CHARS_MAX;
        if self.seen.contains(&url) {
            return Ok(());
        }
        if self.links.len() >= OUTLINKS_MAX || bytes > self.bytes_left {
            return Err(Full);
        }
        self.bytes_left -= bytes;
        self.seen.insert(url.clone());
        let lastmod = time.map(|time| reference::folded(time, TIME_CHARS_MAX));
        self.links.push(FoundLink {
            url,
            kind: self.kind,
            rel: None,
            nofollow: false,
            lastmod: lastmod.filter(|time| !time.is_empty()),
        });
        Ok(())
    }
}

/// The lines that a text begins with, but not one that would be cut.
fn whole_lines(text: &str) -> &str {
    let start = &text[..text.floor_char_boundary(PROLOGUE_BYTES_MAX)];
    match start.rfind(['\n', '\r']) {
        Some(end) if start.len() < text.len() => &start[..end],
        _ => start,
    }
}

/// Whether the lines that a text begins with are URLs: the first one, if the file is called
/// a sitemap, and else all of them.
fn are_urls(start: &str, url: &CrawlUrl) -> bool {
    let checked = if is_named_sitemap(url) { 1 } else { usize::MAX };
    let mut lines = start.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
    lines.peek().is_some() && lines.take(checked).all(|line| CrawlUrl::parse(line).is_ok())
}

fn lines(text: &str, is_late: &dyn Fn() -> bool, found: &mut Entries) -> bool {
    text.lines().zip(0u32..).all(|(line, count)| {
        let line = line.trim();
        let is_url = !line.is_empty() && CrawlUrl::parse(line).is_ok();
        !(count.is_multiple_of(EVENTS) && is_late()) && (!is_url || found.add(line, None).is_ok())
    })
}

/// What is known of the entry that is being read.
#[derive(Default)]
struct Entry {
    url: Option<String>,
    /// The best time so far, and its place among the shape's.
    time: Option<(usize, String)>,
}

#[derive(Clone, Copy)]
enum Field {
    Url,
    Time(usize),
}

/// Reads a list of XML elements. Returns whether it was read to its end.
fn xml(text: &str, shape: &Shape, is_late: &dyn Fn() -> bool, found: &mut Entries) -> bool {
    let mut reader = Reader::from_str(text);
    let config = reader.config_mut();
    config.check_end_names = false;
    config.allow_unmatched_ends = true;
    config.allow_dangling_amp = true;
    config.expand_empty_elements = true;
    // How deep the reader is, in which entry, and in which of its fields.
    let (mut depth, mut prefix) = (0_u32, None);
    let mut entry: Option<(u32, Entry)> = None;
    let mut field: Option<(Field, String)> = None;
    for count in 1_u32.. {
        if count.is_multiple_of(EVENTS) && is_late() {
            return false;
        }
        let Ok(event) = reader.read_event() else { return false };
        match event {
            Event::Eof => break,
            Event::Start(start) => {
                depth += 1;
                let name = start.name();
                let prefix = prefix.get_or_insert_with(|| {
                    let prefix = name.prefix();
                    prefix.map(|prefix| prefix.as_ref().to_owned()).unwrap_or_default()
                });
                let name = plain(name.as_ref(), prefix);
                match &mut entry {
                    None if name == shape.entry => entry = Some((depth, Entry::default())),
                    Some((at, entry)) if depth == *at + 1 => {
                        field = begin(name, &start, shape, entry);
                    }
                    _ => {}
                }
            }
            Event::End(_) => {
                depth = depth.saturating_sub(1);
                match (&mut entry, field.take()) {
                    (Some((at, entry)), Some((which, text))) if depth == *at => {
                        entry.end(which, text);
                    }
                    (_, open) => field = open,
                }
                if let Some((_, whole)) = entry.take_if(|(at, _)| depth < *at)
                    && let Some(url) = whole.url
                    && found.add(&url, whole.time.as_ref().map(|(_, time)| &**time)).is_err()
                {
                    return false;
                }
            }
            Event::Text(piece) => push(&mut field, &piece.xml10_content()),
            Event::CData(piece) => push(&mut field, &piece.xml10_content()),
            Event::GeneralRef(name) => {
                push(&mut field, &reference::text(&format!("&{};", name.into_inner())));
            }
            Event::Empty(_)
            | Event::Decl(_)
            | Event::Comment(_)
            | Event::DocType(_)
            | Event::PI(_) => {}
        }
    }
    // What breaks off has more than one element open.
    depth == 0
}

/// A name without the prefix that the root has, if both have it.
fn plain<'a>(name: &'a str, prefix: &str) -> &'a str {
    match name.split_once(':') {
        Some((its, local)) if its == prefix => local,
        _ => name,
    }
}

/// Begins an element of an entry. Returns the field that its text is.
fn begin(
    name: &str,
    start: &BytesStart<'_>,
    shape: &Shape,
    entry: &mut Entry,
) -> Option<(Field, String)> {
    if let Some(rank) = shape.times.iter().position(|time| *time == name) {
        return Some((Field::Time(rank), String::new()));
    }
    if name != shape.url || entry.url.is_some() {
        return None;
    }
    let attribute = |key: &str| {
        // Looking for names given twice takes time that is quadratic in their number.
        let mut all = start.attributes();
        let mut first = all.with_checks(false).take(ATTRIBUTES_MAX).flatten();
        let found = first.find(|found| found.key.as_ref() == key);
        found.map(|found| reference::attribute(&found.value).into_owned())
    };
    match attribute("href") {
        // Atom has a link to itself, to an editor, to an enclosure besides.
        Some(href) => {
            let rel = attribute("rel");
            entry.url = Some(href).filter(|_| rel.is_none_or(|rel| rel == "alternate"));
            None
        }
        None => Some((Field::Url, String::new())),
    }
}

impl Entry {
    fn end(&mut self, field: Field, text: String) {
        match field {
            Field::Url if !text.trim().is_empty() => self.url = Some(text),
            Field::Time(rank) if self.time.as_ref().is_none_or(|(best, _)| rank < *best) => {
                self.time = Some((rank, text));
            }
            Field::Url | Field::Time(_) => {}
        }
    }
}

fn push(field: &mut Option<(Field, String)>, piece: &str) {
    if let Some((_, text)) = field
        && text.len() + piece.len() <= TEXT_BYTES_MAX
    {
        text.push_str(piece);
    }
}

/// Whether a body begins as a list may: most of what is no HTML is neither decompressed
/// nor decoded for it.
pub(super) fn may_be_list(body: &[u8], url: &CrawlUrl) -> bool {
    const MARKS: [&[u8]; 3] = [UTF_8_MARK, b"\xff\xfe", b"\xfe\xff"];
    // So few bytes take no time.
    let no_clock = || Duration::ZERO;
    let start = &body[..body.len().min(PROLOGUE_BYTES_MAX)];
    let (start, _) = unzipped(start, PROLOGUE_BYTES_MAX, &no_clock);
    let begins_with = |word: &[u8]| {
        let start = start.trim_ascii_start();
        start.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    [&b"<"[..], b"http://", b"https://"].into_iter().any(begins_with)
        || MARKS.iter().any(|mark| start.starts_with(mark))
        || is_named_sitemap(url)
}

/// Whether a body that is said to be HTML begins as XML does, and may be a list all the
/// same.
pub(super) fn begins_like_xml(body: &[u8]) -> bool {
    let start = body.strip_prefix(UTF_8_MARK).unwrap_or(body).trim_ascii_start();
    let roots = SHAPES.iter().map(|shape| shape.root.as_bytes());
    let begins = |root: &[u8]| start.strip_prefix(b"<").is_some_and(|name| name.starts_with(root));
    start.starts_with(b"<?xml") || roots.into_iter().any(begins)
}

fn is_named_sitemap(url: &CrawlUrl) -> bool {
    let file = url.path().rsplit('/').next().unwrap_or_default();
    file.to_ascii_lowercase().contains("sitemap")
}

/// A body without its gzip, if that is what it is, up to `bytes_max` and as long as there
/// is time; and whether that is all of it. `clock` tells the CPU time spent on the page.
pub(super) fn unzipped<'b>(
    body: &'b [u8],
    bytes_max: usize,
    clock: &dyn Fn() -> Duration,
) -> (Cow<'b, [u8]>, bool) {
    if !body.starts_with(b"\x1f\x8b") {
        return (Cow::Borrowed(body), true);
    }
    let (plain, is_whole) = gunzipped(body, bytes_max, &|| clock() >= GZIP_TIME_MAX);
    (Cow::Owned(plain), is_whole)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;
    use crate::parse::clock::cpu_time;

    fn read(text: &str) -> Option<Links> {
        let url = CrawlUrl::parse("http://h.test/d/sitemap.txt").unwrap();
        List::of(text, &url).map(|list| list.links(text, &url, &|| Duration::ZERO))
    }

    /// URL and time of each entry, and whether the list was read to its end.
    fn entries(text: &str) -> (Vec<(String, Option<String>)>, bool) {
        let found = read(text).unwrap();
        let entries = found.outlinks.into_iter();
        (entries.map(|link| (link.url.into(), link.lastmod)).collect(), !found.cut)
    }

    fn check(text: &str, want: &[(&str, &str)]) {
        let (found, is_whole) = entries(text);
        let found: Vec<_> = found
            .iter()
            .map(|(url, time)| (url.as_str(), time.as_deref().unwrap_or_default()))
            .collect();
        assert_eq!((&*found, is_whole), (want, true), "{text}");
    }

    #[test]
    fn a_sitemap() {
        check(
            "<?xml version='1.0' encoding='UTF-8'?>\n<!-- ours -->\n\
             <urlset xmlns='http://www.sitemaps.org/schemas/sitemap/0.9' xmlns:image='x'>\n\
             <url><loc> http://h.test/a?b&amp;c </loc><lastmod>2026-11-23</lastmod>\
             <image:image><image:loc>http://h.test/i.png</image:loc></image:image></url>\n\
             <url><changefreq>daily</changefreq><loc><![CDATA[http://h.test/d&e]]></loc></url>\n\
             <url><lastmod>2026</lastmod></url><url><loc/></url>\
             <url><loc>http://h.test/&#x61;</loc></url><url><loc>http://h.test/a</loc></url>\
             <url><loc>mailto:x</loc></url></urlset>",
            &[
                ("http://h.test/a?b&c", "2026-11-23"),
                ("http://h.test/d&e", ""),
                ("http://h.test/a", ""),
            ],
        );
        check(
            "<sm:urlset xmlns:sm='x'><sm:url><sm:loc>/x</sm:loc><loc>/y</loc></sm:url></sm:urlset>",
            &[("http://h.test/x", "")],
        );
        check("<urlset/>", &[]);
    }

    #[test]
    fn an_index_of_sitemaps() {
        check(
            "<sitemapindex><sitemap><loc>http://h.test/1.xml.gz</loc>\
             <lastmod>2026-11-23T12:00:00+00:00</lastmod></sitemap></sitemapindex>",
            &[("http://h.test/1.xml.gz", "2026-11-23T12:00:00+00:00")],
        );
    }

    #[test]
    fn a_sitemap_of_lines() {
        check(
            "\u{feff}http://h.test/a\r\n\r\nhttps://h.test/b \nnonsense\n/c\n"
                .trim_start_matches('\u{feff}'),
            &[("http://h.test/a", ""), ("https://h.test/b", "")],
        );
        assert!(read("not a URL\nhttp://h.test/a").is_none());
    }

    #[test]
    fn feeds() {
        check(
            "<?xml version='1.0'?><!DOCTYPE rss [<!ENTITY e 'x'>]><rss version='2.0'><channel>\
             <title>T</title><link>http://h.test/</link><atom:link href='/self'/>\
             <item><title>A</title><link>http://h.test/a</link>\
             <pubDate>Mon, 23 Nov 2026 12:00:00 GMT</pubDate></item>\
             <item><atom:link href='/no'/><link>/b&e;&e;</link></item></channel></rss>",
            &[("http://h.test/a", "Mon, 23 Nov 2026 12:00:00 GMT"), ("http://h.test/b&e;&e;", "")],
        );
        check(
            "<rdf:RDF xmlns:rdf='x'><channel><link>http://h.test/</link></channel>\
             <item rdf:about='u'><link>http://h.test/a</link><dc:date>2026-11-23</dc:date></item>\
             </rdf:RDF>",
            &[("http://h.test/a", "2026-11-23")],
        );
        check(
            "<feed xmlns='http://www.w3.org/2005/Atom'><link href='http://h.test/'/>\
             <updated>2020</updated><entry><link rel='self' href='/self'/>\
             <link rel='alternate' href='../a&amp;b'/><published>2025</published>\
             <updated>2026</updated><source><link href='/no'/><updated>1999</updated></source>\
             </entry><entry><link href='/c'/><published>2024</published></entry></feed>",
            &[("http://h.test/a&b", "2026"), ("http://h.test/c", "2024")],
        );
    }

    #[test]
    fn a_text_is_a_list_if_its_lines_are_urls() {
        let is_list = |text: &str, file: &str| {
            let url = CrawlUrl::parse(&format!("http://h.test/{file}")).unwrap();
            List::of(text, &url) == Some(List::Lines)
        };
        assert!(is_list("http://h.test/a\r\n\r\nhttps://h.test/b", "urls"));
        assert!(!is_list("http://h.test/a\nand more\n", "urls"));
        assert!(is_list("http://h.test/a\nand more\n", "sitemap.txt"));
        assert!(!is_list("and more\nhttp://h.test/a\n", "sitemap.txt"));
        assert!(!is_list("\n", "urls"));
        for begins_at in 0..9 {
            let long = "http://h.test/".to_owned() + &"x".repeat(PROLOGUE_BYTES_MAX / 4 - 40);
            let fill = "y".repeat(PROLOGUE_BYTES_MAX - 4 * (long.len() + 1) - begins_at - 15);
            let lines = [&*long, &long, &long, &long, &format!("http://h.test/{fill}"), &long];
            assert!(is_list(&lines.join("\n"), "urls"), "cut {begins_at} bytes into a line");
        }
    }

    #[test]
    fn what_is_no_list() {
        for text in [
            "",
            "<",
            "<html><body>urlset</body></html>",
            "<svg/>",
            "text <urlset>",
            "</urlset>",
            "{\"feed\": 1}",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn what_is_broken_is_read_up_to_there() {
        for text in [
            "<urlset><url><loc>/a</loc></url><url><loc>/b</lo",
            "<urlset><url><loc>/a</loc></url><url><loc>/b</loc>",
            "<urlset><url><loc>/a</loc></url><url <",
        ] {
            let (found, is_whole) = entries(text);
            assert_eq!((found.len(), is_whole), (1, false), "{text}");
            assert_eq!(found[0].0, "http://h.test/a");
        }
    }

    #[test]
    fn hostile_lists_are_bounded() {
        let many: String = (0..60_000).map(|n| format!("<url><loc>/{n}</loc></url>")).collect();
        let found = read(&format!("<urlset>{many}</urlset>")).unwrap();
        assert_eq!((found.outlinks.len(), found.cut), (OUTLINKS_MAX, true));
        let deep = format!("<urlset>{}", "<url>".repeat(300_000));
        assert!(read(&deep).unwrap().outlinks.is_empty());
        let long = format!("<urlset><url><loc>/{}</loc></url></urlset>", "a".repeat(1_000_000));
        assert!(read(&long).unwrap().outlinks.is_empty());
        let entities = "<!ENTITY a '&b;&b;'>".repeat(1_000);
        let text = format!("<!DOCTYPE x [{entities}]><urlset><url><loc>/&a;</loc></url></urlset>");
        assert!(read(&text).is_none_or(|found| found.outlinks.len() <= 1));
        let url = CrawlUrl::parse("http://h.test/").unwrap();
        let text = format!("<urlset>{many}");
        let late = List::of(&text, &url).unwrap().links(&text, &url, &|| Duration::from_secs(60));
        assert!(late.cut && late.outlinks.len() < 2_000);
        let keys: String = (0..100_000).map(|n| format!(" a{n}=''")).collect();
        let link = format!("<link{keys}{}/>", " a99999=''".repeat(100_000));
        let before = cpu_time();
        let found = read(&format!("<rss><item><link>/a</link></item><item>{link}</item></rss>"));
        assert_eq!(found.unwrap().outlinks.len(), 1);
        let took = cpu_time() - before;
        assert!(took < Duration::from_secs(5), "{took:?} for one tag");
    }

    #[test]
    fn gzip_is_undone_up_to_a_limit() {
        let gzip = |text: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        };
        let unzipped = |body: &[u8], bytes_max| {
            let (text, is_whole) = unzipped(body, bytes_max, &|| Duration::ZERO);
            (text.into_owned(), is_whole)
        };
        let whole = gzip(b"<urlset/>");
        assert_eq!(unzipped(&whole, 100), (b"<urlset/>".to_vec(), true));
        assert_eq!(unzipped(&whole, 4), (b"<url".to_vec(), false));
        assert!(!unzipped(&whole[..12], 100).1);
        assert_eq!(unzipped(b"<urlset/>", 4), (b"<urlset/>".to_vec(), true));
        let two = [gzip(b"<urlset>"), gzip(b"</urlset>")].concat();
        assert_eq!(unzipped(&two, 100), (b"<urlset></urlset>".to_vec(), true));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b' '; 50_000_000]).unwrap();
        let bomb = encoder.finish().unwrap();
        let (text, is_whole) = unzipped(&bomb, 1_000_000);
        assert_eq!((text.len(), is_whole), (1_000_000, false));
        // A megabyte is made of whatever is there, and more only of more.
        let (text, is_whole) = unzipped(&bomb, BYTES_MAX);
        assert!((1 << 20..BYTES_MAX).contains(&text.len()) && !is_whole, "{}", text.len());
        let members = [whole, gzip(b"").repeat(100_000)].concat();
        assert_eq!(unzipped(&members, 100), (b"<urlset/>".to_vec(), false));
    }

    #[test]
    fn gzip_is_undone_as_long_as_there_is_time() {
        let text: String = (0..100_000).map(|n| format!("<url><loc>/{n}</loc></url>")).collect();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        let zipped = encoder.finish().unwrap();
        let calls = std::cell::Cell::new(0);
        let clock = || {
            calls.set(calls.get() + 1);
            Duration::from_millis(30 * calls.get())
        };
        let (plain, is_whole) = unzipped(&zipped, BYTES_MAX, &clock);
        assert_eq!((calls.get(), is_whole), (5, false));
        assert!(!plain.is_empty() && text.as_bytes().starts_with(&plain) && plain.len() < 400_000);
    }

    #[test]
    fn what_begins_like_no_list_is_not_looked_into() {
        let url = |file: &str| CrawlUrl::parse("http://h.test/d/").unwrap().join(file).unwrap();
        let may = |body: &[u8], file: &str| may_be_list(body, &url(file));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&b" <urlset>".repeat(100_000)).unwrap();
        assert!(may(&encoder.finish().unwrap(), "x.gz"));
        for body in [&b"\r\n <?xml"[..], b"\xef\xbb\xbf<rss>", b"\xff\xfe<\0", b"\xfe\xff\0<"] {
            assert!(may(body, "x"), "{body:?}");
        }
        assert!(may(b"http://h.test/", "x.txt") && may(b"odd", "My-Sitemap.txt"));
        for body in [&b"\x89PNG"[..], b"%PDF", b"{}", b"", b"\x1f\x8bno gzip"] {
            assert!(!may(body, "x"), "{body:?}");
        }
    }

    #[test]
    fn any_text_is_read() {
        let words = [
            "<urlset>",
            "<url>",
            "</url>",
            "<loc>",
            "</loc>",
            "/a",
            "&amp;",
            "&",
            ";",
            "<!--",
            "-->",
            "<![CDATA[",
            "]]>",
            "<?",
            "?>",
            "<!DOCTYPE",
            "[",
            "]",
            ">",
            "<feed>",
            "<entry>",
            "<link href='",
            "'/>",
            "<rss>",
            "<item>",
            "</",
            "\u{0}",
            "é",
            " ",
        ];
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..5_000 {
            let text: String = (0..40).map(|_| words[random.usize(..words.len())]).collect();
            let _ = read(&text);
        }
    }
}
