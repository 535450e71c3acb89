// The openai package for Node.
import OpenAI from "openai";
import { answer } from "./features.mjs";

let given, client;
const asked = (temperature = 0, more = {}) => ({
  model: given.model,
  messages: [{ role: "user", content: given.prompt }],
  temperature,
  seed: given.seed,
  max_completion_tokens: given.max_tokens,
  ...more,
});
const text = (completion) => completion.choices[0].message.content;

async function joined(stream) {
  let whole = "";
  for await (const chunk of stream) whole += chunk.choices[0]?.delta?.content ?? "";
  return whole;
}

const features = {
  whole: async () => text(await client.chat.completions.create(asked())),
  sampled: async () => text(await client.chat.completions.create(asked(0.8))),
  streamed: async () => joined(await client.chat.completions.create(asked(0, { stream: true }))),
  streamed_async: async () => {
    const runner = client.chat.completions.stream(asked(0.8));
    let whole = "";
    runner.on("content", (delta) => (whole += delta));
    const final = text(await runner.finalChatCompletion());
    if (final !== whole) throw new Error(`the deltas make ${whole}, the runner ${final}`);
    return whole;
  },
  stopped: async () => text(await client.chat.completions.create(asked(0, { stop: given.stop }))),
  usage: async () => {
    let usage = null;
    const stream = await client.chat.completions.create(
      asked(0, { stream: true, stream_options: { include_usage: true } }),
    );
    for await (const chunk of stream) usage = chunk.usage ?? usage;
    return [usage.prompt_tokens, usage.completion_tokens];
  },
  structured: async () => {
    const schema = { name: "planet", schema: given.schema, strict: true };
    const format = { type: "json_schema", json_schema: schema };
    const parsed = await client.chat.completions.parse(
      asked(0, { response_format: format, max_completion_tokens: given.long }),
    );
    return parsed.choices[0].message.parsed;
  },
  called: async () => {
    const runner = client.chat.completions.stream(
      asked(0, {
        tools: [given.tool],
        tool_choice: "required",
        parallel_tool_calls: false,
        max_completion_tokens: given.long,
      }),
    );
    const call = (await runner.finalChatCompletion()).choices[0].message.tool_calls[0].function;
    return [call.name, JSON.parse(call.arguments)];
  },
  response: async () => {
    const response = await client.responses.create({
      model: given.model,
      input: given.prompt,
      temperature: 0.8,
      seed: given.seed,
      max_output_tokens: given.max_tokens,
    });
    return response.output_text;
  },
  refused: async () => {
    try {
      await client.chat.completions.create({ ...asked(), model: "nonesuch" });
    } catch (error) {
      return [error.constructor.name, error.status, error.code, error.param];
    }
  },
  aborted: async () => {
    const stream = await client.chat.completions.create(asked(0, { stream: true, max_completion_tokens: 2000 }));
    for await (const chunk of stream) {
      if (chunk.choices[0]?.delta?.content) break;
    }
    return stream.controller.signal.aborted;
  },
};

await answer(features, (asks) => {
  given = asks;
  client = new OpenAI({ baseURL: given.base_url, apiKey: given.api_key, maxRetries: 0 });
});
