#!/usr/bin/env python3
"""Lays out the real sites: unpacks the Debian packages of sites.toml into a folder and writes the
nginx configuration that serves them.

    lay.py FOLDER     FOLDER/root (the unpacked packages), FOLDER/nginx.conf, FOLDER/nginx.depends
                      (the packages that its libraries are in), FOLDER/sites.json

Packages are downloaded by apt and unpacked, not installed: that needs no root, changes nothing on
the machine, starts no service, and brings the documents even where dpkg is told to leave
documentation out. sites.json is what the tests read: each site's name, seed and `version`, which
changes with whatever could change what a crawl of it finds.
"""

import getpass
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib

HERE = os.path.dirname(os.path.abspath(__file__))
# nginx itself is unpacked too, so that no service of that name appears on the machine.
SERVER = ["nginx", "nginx-common"]
APT = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root"]


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, **options)


def available(choices):
    """The first of "a|b" that this release of Debian has."""
    for name in choices.split("|"):
        found = run("apt-cache", "policy", name, stdout=subprocess.PIPE).stdout
        if re.search(r"Candidate: (?!\(none\))", found):
            return name
    raise SystemExit(f"no package {choices} in this system's package lists (try: apt-get update)")


def unpack(packages, folder):
    """Downloads packages and unpacks them over one another; returns their file names and what they
    depend on."""
    os.makedirs(folder)
    run(*APT, "download", *packages, cwd=folder)
    names, depends = [], []
    for package in packages:
        [deb] = glob.glob(os.path.join(folder, f"{package}_*.deb"))
        run("dpkg-deb", "-x", deb, folder)
        depends.append(run("dpkg-deb", "-f", deb, "Depends", stdout=subprocess.PIPE).stdout)
        os.remove(deb)
        names.append(os.path.basename(deb))
    return names, depends


def server(site, root):
    """The site's part of the nginx configuration."""
    lines = [f"listen {site['address']};", f"root {root};", *site.get("nginx", [])]
    return "    server {\n" + "".join(f"        {line}\n" for line in lines) + "    }\n"


def main():
    [folder] = sys.argv[1:]
    folder = os.path.abspath(folder)
    root = os.path.join(folder, "root")
    shutil.rmtree(root, ignore_errors=True)
    with open(os.path.join(HERE, "sites.toml"), "rb") as file:
        sites = tomllib.load(file)["site"]

    _, depends = unpack(SERVER, os.path.join(root, "nginx"))
    with open(os.path.join(folder, "nginx.depends"), "w", encoding="utf-8") as file:
        file.writelines(depends)
    servers, laid = [], []
    for site in sites:
        files = os.path.join(root, site["name"])
        debs, _ = unpack([available(choices) for choices in site["packages"]], files)
        roots = glob.glob(os.path.join(files, site["root"]))
        if len(roots) != 1:
            raise SystemExit(f"{site['name']}: {site['root']} is {len(roots)} folders, not one")
        servers.append(server(site, roots[0]))
        what = json.dumps([site, debs], sort_keys=True)
        laid.append({
            "name": site["name"],
            "seed": f"http://{site['address']}{site['seed']}",
            "version": hashlib.sha1(what.encode()).hexdigest()[:12],
        })

    temporary = "".join(
        f"    {kind}_temp_path {folder}/temp;\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    with open(os.path.join(folder, "nginx.conf"), "w", encoding="utf-8") as conf:
        conf.write(
            f"daemon off;\npid {folder}/nginx.pid;\nerror_log stderr crit;\n"
            "worker_processes 1;\n"
            + (f"user {getpass.getuser()};\n" if os.getuid() == 0 else "")
            + "events { worker_connections 1024; }\n"
            "http {\n"
            f"    include {root}/nginx/etc/nginx/mime.types;\n"
            "    default_type application/octet-stream;\n"
            "    access_log off;\n    log_not_found off;\n"
            "    sendfile on;\n    keepalive_requests 1000000;\n"
            + temporary + "".join(servers) + "}\n"
        )
    with open(os.path.join(folder, "sites.json"), "w", encoding="utf-8") as file:
        json.dump(laid, file, indent=1)


if __name__ == "__main__":
    main()
