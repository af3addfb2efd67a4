#!/usr/bin/env python3
"""What a crawl of one site must find, told by a program that shares nothing with trawl.

    oracle.py SEED OUT.jsonl [--max-depth N] [--conc N]

It walks the site breadth first from SEED, level by level, and writes one JSON object for
every URL that answered. No robots.txt, no cookies, no waiting.

A link     is the `href` of an `a` or `area` element of the parsed document (lexbor, which builds
           the tree a browser builds; an attribute without a value is an empty reference).
A target   is the reference resolved by the URL standard (ada, the parser inside Node.js) against
           the first `base[href]` if that resolves and is no data: or javascript: URL, else against
           the page's own URL. Only http and https count. Fragment, user name and password are
           dropped, the query stays as it is. A reference or a result of more than 2,048 bytes does
           not count.
In scope   is a target whose host and port are the seed's, whichever of http and https it has.
Parsed     is an answer with a status of 200 to 299 and a media type of text/html or
           application/xhtml+xml. Its text is read by its byte order mark, else by the charset of
           its Content-Type, else by that of a `<meta>` in its first 1,024 bytes, else as UTF-8 if
           it is UTF-8, else as windows-1252.
A redirect is an answer with a status of 300 to 399 and a Location. It is a page of its own with no
           links; where it leads is a page found on it, as if it were its one link.
Depth      counts links and redirects from the seed, by the shortest way.

Keys: url, status, type (the media type), bytes and sha1 (of the body without its content coding),
location (absolute; redirects only), depth, outlinks (targets in document order, each once; parsed
pages only).
"""

import argparse
import asyncio
import hashlib
import json
import re
import time

import ada_url
import aiohttp
import webencodings
import yarl
from selectolax.lexbor import LexborHTMLParser

URL_BYTES_MAX = 2048
PARSED = ("text/html", "application/xhtml+xml")
MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16le"), (b"\xfe\xff", "utf-16be"))
HEADER_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([^\s"';]+)""", re.I)
META_CHARSET = re.compile(rb"""<meta\s[^>]*?charset\s*=\s*["']?\s*([^\s"'/>;]+)""", re.I)


def text_of(body, content_type):
    """The body as text: mark, header, meta, UTF-8, windows-1252."""
    for mark, name in MARKS:
        if body.startswith(mark):
            return body[len(mark):].decode(name, "replace")
    labels = [m.group(1) for m in [HEADER_CHARSET.search(content_type)] if m]
    labels += [m.group(1).decode("latin-1") for m in [META_CHARSET.search(body[:1024])] if m]
    for label in labels:
        encoding = webencodings.lookup(label)
        if encoding:
            # A page that could be searched for an ASCII <meta> is not in UTF-16.
            name = "utf-8" if encoding.name.startswith("utf-16") else encoding.codec_info.name
            return body.decode(name, "replace")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace")


def resolve(reference, base):
    """The target of a reference, or None."""
    if len(reference.encode("utf-8", "replace")) > URL_BYTES_MAX:
        return None
    try:
        url = ada_url.URL(reference, base=base)
    except ValueError:
        return None
    if url.protocol not in ("http:", "https:"):
        return None
    url.hash = ""
    url.username = ""
    url.password = ""
    return url if len(url.href) <= URL_BYTES_MAX else None


def links_of(text, page_url):
    """The targets of a document, as {href: host}, in document order."""
    tree = LexborHTMLParser(text)
    base = page_url
    element = tree.css_first("base[href]")
    if element is not None:
        try:
            url = ada_url.URL(element.attributes["href"] or "", base=page_url)
            base = page_url if url.protocol in ("data:", "javascript:") else url.href
        except ValueError:
            pass
    targets = {}
    for element in tree.css("a[href], area[href]"):
        url = resolve(element.attributes["href"] or "", base)
        if url is not None:
            targets.setdefault(url.href, url.host)
    return targets


async def crawl(seed, out, max_depth, conc):
    """Writes the records of a crawl and returns its totals."""
    seed = resolve(seed, None)
    if seed is None:
        raise SystemExit("the seed is not an http(s) URL")
    totals = dict(urls=0, ok=0, parsed=0, redirects=0, errors=0, bytes=0, links=0, depth=0)
    seen = {seed.href}
    level, depth = [seed.href], 0

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=conc),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "trawl-oracle", "Accept-Encoding": "identity"},
    )

    async def fetch(url):
        async with session.get(yarl.URL(url, encoded=True), allow_redirects=False) as answer:
            return url, answer.status, answer.headers, await answer.read()

    async with session:
        while level:
            below = {}
            while level:
                batch, level = level[:conc], level[conc:]
                for url, status, headers, body in await asyncio.gather(*map(fetch, batch)):
                    content_type = headers.get("Content-Type", "")
                    media_type = content_type.split(";")[0].strip().lower()
                    record = dict(url=url, status=status, type=media_type, bytes=len(body),
                                  sha1=hashlib.sha1(body).hexdigest(), depth=depth)
                    targets, follows = {}, max_depth is None or depth < max_depth
                    if 300 <= status < 400 and "Location" in headers:
                        target = resolve(headers["Location"], url)
                        if target is not None:
                            record["location"] = target.href
                            targets = {target.href: target.host}
                        totals["redirects"] += 1
                    elif 200 <= status < 300:
                        totals["ok"] += 1
                        if media_type in PARSED:
                            targets = links_of(text_of(body, content_type), url)
                            record["outlinks"] = list(targets)
                            totals["parsed"] += 1
                            totals["links"] += len(targets)
                    else:
                        totals["errors"] += 1
                    totals["urls"] += 1
                    totals["bytes"] += len(body)
                    totals["depth"] = depth
                    out.write(json.dumps(record) + "\n")
                    for href, host in targets.items() if follows else ():
                        if host == seed.host and href not in seen:
                            seen.add(href)
                            below[href] = None
            level, depth = list(below), depth + 1
    return totals


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seed")
    parser.add_argument("out")
    parser.add_argument("--max-depth", type=int)
    parser.add_argument("--conc", type=int, default=16)
    args = parser.parse_args()
    start = time.monotonic()
    with open(args.out, "w", encoding="utf-8") as out:
        try:
            totals = asyncio.run(crawl(args.seed, out, args.max_depth, args.conc))
        except aiohttp.ClientError as error:
            raise SystemExit(f"oracle: {args.seed} could not be crawled: {error}") from None
    figures = " ".join(f"{name} {value}" for name, value in totals.items())
    print(f"{args.seed} {figures} seconds {time.monotonic() - start:.1f}")


if __name__ == "__main__":
    main()
