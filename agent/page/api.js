// The client for the agent's HTTP API: the token, errors, JSON, and server-sent events over fetch.
// The token is kept in this tab's session storage and sent in a header; only the first URL may contain it.

const KEY = "vilamp-token";
const BASE = new URL("../", import.meta.url); // the agent's URL, which may have a path when it is behind a proxy

/** A path on the agent with the proxy's prefix: "/v1/cameras" and "/vilamp/v1/cameras" both become "/vilamp/v1/cameras". @param {string} given */
export function address(given) {
  const { pathname, search } = new URL(given, BASE);
  const known = ["v1/", "whip/", "whep/"].some(part => pathname.startsWith(BASE.pathname + part));
  return (known ? pathname : BASE.pathname + pathname.slice(1)) + search;
}

/** The agent's URL for other devices and programs, without a slash at the end. */
export const base = () => BASE.href.replace(/\/$/, "");

/** An error response of the agent; `message` says what to do. */
export class ApiError extends Error {
  /** @param {string} message @param {number} status @param {string|null} [code] @param {number} [retryAfter] seconds */
  constructor(message, status, code = null, retryAfter = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** The agent cannot be reached. */
export class Away extends Error {
  constructor() {
    super("The agent does not answer. Is it running, and is this device on its network? This page tries again by itself.");
  }
}

/** One server-sent event; `data` is parsed JSON, null for the closing `[DONE]`, undefined where only an id or a step came; `step` says what is being done for an answer. @typedef {{event: string, id: string, data: any, step?: string}} ServerEvent */

export class Api {
  /**
   * @param {(error: ApiError) => void} onRefused called for every 401: the token is missing or not valid
   * @param {(reached: boolean) => void} onReached called after every request: whether the agent answered
   */
  constructor(onRefused, onReached) {
    this.onRefused = onRefused;
    this.onReached = onReached;
    this.waiting = []; // resolvers of the promises of `answered`
  }

  /** Resolves when the agent answers any request. @returns {Promise<void>} */
  answered() { return new Promise(next => this.waiting.push(next)); }

  get token() { return sessionStorage.getItem(KEY) ?? ""; }

  set token(secret) {
    if (secret) sessionStorage.setItem(KEY, secret);
    else sessionStorage.removeItem(KEY);
  }

  /** The header with the token. @returns {Record<string, string>} */
  headers() { return this.token ? { Authorization: `Bearer ${this.token}` } : {}; }

  /** Move `#token=...` from the URL into the session storage. True if there was one. @returns {boolean} */
  takeToken() {
    const given = new URLSearchParams(location.hash.slice(1));
    const secret = given.get("token");
    if (secret === null) return false;
    given.delete("token");
    const rest = given.toString().replace(/=(?=&|$)/g, "");
    history.replaceState(null, "", location.pathname + (rest ? `#${rest}` : ""));
    this.token = secret.trim();
    return true;
  }

  /**
   * A request; resolves to a response with a 2xx status. Throws ApiError, Away, or AbortError if `signal` aborts.
   * @param {string} path
   * @param {{method?: string, body?: any, raw?: string, headers?: Record<string, string>, signal?: AbortSignal}} [options]
   *   `body` is sent as JSON, `raw` as it is
   */
  async send(path, { method, body, raw, headers = {}, signal } = {}) {
    let response;
    try {
      response = await fetch(address(path), {
        method: method ?? (body === undefined ? "GET" : "POST"),
        body: body === undefined ? raw : JSON.stringify(body),
        headers: { ...this.headers(), ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
        signal, cache: "no-store", credentials: "omit",
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      this.onReached(false);
      throw new Away();
    }
    this.onReached(true);
    for (const next of this.waiting.splice(0)) next();
    if (!response.ok) throw await this.#refusal(response);
    return response;
  }

  async #refusal(response) {
    const text = await response.text().catch(() => "");
    let message = `${response.status} ${response.statusText}`.trim(), code = null, searched = null;
    try {
      const body = JSON.parse(text);
      message = body.error?.message ?? body.detail ?? message; // OpenAI's form, or a problem document (WHIP)
      code = body.error?.code ?? null;
      searched = body.vilamp?.scope ?? null;
    } catch { /* an error page of a proxy: only its status is known */ }
    const error = new ApiError(message, response.status, code, Number(response.headers.get("Retry-After")) || 0);
    error.searched = searched; // the cameras and times of a question about which memory holds nothing
    if (response.status === 401) this.onRefused(error);
    return error;
  }

  /** The JSON body of a response. @param {string} path @param {object} [options] as for `send` @returns {Promise<any>} */
  async json(path, options) {
    const response = await this.send(path, options);
    if (response.status === 204) return null;
    return response.json().catch(error => {
      if (error.name === "AbortError") throw error;
      if (error instanceof TypeError) throw new Away(); // the connection was lost
      throw new ApiError("What answers at this address is not a ViLaMP agent: a proxy or another program is in between.", 502);
    });
  }

  /**
   * Yields server-sent events as they arrive, until the server ends the stream. Throws Away when the connection is lost.
   * @param {string} path @param {object} [options] as for `send`
   * @returns {AsyncGenerator<ServerEvent>}
   */
  async *events(path, options = {}) {
    const response = await this.send(path, { ...options, headers: { Accept: "text/event-stream", ...options.headers } });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        const blocks = (rest + value).split(/\r?\n\r?\n/);
        rest = blocks.pop() ?? "";
        for (const block of blocks) {
          const event = parseEvent(block);
          if (event) yield event;
        }
      }
    } catch (error) {
      if (options.signal?.aborted || !(error instanceof TypeError)) throw error;
      throw new Away();
    } finally {
      reader.cancel().catch(() => {});
    }
  }

  /** The path of a picture from its signed URL; `width` scales it down to that many pixels. @param {string} url @param {number} [width] */
  picture(url, width) {
    return address(url) + (width ? `&width=${width}` : "");
  }
}

/** @param {string} block lines of one event @returns {ServerEvent|null} null for a comment */
function parseEvent(block) {
  const event = { event: "message", id: "", data: undefined };
  const data = [];
  for (const line of block.split(/\r?\n/)) {
    const [, field, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (field === "data") data.push(value);
    else if (field === "event" || field === "id") event[field] = value;
  }
  const [, step] = /^: step: (.*)$/.exec(block) ?? [];
  if (step) return { ...event, step };
  if (!data.length) return event.id ? event : null;
  const text = data.join("\n");
  event.data = text === "[DONE]" ? null : JSON.parse(text);
  return event;
}
