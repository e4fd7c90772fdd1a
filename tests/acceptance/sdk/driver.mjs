// The stock JavaScript SDK behind a pipe: commands come in as lines of JSON, everything it reports goes out as lines.
// Runs beside an installed node_modules; argument: {url, protocol, token, room} as JSON (no room: server-side only).
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import WebSocket from 'ws';

const { url, protocol, token, room } = JSON.parse(process.argv[2]);
const require = createRequire(import.meta.url);
const { Centrifuge } = require(protocol === 'protobuf' ? 'centrifuge/build/protobuf' : 'centrifuge');
const text = new TextDecoder();

function decoded(data) {
  return data instanceof Uint8Array ? JSON.parse(text.decode(data)) : data;
}

function encoded(data) {
  return protocol === 'protobuf' ? new TextEncoder().encode(JSON.stringify(data)) : data;
}

function tell(event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n');
}

function publicationOf(ctx) {
  return { data: decoded(ctx.data), offset: Number(ctx.offset ?? 0), tags: ctx.tags ?? {}, user: ctx.info?.user ?? '' };
}

function joinOf(ctx) {
  return {
    recovered: ctx.recovered,
    was_recovering: ctx.wasRecovering,
    offset: Number(ctx.streamPosition?.offset ?? 0),
    epoch: ctx.streamPosition?.epoch ?? '',
  };
}

const client = new Centrifuge(url, { websocket: WebSocket, token, minReconnectDelay: 50, maxReconnectDelay: 500 });
client.on('connecting', (ctx) => tell('connecting', { code: ctx.code }));
client.on('connected', (ctx) => tell('connected', { client: ctx.client }));
client.on('disconnected', (ctx) => tell('disconnected', { code: ctx.code }));
client.on('error', (ctx) => tell('error', { code: ctx.error?.code, message: String(ctx.error?.message) }));
client.on('subscribed', (ctx) => tell('server_subscribed', { room: ctx.channel, ...joinOf(ctx) }));
client.on('publication', (ctx) => tell('server_publication', { room: ctx.channel, ...publicationOf(ctx) }));

let subscription;
if (room) {
  subscription = client.newSubscription(room, { minResubscribeDelay: 50, maxResubscribeDelay: 500 });
  subscription.on('subscribing', (ctx) => tell('subscribing', { code: ctx.code }));
  subscription.on('subscribed', (ctx) => tell('subscribed', joinOf(ctx)));
  subscription.on('unsubscribed', (ctx) => tell('unsubscribed', { code: ctx.code }));
  subscription.on('error', (ctx) => tell('subscription_error', { code: ctx.error?.code }));
  subscription.on('publication', (ctx) => tell('publication', publicationOf(ctx)));
  subscription.subscribe();
}

const actions = {
  publish: async ({ data }) => subscription.publish(encoded(data)),
  history: async ({ limit }) => {
    const page = await subscription.history({ limit });
    return { publications: page.publications.map(publicationOf), offset: Number(page.offset), epoch: page.epoch };
  },
  presence_stats: async () => {
    const stats = await subscription.presenceStats();
    return { clients: stats.numClients, users: stats.numUsers };
  },
  rpc: async ({ method, data }) => decoded((await client.rpc(method, encoded(data))).data),
  close: async () => client.disconnect(),
};

createInterface({ input: process.stdin })
  .on('line', async (line) => {
    const command = JSON.parse(line);
    try {
      tell('answer', { number: command.number, result: (await actions[command.do](command)) ?? null });
    } catch (error) {
      tell('answer', { number: command.number, error: { code: error.code, message: error.message } });
    }
  })
  .on('close', () => process.exit(0));

client.connect();
