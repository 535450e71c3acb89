// The Vercel AI SDK, through its provider for servers like OpenAI's.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, isStepCount, jsonSchema, Output, streamText, tool } from "ai";
import { answer } from "./features.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

let given, model;
const asked = (temperature = 0, more = {}) => ({
  model,
  prompt: given.prompt,
  temperature,
  seed: given.seed,
  maxOutputTokens: given.max_tokens,
  maxRetries: 0,
  ...more,
});

async function joined(result) {
  let whole = "";
  for await (const delta of result.textStream) whole += delta;
  return whole;
}

// The tool's name, what it was called with, and the text of the last of so many steps.
async function toolRun(generate, steps) {
  const called = given.tool.function;
  const calls = [];
  const execute = (input) => {
    calls.push(input);
    return given.tool_result;
  };
  const tools = {
    [called.name]: tool({
      description: called.description,
      inputSchema: jsonSchema(called.parameters),
      strict: true,
      execute,
    }),
  };
  const result = await generate(
    asked(0, {
      tools,
      providerOptions: { edgedraft: { parallel_tool_calls: false } },
      maxOutputTokens: given.long,
      stopWhen: isStepCount(steps),
      prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" }),
    }),
  );
  const text = await result.text;
  if (calls.length !== 1) throw new Error(`${calls.length} calls`);
  return [called.name, calls[0], text];
}

const features = {
  whole: async () => (await generateText(asked())).text,
  sampled: async () => (await generateText(asked(0.8))).text,
  streamed: () => joined(streamText(asked())),
  streamed_async: () => joined(streamText(asked(0.8))),
  stopped: async () => (await generateText(asked(0, { stopSequences: [given.stop] }))).text,
  usage: async () => {
    const result = streamText(asked());
    await result.consumeStream();
    const usage = await result.usage;
    return [usage.inputTokens, usage.outputTokens];
  },
  structured: async () => {
    const output = Output.object({ name: "planet", schema: jsonSchema(given.schema) });
    return (await generateText(asked(0, { output, maxOutputTokens: given.long }))).output;
  },
  called: async () => (await toolRun(generateText, 1)).slice(0, 2),
  tool_round: () => toolRun(streamText, 2),
};

await answer(features, (asks) => {
  given = asks;
  model = createOpenAICompatible({
    name: "edgedraft",
    baseURL: given.base_url,
    apiKey: given.api_key,
    includeUsage: true,
    supportsStructuredOutputs: true,
  })(given.model);
});
