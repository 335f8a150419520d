#!/usr/bin/env python3
"""Checks what clients were told against an exported log. Shares no code with the product; Python 3.11, standard library only.

    check.py --log LOG.jsonl [--summary FILE] [HISTORY.jsonl ...]

The log export has one JSON object per line, the tables in this order, events by shard and position, times in microseconds since
1970, bytes in hexadecimal:

    {"table":"log","shard":0,"log_id":"..."}
    {"table":"batch","shard":0,"first_pos":1,"last_pos":2,"batch_id":"...","prev_hash":"...","hash":"...","committed_at":0}
    {"table":"idempotency","shard":0,"key":"...","position":1}
    {"table":"event","shard":0,"position":1,"stream":"...","stream_seq":1,"type":"...","version":1,"recorded_at":0,"actor":"...",
     "request_id":"...","key":null,"fingerprint":null,"payload":"..."}

Prints `pass` or the first counter-example per invariant; --summary writes how much was judged and broken as JSON. Exit 0: all hold. 1: one does not. 2: the input cannot be judged.
"""

import argparse
import gc
import json
import pathlib
import sys
import time

sys.dont_write_bytecode = True

from chain import Batch, Chain  # noqa: E402
from fold import Fold  # noqa: E402
from history import History, Reads  # noqa: E402
from report import Report  # noqa: E402
from values import decode, uuid_bytes  # noqa: E402


class Shard:
    """One log as it is taken in."""

    def __init__(self, report, history, shard, log_id, batches):
        self.chain = Chain(report, shard, log_id, batches)
        self.fold = Fold(report, shard)
        self.reads = Reads(report, history, shard)


def read_log(path, report, history):
    """Takes in an export, event by event, and returns its shards."""
    logs, batches, keys, shards = {}, {}, {}, {}
    with path.open(encoding="utf-8") as lines:
        for text in lines:
            row = decode(text)
            shard, table = row["shard"], row["table"]
            if table == "event":
                if shard not in shards:
                    shards[shard] = Shard(report, history, shard, logs[shard], batches.get(shard, []))
                take_event(shards[shard], history, row)
            elif table == "batch":
                hashes = bytes.fromhex(row["prev_hash"]), bytes.fromhex(row["hash"])
                batch = Batch(row["first_pos"], row["last_pos"], uuid_bytes(row["batch_id"]), *hashes, row["committed_at"])
                batches.setdefault(shard, []).append(batch)
            elif table == "idempotency":
                keys.setdefault(shard, {})[uuid_bytes(row["key"])] = row["position"]
            elif table == "log":
                logs[shard] = uuid_bytes(row["log_id"])
            else:
                raise ValueError(f"unknown table {table}")
    for shard, log_id in logs.items():
        known = shards.setdefault(shard, Shard(report, history, shard, log_id, batches.get(shard, [])))
        known.chain.finish(keys.get(shard, {}))
        known.reads.finish(known.fold)
    foreign = {uuid_bytes(log) for log in history.logs} - set(logs.values())
    if foreign:
        report.fail("I7", f"the history was taken from the log {foreign.pop().hex()}, which is not in the export")
    return shards


def take_event(shard, history, row):
    """Takes in one event."""
    payload = bytes.fromhex(row["payload"])
    key = row["key"] and uuid_bytes(row["key"])
    fingerprint = row["fingerprint"] and uuid_bytes(row["fingerprint"])
    shard.reads.before(row["position"], shard.fold)
    shard.chain.take(row, key, fingerprint, payload)
    try:
        event = shard.fold.take(row, payload)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        text = f"{row['type']} cannot be taken in: {type(error).__name__}: {error}"
        shard.fold.report.fail("I4", text, position=(row["shard"], row["position"]))
        event = {}
    if key:
        history.join(key, shard.fold, row, event)


def check(log, histories, out, summary=None):
    """Checks and prints; `summary` is a file for the figures. Returns the exit status."""
    began = time.monotonic()
    report = Report()
    history = History(report)
    for path in histories:
        history.load(path)
    shards = read_log(log, report, history)
    history.judge(shards)
    for line in report.lines():
        print(line, file=out)
    if summary:
        summary.write_text(json.dumps(report.summary()), encoding="utf-8")
    counts = ", ".join(f"{count} {name}" for name, count in history.records.items() if count)
    events = sum(shard.chain.position for shard in shards.values())
    print(f"{events} events; history: {counts or 'none'}; {time.monotonic() - began:.1f} s", file=out)
    return 1 if report.found else 0


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--log", type=pathlib.Path, required=True, help="the exported log, JSON Lines")
    parser.add_argument("--summary", type=pathlib.Path, help="a file for the figures as JSON")
    parser.add_argument("history", type=pathlib.Path, nargs="*", help="history files, JSON Lines")
    options = parser.parse_args()
    # Nothing here is cyclic; the collector would only walk the growing tables again and again.
    gc.disable()
    try:
        return check(options.log, options.history, sys.stdout, options.summary)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        print(f"cannot be judged: {type(error).__name__}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
