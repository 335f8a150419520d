#!/usr/bin/env python3
"""The report of a run of deploy/test, made of what its tests observed (docs/RELIABILITY.md, "The report of a run").

    report.py begin OBSERVATIONS.jsonl
    report.py end OBSERVATIONS.jsonl REPORT.md [--nightly] [--faults] [--planted] [--step NAME RESULT SECONDS]...

`begin` empties the file and writes the first line: commit, machine, time. Tests add theirs (integration-tests/src/report.rs), and so
does planted/run. `end` writes the report; --faults and --planted say what this run should have shown. What is missing, was violated
or was not caught stands at its head. Exit 0: all of it was shown. 1: not. 2: the file cannot be read.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RELIABILITY = ROOT / "docs" / "RELIABILITY.md"

# Which test files must say that a fault was made and held, and how many of their tests. What is not listed in docs/RELIABILITY.md,
# "Faults", is an error here, and the other way round.
FAULTS = {
    "F1": {"faults": 1},
    "F2": {"crash": 1, "snapshot": 1, "roles": 1, "machines": 1, "gateway_kills": 1},
    "F3": {"roles": 1, "machines": 1, "broker": 1, "gateway_kills": 1, "gateway_last_byte": 1},
    "F4": {"crash": 2, "gateway_kills": 1},
    "F5": {"faults": 1},
    "F6": {"broker": 1},
    "F7": {"broker": 1},
    "F8": {"faults": 1},
    "F9": {"faults": 2},
    "F10": {"disk": 1},
    "F11": {"roles": 1},
    "F12": {"overload": 1},
    "F13": {"postgres": 3},
    "F14": {"verify": 3},
    "F15": {"faults": 2},
    "F16": {"rebuild": 1},
    "F17": {"crash": 1},
    "F18": {"crash": 1},
    "F19": {"freezes": 1},
    "F20": {"stripe": 1},
    "F21": {"gateway": 1},
    "F22": {"redis": 1},
    "F24": {"backup": 2},
    "F25": {"backup": 1},
    "F26": {"faults": 1},
    "F28": {"disk": 1},
}
# How the first line begins.
FIRST = '{"e": "run"'

# The same for what is run by night only.
BY_NIGHT = {}


def order(name):
    """F10 comes behind F2."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def listed(nightly):
    """Who must show which fault."""
    by_night = BY_NIGHT if nightly else {}
    return {number: FAULTS.get(number, {}) | by_night.get(number, {}) for number in FAULTS | by_night}


def binary(test):
    """The file that a test is in."""
    return test.split("::", 1)[0]


def documented(text):
    """What the document says of invariants and of faults, by their numbers."""
    invariants = dict(re.findall(r"^\| (I\d+) \| (.*?) \|$", text, re.MULTILINE))
    faults = {}
    for numbers, what in re.findall(r"^\| (F\d+(?:, F\d+)*) \| (.*?) \|", text, re.MULTILINE):
        faults |= dict.fromkeys(numbers.split(", "), what)
    return invariants, faults


class Observations:
    """What the tests of a run have written down, by kind."""

    def __init__(self, lines):
        self.run, self.counts, self.servers = None, {}, []
        self.faults, self.judged, self.skipped, self.planted = [], [], [], []
        for number, line in enumerate(lines, 1):
            try:
                self.take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"line {number}: {type(error).__name__}: {error}") from error
        if self.run is None:
            raise ValueError("no line says which run this is")

    def take(self, line):
        """Takes in one line."""
        match line.get("e", "planted"):
            case "run":
                self.run = line
            case "fault":
                self.faults.append(line)
            case "judged":
                self.judged.append(line)
            case "server":
                self.servers.append(line)
            case "skipped":
                self.skipped.append(line)
            case "planted":
                self.planted.append(line)
            case "count":
                for name, count in line["counts"].items():
                    self.counts[name] = self.counts.get(name, 0) + count
            case other:
                raise ValueError(f"what is {other}?")

    def judged_in(self, test):
        """What was judged in a test; where a thread did not know its test, in all of its file."""
        exact = [line for line in self.judged if line["test"] == test]
        return exact or [line for line in self.judged if binary(line["test"]) == binary(test) and "::" not in line["test"]]


def violations(lines):
    """How much broke which invariant: of each that was judged."""
    found = {}
    for line in lines:
        for name, figures in line["invariants"].items():
            found[name] = found.get(name, 0) + figures["violations"]
    return found


def of_fault(seen, line):
    """The invariants that were looked at where a fault was made, with their violations."""
    return violations(seen.judged_in(line["test"])) | dict.fromkeys(line["invariants"], 0)


def problems(seen, expected, patches, steps):
    """Why the run has not shown what it should have."""
    found = [f"the step {name} {result}" for name, result, _ in steps if result != "passed"]
    invariants, faults = documented(RELIABILITY.read_text(encoding="utf-8"))
    for number in sorted(set(listed(nightly=True)) ^ set(faults), key=order):
        found.append(f"{number} stands in docs/RELIABILITY.md or in the list of the report, not in both")
    for number, tests in expected.items():
        for test, count in tests.items():
            shown = [line for line in seen.faults if line["fault"] == number and binary(line["test"]) == test]
            if not [line for line in seen.skipped if binary(line["test"]) == test] and len(shown) < count:
                found.append(f"{number} was not shown by {test}: {len(shown)} of {count} tests say so")
            for line in shown:
                if line["injected"] == 0:
                    found.append(f"{number} never happened in {line['test']}")
    for line in seen.judged:
        for name, figures in line["invariants"].items():
            if figures["violations"]:
                found.append(f"{name} was violated {figures['violations']} times in {line['test']}, says {line['by']}")
            if name not in invariants:
                found.append(f"{name} is no invariant of docs/RELIABILITY.md")
    careless = {line["test"] for line in seen.servers if line["settings"]["fsync"] != "on"}
    found += [f"PostgreSQL did not keep what it acknowledged below {test} (fsync is off)" for test in sorted(careless)]
    found += [f"{line['planted']}: {line['verdict']}" for line in seen.planted if line["verdict"] != "caught"]
    found += [f"{patch} was not tried" for patch in sorted(set(patches) - {line["planted"] for line in seen.planted})]
    return found


def table(head, rows):
    """A table of Markdown."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, *rows]]
    return ["", *(f"| {' | '.join(row)} |" for row in [cells[0], ["---"] * len(head), *cells[1:]])]


def duration(milliseconds):
    """For people."""
    if milliseconds < 1_000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1_000
    return f"{seconds:.1f} s" if seconds < 120 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def recovery(times):
    """How often, median and longest."""
    return ["–"] * 2 if not times else [duration(statistics.median(times)), duration(max(times))]


def head(seen, steps, found, ended, nightly):
    """Which run this was, and whether it is good."""
    run = seen.run
    server = sorted({json.dumps(line["settings"], sort_keys=True) for line in seen.servers})
    servers = [f"{s['server_version']}: fsync {s['fsync']}, synchronous_commit {s['synchronous_commit']}, full_page_writes {s['full_page_writes']}"
               for s in map(json.loads, server)]  # fmt: skip
    yield "# Reliability: report of a run"
    yield ""
    yield "**Passed.** Everything below was observed by the tests of this run." if not found else "**FAILED:**"
    yield from ([""] if found else [])
    yield from (f"- {problem}" for problem in found)
    yield from table(["Run", ""], [
        ["commit", run["commit"]],
        ["kind", "nightly" if nightly else "as at every change"],
        ["machine", f"{run['cores']} cores, {run['memory_gib']} GiB, {run['system']}"],
        ["PostgreSQL below judged logs", "; ".join(servers) or "–"],
        ["started", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(run["started"]))],
        ["took", duration(1_000 * (ended - run["started"]))],
    ])  # fmt: skip
    if steps:
        yield from table(["Step", "Result", "Seconds"], steps)


def about_counts(seen):
    """How much there was."""
    yield from ["", "## Counts"]
    yield from table(["What", "How many"], [[name, f"{count:,}"] for name, count in sorted(seen.counts.items())])


def about_invariants(seen, invariants):
    """Every invariant, how much was judged, and by whom."""
    yield from ["", "## Invariants", "", "Judged: how many things of the logs were looked at. A fault below names its own."]
    rows = []
    for name in sorted(invariants, key=order):
        lines = [line for line in seen.judged if name in line["invariants"]]
        by = {who: sum(line["by"] == who for line in lines) for who in sorted({line["by"] for line in lines})}
        shown = sorted({f"`{binary(line['test'])}`" for line in seen.faults if name in line["invariants"]})
        judged = sum(line["invariants"][name]["judged"] for line in lines)
        who = [f"{who} ({times} ×)" for who, times in by.items()] + shown
        bad = violations(lines).get(name, 0) if who else "not judged in this run"
        rows.append([name, invariants[name], f"{judged:,}" if lines else "–", bad, ", ".join(who)])
    yield from table(["Id", "Always true", "Judged", "Violations", "By"], rows)


def about_faults(seen, expected, faults):
    """Every fault: how often, what came of it, and what was demanded."""
    yield from ["", "## Faults"]
    rows, details = [], []
    for number in sorted(set(expected) | {line["fault"] for line in seen.faults}, key=order):
        lines = [line for line in seen.faults if line["fault"] == number]
        looked = {}
        for line in lines:
            for name, bad in of_fault(seen, line).items():
                looked[name] = looked.get(name, 0) + bad
        times = [time for line in lines for time in line["recovered_ms"]]
        absent = sorted({f"`{test}`" for test in expected.get(number, {})} - {f"`{binary(line['test'])}`" for line in lines})
        by = sorted({f"`{binary(line['test'])}`" for line in lines}) + [f"{test}: **not run**" for test in absent]
        injected = f"{sum(line['injected'] for line in lines):,}"
        names = " ".join(sorted(looked, key=order))
        rows.append([number, faults.get(number, ""), injected, *recovery(times), sum(looked.values()), names, ", ".join(by)])
        for line in lines:
            median, longest = recovery(line["recovered_ms"])
            back = f" back after {median}, at most {longest};" if line["recovered_ms"] else ""
            details.append([number, f"`{line['test']}`", f"{line['injected']:,} ×;{back} demanded: {line['demanded']}"])
    columns = ["#", "Fault", "Injected", "Back after, median", "longest", "Violations", "of", "Shown by"]
    yield from table(columns, rows)
    yield from ["", "Back after: until work went on, as each test measures it; – where nothing has to come back."]
    yield from table(["#", "Test", "What it did and demanded"], details)


def about_planted(seen):
    """Every planted bug, and what caught it."""
    caught = sum(line["verdict"] == "caught" for line in seen.planted)
    yield from ["", "## Planted bugs", "", f"{caught} of {len(seen.planted)} caught. Seconds: of the tests, without building."]
    rows = [
        [line["planted"], line["what"], line["breaks"], f"`{line['command']}`", line["says"], line["verdict"], line["seconds"]]
        for line in seen.planted
    ]
    yield from table(["Patch", "Bug", "Breaks", "Caught by", "which says", "Verdict", "Seconds"], rows)


def report(seen, steps, expected, patches, nightly, ended):
    """The report's text, and why the run has not shown what it should have."""
    found = problems(seen, expected, patches, steps)
    invariants, faults = documented(RELIABILITY.read_text(encoding="utf-8"))
    lines = [*head(seen, steps, found, ended, nightly)]
    if expected:
        lines += [*about_faults(seen, expected, faults), *about_invariants(seen, invariants)]
    if patches:
        lines += about_planted(seen)
    if seen.counts:
        lines += about_counts(seen)
    if seen.skipped:
        lines += ["", "## Not run", ""]
        lines += sorted({f"- `{line['test']}`: {line['reason']}" for line in seen.skipped})
    return "\n".join(lines) + "\n", found


def git(*arguments):
    """What git says; empty without it."""
    try:
        return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def begin(path):
    """Empties the file and says which run begins. Returns the exit status."""
    if path.is_file() and path.stat().st_size and not path.read_text(encoding="utf-8", errors="replace").startswith(FIRST):
        print(f"{path} holds something else than the observations of a run: name another file, or remove it", file=sys.stderr)
        return 2
    changed = len(git("status", "--porcelain").splitlines())
    commit = git("rev-parse", "HEAD") or "unknown"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    told = {
        "e": "run", "commit": f"{commit} and {changed} changed files" if changed else commit, "started": int(time.time()),
        "cores": len(os.sched_getaffinity(0)), "memory_gib": round(memory, 1), "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told) + "\n", encoding="utf-8")
    return 0


def end(options):
    """Writes the report. Returns the exit status."""
    try:
        with options.observations.open(encoding="utf-8") as lines:
            seen = Observations(lines)
    except (OSError, ValueError) as error:
        print(f"{options.observations}: {error}", file=sys.stderr)
        return 2
    expected = listed(options.nightly) if options.faults else {}
    patches = [path.stem for path in sorted((HERE.parent / "planted").glob("P*.patch"))] if options.planted else []
    text, found = report(seen, options.step, expected, patches, options.nightly, time.time())
    options.report.write_text(text, encoding="utf-8")
    for problem in found:
        print(problem)
    print(f"the report is {options.report}, what was observed {options.observations}")
    return 1 if found else 0


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("begin", help="empty the file and say which run begins")
    first.add_argument("observations", type=pathlib.Path)
    last = verbs.add_parser("end", help="write the report")
    last.add_argument("observations", type=pathlib.Path)
    last.add_argument("report", type=pathlib.Path)
    last.add_argument("--nightly", action="store_true", help="what is run by night only was run")
    last.add_argument("--faults", action="store_true", help="the tests were run, so every fault must be there")
    last.add_argument("--planted", action="store_true", help="planted/run was run, so every patch must be there")
    last.add_argument("--step", nargs=3, action="append", default=[], metavar=("NAME", "RESULT", "SECONDS"))
    options = parser.parse_args()
    return begin(options.observations) if options.verb == "begin" else end(options)


if __name__ == "__main__":
    sys.exit(main())
