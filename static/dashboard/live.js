// Keeps today's figures and the budgets of a team page current: over a socket, or by asking every ten seconds.
"use strict";

(() => {
  const panel = document.getElementById("live");
  const state = document.getElementById("live-state");
  const POLL_EVERY_MS = 10_000;
  const LONGEST_WAIT_MS = 60_000;
  let polling = null;
  let wait = 1_000;

  const show = (name, text) => {
    if (state.textContent !== text) state.textContent = text;
    state.dataset.state = name;
  };

  const budgetRow = (budget) => {
    const row = document.getElementById("budget-row").content.cloneNode(true).firstElementChild;
    const set = (part, text) => { row.querySelector(`[data-of=${part}]`).textContent = text; };
    row.classList.add(budget.state);
    set("name", budget.name);
    set("scope", `${budget.of}, per ${budget.window}`);
    set("settled", budget.settled);
    set("held", budget.held);
    set("limit", budget.limit);
    set("used", budget.used);
    set("resets", budget.resets_at ? ` · resets ${budget.resets_at}` : "");
    const bar = row.querySelector("progress");
    bar.value = budget.percent;
    bar.setAttribute("aria-label", `Budget ${budget.name} of ${budget.of}`);
    return row;
  };

  const update = (figures) => {
    for (const element of panel.querySelectorAll("[data-live]")) {
      const text = figures[element.dataset.live];
      if (element.textContent !== text) element.textContent = text;
    }
    document.getElementById("budgets").replaceChildren(...figures.budgets.map(budgetRow));
    document.getElementById("no-budgets").hidden = figures.budgets.length > 0;
  };

  const poll = async () => {
    try {
      const answer = await fetch(panel.dataset.poll, { headers: { Accept: "application/json" }, redirect: "error" });
      if (answer.status === 404) return stop();
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      update(await answer.json());
      show("polling", "every 10 s");
    } catch {
      show("paused", "paused");
    }
  };

  const startPolling = () => {
    if (polling === null) {
      polling = setInterval(poll, POLL_EVERY_MS);
      poll();
    }
  };
  const stopPolling = () => {
    clearInterval(polling);
    polling = null;
  };
  const stop = () => {
    stopPolling();
    stopped = true;
    show("paused", "paused");
  };
  let stopped = false;

  const connect = () => {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${panel.dataset.socket}`);
    socket.addEventListener("message", (message) => {
      stopPolling();
      wait = 1_000;
      update(JSON.parse(message.data));
      show("live", "live");
    });
    socket.addEventListener("close", (event) => {
      if (stopped || event.code === 4404) return stop();
      startPolling();
      setTimeout(() => stopped || connect(), wait);
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    });
  };

  connect();
})();
