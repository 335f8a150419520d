// What an app sees through OpenAI's own Node client, as one JSON object on standard output.
//
// Arguments: base URL, token, folder with node_modules. Run once through the gateway and once straight at the sandbox provider: both
// must see the same.

import { createRequire } from "node:module";

const [baseURL, apiKey, folder] = process.argv.slice(2);
const { default: OpenAI } = createRequire(`${folder}/`)("openai");
const client = new OpenAI({ baseURL, apiKey, timeout: 30_000 });
const seen = {};
const messages = (script) => [{ role: "user", content: `Hello [[${script}]]` }];
const model = "gpt-4o-mini";

const whole = await client.chat.completions.create({ model, messages: messages("tokens=5"), temperature: 0.5 });
seen.whole = [whole.object, whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.completion_tokens];

const chunks = [];
const stream = await client.chat.completions.create({
  model, messages: messages("tokens=6"), stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) chunks.push(chunk);
seen.stream = [
  chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join(""), chunks.at(-1).usage.completion_tokens, chunks.length,
];

const tools = [{ type: "function", function: { name: "look_up", parameters: { type: "object", properties: {} } } }];
const called = await client.chat.completions.create({ model, messages: messages("tool_call"), tools });
seen.tool = called.choices[0].message.tool_calls[0].function;

const response = await client.responses.create({ model, input: "Hello [[tokens=4]]" });
seen.response = [response.output_text, response.usage.output_tokens];

const vectors = await client.embeddings.create({ model, input: ["Hello"], encoding_format: "float" });
seen.embedding = [vectors.data[0].embedding, vectors.usage.prompt_tokens];

async function failure(script, more = {}) {
  try {
    const answer = await client.chat.completions.create({ model, messages: messages(script), ...more });
    if (more.stream) for await (const _ of answer);
    return "nothing";
  } catch (error) {
    return error.constructor.name;
  }
}
seen.badRequest = await failure("status=400");
seen.notFound = await failure("status=404");
seen.serverError = await failure("status=500 nonce=a");
seen.brokenStream = (await failure("tokens=5 disconnect_after=2", { stream: true })) !== "nothing";
console.log(JSON.stringify(seen));
