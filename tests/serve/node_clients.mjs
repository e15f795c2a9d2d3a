// OpenAI's client for node and Vercel's AI SDK against a running service: node node_clients.mjs URL IMAGE; prints JSON.
import { readFileSync } from 'node:fs';
import OpenAI from 'openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';

const [url, file] = process.argv.slice(2);
const image = readFileSync(file);
const uri = `data:image/jpeg;base64,${image.toString('base64')}`;
const instruction = 'Write alt text under 120 characters.';
const parts = [{ type: 'text', text: instruction }, { type: 'image_url', image_url: { url: uri } }];
const found = {};

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
const messages = [{ role: 'user', content: parts }];
found.chat = (await client.chat.completions.create({ model: 'demo', messages })).choices[0].message.content;
found.streamed = '';
for await (const piece of await client.chat.completions.create({ model: 'demo', messages, stream: true })) {
  found.streamed += piece.choices[0]?.delta?.content ?? '';
}
const input = [{ role: 'user', content: [{ type: 'input_text', text: instruction }, { type: 'input_image', image_url: uri }] }];
found.responses = (await client.responses.create({ model: 'demo', input })).output_text;
found.models = (await client.models.list()).data.map((model) => model.id);
found.vectors = (await client.embeddings.create({ model: 'demo', input: ['a dog', 'a cat'] })).data.length;
found.refused = await client.chat.completions.create({ model: 'none-such', messages }).catch((error) => error.status);

const provider = createOpenAICompatible({ name: 'caption-serve', baseURL: `${url}/v1` });
const asked = {
  model: provider('demo'),
  maxRetries: 0,
  messages: [{ role: 'user', content: [{ type: 'text', text: instruction }, { type: 'image', image }] }],
};
found.aiText = (await generateText(asked)).text;
found.aiStream = '';
for await (const piece of streamText(asked).textStream) found.aiStream += piece;
console.log(JSON.stringify(found));
