// OpenAI's own client for JavaScript. Prints one JSON object: what each check found.
const { createRequire } = require("node:module");
const path = require("node:path");

const load = createRequire(path.join(process.env.NODE_PACKAGES, "package.json"));
const OpenAI = load("openai");

const settings = { baseURL: process.env.BASE_URL, apiKey: process.env.API_KEY };
const client = new OpenAI({ ...settings, maxRetries: 0 });
const ask = (text) => [{ role: "user", content: text }];
const tools = [
  {
    type: "function",
    function: {
      name: "weather",
      parameters: { type: "object", properties: { city: { type: "string" } } },
    },
  },
];
const shape = {
  type: "json_schema",
  json_schema: {
    name: "verdict",
    schema: {
      type: "object",
      properties: { good: { type: "boolean" } },
      required: ["good"],
      additionalProperties: false,
    },
  },
};

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    const types = [];
    for (let type = error.constructor; type?.name; type = Object.getPrototypeOf(type)) {
      types.push(type.name);
    }
    return {
      types,
      status: error.status,
      code: error.code,
      param: error.param,
      retry_after: error.headers?.get("retry-after") ?? null,
    };
  }
  return { types: [] };
}

async function collected(stream) {
  const found = { text: "", reasons: [], usage: null, chunks: 0 };
  for await (const chunk of stream) {
    found.chunks += 1;
    found.usage = chunk.usage ?? found.usage;
    for (const choice of chunk.choices) {
      found.text += choice.delta.content ?? "";
      if (choice.finish_reason) found.reasons.push(choice.finish_reason);
    }
  }
  return found;
}

const checks = {
  async chat() {
    const { data, response } = await client.chat.completions
      .create({ model: "local", messages: ask("copy: banana"), max_tokens: 12, temperature: 0 })
      .withResponse();
    return {
      text: data.choices[0].message.content,
      usage: data.usage,
      arm: response.headers.get("x-tidegate-arm"),
      cost: response.headers.get("x-tidegate-cost-usd"),
    };
  },
  async choices() {
    const answer = await client.chat.completions.create({
      model: "auto", messages: ask("js choices"), n: 2, max_tokens: 3,
    });
    return { texts: answer.choices.map((each) => each.message.content), usage: answer.usage };
  },
  async stream() {
    return collected(await client.chat.completions.create({
      model: "local", messages: ask("copy: banana"), max_tokens: 12, temperature: 0, stream: true,
      stream_options: { include_usage: true },
    }));
  },
  async paid_stream() {
    return collected(await client.chat.completions.create({
      model: "auto", messages: ask("js paid stream"), max_tokens: 6, stream: true,
    }));
  },
  async stream_helper() {
    const runner = client.chat.completions.stream({
      model: "auto", messages: ask("js stream helper"), max_tokens: 6,
    });
    let text = "";
    runner.on("content", (delta) => { text += delta; });
    const final = await runner.finalChatCompletion();
    return { text, final: final.choices[0].message.content };
  },
  async tools() {
    const messages = ask("js tools");
    const answer = await client.chat.completions.create({ model: "auto", messages, tools });
    const [call] = answer.choices[0].message.tool_calls;
    const result = { role: "tool", tool_call_id: call.id, content: "sunny" };
    const second = await client.chat.completions.create({
      model: "auto", messages: [...messages, answer.choices[0].message, result], tools,
    });
    return {
      name: call.function.name,
      arguments: JSON.parse(call.function.arguments),
      reason: answer.choices[0].finish_reason,
      text: second.choices[0].message.content,
    };
  },
  async streamed_tools() {
    const runner = client.chat.completions.stream({
      model: "auto", messages: ask("js streamed tools"), tools,
    });
    const final = await runner.finalChatCompletion();
    const [call] = final.choices[0].message.tool_calls;
    return { name: call.function.name, arguments: JSON.parse(call.function.arguments) };
  },
  async structured() {
    const answers = {};
    for (const model of ["local", "auto"]) {
      const answer = await client.chat.completions.parse({
        model, messages: ask("js structured"), max_tokens: 20, response_format: shape,
      });
      answers[model] = JSON.parse(answer.choices[0].message.content);
    }
    return answers;
  },
  async errors() {
    const create = (more, with_ = client) =>
      failure(with_.chat.completions.create({ model: "local", messages: ask("x"), ...more }));
    return {
      key: await create({}, new OpenAI({ ...settings, apiKey: "wrong", maxRetries: 0 })),
      model: await create({ model: "nobody" }),
      field: await create({ nonsense: 1 }),
      value: await create({ temperature: 9 }),
      tools: await create({ tools }),
      budget: await create({ model: "dear" }, new OpenAI({ ...settings, baseURL: process.env.POOR_BASE_URL })),
    };
  },
  async broken_stream() {
    const stream = await client.chat.completions.create({
      model: "cloud", messages: ask("!break js"), stream: true,
    });
    return failure(collected(stream));
  },
  async retry() {
    const patient = new OpenAI({ ...settings, maxRetries: 2 });
    const answer = await patient.chat.completions.create({
      model: "cloud", messages: ask("!once=429 js retry"), max_tokens: 2,
    });
    return { text: answer.choices[0].message.content };
  },
  async cancel() {
    for (const model of ["cloud", "hasty"]) {
      const stream = await client.chat.completions.create(
        { model, messages: ask(`!slow js ${model}`), stream: true },
        { headers: { "x-tidegate-tag": `js-${model}` } },
      );
      for await (const _ of stream) break;
    }
    return {};
  },
  async completions() {
    const answer = await client.completions.create({
      model: "local", prompt: ["copy: banana", "copy: orange"], max_tokens: 12, temperature: 0,
    });
    const stream = await client.completions.create({
      model: "local", prompt: "copy: banana", max_tokens: 12, temperature: 0, stream: true,
    });
    let streamed = "";
    for await (const chunk of stream) streamed += chunk.choices[0]?.text ?? "";
    return { texts: answer.choices.map((each) => each.text), streamed };
  },
  async embeddings() {
    const answer = await client.embeddings.create({ model: "embed", input: ["ab", "abcd"] });
    return { vectors: answer.data.map((each) => each.embedding), usage: answer.usage };
  },
  async models() {
    const listed = [];
    for await (const model of client.models.list()) listed.push(model.id);
    return { listed, one: (await client.models.retrieve("local")).id };
  },
};

(async () => {
  const found = { node: process.version };
  for (const [name, check] of Object.entries(checks)) {
    try {
      found[name] = await check();
    } catch (error) {
      found[name] = { failed: String(error?.stack ?? error) };
    }
  }
  console.log(JSON.stringify(found));
})();
