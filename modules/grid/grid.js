"use strict";
// Sounds are decoded when they are first wanted, and switching goes on at the same position, with a short cross-fade.
const FADE = 0.01, KEPT_SECONDS = 1200, STEP = 2;  // seconds
const facts = JSON.parse(document.getElementById("facts").textContent);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const rows = all("li[data-cell]");
const say = text => { document.getElementById("said").textContent = text; };
const clock = seconds => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

// ---- Votes, kept in the browser by the ids of cells --------------------------------------------------------------
const place = `grid ${facts.grid}`;
let kept = { votes: {}, revealed: [] };
try { kept = { ...kept, ...JSON.parse(localStorage.getItem(place) || "{}") }; } catch (error) { /* no storage here */ }
const isRevealed = () => kept.revealed.includes(facts.page);
const voteOf = row => kept.votes[row.dataset.cell] || {};

function keep() {
  try { localStorage.setItem(place, JSON.stringify(kept)); }
  catch (error) { say("This browser keeps nothing for this page: download the votes before you leave it."); }
}

function noneIsBest(section) {  // there is one best of a song
  for (const row of all("li[data-cell]", section))
    if (voteOf(row).best) kept.votes[row.dataset.cell] = { ...voteOf(row), best: false };
}

function vote(row, change) {
  if (change.best) noneIsBest(row.closest(".song"));
  kept.votes[row.dataset.cell] = { ...voteOf(row), ...change, blind: voteOf(row).blind !== false && !isRevealed() };
  keep();
  show();
}

function show() {
  for (const row of rows) {
    const { stars = 0, best = false } = voteOf(row);
    for (const input of all(".stars input", row)) {
      input.checked = Number(input.value) === stars;
      input.nextElementSibling.classList.toggle("full", Number(input.value) <= stars);
    }
    row.querySelector(".best").setAttribute("aria-pressed", best);
  }
  if (isRevealed()) reveal();
}

// ---- Sound -------------------------------------------------------------------------------------------------------
let context = null;
const buffers = new Map();  // id of a sound -> promise of its AudioBuffer, those used last at the end

function sound(id) {
  let found = buffers.get(id);
  if (!found) {
    const text = atob(document.getElementById(id).textContent.split(",", 2)[1]);
    found = context.decodeAudioData(Uint8Array.from(text, letter => letter.charCodeAt(0)).buffer);
    found.then(buffer => { found.seconds = buffer.duration; });
  }
  buffers.delete(id);
  buffers.set(id, found);
  let seconds = 0;
  for (const [other, promise] of [...buffers].reverse())
    if ((seconds += promise.seconds || 0) > KEPT_SECONDS && other !== id) buffers.delete(other);
  return found;
}

class Deck {  // plays one song: whichever of its sounds is chosen
  constructor(section) {
    this.section = section;
    this.buttons = all(".hear", section);
    this.play_button = section.querySelector(".play");
    this.seek_bar = section.querySelector(".seek");
    this.seconds = Number(this.seek_bar.max);
    this.chosen = this.buttons[0];
    this.offset = 0;  // where it stands or began, in seconds of the song
    this.playing = null;  // { source, gain, started }
    this.request = 0;  // the newest wish; an older one that is still being decoded does not count
    this.play_button.onclick = () => this.toggle();
    this.seek_bar.oninput = () => this.seek(Number(this.seek_bar.value));
    for (const button of this.buttons) button.onclick = () => this.choose(button);
    section.addEventListener("pointerdown", () => { active = this; });
    section.addEventListener("focusin", () => { active = this; });
    this.draw();
  }
  get position() {
    return this.playing ? this.offset + context.currentTime - this.playing.started : this.offset;
  }
  async start() {
    for (const deck of decks) if (deck !== this) deck.stop();
    active = this;
    context ??= new AudioContext();
    const request = ++this.request;
    let buffer;
    try { [buffer] = await Promise.all([sound(this.chosen.dataset.sound), context.resume()]); }
    catch (error) { say(`This browser cannot play this sound (${error.message}). Try another one.`); return; }
    if (request !== this.request) return;
    const offset = Math.min(this.position, buffer.duration);
    this.silence();
    const source = new AudioBufferSourceNode(context, { buffer }), gain = new GainNode(context, { gain: 0 });
    gain.gain.linearRampToValueAtTime(1, context.currentTime + FADE);
    source.connect(gain).connect(context.destination);
    source.onended = () => { if (this.playing?.source === source) { this.stop(); this.seek(0); } };
    source.start(0, offset);
    this.offset = offset;
    this.playing = { source, gain, started: context.currentTime };
    this.draw();
  }
  silence() {
    if (!this.playing) return;
    const { source, gain } = this.playing, now = context.currentTime;
    this.playing = null;
    gain.gain.setValueAtTime(gain.gain.value, now);
    gain.gain.linearRampToValueAtTime(0, now + FADE);
    source.stop(now + FADE);
  }
  stop() {
    this.request++;
    this.offset = this.position;
    this.silence();
    this.draw();
  }
  toggle() { this.playing ? this.stop() : this.start(); }
  choose(button) {
    this.chosen = button;
    this.start();
    this.draw();
  }
  step(by) {
    const index = this.buttons.indexOf(this.chosen) + by;
    this.choose(this.buttons[(index + this.buttons.length) % this.buttons.length]);
  }
  seek(seconds) {
    const wasPlaying = this.playing;
    this.stop();
    this.offset = Math.max(0, Math.min(seconds, this.seconds));
    wasPlaying ? this.start() : this.draw();
  }
  draw() {
    for (const button of this.buttons) button.setAttribute("aria-pressed", button === this.chosen);
    this.play_button.textContent = this.playing ? "Pause" : "Play";
    const position = Math.min(this.position, this.seconds);
    this.seek_bar.value = position;
    this.section.querySelector(".time").textContent = `${clock(position)} / ${clock(this.seconds)}`;
  }
}

let active = null;
const decks = [];
for (const section of all(".song")) decks.push(new Deck(section));
active = decks[0];
setInterval(() => { for (const deck of decks) if (deck.playing) deck.draw(); }, 100);

document.addEventListener("keydown", event => {
  const target = event.target, kind = target.type || "";
  if (event.ctrlKey || event.altKey || event.metaKey || !active || kind === "file") return;
  const row = active.chosen.closest("li[data-cell]");
  const letter = event.key.toUpperCase();
  const player = all("li[data-cell]", active.section).find(one => one.dataset.letter === letter);
  if (event.key === " " && target.tagName !== "BUTTON" && target.tagName !== "SUMMARY") active.toggle();
  else if (event.key === "ArrowLeft" && kind !== "range" && kind !== "radio") active.seek(active.position - STEP);
  else if (event.key === "ArrowRight" && kind !== "range" && kind !== "radio") active.seek(active.position + STEP);
  else if (event.key === "ArrowUp" && kind !== "range" && kind !== "radio") active.step(-1);
  else if (event.key === "ArrowDown" && kind !== "range" && kind !== "radio") active.step(1);
  else if (event.key === "0") active.choose(active.buttons[0]);
  else if (/^[1-5]$/.test(event.key) && row) vote(row, { stars: Number(event.key) });
  else if (event.key === "+" && row) vote(row, { best: !voteOf(row).best });
  else if (player) active.choose(player.querySelector(".hear"));
  else return;
  event.preventDefault();
});

for (const row of rows) {
  for (const input of all(".stars input", row)) input.onchange = () => vote(row, { stars: Number(input.value) });
  row.querySelector(".best").onclick = () => vote(row, { best: !voteOf(row).best });
}

// ---- CSV ---------------------------------------------------------------------------------------------------------
const COLUMNS = ["grid", "song", "player", "cell", "stars", "best", "blind"];

function toCsv(table) {
  const field = text => /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  return table.map(line => line.map(value => field(String(value))).join(",") + "\n").join("");
}

function fromCsv(text) {
  const table = [[]];
  for (const [, quoted, plain = "", end] of text.replace(/^\ufeff/, "").matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    table.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end !== ",") table.push([]);
  }
  return table.filter(line => line.some(Boolean));
}

document.getElementById("download").onclick = () => {
  const table = rows.map(row => {
    const { stars = "", best = false, blind = true } = voteOf(row);
    const song = row.closest(".song").dataset.name;
    return [facts.grid, song, row.dataset.letter, row.dataset.cell, stars, best ? "yes" : "", blind ? "yes" : "no"];
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([toCsv([COLUMNS, ...table])], { type: "text/csv" }));
  link.download = "votes.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};

document.getElementById("import").onchange = async event => {
  const [file] = event.target.files;
  const [head = [], ...lines] = fromCsv(await file.text());
  const at = name => head.indexOf(name);
  let taken = 0;
  for (const line of lines) {
    const row = rows.find(one => one.dataset.cell === line[at("cell")]);
    const stars = Number(line[at("stars")]) || 0, best = line[at("best")] === "yes";
    if (!row || !(stars || best) || !(stars >= 0 && stars <= 5)) continue;
    if (best) noneIsBest(row.closest(".song"));
    kept.votes[row.dataset.cell] = { ...(stars ? { stars } : {}), best, blind: line[at("blind")] !== "no" };
    taken++;
  }
  keep();
  show();
  say(`${taken} votes taken from ${file.name}`);
  event.target.value = "";
};

// ---- What is what ------------------------------------------------------------------------------------------------
function element(tag, text, ...children) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.append(...children);
  return made;
}

function copyButton(code, letter) {
  const button = element("button", "copy");
  button.setAttribute("aria-label", `copy the command of ${letter}`);
  button.type = "button";
  button.onclick = () => {
    getSelection().selectAllChildren(code);
    navigator.clipboard?.writeText(code.textContent).then(() => say("copied"), () => say("selected: press Ctrl-C"));
  };
  return button;
}

function reveal() {
  const answers = JSON.parse(atob(document.getElementById("key").textContent));
  const flags = [...new Set(Object.values(answers).flatMap(answer => Object.keys(answer.settings)))];
  const measures = facts.measures.filter(([name]) =>
    Object.values(answers).some(answer => answer.scores[name] != null));
  const head = ["song", "player", "stars", "best", ...flags, ...measures.map(([, [title]]) => title)];
  const body = rows.map(row => {
    const answer = answers[row.dataset.cell], { stars = "", best = false } = voteOf(row);
    const numbers = measures.map(([name, [, digits]]) => answer.scores[name]?.toFixed(digits) ?? "");
    const texts = [row.closest(".song").dataset.name, row.dataset.letter, stars, best ? "yes" : "",
      ...flags.map(flag => answer.settings[flag] ?? ""), ...numbers];
    return element("tr", "", ...texts.map(text => element("td", text)));
  });
  const commands = rows.map(row => {
    const code = element("code", answers[row.dataset.cell].command), line = element("p", "");
    line.className = "command";
    line.append(copyButton(code, row.dataset.letter), element("b", row.dataset.letter), code);
    return line;
  });
  const table = element("table", "", element("thead", "", element("tr", "", ...head.map(text => element("th", text)))),
    element("tbody", "", ...body));
  const shown = document.getElementById("answers"), wide = element("div", "", table);
  wide.className = "wide";
  shown.replaceChildren(wide, element("h2", "The whole song so"), ...commands);
  shown.hidden = false;
  document.getElementById("reveal").setAttribute("aria-expanded", true);
}

document.getElementById("reveal").onclick = () => {
  if (!isRevealed()) kept.revealed.push(facts.page);
  keep();
  reveal();
};

show();
