"""The log's form: positions, batches, stream versions, keys and the hash chain, recomputed from the exported columns (I7, I8, I2).

Canonical bytes of an event: numbers big endian, every text and the payload behind its length in four bytes:
shard i16 · position i64 · stream · stream_seq i64 · type · version i16 · recorded_at i64 (microseconds) · actor · request_id ·
0 or 1 followed by key and fingerprint · payload. A link is SHA-256 over "modelfaucet.batch.v1" · previous link · shard · first ·
last · batch id · recorded_at · each event's canonical bytes behind their length. The link before the first batch is SHA-256 over
"modelfaucet.log.v1" · log id · shard.
"""

import collections
import hashlib
import struct

PLACE = struct.Struct(">hqI")
NUMBER = struct.Struct(">qI")
VERSION = struct.Struct(">hqI")
LENGTH = struct.Struct(">I")
LINK = struct.Struct(">hqq")

Batch = collections.namedtuple("Batch", "first last id previous hash committed_at")


def genesis(log_id, shard):
    """The link before the first batch."""
    return hashlib.sha256(b"modelfaucet.log.v1" + log_id + struct.pack(">h", shard)).digest()


def begin_link(previous, shard, batch):
    """A digest over everything of a link but its events."""
    text = b"modelfaucet.batch.v1" + previous + LINK.pack(shard, batch.first, batch.last)
    return hashlib.sha256(text + batch.id + struct.pack(">q", batch.committed_at))


def canonical(row, key, fingerprint, payload):
    """The canonical bytes of an exported event."""
    stream, name = row["stream"].encode(), row["type"].encode()
    actor, request_id = row["actor"].encode(), row["request_id"].encode()
    return b"".join((
        PLACE.pack(row["shard"], row["position"], len(stream)), stream,
        NUMBER.pack(row["stream_seq"], len(name)), name,
        VERSION.pack(row["version"], row["recorded_at"], len(actor)), actor,
        LENGTH.pack(len(request_id)), request_id,
        b"\0" if key is None else b"\1" + key + fingerprint,
        LENGTH.pack(len(payload)), payload,
    ))


class Chain:
    """The chain of one shard, taken in event by event in the order of the export."""

    def __init__(self, report, shard, log_id, batches):
        self.report = report
        self.shard = shard
        self.link = genesis(log_id, shard)
        self.batches = iter(batches)
        self.batch = None
        self.digest = None
        self.end = 0
        self.position = 0
        self.versions = {}
        self.recorded_at = None
        self.keys = {}

    def take(self, row, key, fingerprint, payload):
        """Takes in the next event."""
        position = row["position"]
        here = (self.shard, position)
        if position != self.position + 1:
            self.report.fail("I8", f"the event behind position {self.position} is missing or there twice", position=here)
        self.position = position
        self._order(row, here)
        if key is not None:
            if key in self.keys:
                self.report.fail("I2", f"the key of position {self.keys[key]} again", position=here)
            self.keys.setdefault(key, position)
        if self.batch is None or position > self.batch.last:
            self._close()
            self._open(here)
        if self.batch is None:
            return
        if row["recorded_at"] != self.batch.committed_at:
            self.report.fail("I8", "recorded at another time than its batch", position=here)
        data = canonical(row, key, fingerprint, payload)
        self.digest.update(LENGTH.pack(len(data)))
        self.digest.update(data)
        if position == self.batch.last:
            self._close()

    def _order(self, row, here):
        stream = row["stream"]
        version = self.versions.get(stream, 0) + 1
        if row["stream_seq"] != version:
            self.report.fail("I8", f"{stream} has version {row['stream_seq']} after {version - 1}", position=here)
        self.versions[stream] = row["stream_seq"]
        if self.recorded_at is not None and row["recorded_at"] < self.recorded_at:
            self.report.fail("I8", "recorded earlier than the position before", position=here)
        self.recorded_at = row["recorded_at"]

    def _open(self, here):
        batch = next(self.batches, None)
        if batch is None:
            self.report.fail("I7", "no link of the chain covers this position", position=here)
            return
        if batch.first != self.end + 1 or batch.last < batch.first or batch.first != here[1]:
            self.report.fail("I8", f"a batch of positions {batch.first} to {batch.last} behind {self.end}", position=here)
        if batch.previous != self.link:
            self.report.fail("I7", "the batch's previous link is not the link before it", position=here)
        self.end = batch.last
        self.batch, self.digest = batch, begin_link(self.link, self.shard, batch)

    def _close(self):
        if self.batch is None:
            return
        self.report.count("I7")
        if self.digest.digest() != self.batch.hash:
            text = f"the stored link of positions {self.batch.first} to {self.batch.last} is not the recomputed one"
            self.report.fail("I7", text, position=(self.shard, self.batch.first))
        # Goes on from the stored link, so that one damaged batch is one counter-example.
        self.link = self.batch.hash
        self.batch = None

    def finish(self, keys):
        """Compares the ends of events, batches and the index of keys (key → position)."""
        if self.batch is not None:
            self.report.fail("I8", f"the batch up to {self.batch.last} lacks its end", position=(self.shard, self.position))
        self._close()
        left = next(self.batches, None)
        if left is not None:
            self.report.fail("I8", f"the log ends at {self.position}, its batches later", position=(self.shard, left.first))
        self.report.count("I8", self.position)
        self.report.count("I2", len(self.keys))
        if keys != self.keys:
            odd = next(iter(set(keys.items()) ^ set(self.keys.items())))
            self.report.fail("I2", f"events and the index of keys differ in {odd[0].hex()}", position=(self.shard, odd[1]))
