//! Pages that are made to cost a parser much: at most half a second of CPU time and 100 MB each,
//! links found before the cut are kept, and the page says that it was cut.
#![expect(unsafe_code, reason = "an allocator that counts can be had in no other way")]
#![expect(clippy::print_stdout, reason = "a run shows the figures of each page")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    fmt::Write,
    io::Write as _,
    ops::Range,
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use harness::{Answer, Trawl, Web};
use http::{HeaderMap, HeaderValue, Version, header::CONTENT_TYPE};
use rustix::time::{ClockId, clock_gettime};
use trawl_shared::{
    spec::{CrawlSpec, ExtractRule, LinkKind},
    url::CrawlUrl,
};
use trawl_worker::{
    fetch::Page,
    parse::{Parsed, Parser},
};

const CPU_MAX: Duration = Duration::from_millis(500);

const MEMORY_MAX: usize = 100 * 1000 * 1000;

const MB: usize = 1000 * 1000;

/// What each page begins with, and must keep.
const BEFORE: &str = "<title>before</title><a href=/before>x</a>";

/// Counts the bytes that each thread holds of the system's allocator.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn took(bytes: usize) {
    let held = HELD.get().wrapping_add(bytes);
    HELD.set(held);
    // What was allocated by another thread and freed by this one makes the sum negative.
    if held < usize::MAX / 2 && held > PEAK.get() {
        PEAK.set(held);
    }
}

// SAFETY: all is the system allocator's; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: the caller's promises are the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.set(HELD.get().wrapping_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.set(HELD.get().wrapping_sub(layout.size()));
        took(size);
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn page(url: CrawlUrl, content_type: &str, body: Vec<u8>) -> Page {
    let mut headers = HeaderMap::new();
    headers.extend(HeaderValue::from_str(content_type).map(|value| (CONTENT_TYPE, value)));
    Page {
        url,
        status: 200,
        version: Version::HTTP_11,
        headers,
        request_head: Vec::new(),
        wire: Bytes::new(),
        body: body.into(),
        truncated: None,
        address: None,
        fetched_at: jiff::Timestamp::UNIX_EPOCH,
        elapsed: Duration::ZERO,
    }
}

/// Reads a page; what was found, the CPU time in it, and the most memory beside the page.
fn read(parser: &Parser, page: &Page) -> (Parsed, Duration, usize) {
    let (started, held) = (cpu(), HELD.get());
    PEAK.set(held);
    let parsed = parser.parse(page);
    (parsed, cpu() - started, PEAK.get().saturating_sub(held))
}

fn rules() -> Vec<ExtractRule> {
    let rule = |select: &str| ExtractRule {
        name: select.into(),
        select: select.into(),
        attribute: None,
        many: true,
    };
    [
        "div div div div div > *",
        "p:has(b):not(i ~ b)",
        "*:nth-last-child(2n+1)",
        "[class*=x] ~ :empty",
        "body:has(.none), .none ~ p",
    ]
    .map(rule)
    .to_vec()
}

fn numbered(count: usize, write: impl Fn(&mut String, usize)) -> String {
    let mut text = String::new();
    for number in 0..count {
        write(&mut text, number);
    }
    text
}

fn repeated(text: &str, bytes: usize) -> String {
    text.repeat(bytes / text.len())
}

/// Pages that a tree or a scanner may blow up on, by name.
fn bombs() -> Vec<(&'static str, String)> {
    let b = |count: usize, tag: &'static str| {
        numbered(count, move |text, i| _ = write!(text, "<{tag} {i}>"))
    };
    let attributes = |count: usize| numbered(count, |text, i| _ = write!(text, " a{i}=x"));
    // Of eight bytes, and so each in the table of names.
    let classes =
        |range: Range<usize>| range.fold(String::new(), |text, i| text + &format!("c{i:07} "));
    let mut bombs = vec![
        (
            "formatting elements closed out of order",
            b(8_000, "b") + &b(8_000, "i") + &"x</b>".repeat(80_000),
        ),
        ("formatting elements opened by each paragraph", b(8_000, "b") + &"<p>x".repeat(MB / 4)),
        ("a million attributes", format!("<p{}>x", attributes(MB))),
        ("a million attributes, of a link", format!("<a{} href=/x>x", attributes(MB))),
        ("a million times the same attribute", format!("<a{}>x", " a=x".repeat(MB))),
        ("1.9 MB of attributes on one tag", format!("<p{}>", repeated(" a", 1_900_000))),
        ("1.9 MB of attributes on a tag without end", format!("<p{}", attributes(200_000))),
        ("400,000 classes", format!("<p class='{}'>x", classes(0..400_000))),
        (
            "elements with a hundred classes each",
            numbered(4_000, |text, i| {
                _ = write!(text, "<i class='{}'></i>", classes(100 * i..100 * (i + 1)))
            }),
        ),
        ("names of elements", numbered(MB, |text, i| _ = write!(text, "<c{i:07}></c{i:07}>"))),
        ("names of attributes", numbered(MB, |text, i| _ = write!(text, "<p c{i:07}>"))),
        ("a million links", numbered(MB, |text, i| _ = write!(text, "<a href={i}>"))),
        ("a million hosts", numbered(MB, |text, i| _ = write!(text, "<a href=//ä{i}.example>"))),
        ("a million references in links", format!("<a href='{}'>", repeated("&amp;", 5 * MB))),
        (
            "long links",
            numbered(400, |text, i| _ = write!(text, "<a href='{i}{}'>", "ä/../".repeat(10_000))),
        ),
        (
            "links full of references",
            numbered(400, |text, i| _ = write!(text, "<a href='{i}{}'>", "&notin;".repeat(9_000))),
        ),
        (
            "links with long rels",
            numbered(400, |text, i| {
                _ = write!(text, "<a href={i} rel='{}'>", "&notin;".repeat(9_000))
            }),
        ),
        (
            "links to hosts of many labels",
            numbered(5_000, |text, i| _ = write!(text, "<a href='//{i}{}'>", ".ü".repeat(600))),
        ),
        (
            "a base that makes all links long",
            format!(
                "<base href='/{}/'>{}",
                "x".repeat(1_900),
                numbered(200_000, |text, i| _ = write!(text, "<a href={i}>"))
            ),
        ),
        ("a giant title", format!("<title>{}</title>", repeated("x &amp; ", 10 * MB))),
        ("a giant comment", format!("<!--{}--><a href=/x>", repeated("x -- ", 10 * MB))),
        ("a comment without end", format!("<!--{}", repeated("-- > ", 10 * MB))),
        ("a giant doctype", format!("<!doctype {}>", repeated("html ", 10 * MB))),
        ("a link without end", format!("<a href='{}", repeated("x", 20 * MB))),
        ("a tag's name without end", format!("<{}", repeated("a", 20 * MB))),
        ("scripts that open scripts", repeated("<script><!--<script>", 10 * MB)),
        ("noscripts, each closed", repeated("<noscript><a href=/x></noscript>", 10 * MB)),
        (
            "noscripts that end far away",
            "<noscript>href<noscript>".repeat(1_000) + &repeated("</noscrip", 10 * MB),
        ),
        ("tables in tables with text before them", repeated("<table>x<select><tr>", 5 * MB)),
        ("cells with formatting", format!("{}{}", b(500, "b"), "<table><td><a>x".repeat(50_000))),
        ("math in svg", repeated("<svg><foreignObject><math><mi>", 5 * MB)),
        ("framesets", repeated("<frameset><frame src=x>", 5 * MB)),
        ("ends without beginnings", repeated("</p></br></a></table>", 5 * MB)),
        ("links in links", repeated("<a><div><p>", 5 * MB)),
    ];
    for tag in [
        "div",
        "b",
        "svg",
        "math",
        "template",
        "noscript",
        "table",
        "select",
        "ul><li",
        "button",
        "object",
        "p",
        "a",
        "dd",
        "ruby><rt",
        "option",
        "body x",
        "svg><title",
        "form",
        "font",
    ] {
        bombs.push((tag, format!("<{tag}>").repeat(MB)));
    }
    for text in [
        "some text ",
        "\0",
        "<",
        "&",
        "</",
        "<!",
        "é",
        "<a ",
        "&#x110000;",
        "]]>",
        "\r\n",
        "<p>\u{fffd}",
    ] {
        bombs.push(("100 MB of text", repeated(text, 100 * MB)));
    }
    bombs
}

fn check(content_type: &str, name: &str, body: Vec<u8>) -> String {
    let Ok(url) = CrawlUrl::parse("http://bomb.example/") else { return "no URL".into() };
    let page = page(url, content_type, body);
    let mut broken = String::new();
    for extract in [Vec::new(), rules()] {
        let how = if extract.is_empty() { "links" } else { "with rules" };
        let follow = vec![LinkKind::A, LinkKind::Area, LinkKind::Sitemap, LinkKind::Feed];
        let spec = CrawlSpec { extract, follow, ..CrawlSpec::default() };
        let Ok(parser) = Parser::new(&spec) else { return "the rules are bad".into() };
        let (parsed, cpu, memory) = read(&parser, &page);
        let begin = String::from_utf8_lossy(&page.body[..page.body.len().min(90)]).into_owned();
        let line = format!(
            "{name} ({how}): {cpu:.0?}, {} MB, {} links, cut: {}; {begin:?}",
            memory / MB,
            parsed.outlinks.len(),
            parsed.cut
        );
        println!("{line}");
        let is_kept = parsed.title.as_deref() == Some("before")
            && parsed.outlinks.first().is_some_and(|link| link.url.path() == "/before");
        if cpu > CPU_MAX || memory > MEMORY_MAX || !is_kept {
            _ = writeln!(broken, "{line}");
        }
    }
    broken
}

#[test]
fn a_page_takes_half_a_second_and_100_mb_at_most() {
    let mut broken = String::new();
    for (name, bomb) in bombs() {
        broken += &check("text/html; charset=utf-8", name, (BEFORE.to_owned() + &bomb).into());
    }
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn so_does_one_in_another_charset() {
    let mut broken = String::new();
    for (charset, bytes) in [
        ("utf-8", &b"\xff"[..]),
        ("utf-8", b"\xe4\xb8"),
        ("windows-1252", b"\x80"),
        ("gb18030", b"\x84\x31\xa4\x37"),
        ("gb18030", b"\xff"),
        ("big5", b"\x88\x62"),
        ("euc-jp", b"\x8f\xa2\xaf"),
        ("iso-2022-jp", b"\x1b$B\x1b(B"),
        ("shift_jis", b"\x81"),
        ("euc-kr", b"\xb0\xa1"),
        ("x-user-defined", b"\xf7"),
        ("nothing", b"\xff"),
        ("nothing", b"\xcf\xf0\xe8 "),
        ("nothing", b"\xb0\xa1\x81"),
    ] {
        let body = [BEFORE.as_bytes(), &bytes.repeat(100 * MB / bytes.len())].concat();
        broken += &check(&format!("text/html; charset={charset}"), charset, body);
    }
    let body = [b"<?xml version='1.0'?>", BEFORE.as_bytes(), &b"\xff".repeat(100 * MB)].concat();
    broken += &check("text/html; charset=utf-8", "what a list may begin with", body);
    assert!(broken.is_empty(), "{broken}");
}

#[test]
fn so_does_a_list_of_urls() {
    let url = |i: usize| format!("<url><loc>http://bomb.example/{i}</loc></url>");
    let before = "<urlset><url><loc>/before</loc></url>";
    let mut broken = String::new();
    for (name, rest) in [
        ("a million URLs", numbered(MB, |text, i| *text += &url(i))),
        ("a list in lists", repeated("<urlset>", 20 * MB)),
        ("entries in entries", repeated("<url>", 20 * MB)),
        ("a giant URL", format!("<url><loc>{}", repeated("x&amp;", 40 * MB))),
        ("a giant comment", format!("<!--{}", repeated("- -", 40 * MB))),
        ("a million attributes", format!("<url {}>", repeated("a='b' ", 20 * MB))),
        ("references", repeated("&lt;&nothing;", 40 * MB)),
        ("pieces of text", format!("<url><loc>{}", repeated("<![CDATA[x]]>", 40 * MB))),
        ("ends without beginnings", repeated("</url>", 20 * MB)),
    ] {
        broken += &check_list(name, "sitemap.xml", format!("{before}{rest}"));
    }
    for (name, rest) in [
        ("gzip members with nothing in them", gzip("").repeat(2 * MB)),
        ("gzip blocks with nothing in them", empty_blocks(2 * MB)),
        ("gzip of spaces", gzip(&repeated(" ", 300 * MB))),
    ] {
        let body = [gzip(before), rest].concat();
        broken += &check_list(name, "sitemap.xml.gz", body);
    }
    let lines = format!("http://bomb.example/before\n{}", repeated("http://[\n", 40 * MB));
    broken += &check_list("lines that are no URLs", "sitemap.txt", lines);
    let lines = format!("http://bomb.example/before\n{}", repeated("\n", 40 * MB));
    broken += &check_list("lines with nothing in them", "sitemap.txt", lines);
    assert!(broken.is_empty(), "{broken}");
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Memory takes everything.
    _ = encoder.write_all(text.as_bytes());
    encoder.finish().unwrap_or_default()
}

/// A gzip member that goes on without end: blocks with Huffman codes of their own for two
/// characters, of which none comes.
fn empty_blocks(count: usize) -> Vec<u8> {
    const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    const BLOCK: u128 = 0x4d5_ff10_0000_0000_0081_c004;
    const BLOCK_BITS: usize = 91;
    // Eight of them end where a byte ends.
    let bit = |at: usize| u8::from(BLOCK >> (at % BLOCK_BITS) & 1 == 1) << (at % 8);
    let byte = |byte: usize| (0..8).map(|at| bit(8 * byte + at)).sum::<u8>();
    let eight: Vec<u8> = (0..BLOCK_BITS).map(byte).collect();
    [&HEAD[..], &eight.repeat(count / 8)].concat()
}

fn check_list(name: &str, file: &str, body: impl Into<Vec<u8>>) -> String {
    let Ok(url) = CrawlUrl::parse(&format!("http://bomb.example/{file}")) else {
        return "no URL".into();
    };
    let follow = vec![LinkKind::Sitemap, LinkKind::Feed];
    let Ok(parser) = Parser::new(&CrawlSpec { follow, ..CrawlSpec::default() }) else {
        return "no parser".into();
    };
    let (parsed, cpu, memory) = read(&parser, &page(url, "application/xml", body.into()));
    let links = parsed.outlinks.len();
    let line = format!("{name}: {cpu:.0?}, {} MB, {links} links, cut: {}", memory / MB, parsed.cut);
    println!("{line}");
    let is_kept = parsed.outlinks.first().is_some_and(|link| link.url.path() == "/before");
    match cpu > CPU_MAX || memory > MEMORY_MAX || !is_kept {
        true => line + "\n",
        false => String::new(),
    }
}

#[tokio::test]
async fn a_page_says_that_it_was_cut_and_its_links_are_followed() {
    let bomb = format!("{BEFORE}{}<a href=/after>", "<div>".repeat(1_000_000));
    let site = Web::new()
        .answer("/", Answer::html(bomb))
        .page("/before", [])
        .page("/after", [])
        .serve()
        .await;
    let trawl = Trawl::new();
    trawl.crawl([site.url("/")]).done().await.expect(0);

    let pages = trawl.pages().await;
    let page = pages.of(&site.url("/"));
    assert!(page.parse_cut);
    assert_eq!(page.links(), [site.url("/before")]);
    assert_eq!(pages.of(&site.url("/before")).status, 200);
}
