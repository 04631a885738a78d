"use strict";

const at = (id) => document.getElementById(id);
let picture = null; // the file whose preview is shown
let about = {upload: Infinity};
let asked = 0; // only the newest question is answered

function element(tag, text, names = {}) {
  const made = Object.assign(document.createElement(tag), names);
  made.textContent = text; // Never HTML: names and captions are anybody's.
  return made;
}

function say(sentence) {
  at("error").textContent = sentence;
  at("error").hidden = !sentence;
}

async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => null);
  if (!answer) throw new Error("The server does not answer; is it still running?");
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error || `The server says ${answer.status}.`);
  return content;
}

function upload(path, file) {
  const type = file.type || "application/octet-stream";
  return ask(path, {method: "POST", body: file, headers: {"content-type": type}});
}

async function busy(work) {
  const mine = ++asked;
  say("");
  document.body.classList.add("busy");
  try {
    const show = await work();
    if (mine === asked) show();
  } catch (error) {
    if (mine === asked) say(error.message);
  } finally {
    if (mine === asked) document.body.classList.remove("busy");
  }
}

function card(item) {
  const made = element("li", "");
  const image = element("img", "", {
    src: `/thumbnail/${item.number}`, alt: item.caption || item.name, loading: "lazy",
  });
  image.addEventListener("load", () => {
    image.classList.toggle("small", image.naturalWidth < 96);
  });
  made.append(image);
  if (item.caption) made.append(element("p", item.caption));
  made.append(element("small", item.name), element("small", item.score.toFixed(3)));
  return made;
}

function show(found, heading) {
  at("heading").textContent = heading;
  at("heading").hidden = false;
  at("found").replaceChildren(...found.map(card));
}

at("words").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("text").value;
  busy(async () => {
    const {found} = await ask(`/search?${new URLSearchParams({text})}`);
    return () => {
      at("picture").hidden = true;
      show(found, `Nearest to “${text.trim()}”`);
    };
  });
});

function take(file) {
  busy(async () => {
    if (file.type && !file.type.startsWith("image/")) {
      throw new Error(`${file.name} is no picture.`);
    }
    if (file.size > about.upload) {
      const most = Math.round(about.upload / 2 ** 20 * 10) / 10;
      throw new Error(`${file.name} is too large; pictures may have ${most} MB.`);
    }
    const {found} = await upload("/search", file);
    return () => {
      picture = file;
      URL.revokeObjectURL(at("preview").src);
      at("preview").src = URL.createObjectURL(file);
      at("probabilities").replaceChildren();
      at("picture").hidden = false;
      show(found, `Nearest to ${file.name}`);
    };
  });
}

at("file").addEventListener("change", () => {
  if (at("file").files.length) take(at("file").files[0]);
  at("file").value = ""; // The same file can be chosen again.
});

at("classes").addEventListener("submit", (event) => {
  event.preventDefault();
  const names = at("names").value.split(/[,\n]/).map((name) => name.trim());
  const query = new URLSearchParams(names.filter(Boolean).map((name) => ["name", name]));
  busy(async () => {
    const answer = await upload(`/classify?${query}`, picture);
    return () => at("probabilities").replaceChildren(...answer.names.map((each) => {
      const made = element("li", "");
      const share = `${(100 * each.probability).toFixed(1)} %`;
      made.append(element("span", each.name), element("span", share));
      made.append(element("progress", "", {value: each.probability, max: 1}));
      return made;
    }));
  });
});

for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // Otherwise the browser leaves the page for the file.
    at("drop").classList.toggle("over", kind === "dragover");
  });
}
document.addEventListener("drop", (event) => {
  const file = event.dataTransfer.files[0];
  if (file) take(file);
  else say("Drop a file with a picture.");
});

ask("/about").then((found) => {
  about = found;
  const more = found.unreadable ? `; ${found.unreadable} more cannot be read` : "";
  at("count").textContent = found.count.toLocaleString("en");
  at("model").textContent = `embedded by ${found.model}${more}`;
  at("words").hidden = !found.words;
  at("classes").hidden = !found.probabilities;
}, (error) => say(error.message));
