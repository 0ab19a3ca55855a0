"use strict";
// One column for each policy, each with its own conversation; answers stream, and are scored if a reward model is served.

const byId = (id) => document.getElementById(id);
let token = sessionStorage.getItem("token") || "";
let info = null;
let columns = [];
let stopper = null;

function make(tag, classes, text) {
  const found = document.createElement(tag);
  if (classes) found.className = classes;
  if (text !== undefined) found.textContent = text;
  return found;
}

async function ask(path, body, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const how = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { ...how, headers, signal });
  if (!answer.ok) {
    const said = await answer.json().catch(() => null);
    const error = new Error(said?.error?.message || `status ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return answer;
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

class Column {
  constructor(model) {
    this.model = model;
    this.messages = [];
    const box = make("article", "column");
    const head = make("div");
    this.total = make("span", "quiet");
    head.append(make("h2", "", model), this.total);
    this.turns = make("div", "turns");
    this.turns.setAttribute("role", "log");
    this.turns.setAttribute("aria-label", `Conversation with ${model}`);
    box.append(head, this.turns);
    byId("columns").append(box);
    this.clear();
  }

  clear() {
    this.messages = [];
    this.turns.replaceChildren(make("p", "empty", "No messages yet"));
    this.total.textContent = "";
  }

  add(role, text) {
    this.turns.querySelector(".empty")?.remove();
    const turn = make("div", `turn ${role}`, text);
    turn.append(make("span", "unseen", role === "user" ? " (you)" : ""));
    this.turns.append(turn);
    return turn;
  }

  async answer(text, options, signal) {
    this.messages.push({ role: "user", content: text });
    this.add("user", text);
    const turn = this.add("assistant", "");
    turn.classList.add("busy");
    let said = "", usage = null, reason = null;
    try {
      const body = { model: this.model, messages: this.messages, stream: true, ...options };
      const answer = await ask("/v1/chat/completions", { ...body, stream_options: { include_usage: true } }, signal);
      for await (const event of events(answer)) {
        usage = event.usage || usage;
        const choice = event.choices[0];
        said += choice?.delta?.content || "";
        reason = choice?.finish_reason || reason;
        turn.textContent = said;
      }
    } catch (error) {
      if (error.name !== "AbortError") {
        turn.remove();
        this.turns.append(make("p", "trouble", error.message));
        this.messages.pop();
        return null;
      }
      reason = "stopped";
    } finally {
      turn.classList.remove("busy");
    }
    const score = info.reward && reason !== "stopped" ? await this.score(said) : null;
    this.messages.push({ role: "assistant", content: said });
    this.mark(usage, reason, score);
    return score;
  }

  async score(said) {
    const body = { prompts: [this.messages], responses: [said] };
    return (await (await ask("/reward", body)).json()).rewards[0];
  }

  mark(usage, reason, score) {
    this.marks = make("div", "marks");
    if (score !== null) this.marks.append(make("span", "score", `score ${score.toFixed(3)}`));
    if (usage) this.marks.append(make("span", "", `${usage.completion_tokens} tokens`));
    if (reason !== "stop") this.marks.append(make("span", "", reason === "length" ? "cut at the limit" : reason));
    this.turns.append(this.marks);
  }

  markBest() {
    this.marks.querySelector(".score").classList.add("best");
    this.marks.querySelector(".score").append(" (higher)");
  }
}

function readOptions() {
  const options = { temperature: Number(byId("temperature").value), max_tokens: Number(byId("tokens").value) };
  if (byId("seed").value !== "") options.seed = Number(byId("seed").value);
  return options;
}

async function send(event) {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text || stopper) return;
  stopper = new AbortController();
  byId("trouble").textContent = "";
  byId("text").value = "";
  show(true);
  const options = readOptions();
  const found = await Promise.allSettled(columns.map((column) => column.answer(text, options, stopper.signal)));
  const failed = found.find((one) => one.status === "rejected");
  if (failed) byId("trouble").textContent = failed.reason.message;
  const scores = found.map((one) => one.value);
  if (columns.length > 1 && scores.every((score) => typeof score === "number")) {
    const best = Math.max(...scores);
    if (scores.some((score) => score < best)) columns[scores.indexOf(best)].markBest();
  }
  stopper = null;
  show(false);
  byId("text").focus();
}

function show(busy) {
  byId("send").disabled = busy;
  byId("anew").disabled = busy;
  byId("stop").hidden = !busy;
}

async function connect() {
  try {
    info = await (await ask("/page/info")).json();
  } catch (error) {
    byId("access").hidden = error.status !== 401;
    byId("about").textContent = error.status === 401 && token ? "This token is not the server's." : error.message;
    if (error.status === 401) byId("token").focus();
    return;
  }
  byId("access").hidden = true;
  byId("tokens").value = Math.min(128, Math.floor(info.longest / 3));
  byId("ask").hidden = false;
  const scored = info.reward ? `; answers are scored by ${info.reward}` : "";
  byId("about").textContent = (info.models.length > 1 ? "Policies side by side" : "One policy") + scored;
  columns = info.models.map((model) => new Column(model));
  byId("text").focus();
}

byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value;
  sessionStorage.setItem("token", token);
  connect();
});
byId("ask").addEventListener("submit", send);
byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
});
byId("anew").addEventListener("click", () => columns.forEach((column) => column.clear()));
byId("stop").addEventListener("click", () => stopper?.abort());
connect();
