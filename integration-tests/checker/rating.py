"""Prices computed again from usage and rate card, with fractions (I12). Formulas: docs/ACCOUNTING.md, "Rounding".

U = the exact cost rounded once, half to even · R = U + floor(U x markup) · C = min(R, cap) · P = what the wallet pays of C ·
D = floor(max(P - U, 0) x share) · L = max(U - C, 0), on the developer's own key max(U - P, 0) · the platform keeps C - (U - L) - D.
"""

import collections
import fractions
import math

from values import femto, units

FEMTO = 10**15
INCOME = {"platform": "4010", "developer_key": "4020", "byok": "4030", "local": "4040"}
OUR_COST = ("platform", "developer_key")

Price = collections.namedtuple("Price", "numerator denominator upstream retail")
Split = collections.namedtuple("Split", "charge developer unrecovered promo receivable")


class Table:
    """Rates as whole numbers over one common denominator, so that sums stay fractions."""

    def __init__(self, rates):
        exact = {component: fractions.Fraction(rate) for component, rate in rates.items()}
        self.denominator = math.lcm(*(rate.denominator for rate in exact.values()))
        self.numerators = {component: int(rate * self.denominator) for component, rate in exact.items()}


class Offer:
    """What one model costs: per service tier a table, and others for inputs above a number of tokens."""

    def __init__(self, model):
        tiers = {"standard": model, **model.get("service_tiers", {})}
        self.tiers = {
            tier: [(0, Table(rates["rates"]))] + [(context["above"], Table(context["rates"])) for context in rates.get("contexts", [])]
            for tier, rates in tiers.items()
        }

    def table(self, tier, usage):
        """The last table whose threshold the whole input passes. KeyError for a tier without rates."""
        tokens = sum(count for component, count in usage.items() if component.startswith(("input_", "cache_")))
        first, *contexts = self.tiers[tier]
        return [first, *(context for context in contexts if tokens > context[0])][-1][1]


def price(route, offer, tier, usage, rule):
    """The price of a usage that a service tier served. KeyError for what has no price."""
    if route not in OUR_COST:
        return Price(0, 1, 0, units(rule.get("fee_usd", "0.00000000")))
    table = offer.table(tier, usage)
    numerator = sum(table.numerators[component] * count for component, count in usage.items() if count)
    # round() of a fraction goes to the even neighbour when both are equally near.
    upstream = round(fractions.Fraction(numerator * 10**8, table.denominator))
    return Price(numerator, table.denominator, upstream, upstream + upstream * rule["markup_bps"] // 10_000)


def split(route, cost, rule, cap, payable, promo_credit):
    """Who bears what; `cap` bounds the charge, `payable` is what the wallet can pay of it."""
    charge = min(cost.retail, cap)
    paid = min(charge, payable)
    return Split(
        charge,
        max(paid - cost.upstream, 0) * rule["share_bps"] // 10_000,
        max(cost.upstream - (paid if route == "developer_key" else charge), 0),
        0 if route == "developer_key" else min(paid, promo_credit),
        charge - paid,
    )


def postings(call, cost, parts, wallet, developer):
    """The entry of a charge, account → debit; docs/ACCOUNTING.md, "Journal entry of each event"."""
    route = call["route"]
    entry = collections.Counter()
    entry["2020:" + wallet] += parts.promo
    entry["2010:" + wallet] += parts.charge - parts.promo - parts.receivable
    entry["1200:" + wallet] += parts.receivable
    entry[INCOME[route]] -= parts.charge
    entry["5015" if route == "developer_key" else "5010"] += cost.upstream - parts.unrecovered
    if route == "platform":
        entry["5030"] += parts.unrecovered
        entry["2110:" + call["provider"]] -= cost.upstream
    owed = parts.developer + (cost.upstream - parts.unrecovered if route == "developer_key" else 0)
    entry["5020"] += parts.developer
    entry["2210:" + developer] -= owed
    entry["4095"] += parts.promo
    entry["1400"] -= parts.promo
    return {account: amount for account, amount in entry.items() if amount}


def differences(rating, cost, parts):
    """What a recorded rating says otherwise: (name, recorded, recomputed)."""
    recorded = femto(rating["exact_cost"])
    if recorded * cost.denominator != cost.numerator * FEMTO:
        yield "exact_cost", rating["exact_cost"], f"{cost.numerator}/{cost.denominator}"
    known = {"upstream": cost.upstream, "retail": cost.retail, **parts._asdict()}
    for name, value in known.items():
        text = rating.get(name)
        if (0 if text is None else units(text)) != value:
            yield name, text, value
