"""What an app sees through OpenAI's own Python client, as one JSON object on standard output.

Arguments: base URL, token. Run once through the gateway and once straight at the sandbox provider: both must see the same.
"""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], timeout=30)
seen = {}


def messages(script):
    return [{"role": "user", "content": f"Hello [[{script}]]"}]


whole = client.chat.completions.create(model="gpt-4o-mini", messages=messages("tokens=5"), temperature=0.5, seed=7)
seen["whole"] = [type(whole).__name__, whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.completion_tokens]

stream = client.chat.completions.create(
    model="gpt-4o-mini", messages=messages("tokens=6"), stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
seen["stream"] = [
    type(chunks[0]).__name__,
    "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices),
    chunks[-1].usage.completion_tokens,
    len(chunks),
]

plain = list(client.chat.completions.create(model="gpt-4o-mini", messages=messages("tokens=6"), stream=True))
seen["plain stream"] = [len(plain), any(chunk.usage for chunk in plain)]

tools = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"id": {"type": "integer"}}}}}]
called = client.chat.completions.create(model="gpt-4o-mini", messages=messages("tool_call"), tools=tools)
seen["tool"] = [called.choices[0].message.tool_calls[0].function.name, called.choices[0].message.tool_calls[0].function.arguments]

response = client.responses.create(model="gpt-4o-mini", input="Hello [[tokens=4]]")
seen["response"] = [type(response).__name__, response.output_text, response.usage.output_tokens]
with client.responses.stream(model="gpt-4o-mini", input="Hello [[tokens=4]]") as events:
    seen["response stream"] = [event.type for event in events]

vectors = client.embeddings.create(model="gpt-4o-mini", input=["Hello"])
seen["embedding"] = [vectors.data[0].embedding, vectors.usage.prompt_tokens]


def failure(script, **more):
    try:
        answer = client.chat.completions.create(model="gpt-4o-mini", messages=messages(script), **more)
        list(answer)
        return "nothing"
    except openai.OpenAIError as error:
        return type(error).__name__


seen["bad request"] = failure("status=400")
seen["not found"] = failure("status=404")
seen["unprocessable"] = failure("status=422")
seen["server error"] = failure("status=500 nonce=a")
seen["broken stream"] = failure("tokens=5 disconnect_after=2", stream=True) != "nothing"
print(json.dumps(seen))
