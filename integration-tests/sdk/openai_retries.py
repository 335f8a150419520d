"""How OpenAI's own Python client repeats calls that take too long, with a key and without, as one JSON object on standard output.

Arguments: base URL, token. The client gives up on each try after half a second; the provider answers after a second and a half.
"""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], timeout=0.5, max_retries=8)
seen = {}


def ask(script, **more):
    messages = [{"role": "user", "content": f"Hello [[{script}]]"}]
    try:
        return client.chat.completions.create(model="gpt-4o-mini", messages=messages, **more).usage.completion_tokens
    except openai.OpenAIError as error:
        return type(error).__name__


seen["with a key"] = ask("tokens=3 delay_ms=1500 keyed", extra_headers={"Idempotency-Key": "retries-1"})
seen["after a failure that was billed"] = ask("tokens=4 status=500 times=1 billed", timeout=30)
client = client.with_options(max_retries=2)
seen["without a key"] = ask("tokens=5 delay_ms=1500 bare")
print(json.dumps(seen))
