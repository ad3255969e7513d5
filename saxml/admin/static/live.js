// Puts what the server says now into the page, every 2 s, without losing the reader's place.
"use strict";

const PERIOD_MS = 2000;
const TIMEOUT_MS = 8000;
const live = document.getElementById("live");
const age = document.getElementById("age");
let shown = null;
let last = Date.now();

async function refresh() {
  const answer = await fetch(location.pathname, {
    headers: { "X-Part": "body" },
    cache: "no-store",
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text.trim() || answer.statusText);
  last = Date.now();
  age.className = "";
  age.textContent = "As of " + new Date().toLocaleTimeString();
  const selected = String(getSelection()) !== "";
  if (text !== shown && !selected) live.innerHTML = shown = text;
}

async function loop() {
  if (!document.hidden) {
    try {
      await refresh();
    } catch (error) {
      const seconds = Math.round((Date.now() - last) / 1000);
      age.className = "stale";
      age.textContent = `Out of date for ${seconds} s: ${error.message}`;
    }
  }
  setTimeout(loop, PERIOD_MS);
}

document.addEventListener("visibilitychange", () => document.hidden || refresh().catch(() => {}));
setTimeout(loop, PERIOD_MS);
