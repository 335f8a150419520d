#!/usr/bin/env python3
"""Compares what the program measures with what is watched: every metric of the sources is in a panel or an alert, every metric in
a panel or an alert is one of the sources. Also: every alert has a firing test and a runbook, every runbook an alert.

--scraped FILE…: also compares the alerts with what running processes show on /metrics.

Reads the sources as text; a metric's name is a literal there, and a test of this kind keeps it so.
"""

import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CRATES = ("schema", "command", "projector", "query", "gateway", "deploy")
# What Prometheus itself makes.
BUILT_IN = {"up"}
HEADINGS = ("## Symptom", "## What it means", "## Do", "## Over")


def sources():
    for crate in CRATES:
        for path in sorted((ROOT / crate / "src").rglob("*.rs")):
            yield path, path.read_text()


def emitted():
    """Name -> kind, of every metric that the program makes."""
    found, nameless = {}, []
    for path, text in sources():
        for kind, start in re.findall(r"(?<![a-z_])(counter|gauge|histogram)!\(\s*(\S{0,80})", text):
            name = re.match(r'"([a-z0-9_]+)"', start)
            if name:
                found[name[1]] = kind
            else:
                nameless.append(f"{path.relative_to(ROOT)}: a {kind} whose name is not a literal: {start}")
        # Metrics that are written as text, for a collector of files.
        for name, kind in re.findall(r"# TYPE (modelfaucet_[a-z_]+) (gauge|counter)", text):
            found[name] = kind
    return found, nameless


def series(metrics):
    """The names under which Prometheus knows them."""
    names = {}
    for name, kind in metrics.items():
        for shown in [f"{name}_bucket", f"{name}_sum", f"{name}_count"] if kind == "histogram" else [name]:
            names[shown] = name
    return names


def expressions():
    """Every query that somebody looks at: (where, text)."""
    rules = (HERE / "rules.yml").read_text()
    # The text of an `expr:`, on its line or below it.
    for match in re.finditer(r"^( +)expr: *(.*)\n((?:\1 +.*\n)*)", rules, re.M):
        yield "rules.yml", match[2] + match[3]
    for path in sorted((HERE / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]


def used(text):
    """Names of metrics in a query: words that are no function, label, keyword or value."""
    text = re.sub(r'"[^"]*"', "", text)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|on|without|ignoring)\s*\([^)]*\)", " ", text)
    return {word for word in re.findall(r"[a-z_][a-z0-9_:]*(?!\s*\()\b", text) if re.match(r"(modelfaucet[_:]|gateway_|up$)", word)}


def scraped(files):
    """Every series that an alert looks at is shown by a process that has just begun: an alert on what is not there stays silent."""
    shown = set()
    for file in files:
        shown |= set(re.findall(r"^([a-z_]+)", pathlib.Path(file).read_text(), re.M))
    known = series(emitted()[0])
    wanted = {name for where, text in expressions() if where == "rules.yml" for name in used(text)} & set(known)
    missing = sorted(wanted - shown)
    if missing:
        sys.exit(f"alerts look at what no process shows: {', '.join(missing)}")
    print(f"ok: {len(wanted)} series of alerts are shown")


def main():
    if sys.argv[1:2] == ["--scraped"]:
        return scraped(sys.argv[2:])
    problems = []
    metrics, nameless = emitted()
    problems += nameless
    known, watched = series(metrics), set()
    rules = (HERE / "rules.yml").read_text()
    recorded = set(re.findall(r"- record: (\S+)", rules))
    count = 0
    for where, text in expressions():
        count += 1
        names = used(text)
        if not names:
            problems.append(f"{where}: no metric in {text!r}")
        for name in names - BUILT_IN - recorded:
            if name in known:
                watched.add(known[name])
            else:
                problems.append(f"{where}: nothing emits {name}")
    problems += [f"nobody watches {name}: give it a panel in dashboards.py" for name in sorted(set(metrics) - watched)]

    tests = (HERE / "rules.test.yml").read_text()
    alerts = dict(re.findall(r"- alert: (\S+)(?:.*\n)*?.*runbook: (\S+)", rules))
    if len(alerts) != rules.count("- alert:"):
        problems.append("rules.yml: an alert has no runbook")
    for alert, runbook in alerts.items():
        if not re.search(rf"alertname: {alert}\n\s+exp_alerts:", tests):
            problems.append(f"rules.test.yml: {alert} never fires")
        path = ROOT / runbook
        text = path.read_text() if path.exists() else ""
        missing = [heading for heading in HEADINGS if heading not in text]
        if missing:
            problems.append(f"{runbook}: lacks {', '.join(missing)}")
        elif alert not in text:
            problems.append(f"{runbook}: does not name {alert}")
    kept = {f"docs/runbooks/{path.name}" for path in (ROOT / "docs/runbooks").glob("*.md")} - {"docs/runbooks/README.md"}
    problems += [f"{path}: no alert leads there" for path in sorted(kept - set(alerts.values()))]
    for path in sorted((HERE / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            runbook = panel["description"].removeprefix("Runbook: ")
            if runbook and not (ROOT / runbook).exists():
                problems.append(f"{path.name}: {panel['title']}: no {runbook}")
    for problem in problems:
        print(problem)
    if problems:
        sys.exit(f"{len(problems)} problems")
    print(f"ok: {len(metrics)} metrics, {count} queries, {len(alerts)} alerts with tests and runbooks")


if __name__ == "__main__":
    main()
