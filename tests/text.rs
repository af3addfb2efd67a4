//! What a page says, whatever it is written in: charsets, content codings, links, fields.

use std::{fs, path::Path, time::Duration};

use encoding_rs::{BIG5, EUC_KR, Encoding, GBK, SHIFT_JIS, UTF_16LE, WINDOWS_1251};
use harness::{Answer, Page, Trawl, Web, env, tools::python};
use serde_json::json;
use trawl_shared::page::CharsetSource;
use trawl_worker::parse::{self, Decoded};

/// Crawls one page and returns what is known of it.
async fn page(answer: Answer, options: &[(&str, &str)]) -> Page {
    let site = Web::new().answer("/dir/page", answer).serve().await;
    let trawl = Trawl::new();
    let crawl = trawl.crawl([site.url("/dir/page")]).set("--depth", "0");
    let crawl = options.iter().fold(crawl, |crawl, (option, value)| crawl.set(option, value));
    crawl.done().await.expect(0);
    trawl.pages().await.of(&site.url("/dir/page")).clone()
}

fn in_charset(charset: &'static Encoding, text: &str) -> Vec<u8> {
    let (bytes, _, is_lossy) = charset.encode(text);
    assert!(!is_lossy);
    bytes.into_owned()
}

/// The title as read, the charset's name, and what decided on it.
fn reading(page: &Page) -> (&str, &str, &str) {
    let of = |key: &str| page.charset[key].as_str().unwrap_or_default();
    (page.title.as_deref().unwrap_or_default(), of("name"), of("by"))
}

/// Reads bytes as the page of that header, without a list of charsets.
fn decode<'a>(body: &'a [u8], header: Option<&str>) -> Decoded<'a> {
    parse::decode(body, header, &[], true, &|| Duration::ZERO)
}

#[test]
fn every_label_of_the_encoding_standard_is_known() {
    let table = include_str!("fixtures/encoding_labels.txt");
    let mut count = 0;
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let (name, labels) = line.split_once(' ').unwrap();
        for label in labels.split(' ') {
            count += 1;
            for spelled in [label.to_owned(), label.to_uppercase(), format!("\"{label}\"")] {
                let header = format!("text/html; charset={spelled}");
                let charset = decode(b"<p>x", Some(&header)).charset;
                // Browsers show nothing of a page in a "replacement" charset; we guess.
                let want = match name {
                    "replacement" => ("UTF-8", CharsetSource::Guess),
                    _ => (name, CharsetSource::Header),
                };
                assert_eq!((&*charset.name, charset.by), want, "{header}");
            }
            for meta in [
                format!("<meta charset={label}>"),
                format!("<meta content='text/html;charset={label}' http-equiv=Content-Type>"),
                format!("<?xml version='1.0' encoding='{label}'?><p>"),
            ] {
                let charset = decode(meta.as_bytes(), Some("text/html")).charset;
                // Who can read the declaration cannot be in UTF-16.
                let want = match name {
                    "replacement" => ("UTF-8", CharsetSource::Guess),
                    "UTF-16LE" | "UTF-16BE" => ("UTF-8", CharsetSource::Meta),
                    "x-user-defined" if meta.starts_with("<meta") => {
                        ("windows-1252", CharsetSource::Meta)
                    }
                    _ => (name, CharsetSource::Meta),
                };
                assert_eq!((&*charset.name, charset.by), want, "{meta}");
            }
        }
    }
    assert_eq!(count, 228);
    for label in ["utf-7", "utf-32", "cp437", "ebcdic-cp-us", "unknown-8bit"] {
        let header = format!("text/html; charset={label}");
        assert_eq!(decode(b"+ADw-p", Some(&header)).charset.by, CharsetSource::Guess, "{label}");
    }
}

/// Pages that people have written, in the charsets of their languages, each as Python encodes it and
/// the text that it stands for.
struct Written {
    charset: String,
    name: &'static Encoding,
    page: Vec<u8>,
    text: String,
}

fn written(folder: &Path) -> Vec<Written> {
    let manual = env::folder().join("sites/root/apache/usr/share/doc/apache2-doc/manual");
    let made = python("readers/transcode.py", [manual.as_path(), folder]);
    assert!(made.is_ok, "{}", made.text);
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let mut written: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "page"))
        .filter_map(|path| {
            let charset = path.file_name()?.to_str()?.split('.').next()?.to_owned();
            let name = Encoding::for_label(charset.as_bytes())?;
            let text = fs::read_to_string(path.with_extension("text")).ok()?;
            Some(Written { charset, name, page: fs::read(path).ok()?, text })
        })
        .collect();
    written.sort_by(|one, other| one.charset.cmp(&other.charset));
    written
}

#[test]
fn real_pages_are_read_by_what_they_declare() {
    let folder = tempfile::tempdir().unwrap();
    let pages = written(folder.path());
    assert_eq!(pages.len(), 76);
    for Written { charset, name, page, text } in pages {
        let is_wide = charset.starts_with("utf-16");
        let header = format!("text/html; charset={charset}");
        let other = if charset == "koi8-r" { "windows-1251" } else { "koi8-r" };
        let read = |page: &[u8], header: Option<&str>| {
            let decoded = decode(page, header);
            let charset = decoded.charset;
            (decoded.text.into_owned(), charset.name, charset.by, charset.lossy)
        };
        let right = |by| (text.clone(), name.name().to_owned(), by, false);

        assert!(read(&page, Some(&header)) == right(CharsetSource::Header), "{charset}");

        // The header wins over a wrong meta.
        let meta = format!("<meta charset={other}>");
        let meta_bytes: Vec<u8> = match name.name() {
            "UTF-16LE" => meta.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            "UTF-16BE" => meta.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            _ => meta.clone().into_bytes(),
        };
        let (got, ..) = read(&[&meta_bytes, &page[..]].concat(), Some(&header));
        assert!(got == format!("{meta}{text}"), "{charset}: a wrong meta");

        // A mark wins over a wrong header.
        if is_wide || charset == "utf-8" {
            let mark = match name.name() {
                "UTF-16LE" => vec![0xff, 0xfe],
                "UTF-16BE" => vec![0xfe, 0xff],
                _ => vec![0xef, 0xbb, 0xbf],
            };
            let marked = [&mark, &page[..]].concat();
            let wrong = format!("text/html; charset={other}");
            assert!(read(&marked, Some(&wrong)) == right(CharsetSource::Mark), "{charset}");
        } else {
            let meta = format!("<meta charset={charset}>");
            let declared = [meta.as_bytes(), &page].concat();
            let (got, _, by, lossy) = read(&declared, Some("text/html"));
            let is_right = got == format!("{meta}{text}");
            assert!(is_right && by == CharsetSource::Meta && !lossy, "{charset}: its own meta");

            // A wrong header is believed, as browsers do; the page is read all the same.
            let wrong = format!("text/html; charset={other}");
            let (got, believed, by, _) = read(&declared, Some(&wrong));
            assert!(believed.eq_ignore_ascii_case(other) && by == CharsetSource::Header);
            let ascii = |text: &str| text.matches("href=").count();
            if charset != "iso-2022-jp" {
                assert_eq!(ascii(&got), ascii(&text), "{charset}: its markup survives");
            }
        }
    }
}

#[test]
fn real_pages_that_declare_nothing_are_read_by_a_guess() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for Written { charset, page, text, .. } in written(folder.path()) {
        // Browsers do not guess this one either: its bytes are ASCII, which is UTF-8.
        if charset == "iso-2022-jp" {
            continue;
        }
        let decoded = decode(&page, Some("text/html"));
        assert_eq!(decoded.charset.by, CharsetSource::Guess);
        if decoded.text != text {
            wrong.push(format!("{charset} read as {}", decoded.charset.name));
        }
    }
    // Two of 73, of kinds that share most letters; browsers use the same detector.
    wrong.sort();
    assert_eq!(wrong, ["windows-1252 read as windows-1250", "windows-1257 read as windows-1250"]);
}

#[tokio::test]
async fn a_page_in_gbk_that_does_not_say_so_is_read_by_the_crawls_list() {
    let body = in_charset(GBK, "<title>搜狐首页</title><a href=/新闻>新闻</a>");
    let page = page(Answer::bytes("text/html", body), &[("--charsets", "utf-8,gbk")]).await;

    assert_eq!(reading(&page), ("搜狐首页", "GBK", "list"));
    assert!(page.links()[0].ends_with("/%E6%96%B0%E9%97%BB"), "{:?}", page.links());
}

#[tokio::test]
async fn utf_8_comes_first_in_that_list_and_wins_where_it_fits() {
    let body = "<title>搜狐首页</title>";
    let page = page(Answer::bytes("text/html", body), &[("--charsets", "utf-8,gbk")]).await;

    assert_eq!(reading(&page), ("搜狐首页", "UTF-8", "list"));
}

#[tokio::test]
async fn a_mark_wins_over_the_header_the_header_over_meta_and_meta_over_the_list() {
    let list = [("--charsets", "euc-kr")];
    let header = |charset: &str| format!("text/html; charset={charset}");

    let answer = Answer::bytes(&header("gbk"), "\u{feff}<meta charset=gbk><title>é</title>");
    assert_eq!(reading(&page(answer, &list).await), ("é", "UTF-8", "mark"));

    let body = in_charset(BIG5, "<meta charset=gbk><title>繁體</title>");
    let answer = Answer::bytes(&header("BIG5"), body);
    assert_eq!(reading(&page(answer, &list).await), ("繁體", "Big5", "header"));

    let body = in_charset(SHIFT_JIS, "<meta charset=shift_jis><title>日本語</title>");
    let answer = Answer::bytes("text/html", body);
    assert_eq!(reading(&page(answer, &list).await), ("日本語", "Shift_JIS", "meta"));

    let answer = Answer::bytes("text/html", in_charset(EUC_KR, "<title>한국어</title>"));
    assert_eq!(reading(&page(answer, &list).await), ("한국어", "EUC-KR", "list"));
}

#[tokio::test]
async fn utf_16_is_known_by_its_mark() {
    let text = "\u{feff}<title>wide</title><a href='x'>x</a>";
    let body: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let page = page(Answer::bytes("text/html", body), &[]).await;

    assert_eq!(reading(&page), ("wide", UTF_16LE.name(), "mark"));
    assert_eq!(page.outlinks.len(), 1);
}

#[tokio::test]
async fn a_page_that_says_nothing_is_guessed() {
    let text = "<title>Русский язык</title><p>Это страница на русском языке, и больше о ней нечего \
                сказать, кроме того, что она ничего не говорит о своей кодировке.";
    let answer = Answer::bytes("text/html", in_charset(WINDOWS_1251, text));
    assert_eq!(reading(&page(answer, &[]).await), ("Русский язык", "windows-1251", "guess"));
}

#[tokio::test]
async fn a_charset_that_nobody_knows_and_bytes_that_do_not_fit_fail_no_page() {
    let body = b"<title>caf\xe9 \xff</title><a href=/a>a</a>".to_vec();
    let page = page(Answer::bytes("text/html; charset=klingon", body.clone()), &[]).await;
    assert_eq!((page.status, page.outlinks.len()), (200, 1));

    let page = self::page(Answer::bytes("text/html; charset=utf-8", body), &[]).await;
    assert_eq!(reading(&page), ("caf\u{fffd} \u{fffd}", "UTF-8", "header"));
    assert_eq!(page.charset["lossy"], json!(true));
}

#[tokio::test]
async fn every_content_coding_is_undone() {
    let html = "<title>packed</title><a href=/a>a</a>\n".repeat(40);
    let sha1 = "34117d9e7ff3449a56539bef48d6f9f2176f6104";
    let zlib = {
        use std::io::Write;
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(html.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let bare = zlib[2..zlib.len() - 4].to_vec();
    let zstd = zstd::encode_all(html.as_bytes(), 3).unwrap();
    let brotli = include_bytes!("fixtures/packed.html.br").to_vec();
    let coded = |coding: &str, body: Vec<u8>| {
        Answer::bytes("text/html", body).header("Content-Encoding", coding)
    };
    for (coding, answer) in [
        ("gzip", Answer::html(html.as_str()).gzipped()),
        ("deflate", coded("deflate", zlib)),
        ("deflate without its wrapping", coded("deflate", bare)),
        ("br", coded("br", brotli)),
        ("zstd", coded("zstd", zstd)),
        ("none", Answer::html(html.as_str())),
    ] {
        let page = page(answer, &[]).await;
        assert_eq!((&*page.sha1, page.bytes), (sha1, 1_520), "{coding}");
        assert_eq!(page.title.as_deref(), Some("packed"), "{coding}");
    }
}

#[tokio::test]
async fn a_worker_says_which_codings_it_undoes() {
    let site = Web::new().page("/", []).serve().await;
    Trawl::new().crawl([site.url("/")]).done().await.expect(0);

    let offered = &site.visits()[0].headers["accept-encoding"];
    for coding in ["gzip", "deflate", "br", "zstd"] {
        assert!(offered.contains(coding), "{offered}");
    }
}

#[tokio::test]
async fn a_body_that_is_not_in_its_coding_is_kept_as_far_as_it_goes() {
    let answer = Answer::html("<title>plain</title>").header("Content-Encoding", "gzip");
    let page = page(answer, &[]).await;
    assert_eq!(page.status, 200);
}

#[tokio::test]
async fn links_are_found_as_a_browser_finds_them() {
    let html = include_str!("fixtures/odd_links.html");
    let page = page(Answer::html(html), &[]).await;
    let host = page.url.strip_suffix("/dir/page").unwrap();
    let links: Vec<_> = page
        .outlinks
        .iter()
        .filter(|link| matches!(&*link.kind, "a" | "area"))
        .map(|link| link.url.replace(host, ""))
        .collect();

    let want: Vec<&str> = include_str!("fixtures/odd_links.txt").lines().collect();
    assert_eq!(links, want);
}

#[tokio::test]
async fn the_first_base_that_has_a_href_counts_for_all_links() {
    for (html, want) in [
        (
            "<a href=a>before</a><base href='/base/'><base href='/other/'><a href=b>",
            "/base/a /base/b",
        ),
        ("<base target=_top><base href=sub/><a href=a><a href='#x'>", "/dir/sub/a /dir/sub/"),
        ("<base href='javascript:0'><a href=a>", "/dir/a"),
        ("<base href='http://['><a href=a>", "/dir/a"),
        ("<base href='?q'><a href='#x'><a href=a>", "/dir/page?q /dir/a"),
        ("<base href=' //elsewhere.example/x '><a href=a>", "http://elsewhere.example/a"),
    ] {
        let page = page(Answer::html(html), &[]).await;
        let host = page.url.strip_suffix("/dir/page").unwrap();
        assert_eq!(page.links().join(" ").replace(host, ""), want, "{html}");
    }
}

#[tokio::test]
async fn fields_are_extracted_as_the_configuration_says() {
    let config = r#"
        [[extract]]
        name = "heading"
        select = "h1"

        [[extract]]
        name = "prices"
        select = ".price[data-eur]"
        attribute = "data-eur"
        many = true

        [[extract]]
        name = "items"
        select = "ul > li"
        many = true

        [[extract]]
        name = "absent"
        select = "h6"

        [[extract]]
        name = "none"
        select = "h6"
        many = true
    "#;
    let html = "<h1> Two <b>fine</b>\n things </h1><h1>another</h1>
        <ul><li>caf&eacute;<li>tea</ul><ol><li>not this</ol>
        <p class='big price' data-eur=3.50>3,50 €</p><p class=price>free</p>
        <p class=price data-eur='4 &amp; more'>4</p>";
    let trawl = Trawl::new();
    let config = trawl.write("crawl.toml", config);
    let site = Web::new().answer("/", Answer::html(html)).serve().await;
    trawl.crawl([site.url("/")]).set("--config", config).done().await.expect(0);

    let pages = trawl.pages().await;
    let fields = &pages.of(&site.url("/")).fields;
    let heading = fields["heading"].as_str().unwrap();
    assert_eq!(heading.split_whitespace().collect::<Vec<_>>().join(" "), "Two fine things");
    assert_eq!(fields["prices"], json!(["3.50", "4 & more"]));
    assert_eq!(fields["items"], json!(["café", "tea"]));
    assert_eq!(fields["none"], json!([]));
    assert!(fields.get("absent").is_none_or(serde_json::Value::is_null));
}
