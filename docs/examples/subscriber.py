#!/usr/bin/env python3
"""An example of a subscriber: follows the log over RabbitMQ and misses nothing (docs/BROKER.md). Needs pika.

    LEDGER_TOKEN=… subscriber.py --amqp amqp://user:password@127.0.0.1:5672/%2f --ledger http://127.0.0.1:8080 \
        --queue my-service [--state FILE] [--until POSITION]

A message is taken only if it continues what was taken before: its first position is the next one, and its prev_hash is the hash that we
stand at. What we have already is dropped. Everything else is a gap, which is filled from the log over HTTP. So it does not matter what the
broker loses, repeats or reorders. Progress is one line per batch on standard output.

The token is an auditor's, an operator's or an administrator's (`modelfaucet staff issue NAME --role auditor`).
"""

import argparse
import hashlib
import json
import os
import sys
import time
import urllib.request
import uuid

import pika


class Cursor:
    """Where we stand: log, position and hash. Kept together with what we made of the events: here, how many there were of each kind."""

    def __init__(self, path):
        self.path = path
        self.log_id, self.position, self.hash, self.counts = None, 0, None, {}
        if path and os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                state = json.load(file)
            self.log_id, self.position, self.hash, self.counts = (
                state["log_id"], state["position"], state["hash"], state["counts"])

    def save(self):
        """One write for cursor and results: after a crash both are old or both are new."""
        if not self.path:
            return
        state = {"log_id": self.log_id, "position": self.position, "hash": self.hash, "counts": self.counts}
        with open(self.path + ".new", "w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(self.path + ".new", self.path)

    def take(self, event_type):
        self.counts[event_type] = self.counts.get(event_type, 0) + 1


def part(data):
    return len(data).to_bytes(4, "big") + data


def link(prev_hash, shard, first, last, body):
    """The hash of a batch, computed from its content: whoever changed a byte on the way is found out."""
    digest = hashlib.sha256(b"modelfaucet.batch.v1" + bytes.fromhex(prev_hash) + shard.to_bytes(2, "big", signed=True)
                            + first.to_bytes(8, "big") + last.to_bytes(8, "big") + uuid.UUID(body["batch_id"]).bytes
                            + body["recorded_at_us"].to_bytes(8, "big", signed=True))
    for event in body["events"]:
        data = shard.to_bytes(2, "big", signed=True) + event["position"].to_bytes(8, "big")
        data += part(event["stream"].encode()) + event["stream_seq"].to_bytes(8, "big", signed=True)
        data += part(event["type"].encode()) + event["version"].to_bytes(2, "big", signed=True)
        data += event["recorded_at_us"].to_bytes(8, "big", signed=True)
        data += part(event["actor"].encode()) + part(event["request_id"].encode())
        if "key" in event:
            data += b"\x01" + uuid.UUID(event["key"]).bytes + uuid.UUID(event["fingerprint"]).bytes
        else:
            data += b"\x00"
        data += part(event["payload"].encode())
        digest.update(part(data))
    return digest.hexdigest()


def backfill(cursor, ledger, token):
    """Reads on from the log until its end, where we know the hash again."""
    while True:
        url = f"{ledger}/v1/log?shard=0&after={cursor.position}"
        request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            page = json.load(answer)
        if cursor.log_id not in (None, page["log_id"]):
            sys.exit(f"this is another log than {cursor.log_id}: it was restored. Begin anew, or ask its operators")
        for event in page["events"]:
            cursor.take(event["type"])
        cursor.log_id, cursor.position = page["log_id"], page["next"]
        if page["next"] == page["head"]["position"]:
            cursor.hash = page["head"]["hash"]
            cursor.save()
            print(f"log to {cursor.position}", flush=True)
            return
        # Between two batches we do not know the hash, so only the end is a place to go on from.


def handle(cursor, properties, body, ledger, token):
    headers = properties.headers
    if headers["schema_version"] != 1 or headers["shard"] != 0:
        return "refused"
    first, last = headers["first_position"], headers["last_position"]
    if headers["log_id"] != cursor.log_id:
        backfill(cursor, ledger, token)  # Ends us if the log is another one; otherwise the message is old.
        return "filled"
    if last <= cursor.position:
        return "known"
    if first != cursor.position + 1 or headers["prev_hash"] != cursor.hash or headers["body_omitted"]:
        backfill(cursor, ledger, token)
        return "filled"
    batch = json.loads(body)
    if link(headers["prev_hash"], 0, first, last, batch) != headers["hash"]:
        return "refused"
    for event in batch["events"]:
        json.loads(event["payload"])  # The stored JSON, byte for byte.
        cursor.take(event["type"])
    cursor.position, cursor.hash = last, headers["hash"]
    cursor.save()
    print(f"message {first}..{last}", flush=True)
    return "taken"


def follow(args, cursor, token):
    connection = pika.BlockingConnection(pika.URLParameters(args.amqp))
    channel = connection.channel()
    # A queue of our own. It may be short: what it drops, the log still has. Set the delivery limit: older brokers have none.
    channel.queue_declare(args.queue, durable=True, arguments={
        "x-queue-type": "quorum", "x-max-length": 10000, "x-overflow": "drop-head", "x-delivery-limit": 10})
    channel.queue_bind(args.queue, "modelfaucet.log", "0.#")
    channel.basic_qos(prefetch_count=100)
    # What was published before we were bound.
    backfill(cursor, args.ledger, token)
    for method, properties, body in channel.consume(args.queue, inactivity_timeout=1):
        if method is not None:
            # Acknowledged after it is kept; if we die in between it comes again, and is known.
            if handle(cursor, properties, body, args.ledger, token) == "refused":
                channel.basic_reject(method.delivery_tag, requeue=False)
            else:
                channel.basic_ack(method.delivery_tag)
        if args.until is not None and cursor.position >= args.until:
            break
    connection.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--amqp", required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--queue", required=True)
    parser.add_argument("--state")
    parser.add_argument("--until", type=int)
    args = parser.parse_args()
    token = os.environ["LEDGER_TOKEN"]
    cursor = Cursor(args.state)
    while args.until is None or cursor.position < args.until:
        try:
            follow(args, cursor, token)
        except (pika.exceptions.AMQPError, OSError) as error:
            print(f"trying again: {error!r}", file=sys.stderr)
            time.sleep(1)
    print(json.dumps({"position": cursor.position, "hash": cursor.hash, "counts": cursor.counts}))


if __name__ == "__main__":
    main()
