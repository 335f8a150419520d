#!/usr/bin/env python3
"""The report passes a run that has shown everything, and names whatever a spoiled one lacks."""

import contextlib
import copy
import io
import json
import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from report import RELIABILITY, Observations, begin, documented, listed, order, report  # noqa: E402

PATCHES = ["P01-floor", "P02-reply"]
STEPS = [["tests", "passed", "3.1"], ["planted", "passed", "9.0"]]


def whole_run():
    """What a run writes down in which everything was shown."""
    lines = [{"e": "run", "commit": "abc", "started": 1_000, "cores": 2, "memory_gib": 23.4, "system": "Linux"}]
    for number, tests in listed(nightly=True).items():
        for test, count in tests.items():
            for at in range(count):
                told = {"fault": number, "injected": 3, "recovered_ms": [700, 90, 8_000], "demanded": "all", "invariants": ["I1"]}
                lines.append({"e": "fault", "test": f"{test}::t{at}", **told})
    told = {"I4": {"judged": 1_200, "violations": 0}, "I10": {"judged": 7, "violations": 0}}
    lines.append({"e": "judged", "by": "checker", "test": "crash::t0", "invariants": told})
    settings = {"server_version": "15.18", "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    lines.append({"e": "server", "test": "crash::t0", "settings": settings})
    lines += [{"e": "count", "test": "crash::t0", "counts": {"events": 40, "kills": 1}}] * 2
    for patch in PATCHES:
        told = {"planted": patch, "what": "A bug.", "breaks": "I5", "command": "cargo test", "says": "FAILED"}
        lines.append({**told, "verdict": "caught", "seconds": 3.2})
    return lines


def judge(lines, steps=None, patches=PATCHES):
    """The report of these lines, and what it finds."""
    seen = Observations(json.dumps(line) for line in lines)
    return report(seen, STEPS if steps is None else steps, listed(nightly=True), patches, True, 1_000 + 75)


def one(lines, **wanted):
    """The first line that is so."""
    return next(line for line in lines if all(line.get(name) == value for name, value in wanted.items()))


class ReportTest(unittest.TestCase):
    """Every way in which a run can lack something."""

    def spoiled(self, spoil, saying):
        """A run that was spoiled like this fails, and the report's head says so."""
        lines = copy.deepcopy(whole_run())
        spoil(lines)
        text, found = judge(lines)
        self.assertTrue(any(saying in problem for problem in found), found)
        self.assertIn("**FAILED:**", text)
        self.assertIn(f"- {found[0]}", text)

    def test_a_whole_run_passes_and_its_figures_are_those_that_were_seen(self):
        """Sums, medians, machine."""
        text, found = judge(whole_run())
        self.assertEqual(found, [])
        self.assertIn("**Passed.**", text)
        self.assertIn("| PostgreSQL below judged logs | 15.18: fsync on", text)
        self.assertIn("| took | 75.0 s |", text)
        self.assertIn("| events | 80 |", text)
        self.assertRegex(text, r"\\| F13 \\| .* \\| 9 \\| 700 ms \\| 8.0 s \\| 0 \\| I1 \\| `postgres` \\|")
        # What the judges of the same test say counts for the fault.
        self.assertRegex(text, r"\\| F17 \\| .* \\| 0 \\| I1 I4 I10 \\| `crash` \\|")
        self.assertRegex(text, r"\\| I10 \\| .* \\| 7 \\| 0 \\| checker \\(1 ×\\) \\|")
        self.assertIn("2 of 2 caught", text)

    def test_a_fault_without_its_line_is_named(self):
        """A test that failed, was taken away or does not say."""
        self.spoiled(lambda lines: lines.remove(one(lines, fault="F12")), "F12 was not shown by overload: 0 of 1")
        self.spoiled(lambda lines: lines.remove(one(lines, fault="F14")), "F14 was not shown by verify: 2 of 3")

    def test_a_fault_that_never_happened_is_named(self):
        """A line is not enough."""
        self.spoiled(lambda lines: one(lines, fault="F6").update(injected=0), "F6 never happened in broker::t0")

    def test_a_violation_is_named(self):
        """Also where the test's own line is there."""

        def spoil(lines):
            one(lines, e="judged")["invariants"]["I4"]["violations"] = 2

        self.spoiled(spoil, "I4 was violated 2 times in crash::t0, says checker")

    def test_a_careless_server_is_named(self):
        """Nothing is shown of what is kept where nothing is."""
        self.spoiled(lambda lines: one(lines, e="server")["settings"].update(fsync="off"), "below crash::t0 (fsync is off)")

    def test_a_bug_that_was_missed_or_not_tried_is_named(self):
        """The table of planted bugs is whole."""
        self.spoiled(lambda lines: one(lines, planted="P01-floor").update(verdict="missed"), "P01-floor: missed")
        self.spoiled(lambda lines: lines.remove(one(lines, planted="P02-reply")), "P02-reply was not tried")

    def test_a_step_that_failed_is_named(self):
        """What failed without a fault."""
        _, found = judge(whole_run(), [["tests", "FAILED", "1.0"]])
        self.assertEqual(found, ["the step tests FAILED"])

    def test_what_a_machine_cannot_do_is_said_and_is_no_failure(self):
        """A test that was skipped has no line, but a reason."""
        lines = [line for line in whole_run() if not line.get("test", "").startswith("disk")]
        lines.append({"e": "skipped", "test": "disk::t0", "reason": "a file system cannot be mounted"})
        text, found = judge(lines)
        self.assertEqual(found, [])
        self.assertIn("- `disk::t0`: a file system cannot be mounted", text)
        self.assertRegex(text, r"\\| F28 \\| .* \\| 0 \\| .*`disk`: \\*\\*not run\\*\\* \\|")

    def test_an_observation_that_nobody_knows_is_refused(self):
        """Better than to leave it out."""
        for line in ({"e": "fautl"}, {"e": "count"}, []):
            with self.assertRaises(ValueError):
                Observations(json.dumps(line) for line in [*whole_run(), line])
        with self.assertRaises(ValueError):
            Observations([])

    def test_a_file_of_somebody_else_is_not_emptied(self):
        """Whoever names the wrong file loses nothing."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "run.jsonl"
            self.assertEqual((begin(path), begin(path)), (0, 0))
            Observations(path.read_text(encoding="utf-8").splitlines())
            path.write_text("a diary\n", encoding="utf-8")
            with contextlib.redirect_stderr(io.StringIO()) as said:
                self.assertEqual(begin(path), 2)
            self.assertIn("name another file", said.getvalue())
            self.assertEqual(path.read_text(encoding="utf-8"), "a diary\n")

    def test_every_documented_fault_is_expected_and_every_expected_one_documented(self):
        """The document says what is run, and what is run is documented."""
        invariants, faults = documented(RELIABILITY.read_text(encoding="utf-8"))
        self.assertEqual(sorted(faults, key=order), sorted(listed(nightly=True), key=order))
        self.assertIn("I16", invariants)


if __name__ == "__main__":
    unittest.main()
