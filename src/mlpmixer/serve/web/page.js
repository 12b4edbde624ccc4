// The page of the service: images in, ranked labels and heat maps out. Text of others is only ever set as textContent.

const AT_ONCE = 2; // requests, so that other people's images have their turn
const MOST = 100; // images on the page
const TRIES = 6; // of one image, while the service is busy
const CLASSES = 60; // of a model that are listed
const POLL = 1000; // ms between looks at a service that is loading

const find = (selector, root = document) => root.querySelector(selector);
const results = find("#results");
const largest = Number(document.body.dataset.maxBody);
const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function show(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

const say = (text) => { find("#status").textContent = text; };

// Requests.

class Refusal extends Error {
  constructor(status, message, seconds = 0) {
    super(message);
    this.status = status;
    this.seconds = seconds;
  }
}

async function call(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "omit", ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The service does not answer. It may have been stopped, or the network is down.");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  if (response.status === 401) askForToken();
  const message = body?.error?.message ?? `the service answered with status ${response.status}`;
  throw new Refusal(response.status, sentence(message), Number(response.headers.get("Retry-After")) || 0);
}

// The token is sent with each request once it is known; before that, nothing else is asked for.

let locked = false;

function askForToken() {
  const refused = sessionStorage.getItem("token") !== null;
  sessionStorage.removeItem("token");
  if (refused) find("#token-error").textContent = "This token is not the right one.";
  locked = true;
  find("#access").hidden = false;
  find("#token").focus();
}

find("#access").addEventListener("submit", async (event) => {
  event.preventDefault();
  const token = find("#token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) {
    find("#token-error").textContent = "A token has only letters, digits and signs of ASCII.";
    return;
  }
  find("#token-error").textContent = "";
  sessionStorage.setItem("token", token);
  if (!(await loadModels())) return;
  locked = false;
  find("#token").value = "";
  find("#access").hidden = true;
  find("#files").focus();
  pump();
});

// Models.

let models = new Map();
const chosen = () => models.get(find("#model").value);

async function loadModels() {
  let found;
  try {
    found = (await call("v1/models")).models;
  } catch (error) {
    if (error.status !== 401) say(error.message);
    if (error.status === 0) setTimeout(loadModels, 5 * POLL);
    return false;
  }
  if (!found.length) {
    say("The service is loading its models.");
    setTimeout(loadModels, POLL);
    return true;
  }
  if (!models.size) say("");
  const before = find("#model").value;
  models = new Map(found.map((model) => [model.name, model]));
  find("#model").replaceChildren(...found.map((model) => new Option(model.name, model.name)));
  find("#model").value = models.has(before) ? before : found[0].name;
  find("#model").disabled = found.length === 1;
  find("#models").hidden = false;
  describe();
  const header = sessionStorage.getItem("token") ? '-H "Authorization: Bearer $MLPMIXER_TOKEN" ' : "";
  find("#command").textContent = `curl -F image=@photo.jpg ${header}${new URL("v1/predict", location.href)}`;
  find("#routes").hidden = header !== ""; // a link sends no token
  find("footer").hidden = false;
  return true;
}

function describe() {
  const model = chosen();
  const [height, width] = model.image_size;
  const size = `${width} × ${height} pixels`;
  find("#summary").textContent = `${model.classes.length.toLocaleString("en")} classes, sees ${size}`;
  show(find("#stale"), model.reload_error && `A newer file of this model could not be loaded: ${model.reload_error}`);
  const more = model.classes.length - CLASSES;
  const facts = {
    Architecture: model.architecture,
    Parameters: model.parameters.toLocaleString("en"),
    "Input size": size,
    Classes: model.classes.slice(0, CLASSES).join(", ") + (more > 0 ? ` and ${more.toLocaleString("en")} more` : ""),
    Engine: `${model.engine}, ${model.precision}`,
    Version: model.version,
    ...model.provenance,
  };
  find("#facts").replaceChildren(
    ...Object.entries(facts).flatMap(([name, value]) => {
      const [term, text] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
      text.textContent = typeof value === "object" ? JSON.stringify(value) : value;
      return [term, text];
    }),
  );
}

find("#model").addEventListener("change", () => {
  describe();
  ask([...cards]);
});

// The queue: a few images at a time; all of them wait while the service is busy.

const cards = new Set();
let queue = [];
let active = 0;
let pause = 0; // timer
let asked = []; // since the queue was last empty

function ask(list) {
  for (const card of list) card.wait();
  queue.push(...list.filter((card) => !queue.includes(card)));
  asked.push(...list);
  if (list.length > 1) say(`Classifying ${many(list.length, "image")}.`);
  pump();
}

function pump() {
  while (!locked && !pause && active < AT_ONCE && queue.length) {
    active += 1;
    queue.shift().predict().finally(() => {
      active -= 1;
      pump();
    });
  }
  if (!active && !queue.length && asked.length) report();
}

function report() {
  const there = [...new Set(asked)].filter((card) => cards.has(card));
  const failed = there.filter((card) => card.error);
  asked = [];
  if (there.length === 1) say(there[0].said);
  else if (there.length) {
    const bad = failed.length ? ` ${many(failed.length, "image")} could not be.` : "";
    say(`${many(there.length - failed.length, "image")} classified.${bad}`);
  }
}

function hold(message, seconds) {
  if (pause) return;
  const wait = Math.max(1, Math.ceil(seconds));
  say(`${message} Asking again in ${wait} s.`);
  pause = setTimeout(() => {
    pause = 0;
    say("");
    pump();
  }, 1000 * wait);
}

// One image on the page.

let count = 0;

class Card {
  constructor(file) {
    this.file = file;
    this.tries = 0;
    this.root = find("#card").content.firstElementChild.cloneNode(true);
    count += 1;
    this.find("h3").id = `image-${count}`;
    this.find("h3").textContent = file.name;
    this.root.setAttribute("aria-labelledby", `image-${count}`);
    this.find(".remove").setAttribute("aria-label", `Remove ${file.name}`);
    this.find(".again").addEventListener("click", () => this.repeat());
    this.find(".remove").addEventListener("click", () => this.leave());
    this.find(".ask").addEventListener("click", () => this.explain());
    this.find("input").addEventListener("input", () => this.strengthen());
    const image = this.find("img");
    image.alt = file.name;
    image.addEventListener("load", () => this.find(".frame").classList.toggle("small", image.naturalWidth < 150));
    image.addEventListener("error", () => {
      this.find(".frame").classList.add("none");
      this.find(".frame").textContent = "This browser cannot show the image.";
    });
    image.src = URL.createObjectURL(file);
  }

  find(selector) {
    return find(selector, this.root);
  }

  wait() {
    this.stop?.abort();
    this.error = "";
    this.tries = 0;
    this.stop = new AbortController();
    show(this.find(".state"), "Waiting");
    for (const part of [".error", ".again", ".ranking", ".doubt", ".explain", ".took"]) this.find(part).hidden = true;
    this.forget();
  }

  // What a card asks for; the model is that of the moment.
  request(route) {
    const name = find("#model").value;
    return call(`v1/${route}${name && `?model=${encodeURIComponent(name)}`}`, {
      method: "POST",
      body: this.file,
      headers: { "Content-Type": "application/octet-stream" },
      signal: this.stop.signal,
    });
  }

  async predict() {
    if (this.file.size > largest) {
      this.fail(`The image has ${megabytes(this.file.size)}, and the service takes ${megabytes(largest)}.`);
      return;
    }
    const { signal } = this.stop;
    this.root.classList.add("asking");
    show(this.find(".state"), "Classifying");
    const started = performance.now();
    try {
      const found = await this.request("predict");
      this.answer(found, performance.now() - started);
      if (found.version !== models.get(found.model)?.version) loadModels();
    } catch (error) {
      if (signal.aborted) return; // removed, or asked anew
      const later = error.status === 401 || ([429, 503].includes(error.status) && this.tries < TRIES);
      if (!later) this.fail(error.message, error.status);
      else {
        this.tries += 1;
        show(this.find(".state"), "Waiting");
        queue.unshift(this);
        if (error.status !== 401) hold("The service is busy.", error.seconds);
      }
    } finally {
      if (!signal.aborted) this.root.classList.remove("asking");
    }
  }

  answer(found, milliseconds) {
    const [one] = found.predictions;
    show(this.find(".state"), "");
    this.find(".ranking").replaceChildren(...one.top.map(({ label, score }) => ranked(label, score)));
    for (const part of [".ranking", ".explain"]) this.find(part).hidden = false;
    this.find(".doubt").hidden = one.score >= 0.5;
    show(this.find(".took"), `${found.model}, answered in ${Math.round(milliseconds)} ms`);
    this.find("img") && (this.find("img").alt = `${this.file.name}, classified as ${one.label}`);
    this.said = `${this.file.name}: ${one.label}, ${percent(one.score)}`;
  }

  // An image that is refused is refused again; a service that is busy, broken or not there may answer later.
  fail(message, status = 422) {
    this.error = message;
    this.said = `${this.file.name}: ${message}`;
    show(this.find(".state"), "");
    show(this.find(".answer > .error"), message);
    this.find(".again").hidden = status >= 400 && status < 500 && status !== 429;
  }

  repeat() {
    this.root.tabIndex = -1;
    this.root.focus(); // the button goes
    ask([this]);
  }

  leave() {
    const near = this.root.nextElementSibling ?? this.root.previousElementSibling;
    this.remove();
    (near ? find(".remove", near) : find("#files")).focus();
    say(`${this.file.name} is removed.`);
  }

  remove() {
    this.stop?.abort();
    cards.delete(this);
    queue = queue.filter((card) => card !== this);
    URL.revokeObjectURL(this.find("img")?.src);
    this.root.remove();
    counted();
  }

  // Heat maps.

  async explain() {
    const button = this.find(".ask");
    const { signal } = this.stop;
    button.disabled = true;
    button.textContent = "Computing the heat map";
    show(this.find(".refused"), "");
    try {
      const [one] = (await this.request("explain")).predictions;
      this.paint(one);
    } catch (error) {
      if (signal.aborted) return;
      const later = error.seconds ? ` Try again in ${error.seconds} s.` : "";
      show(this.find(".refused"), error.message + (error.message.includes("try again") ? "" : later));
      button.disabled = false;
      button.textContent = "Show heat map";
      button.focus();
    }
  }

  paint({ explained, drops, region }) {
    const canvas = this.find("canvas");
    const where = place(drops);
    if (canvas) {
      const [left, top, right, bottom] = region;
      const sides = { left, top, width: right - left, height: bottom - top };
      for (const [side, share] of Object.entries(sides)) canvas.style[side] = `${100 * share}%`;
      colored(canvas, drops);
      canvas.setAttribute("aria-label", `Heat map for ${explained}: it depends most on ${where}`);
      canvas.hidden = false;
    }
    show(this.find("figcaption"), `Within the frame, which the model sees: orange speaks for “${explained}”, blue against it. Most important: ${where}.`);
    this.find(".ask").hidden = true;
    for (const part of [".strength", ".scale"]) this.find(part).hidden = false;
    this.strengthen();
    this.find("input").focus();
    say(`Heat map of ${this.file.name}: ${explained} depends most on ${where}.`);
  }

  strengthen() {
    const { value } = this.find("input");
    this.find(".value").textContent = `${value} %`;
    this.find("input").setAttribute("aria-valuetext", `${value} %`);
    this.find(".frame").style.setProperty("--strength", value / 100);
  }

  forget() {
    for (const part of ["canvas", "figcaption", ".strength", ".scale", ".refused"]) {
      if (this.find(part)) this.find(part).hidden = true;
    }
    this.find(".frame").style.removeProperty("--strength");
    this.find(".ask").hidden = this.find(".ask").disabled = false;
    this.find(".ask").textContent = "Show heat map";
  }
}

function ranked(label, score) {
  const [row, name, bar, filled, figure] = ["li", "span", "i", "b", "span"].map((tag) => document.createElement(tag));
  name.textContent = label;
  bar.ariaHidden = "true";
  filled.style.setProperty("--share", score);
  figure.textContent = percent(score);
  bar.append(filled);
  row.append(name, " ", bar, " ", figure);
  return row;
}

// Orange for squares that raise the label, blue for those that lower it; the strongest in full color.
function colored(canvas, drops) {
  const strongest = Math.max(...drops.flat().map(Math.abs)) || 1;
  [canvas.height, canvas.width] = [drops.length, drops[0].length];
  const pixels = new ImageData(canvas.width, canvas.height);
  drops.flat().forEach((drop, place) => {
    const color = drop > 0 ? [168, 72, 12] : [10, 91, 176];
    pixels.data.set([...color, 255 * Math.abs(drop / strongest)], 4 * place);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// Where the label depends most, in words: in one of three by three parts.
function place(drops) {
  const most = drops.flat().indexOf(Math.max(...drops.flat()));
  const third = (at, count) => Math.floor((3 * (at + 0.5)) / count);
  const [row, column] = [Math.floor(most / drops[0].length), most % drops[0].length];
  const down = ["upper", "", "lower"][third(row, drops.length)];
  const along = ["left", "", "right"][third(column, drops[0].length)];
  if (!down && !along) return "the center";
  return `the ${[down, along].filter(Boolean).join(" ")}${down && along ? "" : " middle"}`;
}

// Images come in: chosen, dropped, pasted, photographed.

function counted() {
  document.body.classList.toggle("some", cards.size > 0);
  find("#clear").hidden = cards.size < 2;
}

function add(files) {
  const room = MOST - cards.size;
  const taken = [...files].slice(0, room).map((file) => new Card(file));
  for (const card of taken) cards.add(card);
  results.prepend(...taken.map((card) => card.root));
  counted();
  ask(taken);
  if (files.length > room) {
    say(`${taken.length} of ${files.length} images are taken: a page has ${MOST}. For folders there is mixer predict.`);
  }
}

for (const id of ["#files", "#capture"]) {
  find(id).addEventListener("change", ({ target }) => {
    add(target.files);
    target.value = ""; // the same file can be chosen again
  });
}

const brings = ({ dataTransfer }) => dataTransfer && [...dataTransfer.types].some((type) => /^(Files|text\/uri-list)$/.test(type));

for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    document.body.classList.add("dragging");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!brings(event)) return;
  event.preventDefault();
  const { items, files } = event.dataTransfer;
  if ([...items].some((item) => item.webkitGetAsEntry?.()?.isDirectory)) say("Drop images, not folders.");
  else if (files.length) add(files);
  else say("That is an address. Save the image and drop its file, or copy the image and paste it.");
});

addEventListener("paste", (event) => {
  if (event.target.id === "token") return;
  const { files } = event.clipboardData;
  if (files.length) add(files);
  else say("There is no image on the clipboard.");
});

find("#clear").addEventListener("click", () => {
  for (const card of [...cards]) card.remove();
  say("All images are removed.");
  find("#files").focus();
});

// The camera: of the browser where it allows it, or else of the phone's own application.

const viewfinder = find("#viewfinder");
const video = find("video");

function turnOff() {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

find("#camera").addEventListener("click", async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    viewfinder.showModal();
  } catch (error) {
    const none = error.name === "NotFoundError";
    say(none ? "There is no camera here." : "The browser does not allow the camera. Choose an image instead.");
  }
});

find("#shoot").addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  if (!canvas.width) return; // the camera is not there yet
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => add([new File([blob], `photo-${count + 1}.jpg`, { type: "image/jpeg" })]), "image/jpeg", 0.92);
  viewfinder.close();
});
find("#cancel").addEventListener("click", () => viewfinder.close());
viewfinder.addEventListener("close", turnOff);

if (!navigator.mediaDevices) { // a page without HTTPS, from elsewhere than this machine
  find("#camera").hidden = true;
  find("#capture").parentElement.hidden = !matchMedia("(pointer: coarse)").matches;
}

loadModels();
