// Bun and Deno: `fetch.js PORT`.
const large = new Uint8Array(300000).fill(114);
const answer = () => new Response(large);
if (globalThis.Bun) {
  Bun.serve({ port: Number(process.argv[2]), hostname: '127.0.0.1', fetch: answer });
} else {
  Deno.serve({ port: Number(Deno.args[0]), hostname: '127.0.0.1', onListen() {} }, answer);
}
