// Asks the gateway with a key that the visitor pastes. The key stays in this tab's session storage and goes nowhere else.
(() => {
  "use strict";

  const KEPT = "gateway-key";
  const TASK = "task:";
  const DECIDING = "auto";
  // How a stream says behind its last event what it cost, and how the gateway says that it has not asked anybody.
  const COST = ": x-gateway-cost-usd: ";
  const FROM_CACHE = ["hit", "semantic"];
  const $ = (id) => document.getElementById(id);
  const part = (root, name) => root.querySelector(`[data-of=${name}]`);
  let key = sessionStorage.getItem(KEPT) || "";
  let models = [];
  let running = null;
  let file = "";

  class Refusal extends Error {}

  const show = (element, visible) => { element.hidden = !visible; };
  const tell = (element, text) => {
    element.textContent = text;
    show(element, text !== "");
  };

  // On a telephone what comes stands below the screen.
  const bringIntoView = (element) => element.scrollIntoView({ block: "nearest" });

  const NEXT_STEPS = {
    401: "Paste another key above.",
    429: "Send it again when the wait is over.",
    502: "Send it again, or choose another model.",
    503: "Send it again in a moment, or choose another model.",
    504: "Send it again, or choose another model.",
  };

  const refusal = async (answer) => {
    let told = {};
    try { told = await answer.json(); } catch { /* Whatever it is, the status says enough. */ }
    const error = typeof told.error === "object" && told.error !== null ? told.error : { message: told.error, code: told.error_type };
    const wait = answer.headers.get("retry-after");
    const id = answer.headers.get("x-request-id");
    const about = [answer.status, error.code, id].filter(Boolean).join(" · ");
    const pieces = [error.message || "The gateway refused it.", wait ? `Wait ${wait} s.` : "", NEXT_STEPS[answer.status] || "", `(${about})`];
    return new Refusal(pieces.filter(Boolean).join(" "));
  };

  const ask = async (path, { body, signal, headers = {} } = {}) => {
    const answer = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: { Authorization: `Bearer ${key}`, ...(body ? { "Content-Type": "application/json" } : {}), ...headers },
      body: body ? JSON.stringify(body) : undefined,
      credentials: "omit",
      signal,
    });
    if (!answer.ok) throw await refusal(answer);
    return answer;
  };

  const whatWentWrong = (error) => {
    if (error.name === "AbortError") return "";
    return error instanceof Refusal ? error.message : "The gateway could not be reached, or its answer broke off. Check the connection and send it again.";
  };

  // The key and what it opens.

  const showModels = () => {
    $("model-options").replaceChildren(...models.map((name) => new Option(name, name)));
    $("model").value = models.includes(DECIDING) ? DECIDING : models[0] || `${TASK}text_generation`;
    $("model-boxes").replaceChildren(...models.map((name, at) => {
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.value = name;
      box.checked = at < 2;
      label.append(box, name);
      return label;
    }));
  };

  const showProviders = async () => {
    try {
      const { providers = {} } = await (await ask("/api/status?details=true")).json();
      $("providers").replaceChildren(...Object.entries(providers).map(([name, state]) => {
        const row = document.createElement("li");
        const badge = document.createElement("span");
        badge.className = "badge";
        badge.dataset.state = state;
        badge.textContent = state;
        row.append(name, badge);
        return row;
      }));
      show($("no-providers"), Object.keys(providers).length === 0);
    } catch {
      show($("no-providers"), false);
    }
  };

  const useKey = async () => {
    $("use-key").disabled = true;
    tell($("key-problem"), "");
    try {
      models = (await (await ask("/v1/models")).json()).data.map((model) => model.id);
      sessionStorage.setItem(KEPT, key);
      $("key").value = key;
      showModels();
      show($("desk"), true);
      show($("forget-key"), true);
      if (models.length === 0) tell($("key-problem"), "This key may call no model. Ask an admin to allow it one.");
      showProviders();
      $("query").focus();
    } catch (error) {
      forget();
      tell($("key-problem"), whatWentWrong(error));
    } finally {
      $("use-key").disabled = false;
    }
  };

  const forget = () => {
    sessionStorage.removeItem(KEPT);
    key = "";
    if (running) running.abort();
    show($("desk"), false);
    show($("forget-key"), false);
  };

  // One model, as it speaks.

  const set = (name, text) => { part($("answer-card"), name).textContent = text; };
  const count = (number) => (Number.isFinite(number) ? number.toLocaleString("en") : "–");
  const took = (ms) => (ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${Math.round(ms)} ms`);
  // Amounts are shown as they were written: numbers of this size lose nothing, but are spelt 1e-7.
  const dollars = (text) => (text === undefined || text === null ? "–" : `$${Number(text).toLocaleString("en", { maximumFractionDigits: 12 })}`);

  const beginAnswer = () => {
    $("answer").replaceChildren();
    for (const name of ["input", "output", "total", "cost", "first", "duration", "attempts", "cache", "by"]) set(name, "–");
    show($("answers-card"), false);
    show($("answer-card"), true);
    bringIntoView($("answer-card"));
  };

  const showHead = (headers) => {
    const id = headers.get("x-request-id") || "";
    set("attempts", headers.get("x-gateway-attempts") || "–");
    set("cache", headers.get("x-gateway-cache") || "not used");
    const who = [headers.get("x-gateway-provider"), headers.get("x-gateway-deployment")].filter(Boolean);
    set("by", who.length ? who.join(" / ") : headers.get("x-gateway-model") || "–");
    $("record").href = `${$("record").dataset.records}${encodeURIComponent(id)}/`;
  };

  const showTokens = (input, output) => {
    set("input", count(input));
    set("output", count(output));
    set("total", count(input + output));
  };

  const lines = async function* (body) {
    const reader = body.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
      const complete = rest.split(/\r?\n/);
      rest = complete.pop();
      yield* complete;
      if (done) return;
    }
  };

  const read = async (answer, began) => {
    let usage = null;
    let cost = null;
    for await (const line of lines(answer.body)) {
      if (line.startsWith(COST)) cost = line.slice(COST.length);
      if (!line.startsWith("data:") || line.endsWith("[DONE]")) continue;
      const event = JSON.parse(line.slice(5));
      if (event.error) throw new Refusal(`${event.error.message} Send it again.`);
      usage = event.usage || usage;
      const text = event.choices?.[0]?.delta?.content;
      if (!text) continue;
      if (!$("answer").textContent) set("first", took(performance.now() - began));
      $("answer").append(text);
    }
    return { usage, cost };
  };

  const stream = async (model, task, query, signal) => {
    const began = performance.now();
    const body = { model, stream: true, stream_options: { include_usage: true }, messages: [{ role: "user", content: query }] };
    const headers = { "x-gateway-usage-comment": "true", ...(task ? { "x-gateway-task-type": task } : {}) };
    const answer = await ask("/v1/chat/completions", { body, signal, headers });
    showHead(answer.headers);
    const { usage, cost } = await read(answer, began);
    set("duration", took(performance.now() - began));
    set("cost", FROM_CACHE.includes(answer.headers.get("x-gateway-cache")) ? "$0" : dollars(cost));
    if (usage) showTokens(usage.prompt_tokens, usage.completion_tokens);
  };

  // Without an alias that decides, the gateway chooses, and answers as a whole.
  const askByTask = async (task, query, signal) => {
    const answer = await ask("/api/query", { body: { query, task_type: task }, signal });
    showHead(answer.headers);
    const told = await answer.json();
    $("answer").textContent = told.response;
    showTokens(told.input_tokens, told.output_tokens);
    set("cost", dollars(told.cost_usd));
    set("duration", took(told.response_time_ms));
  };

  const askOne = (query, signal) => {
    beginAnswer();
    const chosen = $("model").value;
    if (!chosen.startsWith(TASK)) return stream(chosen, "", query, signal);
    const task = chosen.slice(TASK.length);
    return models.includes(DECIDING) ? stream(DECIDING, task, query, signal) : askByTask(task, query, signal);
  };

  // Several, side by side.

  const card = ([model, told]) => {
    const article = $("one-answer").content.cloneNode(true).firstElementChild;
    part(article, "model").textContent = told.original_model ? `${told.original_model}, answered by ${told.model}` : model;
    tell(part(article, "error"), told.error || "");
    const response = part(article, "response");
    response.textContent = told.response;
    response.setAttribute("aria-label", `Answer of ${model}`);
    show(response, !told.error);
    part(article, "figures").textContent = told.error
      ? `${told.error_type} · ${took(told.response_time_ms)}`
      : `${count(told.input_tokens)} in · ${count(told.output_tokens)} out · ${count(told.total_tokens)} tokens · ${dollars(told.cost_usd)} · ` +
        `${took(told.response_time_ms)} · ${told.num_retries + 1 > 1 ? `${told.num_retries} retries · ` : ""}${told.cached ? "from the cache" : told.model_version}`;
    return article;
  };

  const askSeveral = async (query, signal) => {
    const chosen = [...$("model-boxes").querySelectorAll("input:checked")].map((box) => box.value);
    if (chosen.length === 0) throw new Refusal("Choose at least one model above.");
    show($("answer-card"), false);
    const told = await (await ask("/api/parallel", { body: { query, models: chosen }, signal })).json();
    $("answers").replaceChildren(...Object.entries(told.responses).map(card));
    show($("answers-card"), true);
    bringIntoView($("answers-title"));
  };

  const mode = () => new FormData($("ask-form")).get("mode");

  const send = async () => {
    if (running || !$("ask-form").reportValidity()) return;
    const query = $("query").value;
    running = new AbortController();
    $("send").disabled = true;
    show($("cancel"), true);
    tell($("problem"), "");
    $("state").textContent = "Waiting for the answer…";
    try {
      await (mode() === "several" ? askSeveral : askOne)(query, running.signal);
      $("state").textContent = "Done.";
    } catch (error) {
      const problem = whatWentWrong(error);
      tell($("problem"), problem);
      if (problem) bringIntoView($("problem"));
      $("state").textContent = problem ? "" : "Cancelled. What had come by then is charged.";
      if (!$("answer").textContent) show($("answer-card"), false);
    } finally {
      running = null;
      $("send").disabled = false;
      show($("cancel"), false);
      showProviders();
    }
  };

  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key = $("key").value.trim();
    useKey();
  });
  $("forget-key").addEventListener("click", () => {
    forget();
    $("key").value = "";
    $("key").focus();
  });
  $("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("query").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
  });
  for (const radio of $("ask-form").elements.mode) {
    radio.addEventListener("change", () => {
      show($("one"), mode() === "one");
      show($("several"), mode() === "several");
    });
  }
  $("cancel").addEventListener("click", () => running?.abort());
  $("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("answer").textContent);
      $("state").textContent = "Copied.";
    } catch {
      $("state").textContent = "The browser does not let this page copy. Select the text and copy it.";
    }
  });
  $("save").addEventListener("click", () => {
    URL.revokeObjectURL(file);
    file = URL.createObjectURL(new Blob([$("answer").textContent], { type: "text/plain" }));
    $("save").href = file;
  });

  if (key) useKey();
})();
