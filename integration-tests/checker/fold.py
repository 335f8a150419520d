"""A fold of one shard's events, written from docs/ACCOUNTING.md and the rules alone (I2, I4, I5, I10-I13).

Business amounts move the wallet here; the balance and the postings that the event carries are only compared with it.
"""

import hashlib
import json

import rating
from values import decode, micros, units, usd

ZERO = "0.00000000"
NEEDS_USAGE = ("HoldPlaced", "UsageRecorded", "AttemptStarted")
NEEDS_TOP_UPS = ("TopUpRequested", "TopUpCredited", "TestCreditGranted", "PromoGranted")
# The account on the other side of a movement of the payment provider's balance, and that of its fee.
MOVEMENTS = {
    "charge": ("1110", "5110"), "fee": ("5110", "5110"), "network_cost": ("5110", "5110"), "refund": ("2030", "5110"),
    "refund_failure": ("2030", "5110"), "dispute": ("1130", "5120"), "dispute_reversal": ("1130", "5120"),
    "payout": ("1120", "5110"), "payout_reversal": ("1120", "5110"),
}
OTHER_SIDE = {"adjustment": "5220:correction", "refund": "2030", "chargeback": "1130"}


class Wallet:
    """What is in a wallet, in units of 1e-8 USD."""

    __slots__ = ("app", "floor", "held", "posted", "promo")

    def __init__(self, app, floor):
        self.app, self.floor = app, floor
        self.posted = self.promo = self.held = 0

    def spendable(self):
        """What can be charged or held."""
        return max(self.posted - self.held - self.floor, 0)

    def spendable_on(self, route):
        """The same on a route: credit that was given away pays nothing on the developer's own key."""
        return max(self.posted - self.held - self.floor - (self.promo if route == "developer_key" else 0), 0)


class Hold:
    """A hold until its end; `open` until it has expired, gone when it was captured or released."""

    __slots__ = ("amount", "attempt", "call", "card", "expires_at", "marked", "open", "rule", "wallet")

    def __init__(self, event):
        self.wallet, self.call, self.amount = event["wallet_id"], event["call"], units(event["amount"])
        self.card, self.rule, self.expires_at = event["rate_card_id"], event["price_rule"], event["expires_at"]
        self.open = True
        self.attempt, self.marked = 1, 0


class Fold:
    """The state of a shard behind the last event taken in. `on_Name` takes in an event of that name and returns its postings."""

    def __init__(self, report, shard):
        self.report = report
        self.shard = shard
        self.position = 0
        self.actor = ""
        self.at = 0
        self.wallets = {}
        self.holds = {}
        self.ended = set()
        self.top_ups = {}
        self.payments = set()
        self.paid = {}
        self.refunds = {}
        self.disputes = {}
        self.movements = set()
        self.payouts = {}
        self.write_offs = {}
        self.repairs = {}
        self.incidents = {}
        self.owed = {}
        self.payable = {}
        self.apps = {}
        self.features = {}
        self.cards = {}
        self.card = None
        self.frozen = {}
        self.handlers = {name[3:]: getattr(self, name) for name in dir(self) if name.startswith("on_")}

    def fail(self, invariant, text):
        """A counter-example at this position."""
        self.report.fail(invariant, text, position=(self.shard, self.position))

    def take(self, row, payload):
        """Takes in the next event and returns what it says."""
        name, event = row["type"], decode(payload.decode())
        self.position, self.at, self.actor = row["position"], row["recorded_at"], row["actor"]
        if self.frozen:
            self._frozen(name, event)
        handler = self.handlers.get(name)
        if handler is None:
            return event
        wallet_id = event.get("wallet_id")
        wallet = self.wallets.get(wallet_id)
        if wallet_id is not None and name != "WalletOpened" and wallet is None:
            self.fail("I5", f"{name} for a wallet that was never opened")
            wallet = self.wallets[wallet_id] = Wallet(event.get("call", {}).get("app_id"), 0)
        if wallet_id is not None and row["stream"] != "wallet:" + wallet_id and name != "SessionOpened":
            self.fail("I8", f"{name} of wallet {wallet_id} is in the stream {row['stream']}")
        expected = handler(event, wallet)
        if "entry" in event:
            self._entry(name, event, expected)
        if "balance" in event:
            self._balance(event["balance"], wallet)
        return event

    def figures(self, wallet_id):
        """Posted, held and available of a wallet, by the names of the history."""
        wallet = self.wallets.get(wallet_id)
        if wallet is None:
            return {}
        return {"posted": wallet.posted, "held": wallet.held, "available": wallet.posted - wallet.held}

    def _entry(self, name, event, expected):
        found, total = {}, 0
        for account, amount in event["entry"]:
            amount = units(amount)
            total += amount
            found[account] = found.get(account, 0) + amount
            if account.startswith("2210:"):
                self.payable[account] = self.payable.get(account, 0) - amount
                if self.payable[account] < 0:
                    self.fail("I11", f"{account} is owed {usd(self.payable[account])}")
            elif account.startswith("1200:"):
                self.owed[account[5:]] = self.owed.get(account[5:], 0) + amount
        self.report.count("I4")
        if total:
            self.fail("I4", f"the postings of {name} sum to {usd(total)}")
        if expected is not None and found != expected:
            # The legs of a charge are part of its split.
            odd = sorted(account for account in found.keys() | expected.keys() if found.get(account) != expected.get(account))
            text = ", ".join(f"{account}: {usd(found.get(account, 0))}, not {usd(expected.get(account, 0))}" for account in odd)
            self.fail("I12" if "rating" in event else "I4", f"{name} posts {text}")

    def _balance(self, balance, wallet):
        self.report.count("I5")
        posted, promo = units(balance["posted"]), units(balance.get("promo", ZERO))
        held = units(balance["held"])
        if (posted, promo) != (wallet.posted, wallet.promo):
            text = f"posted {usd(posted)} of it promo {usd(promo)}, the fold has {usd(wallet.posted)} and {usd(wallet.promo)}"
            self.fail("I5", text)
        if held != wallet.held:
            self.fail("I10", f"{usd(held)} is held, the open holds add up to {usd(wallet.held)}")
        if wallet.posted - wallet.held < wallet.floor:
            text = f"{usd(wallet.posted)} posted - {usd(wallet.held)} held is below the floor {usd(wallet.floor)}"
            self.fail("I5", text)
        if not 0 <= wallet.promo <= max(wallet.posted, 0):
            self.fail("I5", f"promo {usd(wallet.promo)} of {usd(wallet.posted)}")

    # Developers, apps, prices.

    def on_AppRegistered(self, event, _):
        self.apps[event["app_id"]] = [event["developer_id"], event["settings"]["default_revenue_share_bps"]]

    def on_AppChanged(self, event, _):
        self.apps[event["app_id"]][1] = event["settings"]["default_revenue_share_bps"]

    def on_FeatureDefined(self, event, _):
        self.features[event["app_id"], event["feature_key"]] = event["pricing"]

    on_FeatureChanged = on_FeatureDefined

    def on_RateCardPublished(self, event, _):
        card = event["rate_card_id"]
        text = json.dumps(event["models"], ensure_ascii=False, separators=(",", ":")).encode()
        digest = hashlib.sha256(text).digest()
        name = bytearray(digest[:16])
        name[6], name[8] = name[6] & 0x0F | 0x80, name[8] & 0x3F | 0x80
        if event["sha256"] != digest.hex() or card.replace("-", "") != name.hex():
            self.fail("I12", f"rate card {card} is not named after its content")
        self.cards[card] = {(offer["provider"], offer["model"]): rating.Offer(offer) for offer in event["models"]}

    def on_RateCardActivated(self, event, _):
        self.card = event["rate_card_id"]
        if self.card not in self.cards:
            self.fail("I12", f"rate card {self.card} was never published")

    # Wallets and credit.

    def on_WalletOpened(self, event, wallet):
        if wallet is not None:
            self.fail("I5", f"wallet {event['wallet_id']} is opened twice")
        self.wallets[event["wallet_id"]] = Wallet(event["app_id"], units(event["floor"]))

    def on_SessionOpened(self, event, wallet):
        pass

    def on_TopUpRequested(self, event, _):
        self.top_ups[event["top_up_id"]] = (event["wallet_id"], units(event["amount"]), event["provider"])

    def on_TopUpFailed(self, event, _):
        if self.top_ups.pop(event["top_up_id"], None) is None:
            self.fail("I2", f"top-up {event['top_up_id']} fails and was not pending")

    def on_TopUpCredited(self, event, wallet):
        amount, payment = units(event["amount"]), (event["provider"], event["payment"])
        self.report.count("I2")
        if payment in self.payments:
            self.fail("I2", f"payment {payment[1]} is credited twice")
        self.payments.add(payment)
        self.paid[event["payment"]] = [event["wallet_id"], amount, 0]
        requested = self.top_ups.pop(event["top_up_id"], None)
        if requested != (event["wallet_id"], amount, event["provider"]):
            self.fail("I2", f"payment {payment[1]} of {usd(amount)} does not credit what was requested: {requested}")
        wallet.posted += amount
        return {"1110": amount, "2010:" + event["wallet_id"]: -amount}

    def on_TestCreditGranted(self, event, wallet):
        amount = units(event["amount"])
        wallet.posted += amount
        return {"5220:test-credit": amount, "2010:" + event["wallet_id"]: -amount}

    def on_PromoGranted(self, event, wallet):
        amount = units(event["amount"])
        wallet.posted += amount
        wallet.promo += amount
        return {"1400": amount, "2020:" + event["wallet_id"]: -amount}

    def on_WalletAdjusted(self, event, wallet):
        amount = units(event["amount"])
        if event["direction"] == "debit":
            if amount > min(wallet.spendable(), wallet.posted - wallet.promo):
                self.fail("I5", f"a debit of {usd(amount)} takes more than is available")
            amount = -amount
        wallet.posted += amount
        return {OTHER_SIDE[event["kind"]]: amount, "2010:" + event["wallet_id"]: -amount}

    # Money that goes back, and the payment provider's own record.

    def on_CreditExpired(self, event, wallet):
        amount = units(event["amount"])
        if amount > wallet.spendable():
            self.fail("I5", f"{usd(amount)} expire of {usd(wallet.spendable())} available")
        wallet.posted -= amount
        wallet.promo -= amount
        return self._postings(("2020:" + event["wallet_id"], amount), ("1400", -amount))

    def on_RefundRequested(self, event, wallet):
        amount, owed = units(event["amount"]), units(event.get("receivable", ZERO))
        if event["refund_id"] in self.refunds:
            self.fail("I11", f"refund {event['refund_id']} is requested twice")
        if owed and amount - owed != min(amount, wallet.spendable(), wallet.posted - wallet.promo):
            self.fail("I5", f"{usd(owed)} are owed of a refund of {usd(amount)}, the wallet has more or less")
        # Its failure may be all that was told of it: then it takes nothing of the payment in the end.
        self._take_of(event, amount)
        self.refunds[event["refund_id"]] = [event["wallet_id"], event["payment"], amount]
        wallet.posted -= amount - owed
        return self._postings(("2010:" + event["wallet_id"], amount - owed), ("1200:" + event["wallet_id"], owed), ("2030", -amount))

    def on_RefundFailed(self, event, wallet):
        amount, owed = units(event["amount"]), units(event.get("receivable", ZERO))
        if self.refunds.pop(event["refund_id"], None) != [event["wallet_id"], event["payment"], amount]:
            self.fail("I11", f"refund {event['refund_id']} fails and was not on its way")
        self._take_of(event, -amount)
        wallet.posted += amount - owed
        return self._postings(("2010:" + event["wallet_id"], owed - amount), ("1200:" + event["wallet_id"], -owed), ("2030", amount))

    def on_DisputeOpened(self, event, wallet):
        held = units(event["held"])
        if event["dispute"] in self.disputes:
            self.fail("I10", f"dispute {event['dispute']} is opened twice")
        if held != min(units(event["amount"]), wallet.spendable()):
            self.fail("I10", f"a dispute of {event['amount']} holds {usd(held)} of {usd(wallet.spendable())} available")
        self.disputes[event["dispute"]] = held
        wallet.held += held

    def on_DisputeWon(self, event, wallet):
        self._close(event, wallet)

    def on_DisputeLost(self, event, wallet):
        self._close(event, wallet)
        amount, owed = units(event["amount"]), units(event.get("receivable", ZERO))
        if amount - owed != min(amount, wallet.spendable(), wallet.posted - wallet.promo):
            self.fail("I5", f"{usd(owed)} are owed of a lost dispute over {usd(amount)}, the wallet has more or less")
        self._take_of(event, amount)
        wallet.posted -= amount - owed
        return self._postings(("2010:" + event["wallet_id"], amount - owed), ("1200:" + event["wallet_id"], owed), ("1130", -amount))

    def _close(self, event, wallet):
        held = self.disputes.get(event["dispute"])
        if held is None or held != units(event["released"]):
            self.fail("I10", f"dispute {event['dispute']} ends and holds {held}")
        # None: it has ended and may not end again.
        self.disputes[event["dispute"]] = None
        wallet.held -= units(event["released"])

    def _take_of(self, event, amount):
        self.report.count("I11")
        paid = self.paid.get(event["payment"])
        if paid is None or paid[0] != event["wallet_id"]:
            self.fail("I11", f"{event['payment']} was not paid into this wallet")
            return
        paid[2] += amount
        if paid[2] > paid[1] and "reference" not in event:
            self.fail("I11", f"{usd(paid[2])} go back of {event['payment']}, which was over {usd(paid[1])}")

    def on_WriteOffProposed(self, event, _):
        self.write_offs[event["write_off_id"]] = (event["wallet_id"], event["amount"], self.actor)

    def on_ReceivableWrittenOff(self, event, _):
        proposed = self.write_offs.pop(event["write_off_id"], None)
        if proposed is None or proposed[:2] != (event["wallet_id"], event["amount"]) or proposed[2] == self.actor:
            self.fail("I11", f"write-off {event['write_off_id']} was not proposed by somebody else")
        amount = units(event["amount"])
        if amount > self.owed.get(event["wallet_id"], 0):
            self.fail("I11", f"{usd(amount)} are written off, less is owed")
        return self._postings(("5210", amount), ("1200:" + event["wallet_id"], -amount))

    def on_StripeTransactionRecorded(self, event, _):
        if event["transaction"] in self.movements:
            self.fail("I2", f"movement {event['transaction']} is recorded twice")
        self.movements.add(event["transaction"])
        amount, fee = units(event["amount"]), units(event["fee"])
        other, fees = MOVEMENTS[event["category"]]
        return self._postings(("1010", amount - fee), (fees, fee), (other, -amount))

    # Payouts.

    def on_PayoutRequested(self, event, _):
        amount = units(event["amount"])
        self.report.count("I11")
        if event["payout_id"] in self.payouts or amount <= 0 or amount % 1_000_000:
            self.fail("I11", f"payout {event['payout_id']} of {usd(amount)} is requested")
        self.payouts[event["payout_id"]] = ["pending", event["developer_id"], amount, self.actor]
        return self._postings(("2210:" + event["developer_id"], amount), ("2220", -amount))

    def on_PayoutApproved(self, event, _):
        if self._payout(event, "pending", "processing")[3] == self.actor:
            self.fail("I11", f"payout {event['payout_id']} is approved by who requested it")

    def on_PayoutPaid(self, event, _):
        amount, fee = self._payout(event, "processing", "paid")[2], units(event.get("fee", ZERO))
        return self._postings(("2220", amount), ("5130", fee), ("1020", -amount - fee))

    def on_PayoutFailed(self, event, _):
        amount = self._payout(event, "processing", "over")[2]
        return self._postings(("2220", amount), ("2210:" + event["developer_id"], -amount))

    def on_PayoutCancelled(self, event, _):
        amount = self._payout(event, "pending", "over")[2]
        return self._postings(("2220", amount), ("2210:" + event["developer_id"], -amount))

    def on_PayoutReturned(self, event, _):
        amount = self._payout(event, "paid", "over")[2]
        return self._postings(("1020", amount), ("2210:" + event["developer_id"], -amount))

    def _payout(self, event, before, after):
        self.report.count("I11")
        payout = self.payouts.get(event["payout_id"], ["unknown", event["developer_id"], units(event["amount"]), ""])
        if payout[:3] != [before, event["developer_id"], units(event["amount"])]:
            self.fail("I11", f"payout {event['payout_id']} becomes {after} and is {payout[0]}")
        payout[0] = after
        return payout

    @staticmethod
    def _postings(*lines):
        found = {}
        for account, amount in lines:
            if amount:
                found[account] = found.get(account, 0) + amount
        return {account: amount for account, amount in found.items() if amount}

    # Holds and usage.

    def on_HoldPlaced(self, event, wallet):
        hold, hold_id = Hold(event), event["hold_id"]
        self.report.count("I10")
        if hold_id in self.holds or hold_id in self.ended:
            self.fail("I10", f"hold {hold_id} is placed twice")
        if not 0 <= hold.amount <= units(event["requested"]):
            self.fail("I10", f"hold {hold_id} is over {event['amount']}, asked were {event['requested']}")
        available = wallet.spendable_on(hold.call["route"])
        if hold.amount > available:
            self.fail("I5", f"a hold of {usd(hold.amount)} on {usd(available)} available")
        self._rule(event, event["rate_card_id"], event["price_rule"], wallet)
        wallet.held += hold.amount
        self.holds[hold_id] = hold

    def on_AttemptStarted(self, event, wallet):
        hold = self._running(event)
        if hold is None:
            return
        wallet.held -= hold.amount
        amount, available = units(event["amount"]), wallet.spendable_on(event["call"]["route"])
        if event["number"] != hold.attempt + 1 or units(event["replaced"]) != hold.amount:
            self.fail("I10", f"attempt {event['number']} of hold {event['hold_id']} follows {hold.attempt} and replaces {event['replaced']}")
        if not 0 <= amount <= units(event["requested"]):
            self.fail("I10", f"attempt {event['number']} holds {event['amount']}, asked were {event['requested']}")
        if amount > available:
            self.fail("I5", f"an attempt holds {usd(amount)} on {usd(available)} available")
        wallet.held += amount
        hold.amount, hold.call, hold.attempt, hold.marked = amount, event["call"], event["number"], 0

    def on_AttemptProgressed(self, event, _):
        hold = self._running(event)
        if hold is None:
            return
        tokens = sum(event["usage"].values())
        if event["number"] != hold.attempt or tokens < hold.marked:
            self.fail("I10", f"a mark of attempt {event['number']} at {tokens} follows {hold.marked} of attempt {hold.attempt}")
        hold.marked = tokens

    def _running(self, event):
        hold = self.holds.get(event["hold_id"])
        if hold is None or not hold.open or hold.wallet != event["wallet_id"] or self.at >= micros(hold.expires_at):
            self.fail("I10", f"attempt {event['number']} runs on hold {event['hold_id']}, which is not open")
            return None
        return hold

    def on_HoldCaptured(self, event, wallet):
        hold = self._end(event, wallet, "captured")
        if units(event["held"]) != hold.amount:
            self.fail("I10", f"{event['held']} were held, the hold was over {usd(hold.amount)}")
        if self.at >= micros(hold.expires_at):
            self.fail("I10", f"hold {event['hold_id']} had expired at {hold.expires_at} and is captured as if open")
        if units(event["rating"]["charge"]) > hold.amount:
            self.fail("I10", f"{event['rating']['charge']} captured of {usd(hold.amount)} held")
        # An administrator may have taken the paid credit behind a hold on the developer's own key.
        cap = hold.amount
        if hold.call["route"] == "developer_key":
            cap = min(cap, max(wallet.posted - wallet.floor - wallet.promo, 0))
        cost, expected = self._charge(event, wallet, hold.card, hold.rule, cap, cap)
        if cost is not None and event.get("over_hold", False) != (cost.retail > hold.amount):
            self.fail("I12", f"over_hold is {event.get('over_hold', False)} at a price of {usd(cost.retail)}")
        return expected

    def on_HoldReleased(self, event, wallet):
        hold = self._end(event, wallet, "released")
        if units(event["amount"]) != hold.amount:
            self.fail("I10", f"{event['amount']} is given back of {usd(hold.amount)}")

    def on_HoldExpired(self, event, wallet):
        hold_id = event["hold_id"]
        hold = self._end(event, wallet, "expired")
        if self.at < micros(hold.expires_at):
            self.fail("I10", f"hold {hold_id} expires before {hold.expires_at}")
        if units(event["amount"]) != hold.amount:
            self.fail("I10", f"{event['amount']} is given back of {usd(hold.amount)}")
        # Its usage may still come, once.
        hold.open = False
        self.ended.discard(hold_id)
        self.holds[hold_id] = hold

    def on_LateUsageCaptured(self, event, wallet):
        hold = self.holds.pop(event["hold_id"], None)
        if hold is None or hold.open:
            state = "was open" if hold else "had ended or never was"
            self.fail("I10", f"late usage of hold {event['hold_id']}, which {state}")
            hold = hold or self._unknown(event)
            wallet.held -= hold.amount if hold.open else 0
        self.ended.add(event["hold_id"])
        cap = min(hold.amount, wallet.spendable_on(hold.call["route"]))
        return self._charge(event, wallet, hold.card, hold.rule, cap, cap)[1]

    def on_UsageRecorded(self, event, wallet):
        card, rule = event["rating"]["rate_card_id"], event["rating"]["price_rule"]
        self._rule(event, card, rule, wallet)
        return self._charge(event, wallet, card, rule, None, wallet.spendable_on(event["call"]["route"]))[1]

    def _end(self, event, wallet, how):
        hold_id = event["hold_id"]
        hold = self.holds.pop(hold_id, None)
        if hold is None or not hold.open or hold.wallet != event["wallet_id"]:
            state = "expired before" if hold else "ended before" if hold_id in self.ended else "never was"
            self.fail("I10", f"hold {hold_id} is {how} and {state}")
            hold = self._unknown(event)
        else:
            wallet.held -= hold.amount
        self.ended.add(hold_id)
        return hold

    def _unknown(self, event):
        """A stand-in for a hold that is not there, so that the fold can go on."""
        rated, amount = event.get("rating", {}), event.get("held", event.get("amount", ZERO))
        text = {"wallet_id": event["wallet_id"], "call": event.get("call"), "amount": amount}
        text["rate_card_id"], text["price_rule"] = rated.get("rate_card_id"), rated.get("price_rule")
        hold = Hold({**text, "expires_at": "9998-12-31T00:00:00Z"})
        hold.open = False
        return hold

    def _rule(self, event, card, rule, wallet):
        """A new hold or usage is priced by the active card and by what its feature costs now."""
        key = event["call"].get("feature_key")
        pricing = {"markup_bps": 3_000} if key is None else self.features.get((wallet.app, key))
        app = self.apps.get(wallet.app)
        if pricing is None or app is None:
            self.fail("I12", f"the app or feature {key} does not exist")
            return
        share = min(pricing.get("revenue_share_bps", app[1]), 10_000)
        fee = pricing.get("fee_usd", ZERO)
        given = (rule["markup_bps"], rule["share_bps"], rule.get("fee_usd", ZERO))
        if given != (pricing.get("markup_bps", 3_000), share, fee) or card != self.card:
            self.fail("I12", f"priced by {given} and card {card}, which are not the ones in force")

    def _charge(self, event, wallet, card, rule, cap, payable):
        """Prices and splits a charge again and takes it from the wallet. Returns the price and the postings."""
        rated, call = event["rating"], event["call"]
        self.report.count("I12")
        try:
            model = rated.get("served_model", call["model"])
            offer = self.cards.get(card, {}).get((call["provider"], model))
            cost = rating.price(call["route"], offer, rated.get("service_tier", "standard"), rated["usage"], rule)
        except (KeyError, AttributeError, TypeError):
            self.fail("I12", f"{call['model']} has no price on card {card} for all of {rated['usage']}")
            self._take_recorded(rated, wallet)
            return None, None
        parts = rating.split(call["route"], cost, rule, cost.retail if cap is None else cap, payable, wallet.promo)
        for name, recorded, value in rating.differences(rated, cost, parts):
            self.fail("I12", f"{name} is recorded as {recorded}; computed again it is {value if isinstance(value, str) else usd(value)}")
        if rated["rate_card_id"] != card or rated["price_rule"] != rule:
            self.fail("I12", "priced by another card or rule than the hold's")
        platform = parts.charge - (cost.upstream - parts.unrecovered) - parts.developer
        if platform < 0:
            self.fail("I12", f"the platform's part is {usd(platform)}")
        wallet.posted -= parts.charge - parts.receivable
        wallet.promo -= parts.promo
        developer = self.apps[wallet.app][0] if wallet.app in self.apps else ""
        return cost, rating.postings(call, cost, parts, event["wallet_id"], developer)

    @staticmethod
    def _take_recorded(rated, wallet):
        wallet.posted -= units(rated["charge"]) - units(rated.get("receivable", ZERO))
        wallet.promo -= units(rated.get("promo", ZERO))

    # Kill switches.

    def on_RepairProposed(self, event, _):
        if event["repair_id"] in self.repairs:
            self.fail("I11", f"repair {event['repair_id']} is proposed twice")
        self.repairs[event["repair_id"]] = [event["digest"], self.actor, False]

    def on_RepairApproved(self, event, _):
        repair = self.repairs.get(event["repair_id"], ["", self.actor, True])
        if repair[0] != event["digest"] or repair[1] == self.actor or repair[2]:
            self.fail("I11", f"repair {event['repair_id']} was not proposed by somebody else")
        repair[2] = True

    def on_IncidentClosed(self, event, _):
        name = event["name"]
        if not 1 <= event["first"] <= event["last"] < self.position or event.get("supersedes") != self.incidents.get(name):
            self.fail("I8", f"incident {name} is closed over a range that is not in the log, or instead of another closing")
        self.incidents[name] = self.position

    def on_Frozen(self, event, _):
        self.report.count("I13")
        self.frozen[event["scope"]["kind"], event["scope"].get("id")] = self.position

    def on_Thawed(self, event, _):
        if self.frozen.pop((event["scope"]["kind"], event["scope"].get("id")), None) is None:
            self.fail("I13", "a thaw of what was not frozen")

    def _frozen(self, name, event):
        wallet = event.get("wallet_id")
        app = self.wallets[wallet].app if wallet in self.wallets else event.get("app_id")
        developer = self.apps.get(app, [None])[0]
        scopes = []
        if name in NEEDS_USAGE:
            scopes += [("usage", None), ("wallet", wallet), ("session", event["call"].get("session_id"))]
        if name in NEEDS_TOP_UPS:
            scopes.append(("top_ups", None))
        if name in (*NEEDS_USAGE, "SessionOpened", "TopUpRequested"):
            scopes += [("app", app), ("developer", developer)]
        if name == "WalletAdjusted" and event["direction"] == "debit":
            scopes.append(("wallet", wallet))
        if name == "RefundRequested" and "reference" not in event:
            scopes += [("refunds", None), ("wallet", wallet)]
        if name in ("PayoutRequested", "PayoutApproved", "PayoutPaid"):
            scopes += [("payouts", None), ("developer", event["developer_id"])]
        for scope in scopes:
            if scope in self.frozen:
                self.fail("I13", f"{name} behind the freeze of {scope[0]} at position {self.frozen[scope]}")
