#!/usr/bin/env python3
"""The checker's own test: a small honest log and history pass, and every single lie is found under its invariant's name.

    python3 test_checker.py

Log and history are written here by hand (own canonical bytes, own chain, own figures), so that the checker is not tested with itself.
"""

import copy
import hashlib
import io
import json
import pathlib
import struct
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import check  # noqa: E402
import rating  # noqa: E402
from values import key_hash  # noqa: E402

START = 1_795_428_000_000_000  # 2026-11-23T10:00:00Z


def uid(number):
    return f"01900000-0000-7000-8000-{number:012x}"


LOG, WALLET, OTHER, DEVELOPER, APP, USER = (uid(number) for number in range(1, 7))
HOLDS = [uid(number) for number in range(0x10, 0x18)]
TOP_UP = uid(0x20)
RULE = {"markup_bps": 3000, "share_bps": 4000}
CALL = {"app_id": APP, "feature_key": "chat", "route": "platform", "provider": "openai", "model": "small"}
MODELS = [{"provider": "openai", "model": "small",
           "rates": {"input_uncached": "0.00000015", "cache_read": "0.000000075", "output_text": "0.0000006"}}]
CARD_HASH = hashlib.sha256(json.dumps(MODELS, separators=(",", ":")).encode()).hexdigest()
CARD = f"{CARD_HASH[:8]}-{CARD_HASH[8:12]}-8{CARD_HASH[13:16]}-{int(CARD_HASH[16], 16) & 3 | 8:x}{CARD_HASH[17:20]}-{CARD_HASH[20:32]}"
# The first worked example of docs/ACCOUNTING.md: 23,077.5 units are rounded to the even 23,078.
USAGE = {"input_uncached": 178, "cache_read": 1025, "output_text": 212}
RATING = {"rate_card_id": CARD, "price_rule": RULE, "usage": USAGE, "exact_cost": "0.000230775", "upstream": "0.00023078",
          "retail": "0.00030001", "charge": "0.00030001", "developer": "0.00002769"}
CHARGE = [["2010:" + WALLET, "0.00030001"], ["4010", "-0.00030001"], ["5010", "0.00023078"], ["2110:openai", "-0.00023078"],
          ["5020", "0.00002769"], ["2210:" + DEVELOPER, "-0.00002769"]]


def balance(posted, held="0.00000000"):
    return {"posted": posted, "held": held}


def key(text, scope="admin"):
    digest = hashlib.sha256()
    for part in (scope, text):
        digest.update(struct.pack(">Q", len(part)) + part.encode())
    return digest.hexdigest()[:32]


def hyphenated(digits):
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def hold(number, held, expires="2026-11-23T11:00:00.000000Z", amount="0.01000000", posted="10.00000000"):
    return {"hold_id": HOLDS[number], "wallet_id": WALLET, "call": CALL, "requested": amount, "amount": amount,
            "rate_card_id": CARD, "price_rule": RULE, "expires_at": expires, "balance": balance(posted, held)}


def captured(number, posted, held="0.00000000"):
    return {"hold_id": HOLDS[number], "wallet_id": WALLET, "call": CALL, "held": "0.01000000", "rating": dict(RATING),
            "entry": CHARGE, "balance": balance(posted, held)}


def honest_batches():
    """Appends as lists of (stream, type, actor, key, payload)."""
    wallet, app, card = "wallet:" + WALLET, "app:" + APP, "rate_card:" + CARD
    settings = {"name": "Shop", "default_revenue_share_bps": 4000, "status": "active", "session_opening": "public"}
    feature = {"app_id": APP, "feature_id": uid(7), "feature_key": "chat", "display_name": "Chat", "pricing": {"markup_bps": 3000}}
    top_up = {"top_up_id": TOP_UP, "wallet_id": WALLET, "amount": "10.00000000", "provider": "stripe"}
    credit = [["1110", "10.00000000"], ["2010:" + WALLET, "-10.00000000"]]
    late = {"hold_id": HOLDS[2], "wallet_id": WALLET, "call": CALL, "rating": dict(RATING), "entry": CHARGE, "balance": balance("9.99909997")}
    expired = {"hold_id": HOLDS[2], "wallet_id": WALLET, "amount": "0.01000000", "balance": balance("9.99939998")}
    released = {"hold_id": HOLDS[1], "wallet_id": WALLET, "amount": "0.01000000", "reason": "cancelled", "balance": balance("9.99969999")}
    usage = {"usage_id": uid(0x30), "wallet_id": WALLET, "call": CALL, "rating": dict(RATING), "entry": CHARGE, "balance": balance("9.99939998")}
    scope = {"scope": {"kind": "app", "id": APP}, "reason": "drill"}
    shard = "shard:00000000-0000-0000-0000-000000000000"
    return [
        [("developer:" + DEVELOPER, "DeveloperRegistered", "operator", None, {"developer_id": DEVELOPER, "name": "D", "email": "d@example.org"}),
         (app, "AppRegistered", "operator", None, {"app_id": APP, "developer_id": DEVELOPER, "public_app_id": "shop", "settings": settings}),
         (app, "FeatureDefined", "operator", None, feature),
         (card, "RateCardPublished", "operator", None, {"rate_card_id": CARD, "sha256": CARD_HASH, "source": "test", "models": MODELS}),
         (card, "RateCardActivated", "operator", None, {"rate_card_id": CARD})],
        [(wallet, "WalletOpened", "public", None, {"wallet_id": WALLET, "app_id": APP, "user_id": USER, "user_hash": "hmac:" + "1" * 64, "floor": "0.00000000"})],
        [(wallet, "TopUpRequested", "admin", "top-up-1", top_up)],
        [(wallet, "TopUpCredited", "admin", "payment:pi_1", {**top_up, "payment": "pi_1", "entry": credit, "balance": balance("10.00000000")})],
        [(wallet, "HoldPlaced", "admin", "hold-0", hold(0, "0.01000000")), (wallet, "HoldPlaced", "admin", "hold-1", hold(1, "0.02000000"))],
        [(wallet, "HoldCaptured", "admin", "end-0", captured(0, "9.99969999", "0.01000000"))],
        [(wallet, "HoldReleased", "admin", "end-1", released)],
        [(wallet, "UsageRecorded", "admin", "usage-1", usage)],
        [(wallet, "HoldPlaced", "admin", "hold-2", hold(2, "0.01000000", "2026-11-23T10:00:09.000000Z", posted="9.99939998"))],
        [(wallet, "HoldExpired", "clock", None, expired)],
        [(wallet, "LateUsageCaptured", "admin", "end-2", late)],
        [(shard, "Frozen", "admin", None, scope)],
        [(shard, "Thawed", "admin", None, scope)],
    ]


def export(batches):
    """The rows of an export, sealed: list of dicts."""
    link = hashlib.sha256(b"modelfaucet.log.v1" + bytes.fromhex(LOG.replace("-", "")) + struct.pack(">h", 0)).digest()
    rows = [{"table": "log", "shard": 0, "log_id": LOG}]
    links, keys, events, versions, position = [], [], [], {}, 0
    for number, batch in enumerate(batches):
        at, first, batch_id = START + number * 1_000_000, position + 1, uid(0x1000 + number)
        last = position + len(batch)
        digest = hashlib.sha256(b"modelfaucet.batch.v1" + link + struct.pack(">hqq", 0, first, last))
        digest.update(bytes.fromhex(batch_id.replace("-", "")) + struct.pack(">q", at))
        for stream, name, actor, used, payload in batch:
            position += 1
            versions[stream] = versions.get(stream, 0) + 1
            payload = json.dumps(payload, separators=(",", ":"), ensure_ascii=False).encode()
            row = {"table": "event", "shard": 0, "position": position, "stream": stream, "stream_seq": versions[stream], "type": name,
                   "version": 1, "recorded_at": at, "actor": actor, "request_id": f"r-{position}", "key": None, "fingerprint": None,
                   "payload": payload.hex()}
            mark = b"\0"
            if used:
                row["key"], row["fingerprint"] = hyphenated(key(used)), hyphenated(key(used, "body"))
                mark = b"\1" + bytes.fromhex(key(used) + key(used, "body"))
                keys.append({"table": "idempotency", "shard": 0, "key": row["key"], "position": position})
            data = struct.pack(">hq", 0, position)
            for text, after in ((stream, struct.pack(">q", versions[stream])), (name, struct.pack(">hq", 1, at)), (actor, b""), (row["request_id"], mark)):
                data += struct.pack(">I", len(text)) + text.encode() + after
            data += struct.pack(">I", len(payload)) + payload
            digest.update(struct.pack(">I", len(data)) + data)
            events.append(row)
        links.append({"table": "batch", "shard": 0, "first_pos": first, "last_pos": last, "batch_id": batch_id, "prev_hash": link.hex(),
                      "hash": digest.hexdigest(), "committed_at": at})
        link = digest.digest()
    return rows + links + keys + events


def honest_history():
    """Records of two clients; positions as `export(honest_batches())` numbers them."""
    records = []

    def call(client, text, op, outcome, at, body=None, **more):
        body = body or "sha256:" + text
        asked = {name: more.pop(name) for name in ("wallet", "amount") if name in more}
        records.append({"t": at, "c": client, "e": "invoke", "key": text, "op": op, "body": body, **asked})
        if outcome == "ok":
            more.setdefault("reply", "sha256:reply-" + text)
            more["shard"] = 0
        if outcome is not None:
            records.append({"t": at + 5, "c": client, "e": outcome, "key": text, **more})

    call(1, "top-up-1", "top_up", "ok", 10, pos=7, wallet=WALLET, amount="10.00000000")
    call(1, "payment:pi_1", "credit", "in_doubt", 20, why="connection")
    call(2, "payment:pi_1", "credit", "ok", 22, pos=8, replayed=True)
    call(1, "payment:pi_1", "credit", "ok", 30, pos=8, replayed=True)
    call(1, "hold-0", "hold", "ok", 40, pos=9, wallet=WALLET, amount="0.01000000", posted="10.00000000", held="0.01000000", available="9.99000000")
    call(1, "hold-1", "hold", "ok", 40, pos=10, wallet=WALLET, amount="0.01000000")
    call(1, "end-0", "capture", "ok", 50, pos=11, wallet=WALLET, available="9.98969999")
    call(2, "end-0", "capture", "refused", 60, body="sha256:another", code="idempotency_key_reused")
    call(1, "end-1", "release", None, 70)
    call(2, "too-much", "hold", "refused", 80, wallet=WALLET, amount="11.00000000", code="insufficient_balance")
    call(2, "usage-1", "usage", "refused", 82, code="overloaded")
    call(2, "usage-1", "usage", "ok", 90, pos=13, wallet=WALLET)
    call(2, "lost", "hold", "in_doubt", 92, wallet=WALLET, amount="11.00000000", why="in_doubt")
    call(2, "hold-2", "hold", "ok", 100, pos=14, wallet=WALLET)
    call(2, "end-2", "capture", "ok", 110, pos=16, wallet=WALLET, posted="9.99909997")
    records.append({"t": 120, "c": 2, "e": "read", "shard": 0, "min": 12, "pos": 13, "wallet": WALLET, "posted": "9.99939998"})
    records.append({"t": 130, "e": "fault", "f": "F2", "role": "up", "act": "kill", "pid": 1})
    return records


class Checker(unittest.TestCase):
    """Each case spoils one thing."""

    def verdicts(self, rows, records):
        with tempfile.TemporaryDirectory() as folder:
            log, history = pathlib.Path(folder, "log.jsonl"), pathlib.Path(folder, "client.jsonl")
            log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            head = {"run": "test", "commit": "0", "seed": 0, "log_id": LOG, "machine": "test"}
            history.write_text("".join(json.dumps(record) + "\n" for record in [head, *records]), encoding="utf-8")
            out = io.StringIO()
            status = check.check(log, [history], out)
        lines = out.getvalue().splitlines()
        failed = {line.split()[0]: line for line in lines if " FAIL " in line}
        self.assertEqual(status, 1 if failed else 0)
        return failed

    def caught(self, invariant, spoil_batches=None, spoil_rows=None, spoil_records=None, says="", alone=True):
        batches, records = copy.deepcopy(honest_batches()), honest_history()
        if spoil_batches:
            changed = spoil_batches(batches)
            batches = batches if changed is None else changed
        rows = export(batches)
        if spoil_rows:
            changed = spoil_rows(rows)
            rows = rows if changed is None else changed
        if spoil_records:
            changed = spoil_records(records)
            records = records if changed is None else changed
        failed = self.verdicts(rows, records)
        self.assertIn(invariant, failed, failed)
        self.assertIn(says, failed[invariant])
        if alone:
            self.assertEqual(set(failed), {invariant}, failed)

    def test_what_is_honest_passes(self):
        self.assertEqual(self.verdicts(export(honest_batches()), honest_history()), {})
        self.assertEqual(self.verdicts(export(honest_batches()), []), {})

    def test_other_routes_promotional_credit_and_a_receivable_pass(self):
        other, wallet = "wallet:" + OTHER, "wallet:" + WALLET
        feature = {"app_id": APP, "feature_id": uid(8), "feature_key": "own", "display_name": "Own",
                   "pricing": {"markup_bps": 3000, "revenue_share_bps": 5000, "fee_usd": "0.00100000"}}
        promo = {"wallet_id": OTHER, "amount": "0.00005000", "reason": "welcome", "entry": [["1400", "0.00005000"], ["2020:" + OTHER, "-0.00005000"]],
                 "balance": {"posted": "0.00005000", "promo": "0.00005000", "held": "0.00000000"}}
        grant = {"wallet_id": OTHER, "amount": "0.00005000", "entry": [["5220:test-credit", "0.00005000"], ["2010:" + OTHER, "-0.00005000"]],
                 "balance": {"posted": "0.00010000", "promo": "0.00005000", "held": "0.00000000"}}
        # 5,000 units are paid of a price of 30,001, since credit that was given away pays nothing on the developer's key: nothing is earned, and
        # of the cost of 23,078 only what was paid is owed.
        unpaid = {"usage_id": uid(0x31), "wallet_id": OTHER, "call": {**CALL, "route": "developer_key"},
                  "rating": {**RATING, "developer": "0.00000000", "unrecovered": "0.00018078", "receivable": "0.00025001"},
                  "entry": [["2010:" + OTHER, "0.00005000"], ["1200:" + OTHER, "0.00025001"],
                            ["4020", "-0.00030001"], ["5015", "0.00005000"], ["2210:" + DEVELOPER, "-0.00005000"]],
                  "balance": {"posted": "0.00005000", "promo": "0.00005000", "held": "0.00000000"}}
        fee = {"usage_id": uid(0x32), "wallet_id": WALLET, "call": {**CALL, "feature_key": "own", "route": "byok"},
               "rating": {"rate_card_id": CARD, "price_rule": {"markup_bps": 3000, "share_bps": 5000, "fee_usd": "0.00100000"}, "usage": USAGE,
                          "exact_cost": "0", "upstream": "0.00000000", "retail": "0.00100000", "charge": "0.00100000", "developer": "0.00050000"},
               "entry": [["2010:" + WALLET, "0.00100000"], ["4030", "-0.00100000"], ["5020", "0.00050000"], ["2210:" + DEVELOPER, "-0.00050000"]],
               "balance": balance("9.99809997")}
        refund = {"adjustment_id": uid(0x40), "wallet_id": WALLET, "kind": "refund", "direction": "debit", "amount": "1.00000000",
                  "entry": [["2010:" + WALLET, "1.00000000"], ["2030", "-1.00000000"]], "balance": balance("8.99809997")}
        opened = {"wallet_id": OTHER, "app_id": APP, "user_id": USER, "user_hash": "hmac:" + "2" * 64, "floor": "0.00000000"}
        more = [("app:" + APP, "FeatureDefined", feature), (other, "WalletOpened", opened), (other, "PromoGranted", promo),
                (other, "TestCreditGranted", grant), (other, "UsageRecorded", unpaid), (wallet, "UsageRecorded", fee),
                (wallet, "WalletAdjusted", refund)]
        batches = [*honest_batches(), [(stream, name, "admin", None, payload) for stream, name, payload in more]]
        self.assertEqual(self.verdicts(export(batches), honest_history()), {})

    def money_back(self):
        """A refund, a lost dispute, a write-off and a payout, by the rules."""
        wallet = "wallet:" + WALLET
        refund = {"refund_id": uid(0x50), "wallet_id": WALLET, "payment": "pi_1", "amount": "4.00000000",
                  "entry": [["2010:" + WALLET, "4.00000000"], ["2030", "-4.00000000"]], "balance": balance("5.99909997")}
        opened = {"dispute": "dp_1", "wallet_id": WALLET, "payment": "pi_1", "amount": "6.00000000", "held": "5.99909997", "freezes": False,
                  "reason": "fraudulent", "balance": balance("5.99909997", "5.99909997")}
        lost = {"dispute": "dp_1", "wallet_id": WALLET, "payment": "pi_1", "amount": "6.00000000", "released": "5.99909997",
                "receivable": "0.00090003", "balance": balance("0.00000000"),
                "entry": [["2010:" + WALLET, "5.99909997"], ["1200:" + WALLET, "0.00090003"], ["1130", "-6.00000000"]]}
        proposed = {"write_off_id": uid(0x60), "wallet_id": WALLET, "amount": "0.00090003", "reason": "gone"}
        written = {"write_off_id": uid(0x60), "wallet_id": WALLET, "amount": "0.00090003", "balance": balance("0.00000000"),
                   "entry": [["5210", "0.00090003"], ["1200:" + WALLET, "-0.00090003"]]}
        moved = {"transaction": "txn_1", "category": "charge", "amount": "10.00000000", "fee": "0.59000000", "occurred_at": "2026-11-23T10:00:00Z",
                 "entry": [["1010", "9.41000000"], ["5110", "0.59000000"], ["1110", "-10.00000000"]]}
        return [[(wallet, "RefundRequested", "admin", None, refund)], [(wallet, "DisputeOpened", "stripe", None, opened)],
                [(wallet, "DisputeLost", "stripe", None, lost)], [(wallet, "WriteOffProposed", "admin", None, proposed)],
                [(wallet, "ReceivableWrittenOff", "operator", None, written)],
                [("transaction:" + uid(0x70), "StripeTransactionRecorded", "stripe", None, moved)]]

    def test_money_goes_back_by_the_rules(self):
        self.assertEqual(self.verdicts(export([*honest_batches(), *self.money_back()]), honest_history()), {})

    # I11

    def test_a_refund_that_passes_its_payment(self):
        def spoil(batches):
            for batch in self.money_back()[:1]:
                batches.append(batch)
            stream, name, actor, _, payload = batches[-1][0]
            batches.append([(stream, name, actor, None, {**payload, "refund_id": uid(0x51), "amount": "6.50000000", "receivable": "0.50090003",
                             "entry": [["2010:" + WALLET, "5.99909997"], ["1200:" + WALLET, "0.50090003"], ["2030", "-6.50000000"]],
                             "balance": balance("0.00000000")})])
        self.caught("I11", spoil_batches=spoil, says="go back of pi_1")

    def test_a_write_off_by_one_person(self):
        def spoil(batches):
            batches.extend(self.money_back())
            stream, name, _, used, payload = batches[-2][0]
            batches[-2][0] = (stream, name, "admin", used, payload)
        self.caught("I11", spoil_batches=spoil, says="by somebody else")

    def test_a_payout_of_what_was_not_earned(self):
        def spoil(batches):
            entry = [["2210:" + DEVELOPER, "1.00000000"], ["2220", "-1.00000000"]]
            payout = {"payout_id": uid(0x90), "developer_id": DEVELOPER, "amount": "1.00000000", "provider": "mock", "trigger": "hand", "entry": entry}
            batches.append([("payout:" + uid(0x90), "PayoutRequested", "admin", None, payout)])
        self.caught("I11", spoil_batches=spoil, says="is owed -")

    def test_hashes_of_keys_are_the_ledgers(self):
        # printf '\0\0\0\0\0\0\0\5admin\0\0\0\0\0\0\0\1k' | sha256sum
        self.assertEqual(key_hash("admin", "k").hex(), "b6b09b4de97f9e3bf38aa0a55f6a5482")

    # I1

    def test_an_acknowledged_command_that_is_not_in_the_log(self):
        self.caught("I1", spoil_batches=lambda batches: batches[:-3], spoil_records=lambda records: [
            record for record in records if record["e"] != "read"], says="not in the log")

    def test_an_acknowledged_command_at_another_position(self):
        def spoil(records):
            outcome(records, "hold-2")["pos"] = 15
        self.caught("I1", spoil_records=spoil, says="is at position 14", alone=False)

    def test_an_acknowledged_command_that_did_something_else(self):
        def spoil(records):
            invoke(records, "hold-0")["amount"] = "0.02000000"
        self.caught("I1", spoil_records=spoil, says="there is HoldPlaced of 0.01000000")

    # I2

    def test_a_key_with_two_effects(self):
        def spoil(batches):
            stream, name, actor, _, payload = batches[7][0]
            batches.append([(stream, name, actor, "usage-1", {**payload, "balance": balance("9.99879996")})])
        self.caught("I2", spoil_batches=spoil, says="the key of position 13 again", alone=False)

    def test_a_payment_that_is_credited_twice(self):
        def spoil(batches):
            requested, credited = batches[2][0], batches[3][0]
            batches.append([(*requested[:3], "top-up-2", requested[4])])
            batches.append([(*credited[:3], "again", {**credited[4], "balance": balance("19.99909997")})])
        self.caught("I2", spoil_batches=spoil, says="payment pi_1 is credited twice")

    def test_a_credit_of_another_amount(self):
        def spoil(batches):
            batches[2][0][4]["amount"] = "9.00000000"
        self.caught("I2", spoil_batches=spoil, says="does not credit what was requested", alone=False)

    def test_an_index_that_lost_a_key(self):
        self.caught("I2", spoil_rows=lambda rows: [row for row in rows if row["table"] != "idempotency" or row["position"] != 9])

    def test_a_repeat_that_got_other_bytes(self):
        def spoil(records):
            [record for record in records if record["e"] == "ok" and record["pos"] == 8][1]["reply"] = "sha256:other"
        self.caught("I2", spoil_records=spoil, says="two different replies")

    # I3

    def test_a_refused_command_with_an_effect(self):
        def spoil(records):
            record = outcome(records, "usage-1")
            record.update({"e": "refused", "code": "insufficient_balance"})
        self.caught("I3", spoil_records=spoil, says="was refused and has an event")

    def test_a_command_in_doubt_that_was_refused_later_and_has_an_effect(self):
        def spoil(records):
            records += [{"t": 200, "c": 1, "e": "invoke", "key": "end-1", "op": "release"}]
            records += [{"t": 210, "c": 1, "e": "refused", "key": "end-1", "code": "hold_not_found"}]
            records.insert(records.index(invoke(records, "end-1")) + 1, {"t": 75, "c": 1, "e": "in_doubt", "key": "end-1", "why": "x"})
        self.caught("I3", spoil_records=spoil, says="was refused and has an event")

    def test_a_key_that_took_two_bodies(self):
        def spoil(records):
            refused = next(record for record in records if record.get("code") == "idempotency_key_reused")
            refused.update({"e": "ok", "shard": 0, "pos": 11, "replayed": True, "reply": "sha256:reply-end-0"})
        self.caught("I3", spoil_records=spoil, says="two different bodies")

    def test_a_key_that_is_said_to_be_used_and_was_not(self):
        def spoil(records):
            outcome(records, "too-much")["code"] = "idempotency_key_reused"
        self.caught("I3", spoil_records=spoil, says="has no event")

    # I4

    def test_an_entry_that_does_not_sum_to_zero(self):
        def spoil(batches):
            batches[3][0][4]["entry"][0][1] = "10.00000001"
        self.caught("I4", spoil_batches=spoil, says="sum to 0.00000001")

    def test_an_entry_on_the_wrong_account(self):
        def spoil(batches):
            batches[3][0][4]["entry"][0][0] = "1010"
        self.caught("I4", spoil_batches=spoil, says="1110")

    # I5

    def test_an_overdraft(self):
        def spoil(batches):
            batches.append([("wallet:" + WALLET, "HoldPlaced", "admin", "big", hold(5, "50.00000000", amount="50.00000000", posted="9.99909997"))])
        self.caught("I5", spoil_batches=spoil, says="a hold of 50.00000000 on 9.99909997 available")

    def test_a_balance_that_is_not_the_folds(self):
        def spoil(batches):
            batches[10][0][4]["balance"]["posted"] = "9.99909998"
        self.caught("I5", spoil_batches=spoil, spoil_records=lambda records: records[:-4], says="posted 9.99909998")

    # I7

    def test_every_column_of_the_chain(self):
        changes = {"request_id": "forged", "actor": "clock", "payload": b"{}".hex(), "fingerprint": uid(9)}
        for column, value in changes.items():
            def spoil(rows, column=column, value=value):
                next(row for row in rows if row.get("position") == 9 and row["table"] == "event")[column] = value
            with self.subTest(column):
                self.caught("I7", spoil_rows=spoil, says="positions 9 to 10", alone=column != "payload")

    def test_characters_that_move_between_columns(self):
        def spoil(rows):
            row = next(row for row in rows if row.get("position") == 1 and row["table"] == "event")
            row["actor"], row["request_id"] = row["actor"] + "r", row["request_id"][1:]
        self.caught("I7", spoil_rows=spoil)

    def test_a_rewritten_link(self):
        def spoil(rows):
            next(row for row in rows if row["table"] == "batch" and row["first_pos"] == 11)["hash"] = "00" * 32
        self.caught("I7", spoil_rows=spoil)

    def test_another_log(self):
        def spoil(rows):
            rows[0]["log_id"] = uid(0x99)
        self.caught("I7", spoil_rows=spoil, alone=False)

    # I8

    def test_a_gap(self):
        self.caught("I8", spoil_rows=lambda rows: [row for row in rows if row["table"] != "event" or row["position"] != 1], alone=False)

    def test_a_stream_version_twice(self):
        def spoil(rows):
            next(row for row in rows if row.get("position") == 13 and row["table"] == "event")["stream_seq"] = 7
        self.caught("I8", spoil_rows=spoil, says="version 7 after 7", alone=False)

    def test_a_cut_tail(self):
        self.caught("I8", spoil_rows=lambda rows: [row for row in rows if row["table"] != "event" or row["position"] < 18], says="its batches later")

    def closings(self, *changes):
        """The honest history with closings of one incident behind it, at positions 19, 20 …"""
        closed = {"name": "INC-12", "first": 1, "last": 18, "digest": "5f" * 32, "bytes": 5123, "reason": "drill"}
        stream = "shard:00000000-0000-0000-0000-000000000000"
        return [*honest_batches(), *([(stream, "IncidentClosed", "admin", None, {**closed, **change})] for change in changes)]

    def test_an_incident_is_closed_again_instead_of_the_closing_before(self):
        self.assertEqual(self.verdicts(export(self.closings({}, {"last": 19, "supersedes": 19})), honest_history()), {})

    def test_an_incident_that_is_closed_twice_or_over_what_is_not_there(self):
        for changes in (({}, {}), ({"supersedes": 18},), ({}, {}, {"supersedes": 19}), ({"last": 19},), ({"first": 9, "last": 8},)):
            with self.subTest(changes):
                self.caught("I8", spoil_batches=lambda _, changes=changes: self.closings(*changes), says="incident INC-12 is closed")

    # I9

    def test_an_answer_before_and_a_position_behind(self):
        def spoil(records):
            for record in records:
                if record["e"] != "fault" and record["c"] == 2:
                    record["t"] += 1000
            outcome(records, "end-2")["t"] += 1
            late = [record for record in records if record.get("key") == "top-up-1"]
            for record in late:
                record["t"] += 5000
        self.caught("I9", spoil_records=spoil, says="key top-up-1 was sent after")

    def test_a_returned_state_that_is_not_the_folds(self):
        def spoil(records):
            outcome(records, "hold-0")["available"] = "9.98000000"
        self.caught("I9", spoil_records=spoil, says="available 9.98000000 was returned")

    def test_a_read_that_is_too_old_or_wrong(self):
        for change in ({"pos": 11}, {"posted": "1.00000000"}, {"pos": 99, "min": 99}):
            with self.subTest(change):
                self.caught("I9", spoil_records=lambda records, change=change: next(r for r in records if r["e"] == "read").update(change))

    # I10

    def test_a_hold_that_ends_twice(self):
        def spoil(batches):
            released = batches[6][0]
            batches.append([(*released[:3], "twice", {**released[4], "hold_id": HOLDS[0], "balance": balance("9.99909997")})])
        self.caught("I10", spoil_batches=spoil, says="is released and ended before")

    def test_a_capture_of_more_than_was_held(self):
        def spoil(batches):
            placed = batches[4][0][4]
            placed["amount"], placed["balance"]["held"] = "0.00010000", "0.00010000"
            batches[4][1][4]["balance"]["held"] = "0.01010000"
            batches[5][0][4]["held"] = "0.00010000"
        self.caught("I10", spoil_batches=spoil, says="0.00030001 captured of 0.00010000 held", alone=False)

    def test_an_expired_hold_that_is_captured_as_if_open(self):
        def spoil(batches):
            batches[4][0][4]["expires_at"] = "2026-11-23T10:00:05.000000Z"
        self.caught("I10", spoil_batches=spoil, says="captured as if open")

    def test_a_held_amount_that_is_not_the_open_holds(self):
        def spoil(batches):
            batches[6][0][4]["balance"]["held"] = "0.01000000"
        self.caught("I10", spoil_batches=spoil, says="0.01000000 is held")

    def test_late_usage_that_is_captured_twice(self):
        def spoil(batches):
            late = batches[10][0]
            batches.append([(*late[:3], "twice", {**late[4], "balance": balance("9.99879996")})])
        self.caught("I10", spoil_batches=spoil, says="had ended", alone=False)

    @staticmethod
    def attempts(**changes):
        """A hold of 0.01 USD, a mark, and a second attempt that holds 0.02 USD, which is captured; members of the attempt may be changed."""
        wallet, expires = "wallet:" + WALLET, "2026-11-23T11:00:00.000000Z"
        started = {"hold_id": HOLDS[3], "wallet_id": WALLET, "number": 2, "ended": {}, "call": CALL, "bound": {}, "requested": "0.02000000",
                   "replaced": "0.01000000", "amount": "0.02000000", "balance": balance("9.99909997", "0.02000000"), **changes}
        mark = {"hold_id": HOLDS[3], "wallet_id": WALLET, "bytes": 9, "counter": 1}
        marks = [{**mark, "number": 1, "usage": {"output_text": 7}}, {**mark, "number": started["number"], "usage": {"output_text": 3}}]
        end = {**captured(3, "9.99879996"), "held": started["amount"]}
        return [
            [(wallet, "HoldPlaced", "admin", "hold-3", hold(3, "0.01000000", expires, posted="9.99909997"))],
            [(wallet, "AttemptProgressed", "admin", None, marks[0])],
            [(wallet, "AttemptStarted", "admin", "attempt-3", started)],
            [(wallet, "AttemptProgressed", "admin", None, marks[1])],
            [(wallet, "HoldCaptured", "admin", "end-3", end)],
        ]

    def test_an_attempt_takes_the_place_of_the_one_before(self):
        self.assertEqual(self.verdicts(export(honest_batches() + self.attempts()), []), {})

    def test_an_attempt_that_replaces_another_amount(self):
        spoil = lambda batches: batches.extend(self.attempts(replaced="0.00500000"))  # noqa: E731
        self.caught("I10", spoil_batches=spoil, says="attempt 2 of hold", alone=False)

    def test_an_attempt_out_of_its_turn(self):
        self.caught("I10", spoil_batches=lambda batches: batches.extend(self.attempts(number=3)), says="attempt 3 of hold", alone=False)

    def test_an_attempt_that_overspends(self):
        changes = {"requested": "50.00000000", "amount": "50.00000000", "balance": balance("9.99909997", "50.00000000")}
        spoil = lambda batches: batches.extend(self.attempts(**changes))  # noqa: E731
        self.caught("I5", spoil_batches=spoil, says="an attempt holds 50.00000000 on 9.99909997 available", alone=False)

    def test_a_mark_that_falls(self):
        def spoil(batches):
            attempts = self.attempts()
            *head, payload = attempts[1][0]
            batches.extend([*attempts[:2], [(*head, {**payload, "usage": {"output_text": 6}})], *attempts[2:]])
        self.caught("I10", spoil_batches=spoil, says="a mark of attempt 1 at 6 follows 7", alone=False)

    # I12

    def test_a_charge_that_is_rounded_the_other_way(self):
        def spoil(batches):
            batches[7][0][4]["rating"]["upstream"] = "0.00023077"
        self.caught("I12", spoil_batches=spoil, says="upstream is recorded as 0.00023077; computed again it is 0.00023078")

    def test_a_rest_on_the_wrong_leg(self):
        def spoil(batches):
            payload = batches[7][0][4]
            payload["rating"]["developer"] = "0.00002770"
            payload["entry"] = CHARGE[:4] + [["5020", "0.00002770"], ["2210:" + DEVELOPER, "-0.00002770"]]
        self.caught("I12", spoil_batches=spoil, says="developer is recorded as 0.00002770")

    def test_a_card_that_is_not_its_content(self):
        def spoil(batches):
            batches[0][3][4]["models"] = [{**MODELS[0], "rates": {**MODELS[0]["rates"], "cache_read": "0.0000000750"}}]
        self.caught("I12", spoil_batches=spoil, says="not named after its content")

    def test_a_rule_that_is_not_in_force(self):
        def spoil(batches):
            batches[0][2][4]["pricing"]["revenue_share_bps"] = 5000
        self.caught("I12", spoil_batches=spoil, says="not the ones in force")

    def test_a_price_is_that_of_the_tier_that_served_and_of_the_length_of_the_input(self):
        table = lambda usd: {"input_uncached": usd, "cache_read": usd, "output_text": usd}  # noqa: E731
        offer = rating.Offer({"rates": table("0.01"), "contexts": [{"above": 5, "rates": table("0.02")}, {"above": 9, "rates": {}}],
                              "service_tiers": {"flex": {"rates": table("0.001")}}})
        def cents(tier, uncached, cached):
            usage = {"input_uncached": uncached, "cache_read": cached, "output_text": 100}
            return rating.price("platform", offer, tier, usage, {"markup_bps": 0}).upstream // 10**6
        self.assertEqual([cents("standard", 5, 0), cents("standard", 5, 1), cents("standard", 0, 9)], [105, 212, 218])
        self.assertEqual(cents("flex", 900, 0), 100)
        for tier, uncached in (("standard", 10), ("priority", 1)):
            with self.assertRaises(KeyError):
                cents(tier, uncached, 0)

    # I13

    def test_something_frozen_that_happens(self):
        self.caught("I13", spoil_batches=lambda batches: [*batches[:2], batches[11], *batches[2:11]],
                    spoil_records=lambda records: [], says="TopUpRequested behind the freeze of app")


def invoke(records, text):
    """The first invoke of a key."""
    return next(record for record in records if record["e"] == "invoke" and record["key"] == text)


def outcome(records, text):
    """The last outcome of a key."""
    return [record for record in records if record["e"] in ("ok", "refused", "in_doubt") and record["key"] == text][-1]


if __name__ == "__main__":
    unittest.main()
