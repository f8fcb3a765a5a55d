// Server-sent events out of a stream of bytes: the JSON of each "data:" line.

export function parser() {
  let rest = "";
  return (text) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    return lines.filter((line) => line.startsWith("data:")).map((line) => JSON.parse(line.slice(5)));
  };
}

export async function* eventsIn(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  const parse = parser();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield* parse(value);
  }
}
