#!/usr/bin/env python3
"""Holds Kubernetes manifests against Kubernetes' own schemas, and against each other.

    kubernetes_manifests.py FILE.yaml...

Each object must be valid, without a key that is unknown, by the schemas of the oldest and of the
newest Kubernetes that kubernetes-validate has. What one object says of another must be there: the
pods that a Service or a controller selects, the Service that workers call and its port, volumes,
Secrets and their keys. And no pod may be more than it needs. Prints what it read; ends with 1 at
what is wrong.
"""

import sys
from urllib.parse import urlsplit

import kubernetes_validate
import yaml

VERSIONS = ("1.25.0", kubernetes_validate.latest_version())


def check(is_so, *what):
    if not is_so:
        raise SystemExit(" ".join(map(str, what)))


def check_pod(where, template, claims, secrets):
    """One container, which mounts what there is and may do nothing else."""
    spec = template["spec"]
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    [container] = spec["containers"]
    for mount in container["volumeMounts"]:
        name = mount["name"]
        check(name in volumes or name in claims, where, "has no volume", name)
        secret = volumes.get(name, {}).get("secret")
        if secret:
            check(secret["secretName"] in secrets, where, "wants an unknown secret", secret)
            files = {f"{mount['mountPath']}/{key}" for key in secrets[secret["secretName"]]}
            wanted = [env["value"] for env in container["env"]
                      if env["value"].startswith(mount["mountPath"] + "/")]
            check(wanted and files.issuperset(wanted), where, "reads", wanted, "but has", files)
    pod, alone = spec["securityContext"], container["securityContext"]
    check(pod["runAsNonRoot"] and pod["runAsUser"] > 0, where, "runs as root")
    check(pod["seccompProfile"]["type"] == "RuntimeDefault", where, "has no seccomp profile")
    check(alone["readOnlyRootFilesystem"], where, "writes to its root")
    check(not alone["allowPrivilegeEscalation"], where, "may become more")
    check(alone["capabilities"] == {"drop": ["ALL"]}, where, "has capabilities")
    check(not spec["automountServiceAccountToken"], where, "may talk to Kubernetes")
    check("memory" in container["resources"]["limits"], where, "may take all memory")
    return container


def main():
    objects = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as file:
            objects += [(path, it) for it in yaml.safe_load_all(file)]
    by_kind = {}
    for path, it in objects:
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(it, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise SystemExit(f"{path}, Kubernetes {version}: {error.message}") from None
        by_kind.setdefault(it["kind"], {})[it["metadata"]["name"]] = it

    secrets = {name: set(it.get("stringData", {})) for name, it in by_kind["Secret"].items()}
    called = set()
    for kind in ("StatefulSet", "Deployment"):
        for name, it in by_kind[kind].items():
            where, spec = f"{kind} {name}", it["spec"]
            labels = spec["template"]["metadata"]["labels"]
            check(spec["selector"]["matchLabels"] == labels, where, "does not select its pods")
            claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
            container = check_pod(where, spec["template"], claims, secrets)
            called |= {urlsplit(env["value"]).netloc for env in container["env"]
                       if env["name"] == "TRAWL_MASTER"}
            if kind == "StatefulSet":
                service = by_kind["Service"][spec["serviceName"]]["spec"]
                check(service["selector"] == labels, where, "is not what its Service selects")
                ports = {port["name"] for port in container["ports"]}
                check({port["targetPort"] for port in service["ports"]} <= ports, where, ports)
    served = {f"{name}:{port['port']}" for name, it in by_kind["Service"].items()
              for port in it["spec"]["ports"]}
    own = {netloc for netloc in called if netloc.startswith("127.0.0.1:")}
    check(called - own == served, "workers call", called - own, "but served is", served)
    names = ", ".join(f"{it['kind']} {it['metadata']['name']}" for _, it in objects)
    print(f"{names}: valid for Kubernetes {' and '.join(VERSIONS)}")


if __name__ == "__main__":
    main()
