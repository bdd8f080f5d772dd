// clients.mjs CLIENT URL VERSION ROUNDS BYTES PAUSE PATIENCE: a client of node's with its pool; see clients.py.
import http from 'node:http';
import https from 'node:https';
import http2 from 'node:http2';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';

const [, , name, url, , rounds, size, pause, patience] = process.argv;
async function* pieces() {
  for (let i = 0; i < 8; i++) {
    yield Buffer.alloc(size / 8 | 0, 'u');
    if (+pause) await sleep(pause * 1000);
  }
}
const bytes = `${(size / 8 | 0) * 8}`;

async function fetched(method, path, body) {
  try {
    const more = body ? { body: Readable.toWeb(Readable.from(pieces())), duplex: 'half', headers: { 'content-length': bytes } } : {};
    const response = await fetch(url + path, { method, ...more });
    return `${response.status} ${(await response.arrayBuffer()).byteLength}`;
  } catch (error) { return error.cause?.code ?? error.message; }
}

const module = url.startsWith('https') ? https : http;
// As the global agent: where an upload still goes on, the next request gets another connection.
const agent = new module.Agent({ keepAlive: true });
const requested = (method, path, body) => new Promise(done => {
  const headers = body ? { 'content-length': bytes } : {};
  const request = module.request(url + path, { method, agent, headers }, response => {
    let got = 0;
    response.on('data', data => got += data.length);
    response.on('end', () => done(`${response.statusCode} ${got}`));
    response.on('error', error => done(`response ${error.code}`));
  });
  request.on('error', error => done(`request ${error.code}`));
  if (body) Readable.from(pieces()).pipe(request); else request.end();
});

let session;
const streamed = (method, path, body) => new Promise(done => {
  if (!session || session.closed || session.destroyed) session = http2.connect(url).on('error', () => {});
  let status, got = 0;
  const stream = session.request({ ':method': method, ':path': path, ...body ? { 'content-length': bytes } : {} });
  stream.on('response', headers => status = headers[':status']);
  stream.on('data', data => got += data.length);
  stream.on('end', () => done(`${status} ${got}`));
  stream.on('error', error => done(`stream ${error.code}`));
  stream.on('close', () => done(`closed ${status} ${got}`));
  if (body) Readable.from(pieces()).pipe(stream); else stream.end();
});

const inTime = asking => Promise.race([asking, sleep(patience * 1000, 'no answer in time')]);
const ask = { fetch: fetched, 'node:http': requested, 'node:http2': streamed }[name];
for (let i = 0; i < +rounds; i++) {
  console.log('upload', await inTime(ask('POST', '/refused', true)));
  console.log('next', await inTime(ask('GET', '/hello', false)));
}
process.exit(0);
