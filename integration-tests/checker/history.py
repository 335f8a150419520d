"""What clients saw, and whether the log agrees (I1, I2, I3, I9). Format: docs/RELIABILITY.md, "History".

One record per line: `invoke` is written before the bytes leave, an outcome (`ok`, `refused`, `in_doubt`) after the answer was read.
An invoke without an outcome is in doubt. All times come from one monotonic clock.
"""

from values import decode, key_hash, units, usd

MAKES = {
    "hold": ("HoldPlaced",),
    "capture": ("HoldCaptured", "LateUsageCaptured"),
    "release": ("HoldReleased",),
    "usage": ("UsageRecorded",),
    "top_up": ("TopUpRequested",),
    "credit": ("TopUpCredited",),
    "fail": ("TopUpFailed",),
    "adjust": ("WalletAdjusted",),
    "test_credit": ("TestCreditGranted",),
    "promo": ("PromoGranted",),
}
ASKED = {"hold": "requested"}
FIGURES = ("posted", "held", "available")
# The ledger never decided these: they say nothing about earlier attempts with the same key.
UNDECIDED = ("overloaded", "ledger_unavailable", "frozen")
REUSED = "idempotency_key_reused"


class Command:
    """All attempts with one key, by whomever."""

    __slots__ = (
        "answered", "asked", "body", "doubt", "first", "found", "key", "line", "place", "refused", "replayed", "reply", "returned",
        "reused",
    )

    def __init__(self, key, asked, sent, line):
        self.key, self.asked, self.first, self.line = key, asked, sent, line
        # When it was first answered ok, where it says it is, the reply's hash, the body that took effect, the returned figures;
        # were all of its answers so far repeats?
        self.answered = self.place = self.reply = self.body = self.returned = self.replayed = None
        # When the last attempt ended in doubt and when the last refused one was sent; bodies that met a used key.
        self.doubt = self.refused = self.reused = None
        self.found = None


class History:
    """The commands of all history files by the hash that the log stores for their key."""

    def __init__(self, report):
        self.report = report
        self.commands = {}
        self.reads = []
        self.logs = set()
        self.records = dict.fromkeys(("invoke", "ok", "replayed", "refused", "in_doubt", "read", "fault"), 0)
        self.open = {}

    def load(self, path):
        """Takes in a file."""
        name = path.name
        with path.open(encoding="utf-8") as lines:
            head = decode(next(lines, "{}"))
            if "run" not in head:
                raise ValueError(f"{path} does not begin with the run")
            self.logs.add(head["log_id"])
            scope = head.get("scope", "admin")
            for number, text in enumerate(lines, 2):
                if not text.endswith("\n"):
                    break  # Cut off by a kill: the bytes of that request never left.
                self._take(decode(text), scope, (name, number))
        for (_, key_id), (sent, _, _) in self.open.items():
            # Nothing was read any more: in doubt for ever.
            command = self.commands[key_id]
            command.doubt = float("inf")
            self.report.count("I3")
        self.open.clear()

    def _take(self, record, scope, line):
        what = record["e"]
        self.records[what] += 1
        if what == "fault":
            return
        if what == "read":
            self.reads.append((record["shard"], record["pos"], record, line))
            return
        key_id = key_hash(record.get("scope", scope), record["key"])
        client = record["c"], key_id
        command = self.commands.get(key_id)
        if what == "invoke":
            self.open[client] = record["t"], record.get("body"), line
            if command is None:
                asked = record["op"], record.get("wallet"), record.get("amount")
                self.commands[key_id] = Command(record["key"], asked, record["t"], line)
            else:
                command.first = min(command.first, record["t"])
            return
        sent, body, _ = self.open.pop(client, (None, None, None))
        if sent is None:
            raise ValueError(f"{line[0]}:{line[1]} is an outcome of what was not sent")
        if what == "ok":
            self._ok(command, record, body, line)
        elif what == "in_doubt":
            command.doubt = max(command.doubt or 0, record["t"])
        elif record["code"] == REUSED:
            command.reused = (command.reused or []) + [(body, line)]
        elif record["code"] not in UNDECIDED:
            command.refused = max(command.refused or 0, sent)

    def _ok(self, command, record, body, line):
        shown, place = f"{line[0]}:{line[1]}", (record["shard"], record["pos"])
        replayed = record.get("replayed", False)
        self.records["replayed"] += replayed
        if command.place is None:
            command.answered, command.place, command.line = record["t"], place, line
            command.reply, command.body, command.replayed = record.get("reply"), body, replayed
            command.returned = {name: record[name] for name in FIGURES if name in record}
            return
        command.answered = min(command.answered, record["t"])
        if place != command.place:
            self.report.fail("I2", f"key {command.key} is at {place[1]} and at {command.place[1]}", shown)
        if record.get("reply") != command.reply:
            self.report.fail("I2", f"key {command.key} was answered with two different replies", shown)
        if not replayed and not command.replayed:
            self.report.fail("I2", f"key {command.key} was answered twice as if it were new", shown)
        command.replayed = command.replayed and replayed
        if body != command.body:
            self.report.fail("I3", f"key {command.key} was answered ok for two different bodies", shown)

    def join(self, key, fold, row, event):
        """Takes in the event that answers a key."""
        command = self.commands.get(key)
        if command is None or command.found is not None:
            return
        here = (row["shard"], row["position"])
        command.found = here
        if command.place is None:
            return
        shown = f"{command.line[0]}:{command.line[1]}"
        operation, wallet, amount = command.asked
        named = event.get(ASKED.get(operation, "amount"))
        said = (
            row["type"] in MAKES.get(operation, (row["type"],)),
            wallet in (None, event.get("wallet_id")),
            amount is None or units(amount) == units(named or "0.00000000"),
        )
        if not all(said):
            text = f"{operation} of {amount} on wallet {wallet} was answered ok; there is {row['type']} of {named}"
            self.report.fail("I1", text, shown, here)
        figures = fold.figures(event.get("wallet_id"))
        for name, text in command.returned.items():
            if units(text) != figures.get(name):
                fold_has = usd(figures[name]) if name in figures else "no such wallet"
                self.report.fail("I9", f"{name} {text} was returned, the fold has {fold_has}", shown, here)

    def judge(self, head):
        """When the whole log was taken in; `head` is shard → last position."""
        answered = []
        for command in self.commands.values():
            shown = f"{command.line[0]}:{command.line[1]}"
            if command.place is not None:
                self._judge_ok(command, shown)
                answered.append(command)
            else:
                self._judge_other(command, shown)
            for body, line in command.reused or ():
                self.report.count("I3")
                if command.found is None:
                    self.report.fail("I3", f"key {command.key} is said to be used and has no event", f"{line[0]}:{line[1]}")
                elif command.body is not None and body == command.body:
                    self.report.fail("I3", f"key {command.key} is refused for the body that took effect", f"{line[0]}:{line[1]}")
        for shard in head:
            self._judge_order(shard, [command for command in answered if command.place[0] == shard])

    def _judge_ok(self, command, shown):
        self.report.count("I1")
        if command.found is None:
            self.report.fail("I1", f"key {command.key} was answered ok and is not in the log", shown, command.place)
        elif command.found != command.place:
            text = f"key {command.key} is at position {command.found[1]} of shard {command.found[0]}"
            self.report.fail("I1", text, shown, command.place)

    def _judge_other(self, command, shown):
        self.report.count("I3")
        # A refusal sent after the last doubt tells what became of it.
        in_doubt = command.doubt is not None and not (command.refused is not None and command.refused > command.doubt)
        if command.found is not None and not in_doubt and not command.reused:
            self.report.fail("I3", f"key {command.key} was refused and has an event", shown, command.found)

    def _judge_order(self, shard, answered):
        """Whoever was sent after an answer has a higher position than what was answered."""
        sent = [command for command in self.commands.values() if command.found is not None and command.found[0] == shard]
        sent.sort(key=lambda command: command.first)
        answered.sort(key=lambda command: command.answered)
        self.report.count("I9", len(sent))
        at, highest = 0, None
        for command in sent:
            while at < len(answered) and answered[at].answered < command.first:
                if highest is None or answered[at].place[1] > highest.place[1]:
                    highest = answered[at]
                at += 1
            if highest is not None and command.found[1] <= highest.place[1]:
                text = f"key {command.key} was sent after key {highest.key} was answered with position {highest.place[1]}"
                self.report.fail("I9", text, f"{command.line[0]}:{command.line[1]}", command.found)


class Reads:
    """Compares reads with the fold at their position while the log is taken in."""

    def __init__(self, report, history, shard):
        self.report = report
        own = [(pos, record, line) for at, pos, record, line in history.reads if at == shard]
        self.waiting = sorted(own, key=lambda read: read[0], reverse=True)

    def before(self, position, fold):
        """The fold is complete up to before `position`."""
        while self.waiting and self.waiting[-1][0] < position:
            pos, record, line = self.waiting.pop()
            shown, here = f"{line[0]}:{line[1]}", (fold.shard, pos)
            self.report.count("I9")
            if pos < record.get("min", 0):
                self.report.fail("I9", f"a read of at least position {record['min']}", shown, here)
            figures = fold.figures(record["wallet"])
            for name in FIGURES:
                if name in record and units(record[name]) != figures.get(name):
                    self.report.fail("I9", f"read {name} {record[name]}; the fold has {figures.get(name)} units", shown, here)

    def finish(self, fold):
        """Nothing may have been read from behind the log's end."""
        self.before(fold.position + 1, fold)
        for pos, _, line in self.waiting:
            self.report.fail("I9", "read from behind the log's end", f"{line[0]}:{line[1]}", (fold.shard, pos))
