#!/usr/bin/env python3
"""Reads BSON documents with PyMongo's bson, as mongorestore would, and holds each against its line
of the JSON lines.

    bson_pages.py PAGES.bson PAGES.jsonl

There must be a document for each page with a status of 200 to 299. Prints how many there are; ends
with 1 at the first thing that is wrong.
"""

import hashlib
import json
import sys
import zlib

import bson


def main():
    documents, jsonl = sys.argv[1:]
    with open(jsonl, encoding="utf-8") as file:
        pages = {page["id"]: page for page in map(json.loads, file)}
    seen = set()
    with open(documents, "rb") as file:
        for document in bson.decode_file_iter(file):
            assert list(document) == ["_id", "url", "page"], f"other keys: {list(document)}"
            key, url = document["_id"], document["url"]
            assert key == hashlib.sha1(url.encode()).hexdigest(), f"{url}: another _id: {key}"
            assert key not in seen, f"{url}: twice"
            seen.add(key)
            page = pages[key]
            assert page["url"] == url, url
            body = zlib.decompress(document["page"])
            assert hashlib.sha1(body).hexdigest() == page["sha1"], f"{url}: another body"
    want = {key for key, page in pages.items() if 200 <= page["status"] <= 299}
    assert seen == want, f"{len(seen)} documents instead of {len(want)}"
    print(f"{len(seen)} documents")


if __name__ == "__main__":
    try:
        main()
    except (AssertionError, KeyError) as error:
        sys.exit(f"bson_pages: {error!r}")
