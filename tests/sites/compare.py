#!/usr/bin/env python3
"""Holds what trawl exported against what the oracle found.

    compare.py EXPORT.jsonl ORACLE.jsonl...

EXPORT is what `trawl export --format jsonl` wrote. Prints the figures, then up to five URLs of each
kind of difference, and ends with 1 if there is any:

missing   the oracle has it, trawl has not
extra     trawl has it, the oracle has not
twice     trawl has it more than once
status, location, type, bytes, sha1     the two disagree on it
id        the id is not the SHA-1 of the URL
links     the links of a parsed page are others (their order does not count here)
"""

import hashlib
import json
import sys

KINDS = ("missing", "extra", "twice", "status", "location", "type", "bytes", "sha1", "id", "links")


def records(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def differences(want, got):
    """In what a page differs from the oracle's account of it, as {kind: detail}."""
    found = {}
    content_type = (got["content_type"] or "").split(";")[0].strip().lower()
    for kind, have in (
        ("status", got["status"]),
        ("location", got.get("location")),
        ("type", content_type),
        ("bytes", got["bytes"]),
        ("sha1", got["sha1"]),
    ):
        if have != want.get(kind):
            found[kind] = f"{have!r} instead of {want.get(kind)!r}"
    if got["id"] != hashlib.sha1(got["url"].encode()).hexdigest():
        found["id"] = got["id"]
    if "outlinks" in want:
        links = set(want["outlinks"])
        # A URL that stands first in another element counts as had, but not as one too many.
        missing = links - {link["url"] for link in got["outlinks"]}
        extra = {link["url"] for link in got["outlinks"] if link["kind"] in ("a", "area")} - links
        if missing or extra:
            found["links"] = (f"{len(missing)} missing {sorted(missing)[:2]},"
                              f" {len(extra)} extra {sorted(extra)[:2]}")
    return found


def main():
    export, *oracles = sys.argv[1:]
    want = {record["url"]: record for path in oracles for record in records(path)}
    exported = records(export)
    got = {record["url"]: record for record in exported}

    found = {kind: [] for kind in KINDS}
    found["missing"] = sorted(want.keys() - got.keys())
    found["extra"] = sorted(got.keys() - want.keys())
    seen = set()
    for record in exported:
        url = record["url"]
        if url in seen:
            found["twice"].append(url)
        seen.add(url)
        if url in want:
            for kind, detail in differences(want[url], record).items():
                found[kind].append(f"{url}: {detail}")

    pages = sum("outlinks" in record for record in want.values())
    links = sum(len(record.get("outlinks", ())) for record in want.values())
    counts = ", ".join(f"{len(found[kind])} {kind}" for kind in KINDS)
    print(f"{len(want)} URLs wanted, {len(exported)} exported, {pages} parsed pages with {links} "
          f"links: {counts}")
    for kind in KINDS:
        for example in found[kind][:5]:
            print(f"  {kind} {example}")
    sys.exit(any(found.values()))


if __name__ == "__main__":
    main()
