"""Values as the log and the history write them, read into whole numbers and bytes."""

import datetime
import hashlib
import json

# json.loads() looks at its options and the text's encoding each time; here there are millions of short texts.
decode = json.JSONDecoder().decode

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MICROSECOND = datetime.timedelta(microseconds=1)


def units(text):
    """Units of 1e-8 USD of a decimal text with exactly eight decimals."""
    if text[-9] != ".":
        raise ValueError(f"{text!r} is not an amount with eight decimals")
    return int(text[:-9] + text[-8:])


def usd(amount):
    """The text of an amount."""
    sign, amount = ("-", -amount) if amount < 0 else ("", amount)
    return f"{sign}{amount // 10**8}.{amount % 10**8:08}"


def femto(text):
    """Units of 1e-15 USD of an exact cost."""
    whole, _, part = text.partition(".")
    if len(part) > 15:
        raise ValueError(f"{text!r} has more than fifteen decimals")
    return int(whole + part.ljust(15, "0"))


def micros(text):
    """Microseconds since 1970 of an ISO 8601 time with offset."""
    return (datetime.datetime.fromisoformat(text) - EPOCH) // MICROSECOND


def uuid_bytes(text):
    """The 16 bytes of a hyphenated UUID."""
    data = bytes.fromhex(text.replace("-", ""))
    if len(data) != 16:
        raise ValueError(f"{text!r} is not a UUID")
    return data


def key_hash(scope, key):
    """What the log stores for an idempotency key: SHA-256 over both texts behind their lengths, cut to 128 bits."""
    scope, key = scope.encode(), key.encode()
    joined = len(scope).to_bytes(8) + scope + len(key).to_bytes(8) + key
    return hashlib.sha256(joined).digest()[:16]
