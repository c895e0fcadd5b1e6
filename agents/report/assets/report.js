"use strict";
// The viewer. Model output only becomes text nodes: no line here creates markup from text.
// The URL fragment selects what is shown: LINK opens a transcript, ?NAME=VALUE&... filters; they can be combined.
(() => {
  const items = JSON.parse(document.getElementById("data").textContent);
  if (!items.length) return;
  const PAGE = 50;
  const byId = (id) => document.getElementById(id);
  const form = byId("filters"), list = byId("list"), pane = byId("transcript");
  const facets = [...form.querySelectorAll("select")].map((select) => select.name);
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
      if (link.includes("/")) missing(link);
      return first && filter(); // the anchor of a section
    }
    form.reset();
    for (const [name, value] of new URLSearchParams(values || "")) {
      const field = form.elements.namedItem(name);
      if (field) field.value = value;
    }
    filter();
    show(places.has(link) ? places.get(link) : null);
    const at = found.indexOf(shown);
    if (at >= 0) turnTo(Math.floor(at / PAGE));
    if (shown !== null) lookAt(pane);
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
  const searched = (place) => {
    if (texts[place] === undefined) {
      const item = items[place];
      const turns = item.turns.flatMap((turn) => [
        ...turn.parts.map((part) => (typeof part === "string" ? part : part.filter((_, i) => i % 2).join(""))),
        turn.result,
      ]);
      texts[place] = [item.id, item.statement, item.predicted, item.answer, item.reason, ...turns].join("\n").toLowerCase();
    }
    return texts[place];
  };
  const filter = () => {
    const wanted = facets.map((name) => [name, form.elements[name].value]).filter(([, value]) => value !== "");
    const words = form.elements.search.value.toLowerCase().trim();
    const min = Number(form.elements.min.value || 0), max = Number(form.elements.max.value || Infinity);
    found = [];
    items.forEach((item, place) => {
      if (item.tokens < min || item.tokens > max) return;
      if (!wanted.every(([name, value]) => (item.facets[name] || []).includes(value))) return;
      if (!words || searched(place).includes(words)) found.push(place);
    });
    const of = found.length === items.length ? "" : ` of ${items.length}`;
    byId("count").textContent = `${found.length}${of} transcript${items.length === 1 ? "" : "s"}`;
    turnTo(0);
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
      make("span", "start", `${item.tokens} tokens · ${item.statement.slice(0, 80)}`));
    link.href = address(place);
    link.dataset.place = place;
    return make("li", "", link);
  };
  const name = (item) => {
    const parts = item.link.split("/").map(decodeURIComponent);
    return make("bdi", "", parts.join(" / "));
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
    else pane.replaceChildren(...content(items[place]));
    mark();
  };
  const content = (item) => {
    const facts = make("dl", "facts");
    const fact = (label, value) => {
      if (value !== null && value !== undefined && value !== "")
        facts.append(make("div", "", make("dt", "", label), make("dd", "", make("bdi", "", String(value)))));
    };
    const of = (facet) => (item.facets[facet] || []).join(", ");
    fact("Predicted answer", item.predicted === null ? "none" : item.predicted);
    fact("Right answer", item.answer);
    fact("Grader's reason", item.reason);
    fact("Reward", item.reward);
    fact("Tokens", `${item.tokens} written, ${item.feedbackTokens} inserted`);
    fact("Ending", of("ending"));
    fact("Code", of("code"));
    fact("Errors", of("error"));
    fact("Subject", of("subject"));
    fact("Level", of("level"));
    fact("Problem", item.id);
    const last = item.turns.length - 1;
    const back = make("button", "back", "Back to the list");
    back.type = "button";
    back.addEventListener("click", () => {
      byId("index").scrollIntoView();
      list.querySelector("a[tabindex='0']")?.focus({ preventScroll: true });
    });
    return [
      back,
      make("h3", "", name(item), " ", verdictOf(item)),
      facts,
      make("h3", "", "Problem"),
      make("p", "text statement", item.statement || "(not recorded)"),
      make("h3", "", "Transcript"),
      ...item.turns.flatMap((turn, number) => [...turn.parts.map(part), ...output(turn, number === last)]),
    ];
  };
  const part = (value) => {
    if (typeof value === "string") return make("p", "text", value.replace(/^\n+|\n+$/g, ""));
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
    const hasCode = turn.parts.some((value) => typeof value !== "string");
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
