"use strict";
const at = (id) => document.getElementById(id);
const headers = () => (at("token").value ? { Authorization: `Bearer ${at("token").value}` } : {});
let voices = [];
let running = null;

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers() });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

function fill(select, names) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
}

async function showVoices() {
  try {
    voices = (await (await ask("/voices")).json()).voices;
    fill(at("voice"), voices.map((voice) => voice.id));
    showSpeakers();
    at("said").textContent = "";
  } catch (error) {
    at("said").textContent = error.message;
  }
}

function showSpeakers() {
  fill(at("speaker"), voices.find((voice) => voice.id === at("voice").value).speakers);
}

async function convert(event) {
  event.preventDefault();
  at("convert").disabled = true;
  const form = new FormData();
  for (const name of ["voice", "speaker", "transpose", "wav_format"]) form.append(name, at(name).value);
  form.append("song", at("song").files[0]);
  try {
    let job = await (await ask("/jobs", { method: "POST", body: form })).json();
    running = job.id;
    at("stop").disabled = at("progress").hidden = false;
    while (["waiting", "running"].includes(job.state)) {
      at("said").textContent = job.state;
      at("progress").value = job.progress;
      await new Promise((wake) => setTimeout(wake, 500));
      job = await (await ask(`/jobs/${running}`)).json();
    }
    if (job.error) throw new Error(job.error);
    at("player").src = URL.createObjectURL(await (await ask(job.result)).blob());
    at("save").href = at("player").src;
    at("save").download = job.name;
    at("player").hidden = at("save").hidden = false;
    at("said").textContent = job.warnings.join("\n") || "done";
  } catch (error) {
    at("said").textContent = error.message;
  }
  running = null;
  at("convert").disabled = false;
  at("stop").disabled = at("progress").hidden = true;
}

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.append(...children);
  return made;
}

async function showRoutes() {
  const schema = await (await ask("/openapi.json")).json();
  for (const [path, methods] of Object.entries(schema.paths)) {
    for (const [method, route] of Object.entries(methods)) {
      const name = element("summary", "", element("code", `${method.toUpperCase()} ${path}`));
      const parts = element("details", "", name, element("p", route.description || ""));
      const form = route.requestBody && route.requestBody.content["multipart/form-data"].schema;
      if (form) {
        const table = element("table", "");
        for (const [field, about] of Object.entries(form.properties)) {
          const range = about.minimum === undefined ? "" : `${about.minimum} to ${about.maximum}`;
          const cells = [field, about.enum ? about.enum.join(", ") : about.format || about.type, about.default, range];
          const texts = [...cells, about.description].map((text) => (text === undefined ? "" : String(text)));
          table.append(element("tr", "", ...texts.map((text) => element("td", text))));
        }
        parts.append(table);
      }
      at("routes").append(parts);
    }
  }
}

at("form").addEventListener("submit", convert);
at("voice").addEventListener("change", showSpeakers);
at("token").addEventListener("change", showVoices);
at("stop").addEventListener("click", () => running && ask(`/jobs/${running}`, { method: "DELETE" }));
showRoutes();
showVoices();
