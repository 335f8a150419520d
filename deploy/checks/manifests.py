#!/usr/bin/env python3
"""What schemas cannot see of compose file, Kubernetes manifests and units. Needs PyYAML; `modelfaucet help config` on standard input.

usage: modelfaucet help config | deploy/checks/manifests.py
"""

import pathlib
import re
import sys

import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[1]
# Their settings are their own.
FOREIGN = ("POSTGRES_", "PG", "GF_", "LITELLM_", "OPENAI_", "ANTHROPIC_", "GEMINI_")
problems = []


def need(right, what):
    if not right:
        problems.append(what)


def settings():
    """Every name that a role may be given: the settings, and NAME_FILE of the secret ones."""
    text = sys.stdin.read()
    facts = dict(re.findall(r"^  ([A-Z][A-Z0-9_]+)(?:  \((.*)\))?$", text, re.M))
    need(len(facts) > 20, "standard input is not `modelfaucet help config`")
    secret = {name for name, fact in facts.items() if "secret" in fact}
    return set(facts), secret


def check_names(names, known, secret, where):
    for name in names:
        base = name.removesuffix("_FILE")
        need(name in known or (base in secret and name.endswith("_FILE")), f"{where}: no setting is called {name}")
        need(name not in secret, f"{where}: the secret {name} is given in clear; give {name}_FILE")


# Our own image, and the one with PostgreSQL's programs.
OURS = ("modelfaucet:", "modelfaucet-backup:")


def roles_of(services):
    return {name: service for name, service in services.items() if service.get("image", "").startswith(OURS)}


def verbs(words):
    """What of the program is run by a command line: `backup wal`, `relay`."""
    text = " ".join(words) if isinstance(words, list) else str(words)
    known = r"(?:^|modelfaucet )(backup run|backup wal|drill|verify|command|query|projector|relay|gateway|migrate)\b"
    return set(re.findall(known, text))


def complete(where, run):
    """Everything that a production needs is run there."""
    missing = {"command", "query", "projector", "relay", "gateway", "verify", "backup wal", "backup run", "drill"} - run
    need(not missing, f"{where}: nobody runs {', '.join(sorted(missing))}")


def compose(known, secret):
    """References that must exist, who has a port, a way out, a secret."""
    document = yaml.safe_load((DEPLOY / "container" / "compose.yaml").read_text())
    services, networks = document["services"], document["networks"]
    out = {name for name, network in networks.items() if not network.get("internal")}
    for name, service in services.items():
        for network in service["networks"]:
            need(network in networks, f"compose: {name}: no network {network}")
        for kept in service.get("secrets", []):
            kept = kept["source"] if isinstance(kept, dict) else kept
            need(kept in document["secrets"], f"compose: {name}: no secret {kept}")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                need((DEPLOY / "container" / source).exists(), f"compose: {name}: {source} does not exist")
            else:
                need(source in document["volumes"], f"compose: {name}: no volume {source}")
        for other in service.get("depends_on", {}):
            need(other in services, f"compose: {name}: no service {other}")
        need("no-new-privileges:true" in service.get("security_opt", []), f"compose: {name} may gain privileges")
        need(service.get("cap_drop") == ["ALL"], f"compose: {name} keeps capabilities")
        need(name == "postgres" or service.get("read_only"), f"compose: {name} can write to its image")
        need(name in ("ingress", "grafana") or "ports" not in service, f"compose: {name} has a port on the host")
        need(name in ("ingress", "grafana", "litellm", "gateway-1", "gateway-2") or not out & set(service["networks"]), f"compose: {name} has a way out")
    for name, service in roles_of(services).items():
        given = service.get("environment", {})
        check_names(given, known, secret, f"compose: {name}")
        for value in (value for key, value in given.items() if key.endswith("_FILE")):
            need(value.removeprefix("/run/secrets/") in service["secrets"], f"compose: {name} does not get {value}")
    run = set().union(*(verbs(service.get(key, "")) for service in roles_of(services).values() for key in ("command", "entrypoint")))
    complete("compose", run)
    scraped = yaml.safe_load((DEPLOY / "observability" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target.split(":")[0] for job in scraped for static in job["static_configs"] for target in static["targets"]}
    for name, service in roles_of(services).items():
        served = "monitoring" in service["networks"]
        need(served == (name in targets), f"compose: {name} is {'not scraped' if served else 'scraped, but not on `monitoring`'}")
    made = (DEPLOY / "secrets" / "make").read_text()
    for name, kept in document["secrets"].items():
        file = kept["file"].removeprefix("secrets/")
        stem = re.sub(r"^(database_(?:url|password)?_?|openai|anthropic|gemini|postgres|redis|rabbitmq|tls).*", "", file)
        need(not stem or stem in made, f"compose: nobody makes the secret {file}")
    return len(services)


def kubernetes(known, secret):
    """Hardening that `restricted` asks for and more; secrets by reference; who may speak to whom."""
    documents = []
    listed = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())
    for path in listed["resources"]:
        documents += [document for document in yaml.safe_load_all((DEPLOY / path).read_text()) if document]
    for generated in listed["configMapGenerator"]:
        for file in generated["files"]:
            need((DEPLOY / file).exists(), f"kustomization: {file} does not exist")
    maps = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ConfigMap"}
    check_names(maps["modelfaucet-settings"]["data"], known, secret, "kubernetes: settings")
    pods, run = {}, set()
    claims = {d["metadata"]["name"] for d in documents if d["kind"] == "PersistentVolumeClaim"}
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        need(kind != "Secret", f"kubernetes: {name} is a Secret in clear")
        spec = document.get("spec", {})
        template = spec["jobTemplate"]["spec"]["template"] if kind == "CronJob" else spec.get("template")
        if template:
            pods[name] = template
            pod = template["spec"]
            need(pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["seccompProfile"], f"kubernetes: {name} may be root")
            need(pod["automountServiceAccountToken"] is False, f"kubernetes: {name} gets a token of the cluster")
            for container in pod.get("initContainers", []) + pod["containers"]:
                context = container["securityContext"]
                hard = not context["allowPrivilegeEscalation"] and context["readOnlyRootFilesystem"] and context["capabilities"] == {"drop": ["ALL"]}
                need(hard, f"kubernetes: {name} is not hardened")
                need("requests" in container["resources"] and "memory" in container["resources"]["limits"], f"kubernetes: {name} has no limits")
                if container["image"].startswith(OURS):
                    run |= verbs(container["args"])
                    check_names([given["name"] for given in container.get("env", [])], known, secret, f"kubernetes: {name}")
                if kind in ("Deployment", "StatefulSet"):
                    probes = container in pod.get("initContainers", []) or {"livenessProbe", "readinessProbe"} <= set(container)
                    need(probes, f"kubernetes: {name} has no probes")
            mounted = {item["key"] for volume in pod["volumes"] for item in volume.get("secret", {}).get("items", [])}
            for volume in pod["volumes"]:
                claim = volume.get("persistentVolumeClaim", {}).get("claimName")
                need(claim is None or claim in claims, f"kubernetes: {name}: no claim {claim}")
            text = yaml.safe_dump(pod)
            for used in re.findall(r"value: /secrets/(\S+)", text):
                need(used in mounted, f"kubernetes: {name} does not get {used}")
            need(all("items" in volume["secret"] for volume in pod["volumes"] if "secret" in volume), f"kubernetes: {name} gets every secret")
    budgets = {d["metadata"]["name"] for d in documents if d["kind"] == "PodDisruptionBudget"}
    complete("kubernetes", run)
    need({"command", "query", "projector", "gateway", "ingress", "relay"} <= budgets, "kubernetes: a role has no PodDisruptionBudget")
    scaled = {d["metadata"]["name"] for d in documents if d["kind"] == "HorizontalPodAutoscaler"}
    need({"query", "gateway"} <= scaled, "kubernetes: query or gateway does not scale")
    policies(documents, pods)
    return len(documents)


def selects(selector, labels):
    chosen = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return chosen and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", []))


def policies(documents, pods):
    """The table of who reaches whom, computed from the policies, is exactly this one."""
    labels = {name: template["metadata"]["labels"] for name, template in pods.items()}
    rules = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    need(any(r["podSelector"] == {} and set(r["policyTypes"]) == {"Ingress", "Egress"} and not r.get("ingress") and not r.get("egress") for r in rules), "kubernetes: what is not named is not forbidden")

    def ways(name, direction, side):
        found = set()
        for rule in rules:
            if not selects(rule["podSelector"], labels[name]):
                continue
            for way in rule.get(direction, []):
                port = way["ports"][0]["port"]
                for peer in way.get(side, [{"everybody": True}]):
                    if "ipBlock" in peer or "everybody" in peer:
                        found.add(("outside", port))
                    elif "namespaceSelector" in peer:
                        found.add((next(iter(peer["namespaceSelector"]["matchLabels"].values())), port))
                    else:
                        found |= {(other, port) for other in labels if selects(peer["podSelector"], labels[other])}
        return found

    names = ("kube-system", 53)
    books = {("postgres", 5432), names}
    expected = {
        "postgres": {names}, "redis": {names}, "litellm": {("outside", 443), names},
        "projector": books, "query": books | {("redis", 6379)}, "migrate": books, "verify": books,
        "rabbitmq": {names}, "relay": books | {("rabbitmq", 5671)},
        "backup-wal": books, "backup-run": books, "backup-drill": books,
        "command": books | {("redis", 6379)},
        "gateway": books | {("redis", 6379), ("litellm", 4000), ("outside", 443)},
        "ingress": {("command", 8080), ("query", 8080), ("gateway", 8080), names},
    }
    for name in pods:
        egress = ways(name, "egress", "to")
        need(egress == expected.get(name), f"kubernetes: {name} reaches {sorted(egress)}, must be {sorted(expected.get(name, []))}")
    entries = {
        "postgres": {
            (name, 5432)
            for name in ("command", "query", "projector", "gateway", "relay", "migrate", "verify", "backup-wal", "backup-run", "backup-drill")
        },
        "rabbitmq": {("relay", 5671), ("monitoring", 15692)}, "relay": {("monitoring", 8080)},
        "backup-wal": {("monitoring", 9100)}, "backup-run": set(), "backup-drill": set(),
        "redis": {("command", 6379), ("query", 6379), ("gateway", 6379)}, "litellm": {("gateway", 4000)}, "ingress": {("outside", 8443)},
        "migrate": set(), "verify": set(),
        **{name: {("ingress", 8080), ("monitoring", 8080)} for name in ("command", "query", "gateway", "projector")},
    }
    for name in pods:
        ingress = ways(name, "ingress", "from")
        need(ingress == entries.get(name), f"kubernetes: {name} is reached by {sorted(ingress)}, must be {sorted(entries.get(name, []))}")


def units(known, secret):
    count, run = 0, set()
    for path in sorted((DEPLOY / "systemd").glob("*.service")):
        text = path.read_text()
        run |= verbs(re.findall(r"^ExecStart=/usr/local/bin/(.*)$", text, re.M))
        credentials = set(re.findall(r"^LoadCredential=([a-z_]+):", text, re.M))
        given = dict(pair.split("=", 1) for line in re.findall(r"^Environment=(.*)$", text, re.M) for pair in line.split())
        check_names(given, known, secret, path.name)
        used = {value.removeprefix("%d/") for value in given.values() if value.startswith("%d/")}
        need(used == credentials, f"{path.name}: credentials {sorted(credentials)}, used {sorted(used)}")
        count += 1
    complete("systemd", run)
    for timer in (DEPLOY / "systemd").glob("*.timer"):
        need(timer.with_suffix(".service").exists(), f"{timer.name}: nothing to start")
    return count


def main():
    known, secret = settings()
    counts = compose(known, secret), kubernetes(known, secret), units(known, secret)
    for problem in problems:
        print(problem)
    if problems:
        sys.exit(f"{len(problems)} problems")
    print("ok: {} services, {} objects, {} units; names of settings, secrets, ways in and out".format(*counts))


if __name__ == "__main__":
    main()
