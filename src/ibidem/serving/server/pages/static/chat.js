// The conversation of one tab: asks /v1/chat/completions, and shows the answer with its citations.
//
// What a model, a document or the server says enters the page as text nodes alone: none of it is ever markup, an
// address that is loaded, or a style. Places are counted in characters, as the server counts them; JavaScript's strings
// are counted in UTF-16 units, so texts are cut as arrays of characters.

const byId = (id) => document.getElementById(id);
const chat = byId("chat");
const log = byId("log");
const ask = byId("ask");
const question = byId("question");
const passage = byId("passage");

const DOUBT = " (unsupported)";
const WORD = /[^\p{P}\s]/u;
const NEAR_END_PX = 120;
const SHOWN_CHARS = 60; // of a span that training documents contain

let messages = []; // what is sent: complete turns only
let running = null; // what stops the answer that is being written
const turning = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g; // marks of writing direction, as in passages.py
let opener = null; // the citation whose passage is open

// ---------------------------------------------------------------- elements

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children); // strings become text nodes
  return made;
}

function message(who, name) {
  const body = element("div", { class: "body", dir: "auto" });
  const article = element("article", { class: who }, element("h2", {}, name), body);
  log.append(article);
  return { article, body };
}

function note(article, text, isBad = false) {
  article.append(element("p", isBad ? { class: "note bad", role: "alert" } : { class: "note" }, text));
}

function follow(change) {
  const isNearEnd = innerHeight + scrollY > document.documentElement.scrollHeight - NEAR_END_PX;
  change();
  if (isNearEnd) scrollTo(0, document.documentElement.scrollHeight);
}

// ---------------------------------------------------------------- an answer as pieces

// Paragraphs, and code between lines that begin with ```, which are not shown themselves.
function blocksOf(points) {
  const blocks = [{ isCode: false, start: 0, end: points.length, language: "" }];
  for (let start = 0; start < points.length; ) {
    let end = points.indexOf("\n", start);
    if (end < 0) end = points.length;
    const line = points.slice(start, end).join("");
    const open = blocks.at(-1);
    const isFence = open.isCode ? line.trim() === "```" : line.startsWith("```");
    if (isFence || (!open.isCode && !line.trim())) {
      open.end = Math.max(open.start, start - 1);
      const language = isFence && !open.isCode ? line.slice(3).trim() : "";
      const isCode = isFence !== open.isCode;
      blocks.push({ isCode, start: Math.min(end + 1, points.length), end: points.length, language });
    }
    start = end + 1;
  }
  return blocks.map((block) => (block.isCode ? block : trimmed(points, block))).filter(({ start, end }) => start < end);
}

// A paragraph without the line breaks around it: it stands apart anyway.
function trimmed(points, block) {
  let { start, end } = block;
  while (start < end && points[start] === "\n") start += 1;
  while (start < end && points[end - 1] === "\n") end -= 1;
  return { ...block, start, end };
}

const inside = (start, end) => (each) => each.start <= start && end <= each.end;

// The answer cut wherever a block, a citation, a doubt or the words of a doubt begin or end.
function piecesOf(answer) {
  const points = Array.from(answer.text);
  const badges = answer.doubts.map((doubt) => badgeOf(points, doubt)).filter(Boolean);
  const places = [...answer.citations, ...answer.repeats, ...answer.doubts, ...badges].flatMap(({ start, end }) => [start, end]);
  return blocksOf(points).flatMap((block, number) => {
    const within = places.filter((place) => block.start < place && place < block.end);
    const cuts = [...new Set([block.start, ...within, block.end])].sort((one, other) => one - other);
    return cuts.slice(1).map((end, index) => {
      const start = cuts[index];
      const citation = answer.citations.find(inside(start, end));
      const text = points.slice(start, end).join("");
      const isDoubted = WORD.test(text) && answer.doubts.some(inside(start, end));
      const plain = answer.repeats.some(inside(start, end)) ? "repeat" : "text";
      const kind = citation ? "citation" : badges.some(inside(start, end)) ? "badge" : isDoubted ? "doubt" : plain;
      return { number, block, kind, citation, text };
    });
  });
}

// The words " (unsupported)" of a claim: inside it, or directly behind it.
function badgeOf(points, { start, end }) {
  const found = points.slice(start, end + DOUBT.length).join("").lastIndexOf(DOUBT);
  if (found < 0) return null;
  const first = start + Array.from(points.slice(start, end + DOUBT.length).join("").slice(0, found)).length;
  return { start: first, end: first + DOUBT.length };
}

const isSame = (one, other) =>
  one.number === other.number &&
  one.block.isCode === other.block.isCode &&
  one.block.language === other.block.language &&
  one.kind === other.kind &&
  one.citation === other.citation &&
  (one.kind === "text" ? other.text.startsWith(one.text) : one.text === other.text);

// Bring the page up to the answer: pieces that stand stay, so that focus and selection do.
function draw(answer) {
  const wanted = piecesOf(answer);
  const drawn = answer.pieces;
  let same = 0;
  while (same < drawn.length && same < wanted.length && isSame(drawn[same], wanted[same])) {
    wanted[same].node = drawn[same].node;
    const more = wanted[same].text.slice(drawn[same].text.length);
    if (more) wanted[same].node.appendData(more);
    same += 1;
  }
  const focused = drawn.slice(same).find((piece) => piece.node === document.activeElement);
  for (const piece of drawn.slice(same)) piece.node.remove();
  const kept = same ? wanted[same - 1].number + 1 : 0;
  for (const old of [...answer.body.children].slice(kept)) old.remove();
  for (const piece of wanted.slice(same)) {
    piece.node = nodeOf(piece);
    blockOf(answer.body, piece).append(piece.node);
    if (focused && piece.citation === focused.citation) piece.node.focus();
  }
  answer.pieces = wanted;
}

function blockOf(body, { number, block }) {
  while (body.children.length <= number) {
    const made = element(block.isCode ? "pre" : "p", {});
    if (block.isCode && block.language) made.setAttribute("data-language", block.language);
    if (block.isCode) made.setAttribute("tabindex", "0"); // scrolls sideways
    body.append(made);
  }
  return body.children[number];
}

function nodeOf({ kind, text, citation }) {
  switch (kind) {
    case "citation":
      return citationButton(citation, text);
    case "doubt":
      return element("span", { class: "doubt" }, text);
    case "repeat":
      return element("span", { class: "repeat" }, text);
    case "badge":
      return element("span", { class: "badge" }, text);
    default:
      return document.createTextNode(text);
  }
}

const titleOf = ({ titlePath, path }) => (titlePath.length ? titlePath.join(" › ") : path);

function citationButton(citation, text) {
  const about = `Source ${citation.number}: ${titleOf(citation)}${citation.supported ? "" : ", does not support this"}`;
  const attributes = { type: "button", class: citation.supported ? "cite" : "cite weak", "aria-label": about };
  const button = element("button", attributes, text.replace(/^\[|\]$/g, ""));
  button.addEventListener("click", () => showPassage(citation, button));
  return button;
}

function citationOf({ url_citation: place, ...about }) {
  return {
    start: place.start_index,
    end: place.end_index,
    number: about.number,
    chunk: about.chunk,
    path: about.path,
    titlePath: about.title_path,
    span: about.span,
    supported: about.supported,
    score: about.score,
  };
}

function repeatOf({ start_index: start, end_index: end, num_tokens: tokens, num_documents: documents, sources }) {
  return { start, end, tokens, documents, sources };
}

// ---------------------------------------------------------------- asking

async function send() {
  const text = question.value.trim();
  if (!text || running) return;
  question.value = "";
  byId("start").hidden = true;
  follow(() => message("user", "You").body.append(element("p", {}, text)));
  const asked = [...messages, { role: "user", content: text }];
  const answer = { ...message("assistant", "Answer"), text: "", citations: [], repeats: [], doubts: [], pieces: [] };
  start(answer);
  try {
    await receive(answer, asked, running.signal);
  } catch (error) {
    follow(() => failed(answer.article, error));
  }
  if (!answer.article.isConnected) return; // a new conversation has begun
  finish(answer, asked);
  if (!answer.text && !question.value) question.value = text; // to be asked again
}

function failed(article, error) {
  const isStopped = error.name === "AbortError";
  note(article, isStopped ? "Stopped." : error.message, !isStopped);
  if (error.isExpired) article.lastChild.append(" ", element("a", { href: "/login" }, "Log in"));
}

function start(answer) {
  running = new AbortController();
  answer.article.classList.add("writing");
  log.setAttribute("aria-busy", "true"); // read aloud when it is whole
  setState(true, "Answering");
}

function finish(answer, asked) {
  running = null;
  follow(() => {
    draw(answer);
    answer.article.classList.remove("writing");
    if (answer.text) messages = [...asked, { role: "assistant", content: answer.text }];
    sources(answer);
    repeats(answer);
  });
  log.removeAttribute("aria-busy");
  setState(false, "");
}

function setState(isRunning, words) {
  const hadFocus = document.activeElement === byId("stop");
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  byId("state").textContent = words;
  if (hadFocus) question.focus();
}

async function receive(answer, asked, signal) {
  const body = JSON.stringify({ model: chat.dataset.model, messages: asked, stream: true });
  const headers = { "content-type": "application/json", accept: "text/event-stream" };
  const response = await fetched("/v1/chat/completions", { method: "POST", headers, body, signal });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    take(answer, JSON.parse(data));
  }
  throw new Error("The connection ended before the answer did.");
}

function take(answer, chunk) {
  if (chunk.error) throw new Error(chunk.error.message);
  const [choice] = chunk.choices ?? [];
  answer.text += choice?.delta?.content ?? "";
  const annotations = choice?.delta?.annotations ?? [];
  answer.citations.push(...annotations.filter(({ type }) => type === "url_citation").map(citationOf));
  answer.repeats.push(...annotations.filter(({ type }) => type === "training_source").map(repeatOf));
  if (choice?.finish_reason === "length") note(answer.article, "Cut at the maximum length.");
  if (choice?.finish_reason === "content_filter") note(answer.article, "Ended before training text that is blocked.");
  if (chunk.grounding) judge(answer, chunk.grounding);
  follow(() => draw(answer));
}

function judge(answer, { unsupported, removed, left_out: leftOut }) {
  answer.doubts = unsupported.map(([start, end]) => ({ start, end }));
  const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
  if (removed) note(answer.article, `${counted(removed, "citation")} of passages that do not exist removed.`);
  if (leftOut) note(answer.article, `${counted(leftOut, "passage")} did not fit into the model's context.`);
}

async function fetched(address, options) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The server cannot be reached.");
  }
  if (response.status === 401 || response.redirected) {
    throw Object.assign(new Error("Your session has ended."), { isExpired: true });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error?.message ?? `The server answered with status ${response.status}.`);
}

// Server-sent events: the data of each, which are one line.
async function* events(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let rest = "";
  try {
    for (let isDone = false; !isDone; ) {
      const { value, done } = await reader.read();
      isDone = done;
      const lines = (rest + decoder.decode(value, { stream: !done })).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {}); // an error ends the request too
  }
}

// ---------------------------------------------------------------- sources and passages

function sources(answer) {
  const first = new Map();
  for (const citation of answer.citations) if (!first.has(citation.number)) first.set(citation.number, citation);
  if (!first.size) return;
  const items = [...first.values()].map((citation) => {
    const path = element("span", { class: "path" }, citation.titlePath.length ? citation.path : "");
    const label = element("span", {}, titleOf(citation));
    const number = element("span", { class: "number" }, `${citation.number}`);
    const button = element("button", { type: "button", class: "quiet" }, number, label, path);
    button.addEventListener("click", () => showPassage(citation, button));
    return element("li", {}, button);
  });
  answer.article.append(element("ul", { class: "sources", "aria-label": "Sources" }, ...items));
}

// The training documents that the answer repeats: a line for each span, which opens to its documents.
function repeats(answer) {
  if (!answer.repeats.length) return;
  const points = Array.from(answer.text);
  const items = answer.repeats.map(({ start, end, tokens, documents, sources: found }) => {
    const words = points.slice(start, end).join("").replace(/\s+/g, " ").trim();
    const shown = words.length > SHOWN_CHARS ? `${Array.from(words).slice(0, SHOWN_CHARS).join("")}...` : words;
    const held = documents === 1 ? "a training document" : `${documents} training documents`;
    const head = `${tokens} tokens as in ${held}: ${shown}`;
    const lines = found.map((each) => {
      const place = [each.repo, each.path ?? each.url ?? each.record].filter(Boolean).join(" ");
      const facts = [each.license ?? "no license", each.swhid, each.is_removed ? "removed since" : null].filter(Boolean);
      return element("li", {}, element("code", {}, place), ` ${facts.join(", ")}`);
    });
    return element("details", { class: "repeats" }, element("summary", {}, head), element("ul", {}, ...lines));
  });
  answer.article.append(...items);
}

async function showPassage(citation, button) {
  opener?.removeAttribute("aria-expanded");
  opener = button;
  button.setAttribute("aria-expanded", "true");
  const title = element("h2", { id: "passage-title", tabindex: "-1" }, titleOf(citation));
  const close = element("button", { type: "button", class: "quiet close", "aria-label": "Close the passage" }, "Close");
  close.addEventListener("click", closePassage);
  const text = element("div", { class: "source", dir: "auto", tabindex: "0" }, "Loading");
  passage.replaceChildren(
    element("div", { class: "heading" }, element("p", { class: "note" }, `Source ${citation.number}`), close),
    title,
    element("p", { class: "note" }, element("code", {}, citation.path)),
    supportOf(citation),
    text,
  );
  passage.hidden = false;
  chat.classList.add("open");
  title.focus({ preventScroll: true });
  try {
    const chunk = await passageOf(citation);
    if (text.isConnected) mark(text, chunk, citation.span);
  } catch (error) {
    text.replaceChildren(element("span", { class: "bad", role: "alert" }, error.message));
  }
}

async function passageOf({ chunk }) {
  const headers = { accept: "application/json" };
  const response = await fetched(`/passages/${encodeURIComponent(chunk)}`, { headers });
  const found = await response.json();
  return { ...found, text: found.text.replace(turning, "\ufffd") };
}

function supportOf({ supported, score }) {
  const words = supported ? "Supports the claim" : "Does not support the claim";
  const share = score === null || score === undefined ? "" : `, score ${score.toFixed(2)} of 1`;
  return element("p", { class: supported ? "support good" : "support bad" }, words + share);
}

function mark(target, chunk, [start, end]) {
  const points = Array.from(chunk.text);
  const [first, last] = [start - chunk.start, end - chunk.start];
  const cut = (from, to) => points.slice(from, to).join("");
  if (!(0 <= first && first < last && last <= points.length)) return target.replaceChildren(chunk.text);
  const cited = element("mark", {}, cut(first, last));
  target.replaceChildren(cut(0, first), cited, cut(last));
  if (last - first < points.length) cited.scrollIntoView({ block: "nearest" });
}

function closePassage() {
  if (passage.hidden) return;
  passage.hidden = true;
  passage.replaceChildren();
  chat.classList.remove("open");
  opener?.removeAttribute("aria-expanded");
  (opener?.isConnected ? opener : question).focus();
  opener = null;
}

// ---------------------------------------------------------------- what people do

ask.addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("new").addEventListener("click", () => {
  running?.abort();
  running = null;
  messages = [];
  log.replaceChildren();
  log.removeAttribute("aria-busy");
  closePassage();
  byId("start").hidden = false;
  setState(false, "");
  question.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") closePassage();
});
