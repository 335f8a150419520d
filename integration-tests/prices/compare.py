#!/usr/bin/env python3
"""Random usages over LiteLLM's whole price map, priced by `modelfaucet rates price` and by LiteLLM's own calculator.

    compare.py --binary target/debug/modelfaucet [--count 100000] [--seed 1] [--map FILE] [--details]

Needs the package `litellm` (without extras). Both sides read the same map: the one that the package ships, or --map. Every
difference must have one of the reasons below, which are stated in terms of the map and not of the two results; one without a reason
fails the run. Exit 0 or 1.
"""

import argparse
import collections
import fractions
import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys

SENT = ("chat", "completion", "embedding", "responses")
TIERS = ("flex", "balanced", "priority", "ultrafast", "batch")
SUFFIX = {"standard": "", "batch": "_batches", **{tier: "_" + tier for tier in TIERS if tier != "batch"}}
# Floats on LiteLLM's side: a sum of a dozen products is exact to about 1e-15 of itself; dust in the map adds 1e-12.
TOLERANCE = fractions.Fraction(1, 10**10)


def thresholds(entry):
    """Numbers of input tokens at which prices of an entry change."""
    found = {int(digits) * (1000 if k else 1) for name in entry for digits, k in re.findall(r"_above_(\d+)(k?)_tokens", name)}
    for tier in entry.get("tiered_pricing", []):
        found.update(int(end) for end in tier.get("range", []) if 0 < end < 10**9)
    return sorted(found)


def split(rng, total, parts):
    """Splits a total into so many parts, some of them 0."""
    cuts = sorted(rng.randint(0, total) if rng.random() < 0.7 else 0 for _ in range(parts - 1))
    return [high - low for low, high in zip([0, *cuts], [*cuts, total])]


# Kinds of counts, the field that prices each, and how often it is drawn where the map names that field.
PARTS = {
    "cache_read": ("cache_read_input_token_cost", 0.5), "cache_write_5m": ("cache_creation_input_token_cost", 0.4),
    "cache_write_1h": ("cache_creation_input_token_cost_above_1hr", 0.4), "input_audio": ("input_cost_per_audio_token", 0.4),
    "input_image": ("input_cost_per_image_token", 0.4), "output_reasoning": ("output_cost_per_reasoning_token", 0.5),
    "output_audio": ("output_cost_per_audio_token", 0.4), "output_image": ("output_cost_per_image_token", 0.4),
}


def usage(rng, entry):
    """A usage in our vector: disjoint counts of every kind that both sides can count, now and then one that the map does not price."""
    drawn = [kind for kind, (field, often) in PARTS.items() if rng.random() < (often if field in entry else 0.04)]
    if "cache_read" not in drawn and rng.random() < 0.3:
        drawn.append("cache_read")
    if "output_reasoning" not in drawn and rng.random() < 0.3:
        drawn.append("output_reasoning")
    edges = thresholds(entry)
    if edges and rng.random() < 0.5:
        total = max(1, rng.choice(edges) + rng.choice((-1, 0, 1)))
    else:
        total = int(math.exp(rng.uniform(0, math.log(1_500_000))))
    kinds = ["input_uncached", *(kind for kind in drawn if not kind.startswith("output_"))]
    counts = dict(zip(kinds, split(rng, total, len(kinds))))
    if entry["mode"] != "embedding":
        kinds = ["output_text", *(kind for kind in drawn if kind.startswith("output_"))]
        total = int(math.exp(rng.uniform(0, math.log(100_000))))
        counts.update(zip(kinds, split(rng, total, len(kinds))))
    return {kind: count for kind, count in counts.items() if count}


class Calculator:
    """LiteLLM's own."""

    def __init__(self, path):
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        import litellm
        from litellm.cost_calculator import batch_cost_calculator, cost_per_token
        from litellm.types import utils

        litellm.suppress_debug_info = True
        self.litellm, self.types = litellm, utils
        self.batch, self.single = batch_cost_calculator, cost_per_token
        if path is None:
            path = pathlib.Path(litellm.__file__).with_name("model_prices_and_context_window_backup.json")
        self.path = str(path)
        litellm.model_cost = json.loads(pathlib.Path(path).read_text())
        from litellm.utils import _invalidate_model_cost_lowercase_map
        _invalidate_model_cost_lowercase_map()
        self.map = litellm.model_cost

    def usage(self, counts):
        """Our vector in LiteLLM's terms: prompt and completion include their parts."""
        count = collections.Counter(counts)
        write_5m, write_1h = count["cache_write_5m"], count["cache_write_1h"]
        prompt = sum(n for kind, n in counts.items() if kind.startswith(("input_", "cache_")))
        completion = sum(n for kind, n in counts.items() if kind.startswith("output_"))
        details = self.types.PromptTokensDetailsWrapper(
            cached_tokens=count["cache_read"], text_tokens=count["input_uncached"], audio_tokens=count["input_audio"],
            image_tokens=count["input_image"], cache_creation_tokens=write_5m + write_1h)
        if write_5m + write_1h:
            details.cache_creation_token_details = self.types.CacheCreationTokenDetails(
                ephemeral_5m_input_tokens=write_5m, ephemeral_1h_input_tokens=write_1h)
        made = self.types.CompletionTokensDetailsWrapper(
            text_tokens=count["output_text"], reasoning_tokens=count["output_reasoning"],
            audio_tokens=count["output_audio"], image_tokens=count["output_image"])
        return self.types.Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion,
                                prompt_tokens_details=details, completion_tokens_details=made)

    def cost(self, model, tier, counts):
        """USD as a fraction of the float, or the error's name."""
        entry = self.map[model]
        provider = entry.get("litellm_provider")
        try:
            if tier == "batch":
                parts = self.batch(usage=self.usage(counts), model=model, custom_llm_provider=provider)
            else:
                call = {"embedding": "embedding", "responses": "responses", "completion": "text_completion"}.get(entry.get("mode"), "completion")
                parts = self.single(model=model, usage_object=self.usage(counts), custom_llm_provider=provider, call_type=call,
                                    service_tier=None if tier == "standard" else tier)
            return fractions.Fraction(parts[0]) + fractions.Fraction(parts[1])
        except Exception as error:  # noqa: BLE001
            return type(error).__name__


def draws(rng, prices, count):
    """Model, tier, counts: models of every kind, tiers that the map names more often than others."""
    models = sorted(model for model in prices if model != "sample_spec")
    ours = [model for model in models if prices[model].get("mode") in SENT]
    for _ in range(count):
        model = rng.choice(ours if rng.random() < 0.9 else models)
        entry = {"mode": None, **prices[model]}
        named = [tier for tier in TIERS if any(name.endswith(SUFFIX[tier]) and "_cost" in name for name in entry)]
        roll = rng.random()
        tier = rng.choice(named) if named and roll < 0.4 else rng.choice(TIERS) if roll > 0.97 else "standard"
        yield model, tier, usage(rng, entry)


def ours(binary, path, lines):
    text = "\n".join(json.dumps({"model": model, "service_tier": tier, "usage": counts}) for model, tier, counts in lines)
    run = subprocess.run([binary, "rates", "price", path], input=text.encode(), stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


# Reasons. Each is a statement about the map, checked here without looking at what the product made of it.


def number(entry, field):
    """A field's value as a fraction of its text; None if it is not there."""
    value = entry.get(field)
    return None if value is None else fractions.Fraction(str(value))


def own(entry, tier, *bases):
    """Does the map name a price of one of these on the tier, below any threshold?"""
    ranges = entry.get("tiered_pricing", [])
    if tier == "standard" and any(base in of for base in bases for of in ranges):
        return True
    return any(entry.get(base + SUFFIX[tier]) is not None for base in bases)


def whole(entry, suffix):
    """Input and, but for embeddings, output are named."""
    names = ["input_cost_per_token"] + ["output_cost_per_token"] * (entry.get("mode") != "embedding")
    return all(entry.get(name + suffix) is not None for name in names)


def is_zero(entry):
    return not any(number(entry, field) for field in ("input_cost_per_token", "output_cost_per_token"))


def too_fine(text):
    digits = fractions.Fraction(text) * 10**15
    return digits.denominator != 1


MODEL_REFUSED = (
    (r"mode (\S+) has no endpoint here", lambda e, f: e.get("mode") == f and f not in SENT),
    (r"no mode", lambda e, f: e.get("mode") is None),
    (r"no price of (input_uncached|output_text)", lambda e, f: not own(e, "standard", {"i": "input_cost_per_token", "o": "output_cost_per_token"}[f[0]])),
    (r"input and output cost 0; .*", lambda e, f: is_zero(e) and not e.get("tiered_pricing")),
    (r"the price (\S+) must have at most 15 decimals", lambda e, f: too_fine(str(e[f]))),
    (r"(?:priced by|the price depends|citations are|every request).* \((\S+)\)", lambda e, f: e.get(f) is not None),
)
# Components and the fields that would price them.
WRITES = {"cache_write_5m": "cache_creation_input_token_cost", "cache_write_1h": "cache_creation_input_token_cost_above_1hr"}
MEDIA = {"input_audio": ("input_cost_per_audio_token", ("supports_audio_input",), ("input_cost_per_audio_per_second",)),
         "input_image": ("input_cost_per_image_token", ("supports_vision", "supports_image_input"), ("input_cost_per_image",))}
MADE = {"output_audio": "output_cost_per_audio_token", "output_image": "output_cost_per_image_token"}


def why_refused(entry, tier, counts, message):
    """The reason of a refusal: the class that the summary counts, or None."""
    for pattern, holds in MODEL_REFUSED:
        found = re.fullmatch(pattern, message)
        if found:
            field = found.group(1) if found.groups() else None
            return "model: " + re.sub(r"the price \S+ must", "a price must", message) if holds(entry, field) else None
    if message.startswith("service tier "):
        falls = own(entry, "standard", "input_cost_per_token") and any(
            name.startswith("cache_read_input_token_cost_above_") and name.endswith(SUFFIX[tier]) for name in entry) and not own(entry, tier, "cache_read_input_token_cost")
        return "tier: LiteLLM takes the standard price" if not whole(entry, SUFFIX[tier]) or entry.get("tiered_pricing") or falls else None
    total = sum(count for kind, count in counts.items() if kind.startswith(("input_", "cache_")))
    passed = [edge for edge in thresholds(entry) if total >= edge and tier != "standard"]
    for edge in passed:
        if not any(whole(entry, f"_above_{text}_tokens{SUFFIX[tier]}") for text in (str(edge), f"{edge // 1000}k")):
            return "tier: no price of long inputs; LiteLLM takes another tier's or the short one"
    if message in WRITES:
        return "cache writes have no price; LiteLLM takes input's" if not own(entry, tier, WRITES[message]) else None
    if message in MEDIA:
        field, takes, other = MEDIA[message]
        plain = any(entry.get(name) is True for name in takes) and not any(number(entry, name) for name in other)
        elsewhere = tier != "standard" and own(entry, "standard", field)
        return f"{message} has no price; LiteLLM takes text's" if not own(entry, tier, field) and (not plain or elsewhere) else None
    if message in MADE:
        return f"{message} has no price; LiteLLM takes text's" if not own(entry, tier, MADE[message]) else None
    return None


def why_different(prices, model, tier, counts):
    """The reason of two prices, or None."""
    entry = prices[model]
    provider = entry["litellm_provider"]
    cached = counts.get("cache_read", 0) > 0
    if provider == "fireworks_ai" and tier != "standard":
        return "LiteLLM's calculator of Fireworks knows no service tiers, the map does"
    if provider == "fireworks_ai" and cached and not own(entry, "standard", "cache_read_input_token_cost"):
        return "LiteLLM's code halves cached input of Fireworks where the map names no price"
    total = sum(count for kind, count in counts.items() if kind.startswith(("input_", "cache_")))
    special = any(kind.startswith("cache_") for kind in counts) or any(total >= edge for edge in thresholds(entry))
    if provider == "perplexity" and special:
        return "LiteLLM's calculator of Perplexity knows no prices of caches and long inputs, the map does"
    if f"{provider}/{model}" in prices or (provider == "perplexity" and model.removeprefix("perplexity/") in prices):
        return "LiteLLM prices this name by another entry of the map, with one provider more or less in the name"
    if tier != "standard" and cached and not own(entry, tier, "cache_read_input_token_cost"):
        return "no price of cached input on this tier: we take the tier's input, LiteLLM the standard tier's cached input"
    if any(counts.get(kind) and own(entry, tier, field) for kind, (field, _, _) in MEDIA.items()) and tier != "standard":
        return "LiteLLM's calculator does not read the map's price of audio and image on this tier"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--map")
    parser.add_argument("--details", action="store_true", help="an example of each reason")
    options = parser.parse_args()

    calculator = Calculator(options.map)
    prices = json.loads(pathlib.Path(calculator.path).read_text())
    lines = list(draws(random.Random(options.seed), prices, options.count))
    same, tally, examples, unexplained = 0, collections.Counter(), {}, []
    for (model, tier, counts), answer in zip(lines, ours(options.binary, calculator.path, lines), strict=True):
        entry = prices[model]
        if answer.get("error") == "model_not_priced":
            kind, reason = "refused", why_refused(entry, tier, counts, answer["message"])
        elif "error" in answer:
            kind, reason = "refused", None
        else:
            theirs, exact = calculator.cost(model, tier, counts), fractions.Fraction(answer["exact_cost"])
            if not isinstance(theirs, str) and abs(theirs - exact) <= TOLERANCE * max(theirs, exact):
                same += 1
                continue
            kind, reason = "differs", why_different(prices, model, tier, counts)
            answer["litellm"] = theirs if isinstance(theirs, str) else float(theirs)
        if reason is None:
            unexplained.append((model, tier, counts, answer))
        else:
            tally[kind, reason] += 1
            examples.setdefault((kind, reason), (model, tier, counts, answer))
    differs = sum(count for (kind, _), count in tally.items() if kind == "differs")
    refused = sum(count for (kind, _), count in tally.items() if kind == "refused")
    print(f"{len(lines)} usages over {len(prices) - 1} entries, seed {options.seed}: {same} priced the same, {differs} priced differently, "
          f"{refused} refused, {len(unexplained)} without a reason")
    for (kind, reason), count in sorted(tally.items(), key=lambda item: (item[0][0], -item[1])):
        print(f"{count:8}  {kind}: {reason}")
        if options.details:
            print(f"          {examples[kind, reason]}")
    for case in unexplained[:20]:
        print(f"without a reason: {case}", file=sys.stderr)
    # Most of what both price must be the same, or the comparison compares nothing.
    return 0 if not unexplained and same > 9 * differs and same * 2 > len(lines) else 1


if __name__ == "__main__":
    sys.exit(main())
