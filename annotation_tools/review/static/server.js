// Calls of the review server. Texts in answers are data: they only ever reach the page as text, never as markup.

export class Refused extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

async function call(method, path, body) {
  const options = { method, headers: {} };
  if (method !== "GET") {
    options.headers = { "Content-Type": "application/json", "X-Embodimix": "review" };
    options.body = JSON.stringify(body || {});
  }
  const answer = await fetch(path, options);
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, content);
  return content;
}

const episodePath = (id) => `/api/episodes/${encodeURIComponent(id)}`;

export const session = () => call("GET", "/api/session");
export const progress = () => call("GET", "/api/progress");
export const exportTables = () => call("POST", "/api/export");
export const list = (options) => call("GET", `/api/episodes?${new URLSearchParams(options)}`);
export const episode = (id, annotator) => call("GET", `${episodePath(id)}?${new URLSearchParams({ annotator })}`);
export const hold = (id, annotator) => call("POST", `${episodePath(id)}/hold`, { annotator });
export const release = (id, annotator) => call("DELETE", `${episodePath(id)}/hold`, { annotator });
export const save = (id, body) => call("PUT", `${episodePath(id)}/segments`, body);
export const framePath = (id, camera, step) => `${episodePath(id)}/frames/${camera}/${step}`;
