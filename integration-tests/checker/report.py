"""What was found: per invariant how much was judged, and the first counter-example."""

INVARIANTS = {
    "I1": "every command answered ok is in the log exactly once",
    "I2": "no key has two effects; a payment is credited once, with its own amount",
    "I3": "a refused command has no effect; one in doubt has none or one",
    "I4": "every entry sums to zero and posts what the event says",
    "I5": "posted - open holds >= floor at every position; the recorded balance is the fold's",
    "I7": "the recomputed hash chain equals the stored one",
    "I8": "positions 1..N and versions 1..n without a gap, in batches that follow each other",
    "I9": "answered before sent means a lower position; what was returned with p is the fold at p",
    "I10": "open holds add up to what is held; each ends once; captured <= held",
    "I11": "no developer is paid more than was earned, each payout ends once; refunds and lost disputes never pass their payment",
    "I12": "a charge is the documented rounding, done once, of the exact cost; the split loses nothing",
    "I13": "nothing of a frozen class behind a freeze until the thaw",
}


class Report:
    """Keeps the first counter-example of each invariant: what stands behind it may only be its consequence."""

    def __init__(self):
        self.found = {}
        self.more = dict.fromkeys(INVARIANTS, 0)
        self.checked = dict.fromkeys(INVARIANTS, 0)

    def fail(self, invariant, text, line=None, position=None):
        """Notes a counter-example; `line` is `file:number` of the history, `position` is (shard, position) of the log."""
        if invariant in self.found:
            self.more[invariant] += 1
            return
        where = [f"history {line}"] if line else []
        if position:
            where.append(f"shard {position[0]} position {position[1]}")
        self.found[invariant] = " · ".join([*where, text])

    def count(self, invariant, things=1):
        """Says that `things` more were judged."""
        self.checked[invariant] += things

    def summary(self):
        """Of each invariant how much was judged, and how much broke it."""
        return {
            name: {"judged": self.checked[name], "violations": (name in self.found) + self.more[name]} for name in INVARIANTS
        }

    def lines(self):
        """One line per invariant."""
        for name, meaning in INVARIANTS.items():
            if name in self.found:
                more = f" (and {self.more[name]} more)" if self.more[name] else ""
                yield f"{name:<4}FAIL  {self.found[name]}{more}"
            else:
                yield f"{name:<4}pass  {meaning} ({self.checked[name]} judged)"
