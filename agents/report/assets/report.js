"use strict";
// The viewer. Model output only becomes text nodes: no line here creates markup from text.
// The URL fragment selects what is shown: LINK opens a transcript, ?NAME=VALUE&... filters; they can be combined.
(() => {
  const { items, problems, formulas } = JSON.parse(document.getElementById("data").textContent);
  if (!items.length) return;
  const PAGE = 50;
  const byId = (id) => document.getElementById(id);
  const form = byId("filters"), list = byId("list"), pane = byId("transcript");
  const facets = [...form.querySelectorAll("select.facet")].map((select) => select.name);
  const problemOf = (item) => problems[item.problem];
  const runOf = (item) => (item.facets.evaluation || [""])[0];
  const isRight = (item) => item.facets.verdict[0] === "right";
  const byProblem = new Map(); // the items of each problem, of all runs
  for (const item of items) {
    const { key } = problemOf(item);
    if (!byProblem.has(key)) byProblem.set(key, []);
    byProblem.get(key).push(item);
  }
  const places = new Map(items.map((item, place) => [item.link, place]));
  const texts = new Array(items.length); // searchable text of each item, built on first use
  let found = [], page = 0, shown = null;

  const make = (tag, name, ...children) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...children);
    return element;
  };

  // -------------------------------------------------------------------------------------------------- the URL
  const query = () => {
    const values = [...new FormData(form)].filter(([, value]) => value !== "");
    return values.length ? "?" + new URLSearchParams(values) : "";
  };
  const address = (place) => "#" + (place === null ? "" : items[place].link) + query();
  const replace = () => {
    history.replaceState(null, "", address(shown));
    for (const link of list.querySelectorAll("a")) link.setAttribute("href", address(Number(link.dataset.place)));
  };
  const read = (first) => {
    const [link, values] = location.hash.slice(1).split(/\?(.*)/s);
    const isKnown = places.has(link) || values !== undefined || link === "";
    if (!isKnown) {
      if (first) filter();
      if (link.includes("/")) missing(link); // else it is the anchor of a section
      return;
    }
    form.reset();
    for (const [name, value] of new URLSearchParams(values || "")) {
      const field = form.elements.namedItem(name);
      if (field) field.value = value;
    }
    filter();
    if (places.has(link)) show(places.get(link));
    const at = found.indexOf(shown);
    if (at >= 0) turnTo(Math.floor(at / PAGE));
    if (places.has(link)) lookAt(pane);
    else if (values !== undefined) byId("transcripts").scrollIntoView();
  };
  const lookAt = (element) => {
    const top = element.getBoundingClientRect().top;
    if (top < 0 || top > innerHeight / 2) element.scrollIntoView();
  };
  const missing = (link) => {
    shown = null;
    pane.replaceChildren(make("p", "note", `There is no transcript ${link} in this report.`));
    lookAt(pane);
  };

  // ------------------------------------------------------------------------------------------------- the list
  const plain = (parts) => parts.map((part) =>
    typeof part === "string" ? part : typeof part === "number" ? formulas[part][0] : part.filter((_, i) => i % 2).join("")).join("");
  const searched = (place) => {
    if (texts[place] === undefined) {
      const item = items[place], { id, statement, answer } = problemOf(item);
      const turns = item.turns.flatMap((turn) => [plain(turn.parts), turn.result]);
      texts[place] = [id, plain(statement), item.predicted, answer, item.reason, ...turns].join("\n").toLowerCase();
    }
    return texts[place];
  };
  const filter = () => {
    const wanted = facets.map((name) => [name, form.elements[name].value]).filter(([, value]) => value !== "");
    const words = form.elements.search.value.toLowerCase().trim();
    const min = Number(form.elements.min.value || 0), max = Number(form.elements.max.value || Infinity);
    const solved = form.elements.solved?.value, missed = form.elements.missed?.value;
    const isSolved = (item, run) => byProblem.get(problemOf(item).key).some((other) => runOf(other) === run && isRight(other));
    const isTried = (item, run) => byProblem.get(problemOf(item).key).some((other) => runOf(other) === run);
    found = [];
    items.forEach((item, place) => {
      if (solved && (!isSolved(item, solved) || (missed && runOf(item) !== solved))) return;
      if (missed && (isSolved(item, missed) || !isTried(item, missed))) return;
      if (item.tokens < min || item.tokens > max) return;
      if (!wanted.every(([name, value]) => (item.facets[name] || []).includes(value))) return;
      if (!words || searched(place).includes(words)) found.push(place);
    });
    const of = found.length === items.length ? "" : ` of ${items.length}`;
    byId("count").textContent = `${found.length}${of} transcript${items.length === 1 ? "" : "s"}`;
    if (!found.includes(shown)) shown = found.length ? found[0] : null;
    turnTo(Math.max(0, Math.floor(found.indexOf(shown) / PAGE)));
    show(shown);
  };
  const turnTo = (number) => {
    page = number;
    const part = found.slice(page * PAGE, (page + 1) * PAGE);
    list.replaceChildren(...part.map(entry));
    list.scrollTop = 0;
    byId("range").textContent = part.length ? `${page * PAGE + 1}–${page * PAGE + part.length}` : "none";
    byId("previous").disabled = page === 0;
    byId("next").disabled = (page + 1) * PAGE >= found.length;
    mark();
  };
  const entry = (place) => {
    const item = items[place];
    const link = make("a", "",
      make("span", "where", name(item), verdictOf(item)),
      make("span", "start", `${item.tokens} tokens · ${plain(problemOf(item).statement).slice(0, 80)}`));
    link.href = address(place);
    link.dataset.place = place;
    return make("li", "", link);
  };
  const name = (item) => {
    const varying = ["evaluation", "kind", "step", "set"].filter((facet) => facets.includes(facet));
    const of = varying.flatMap((facet) => (item.facets[facet] || []).map((value) => (facet === "step" ? `step ${value}` : value)));
    const number = problemOf(item).key.split(" ").pop();
    return make("bdi", "", [...of, number, `#${item.sample}`].join(" · "));
  };
  const verdictOf = (item) => make("span", `verdict ${item.facets.verdict[0]}`, item.facets.verdict[0]);
  const mark = () => {
    const links = [...list.querySelectorAll("a")];
    const current = links.find((link) => Number(link.dataset.place) === shown);
    if (current) list.scrollTop = Math.max(0, current.offsetTop - list.clientHeight / 2);
    for (const link of links) {
      link.tabIndex = link === (current || links[0]) ? 0 : -1; // one tab stop; arrow keys move within the list
      if (link === current) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  const step = (to) => {
    const at = Math.min(Math.max(to, 0), found.length - 1);
    if (Math.floor(at / PAGE) !== page) turnTo(Math.floor(at / PAGE));
    show(found[at]);
    replace();
    list.querySelectorAll("a")[at % PAGE].focus();
  };

  // ------------------------------------------------------------------------------------------- the transcript
  const show = (place) => {
    shown = place;
    if (place === null) pane.replaceChildren();
    else pane.replaceChildren(back(), ...columns(items[place]));
    mark();
  };
  const columns = (item) => {
    const run = form.elements.beside?.value || form.elements.missed?.value;
    const others = byProblem.get(problemOf(item).key).filter((other) => run && runOf(other) === run && other !== item);
    const other = others.find((each) => each.sample === item.sample) || others[0];
    const { statement, prompt } = problemOf(item);
    const seen = make("details", "prompt", make("summary", "", "Prompt as the model saw it"), make("pre", "", prompt));
    seen.open = isPromptOpen;
    seen.addEventListener("toggle", () => { isPromptOpen = seen.open; });
    const attempts = make("div", other ? "pair" : "", make("div", "", ...content(item)));
    if (other) attempts.append(make("div", "", ...content(other)));
    const told = statement.length ? prose(statement) : make("p", "text", "(not recorded)");
    told.classList.add("statement");
    return [make("h3", "", "Problem"), told, ...(prompt ? [seen] : []), attempts];
  };
  let isPromptOpen = false;
  const back = () => {
    const button = make("button", "back", "Back to the list");
    button.type = "button";
    button.addEventListener("click", () => {
      byId("index").scrollIntoView();
      list.querySelector("a[tabindex='0']")?.focus({ preventScroll: true });
    });
    return button;
  };
  const content = (item) => {
    const facts = make("dl", "facts");
    const fact = (label, value) => {
      if (value !== null && value !== undefined && value !== "")
        facts.append(make("div", "", make("dt", "", label), make("dd", "", make("bdi", "", String(value)))));
    };
    const of = (facet) => (item.facets[facet] || []).join(", ");
    fact("Predicted answer", item.predicted === null ? "none" : item.predicted);
    fact("Right answer", problemOf(item).answer);
    fact("Grader's reason", item.reason);
    fact("Reward", item.reward);
    fact("Tokens", `${item.tokens} written, ${item.feedbackTokens} inserted`);
    fact("Ending", of("ending"));
    fact("Code", of("code"));
    fact("Errors", of("error"));
    fact("Subject", of("subject"));
    fact("Level", of("level"));
    fact("Problem", problemOf(item).id);
    const last = item.turns.length - 1;
    return [
      make("h3", "title", name(item), " ", verdictOf(item)),
      facts,
      ...item.turns.flatMap((turn, number) => [...written(turn.parts), ...output(turn, number === last)]),
    ];
  };
  const written = (parts) => {
    const groups = []; // text and formulas become one paragraph
    for (const part of parts) {
      if (Array.isArray(part)) groups.push(block(part));
      else if (Array.isArray(groups.at(-1))) groups.at(-1).push(part);
      else groups.push([part]);
    }
    return groups.map((group) => (Array.isArray(group) ? prose(group) : group));
  };
  const prose = (parts) => make("p", "text", ...parts.map((part, i) => {
    if (typeof part === "number") return formula(formulas[part][1]);
    const start = i === 0 ? part.replace(/^\n+/, "") : part;
    return i === parts.length - 1 ? start.replace(/\n+$/, "") : start;
  }));
  const formula = ([tag, attributes, inner]) => { // tags and attributes come from the fixed lists of formulas.py
    const element = document.createElementNS("http://www.w3.org/1998/Math/MathML", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...(typeof inner === "string" ? [inner] : inner.map(formula)));
    return element;
  };
  const block = (value) => {
    const code = make("code");
    for (let i = 0; i < value.length; i += 2) code.append(value[i] ? make("span", value[i], value[i + 1]) : value[i + 1]);
    return make("pre", "code", code);
  };
  const output = (turn, isLast) => {
    const label = (text) => make("div", "status", text);
    if (turn.status !== null) {
      const failed = turn.status === "ok" ? "" : " failed";
      return [make("div", "output" + failed, label(`Output · ${turn.status}`), make("pre", "", turn.result || "(empty)"))];
    }
    if (turn.result) return [make("div", "output", label("Feedback"), make("pre", "", turn.result))];
    const hasCode = turn.parts.some(Array.isArray);
    return isLast && hasCode ? [make("p", "note", "The code of this turn was not run.")] : [];
  };

  // -------------------------------------------------------------------------------------------- event handlers
  let timer = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => { filter(); replace(); }, event.target.name === "search" ? 150 : 0);
  });
  byId("all").addEventListener("click", () => { form.reset(); filter(); replace(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", () => turnTo(page - 1));
  byId("next").addEventListener("click", () => turnTo(page + 1));
  window.addEventListener("hashchange", () => read(false));
  list.addEventListener("keydown", (event) => {
    const at = found.indexOf(Number(document.activeElement.dataset.place));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: found.length - 1 };
    if (!(event.key in to) || at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    step(to[event.key]);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select, textarea")) return;
    event.preventDefault();
    form.elements.search.focus();
  });
  read(true);
})();

// A page that is being watched reloads when its version changes, and keeps its place.
(() => {
  const { version } = document.documentElement.dataset;
  if (!version) return;
  const place = JSON.parse(sessionStorage.getItem("place") || "null");
  if (place) {
    sessionStorage.removeItem("place");
    for (const field of document.querySelectorAll(".controls input")) {
      if (!(field.name in place.controls)) continue;
      [field.value, field.checked] = place.controls[field.name];
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }
    document.querySelectorAll("details").forEach((each, i) => { each.open = place.open[i] ?? each.open; });
    history.scrollRestoration = "manual";
    scrollTo(0, place.top);
    addEventListener("load", () => scrollTo(0, place.top));
  }
  const reload = () => {
    const fields = [...document.querySelectorAll(".controls input")];
    const controls = Object.fromEntries(fields.map((field) => [field.name, [field.value, field.checked]]));
    const open = [...document.querySelectorAll("details")].map((each) => each.open);
    sessionStorage.setItem("place", JSON.stringify({ top: scrollY, controls, open }));
    location.reload();
  };
  const poll = async () => {
    const answer = await fetch("version", { cache: "no-store" }).catch(() => null);
    const isTyping = document.activeElement?.matches("input[type=search], input[type=number], select");
    if (answer?.ok && !isTyping && (await answer.text()) !== version) reload();
    else setTimeout(poll, 2000);
  };
  setTimeout(poll, 2000);
})();
