#!/usr/bin/env python3
"""Holds a CDXJ index against the one that cdxj-indexer makes of the same WARC files.

    cdxj_lines.py INDEX.cdxj FILE.warc.gz...

The lines of responses must be the same, byte for byte, and in order. (cdxj-indexer lists metadata
records too; they have no status.) Prints how many lines there are; ends with 1 if any differs.
"""

import json
import subprocess
import sys


def main():
    index, *files = sys.argv[1:]
    indexer = [sys.executable, "-c", "from cdxj_indexer.main import main; main()", "--sort", *files]
    printed = subprocess.run(indexer, check=True, stdout=subprocess.PIPE).stdout.splitlines()
    want = [line for line in printed if "status" in json.loads(line.split(b" ", 2)[2])]
    with open(index, "rb") as file:
        have = file.read().splitlines()
    if have != want:
        for line in sorted(set(want) - set(have))[:3]:
            print("cdxj-indexer has", line.decode())
        for line in sorted(set(have) - set(want))[:3]:
            print("trawl has", line.decode())
        sys.exit(f"{len(have)} lines instead of {len(want)}, or in another order")
    print(f"{len(have)} lines")


if __name__ == "__main__":
    main()
