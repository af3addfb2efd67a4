#!/usr/bin/env python3
"""Reads WARC files with warcio, and holds each record against the WARC standard and each page
against its line of the JSON lines.

    warc_pages.py PAGES.jsonl FILE.warc.gz...

Prints the figures; ends with 1 at the first thing that is wrong.
"""

import hashlib
import json
import sys

from warcio.archiveiterator import ArchiveIterator

TYPES = ("warcinfo", "response", "request", "metadata", "revisit")


def main():
    jsonl, *files = sys.argv[1:]
    with open(jsonl, encoding="utf-8") as file:
        pages = {page["url"]: page for page in map(json.loads, file)}
    counts = dict.fromkeys(TYPES, 0)
    ids, responses, asked = set(), {}, set()
    for path in files:
        with open(path, "rb") as file:
            for number, record in enumerate(ArchiveIterator(file, check_digests="raise")):
                header = record.rec_headers.get_header
                where = f"{path}, record {number} ({record.rec_type})"
                assert record.rec_headers.protocol == "WARC/1.1", where
                assert (number == 0) == (record.rec_type == "warcinfo"), \
                    f"{where}: a file starts with its one warcinfo"
                assert header("WARC-Record-ID") not in ids, f"{where}: its id stood before"
                ids.add(header("WARC-Record-ID"))
                counts[record.rec_type] += 1
                url = header("WARC-Target-URI")
                if record.rec_type == "response":
                    assert url not in responses, f"{where}: a second response of {url}"
                    assert header("WARC-Payload-Digest"), f"{where}: no payload digest"
                    assert header("Content-Type").startswith("application/http"), where
                    body = record.content_stream().read()
                    page = pages[url]
                    assert record.http_headers.get_statuscode() == str(page["status"]), where
                    assert hashlib.sha1(body).hexdigest() == page["sha1"], \
                        f"{where}: {url} has another body than its line says"
                    assert len(body) == page["bytes"], where
                    responses[url] = header("WARC-Record-ID")
                elif record.rec_type == "request":
                    asked.add(header("WARC-Concurrent-To"))
                    assert record.http_headers.protocol == "GET", where
                else:
                    record.content_stream().read()
    missing = pages.keys() - responses.keys()
    assert not missing, f"{len(missing)} pages without a response, such as {min(missing)}"
    assert asked == set(responses.values()), "not every response has its request"
    figures = ", ".join(f"{counts[name]} {name}" for name in TYPES)
    print(f"{len(files)} files: {figures}")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, KeyError) as error:
        sys.exit(f"warc_pages: {error!r}")
