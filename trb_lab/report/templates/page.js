"use strict";
(() => {
  const root = document.documentElement;
  const byId = (name) => document.getElementById(name);

  // --- theme: that of the system, unless the reader has chosen; remembered where storage is allowed --------------
  const THEMES = ["auto", "light", "dark"];
  const redraws = new Set(); // drawn charts: functions that draw them again
  let theme = "auto";
  try { theme = localStorage.getItem("trb-lab-theme") || "auto"; } catch { /* no storage here */ }
  if (!THEMES.includes(theme)) theme = "auto";

  function showTheme() {
    if (theme === "auto") delete root.dataset.theme; else root.dataset.theme = theme;
    const button = byId("_theme");
    if (button) button.textContent = "Theme: " + theme;
    redraws.forEach((draw) => draw());
  }
  root.classList.add("js");
  showTheme();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((draw) => draw()));

  // --- data: packed text that is unpacked when it is first wanted -------------------------------------------------
  const unpacking = {};
  function unpackedText(name) {
    unpacking[name] ??= (async () => {
      const letters = atob(byId("_data-" + name).textContent);
      const bytes = Uint8Array.from(letters, (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return new Response(stream).text();
    })();
    return unpacking[name];
  }
  const parsed = {};
  function data(name) {
    parsed[name] ??= unpackedText(name).then(JSON.parse);
    return parsed[name];
  }
  let plotlyLoading = null;
  function plotly() { // resolves to the library
    plotlyLoading ??= unpackedText("plotly").then((code) => new Promise((resolve, reject) => {
      const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
      const script = document.createElement("script");
      script.onload = () => { URL.revokeObjectURL(address); resolve(window.Plotly); };
      script.onerror = () => reject(new Error("the charts could not be loaded"));
      script.src = address;
      document.head.append(script);
    }));
    return plotlyLoading;
  }

  // --- small helpers ----------------------------------------------------------------------------------------------
  function el(tag, attributes, ...children) { // text stays text: nothing here reads markup
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key === "className") node.className = value;
      else if (value === true) node.setAttribute(key, "");
      else if (value !== false && value != null) node.setAttribute(key, value);
    }
    node.append(...children.filter((c) => c != null && c !== ""));
    return node;
  }
  const number = (value, digits) => value == null ? "–" : Number(value.toPrecision(digits || 4)).toLocaleString("en-US", { maximumFractionDigits: 6 });
  const percent = (value) => value == null ? "–" : (100 * value).toFixed(1);
  const runLink = (id, text) => el("a", { href: "#run=" + id, className: "run" }, text || el("code", {}, id));
  const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const themed = (hex) => colour("--f" + hex.slice(1)) || hex;
  const faded = (hex, alpha) => "rgba(" + [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)).join(",") + "," + alpha + ")";

  // --- tables: sorted by their heads, what is missing last ---------------------------------------------------------
  function sortable(table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const rows = [...body.rows].map((row) => ({ row, cell: row.cells[column] }));
        const numeric = rows.some(({ cell }) => cell.dataset.value !== undefined);
        const before = head.getAttribute("aria-sort");
        const down = numeric ? before !== "descending" : before === "ascending"; // numbers: the highest first
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const value = (cell) => numeric ? parseFloat(cell.dataset.value) : (cell.querySelector("a, strong") || cell.firstChild || cell).textContent.trim();
        const missing = (v) => numeric ? Number.isNaN(v) : v === "" || v === "–";
        rows.map((r) => ({ ...r, v: value(r.cell) })).sort((a, b) => {
          if (missing(a.v) || missing(b.v)) return missing(a.v) - missing(b.v);
          const order = numeric ? a.v - b.v : a.v.localeCompare(b.v, "en", { numeric: true });
          return down ? -order : order;
        }).forEach(({ row }) => body.append(row));
      });
    });
  }

  // --- files: embedded copies, so that they are there when the page is alone -----------------------------------------
  function save(name, blob) {
    const address = URL.createObjectURL(blob);
    const link = el("a", { href: address, download: name.split("/").pop() });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  }
  function figureText(svg) { // the drawing on the page as a file of its own, in the colours of a white ground
    const copy = svg.cloneNode(true);
    copy.setAttribute("xmlns", "ht" + "tp://www.w3.org/2000/svg");
    const text = new XMLSerializer().serializeToString(copy).replace(/var\(--f([0-9a-f]{6})\)/gi, "#$1");
    return text.replace(/>/, '><rect width="100%" height="100%" fill="#ffffff"/>');
  }
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a.file");
    if (!link) return;
    const name = link.getAttribute("href");
    const svg = name.endsWith(".svg") && link.closest("figure")?.querySelector("svg");
    if (svg) {
      event.preventDefault();
      save(name, new Blob([figureText(svg)], { type: "image/svg+xml" }));
    } else if (link.hasAttribute("data-embedded")) {
      event.preventDefault();
      data("files").then((files) => save(name, new Blob([files[name]], { type: "text/plain" })));
    }
  });

  // --- tokens: their numbers by pointer, touch and arrow keys ----------------------------------------------------------
  function readable(pre) {
    const spans = [...pre.querySelectorAll("span")];
    if (!spans.some((s) => s.title)) return;
    const readout = el("p", { className: "readout", "aria-live": "polite" }, "Point at a token, or use the arrow keys here.");
    pre.after(readout);
    pre.tabIndex = 0;
    pre.setAttribute("role", "group");
    pre.setAttribute("aria-label", "Response; arrow keys read the numbers of its tokens");
    const hints = spans.map((s) => { const hint = s.title; s.removeAttribute("title"); return hint; });
    let at = -1;
    const show = (i) => {
      spans[at]?.classList.remove("at");
      at = i;
      if (i < 0) return;
      spans[i].classList.add("at");
      const redrawn = spans[i].classList.contains("redrawn") ? ", redrawn" : "";
      readout.textContent = "“" + spans[i].textContent.replaceAll("\n", "⏎") + "”: " + (hints[i] || "no numbers") + redrawn;
    };
    const pointed = (event) => { const i = spans.indexOf(event.target.closest("span")); if (i >= 0) show(i); };
    pre.addEventListener("pointerover", pointed);
    pre.addEventListener("click", pointed);
    pre.addEventListener("focus", () => { if (at < 0 && pre.matches(":focus-visible")) show(0); });
    pre.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: spans.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(Math.max(0, Math.min(spans.length - 1, to)));
      const box = spans[at].getBoundingClientRect();
      if (box.top < 60 || box.bottom > innerHeight) spans[at].scrollIntoView({ block: "center" });
    });
  }
  function tokens(response, marks) { // as the template writes them
    const pre = el("pre", { className: "tokens" });
    const redrawn = new Set(response.redrawn);
    response.tokens.forEach((text, i) => {
      const p = response.redraw?.[i];
      const classes = [];
      if (p != null && p >= marks[0]) classes.push(p >= marks[1] ? "m2" : "m1");
      if (redrawn.has(i)) classes.push("redrawn");
      const told = [["redraw probability", p], ["student log-prob", response.student?.[i]], ["teacher log-prob", response.teacher?.[i]]];
      const hint = told.filter(([, v]) => v != null).map(([n, v]) => n + " " + v.toFixed(2)).join(", ");
      pre.append(el("span", { className: classes.join(" "), title: hint || null }, text));
    });
    if (response.cut) pre.append(" …");
    return pre;
  }

  // --- charts ------------------------------------------------------------------------------------------------------
  function layout(metric) {
    const ink = colour("--ink"), line = colour("--line"), narrow = innerWidth < 640;
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: colour("--muted"), automargin: true, title: { standoff: 8 } };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5, color: ink },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: line, font: { color: ink }, namelength: -1, align: "left" },
      margin: { l: 10, r: 10, t: narrow ? 10 : 30, b: 10 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--muted"), activecolor: ink },
      dragmode: narrow ? false : "zoom",
      xaxis: { ...axis, title: { text: metric.x, standoff: 8 }, rangemode: "tozero" },
      yaxis: { ...axis, title: { text: metric.axis, standoff: 8 } },
    };
  }
  const config = () => ({ displaylogo: false, responsive: true, displayModeBar: innerWidth < 640 ? false : "hover",
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] });
  const dashed = (lengths) => lengths.length ? lengths.map((n) => n + "px").join(",") : "solid";
  const safe = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;"); // hover text of the library reads tags

  function runTrace(grids, metric, run, look) {
    const line = metric.runs[run];
    if (!line) return null;
    const begun = metric.start == null ? [] : [0]; // the untrained student
    const x = [...begun, ...grids[line[0]]], y = [...begun.map(() => metric.start), ...line[1]];
    return {
      x, y, mode: x.length > 1 ? "lines" : "markers", meta: run,
      line: { color: look.colour, width: look.width, dash: look.dash }, marker: { color: look.colour }, opacity: look.opacity ?? 1,
      hovertemplate: "<b>" + safe(look.title) + "</b><br>%{x}: %{y:.4~g}<extra></extra>",
    };
  }
  function bandTraces(grids, metric, index, setting, banded) {
    const band = metric.bands[index];
    if (!band) return [];
    const tone = themed(setting.colour), [grid, mean, half, count] = band;
    const x = grids[grid].slice(), y = mean.slice(), around = half.slice(), seeds = count.slice();
    if (metric.start != null) { x.unshift(0); y.unshift(metric.start); around.unshift(null); seeds.unshift(0); }
    const traces = [];
    const known = x.map((_, i) => i).filter((i) => around[i] != null);
    if (banded && known.length > 1) {
      const back = known.slice().reverse();
      traces.push({
        x: [...known.map((i) => x[i]), ...back.map((i) => x[i])],
        y: [...known.map((i) => y[i] + around[i]), ...back.map((i) => y[i] - around[i])],
        fill: "toself", fillcolor: faded(tone, 0.14), line: { width: 0 }, mode: "lines", hoverinfo: "skip",
      });
    }
    traces.push({
      x, y, mode: x.length > 1 ? "lines" : "markers", meta: Object.values(setting.runs)[0],
      line: { color: tone, width: 2, dash: dashed(setting.dash) }, marker: { color: tone },
      customdata: around.map((h, i) => h == null ? (seeds[i] ? "1 seed" : "untrained") : "± " + number(h, 3) + ", " + seeds[i] + " seeds"),
      hovertemplate: "<b>" + safe(setting.title) + "</b><br>%{x}: %{y:.4~g} %{customdata}<extra></extra>",
    });
    return traces;
  }
  function swatch(setting) {
    const svg = document.createElementNS("ht" + "tp://www.w3.org/2000/svg", "svg");
    const line = svg.appendChild(document.createElementNS(svg.namespaceURI, "line"));
    svg.setAttribute("aria-hidden", "true");
    const look = { x1: 0, x2: "100%", y1: "50%", y2: "50%", "stroke-width": 2, "stroke-dasharray": setting.dash.join(" ") || "none" };
    Object.entries(look).forEach(([k, v]) => line.setAttribute(k, v));
    line.style.stroke = "var(--f" + setting.colour.slice(1) + ", " + setting.colour + ")";
    return svg;
  }
  function select(label, options, change) {
    const box = el("select", { onchange: () => change(Number(box.value)) }, ...options.map((o, i) => el("option", { value: i }, o)));
    return el("label", {}, label, box);
  }
  function check(label, on, change) {
    const box = el("input", { type: "checkbox", onchange: () => change(box.checked) });
    box.checked = on;
    return el("label", {}, box, label);
  }

  const MAX_BANDS = 6; // more would cover each other: then they are drawn when asked for
  async function curves(place) {
    place.replaceChildren(el("p", { className: "small", role: "status" }, "Reading the curves …"));
    const [Plotly, { grids, sources }] = await Promise.all([plotly(), data("curves")]);
    let source, metric, single = false, banded, teacher = false, shown;
    const metrics = el("span"), lines = el("ul", { className: "lines", "aria-label": "Settings" });
    const plot = el("div", { className: "plot", role: "img" });
    const draw = () => {
      const traces = [];
      source.settings.forEach((setting, i) => {
        if (!shown.has(i)) return;
        if (!single) { traces.push(...bandTraces(grids, metric, i, setting, banded)); return; }
        Object.entries(setting.runs).forEach(([seed, run]) => traces.push(runTrace(grids, metric, run, {
          colour: themed(setting.colour), width: 1.3, dash: dashed(setting.dash), opacity: 0.8, title: setting.title + ", seed " + seed,
        })));
      });
      if (teacher && metric.teacher != null) {
        const x = [0, Math.max(1, ...traces.filter(Boolean).map((t) => t.x[t.x.length - 1] || 0))];
        traces.push({ x, y: [metric.teacher, metric.teacher], mode: "lines", line: { color: colour("--muted"), width: 1.2, dash: "dot" },
          hovertemplate: "<b>teacher</b> %{y:.4~g}<extra></extra>" });
      }
      plot.setAttribute("aria-label", metric.name + " over training, " + shown.size + (single ? " settings, a line a run" : " settings, means over seeds"));
      Plotly.react(plot, traces.filter(Boolean), layout(metric), config());
    };
    const chooseSource = (i) => {
      source = sources[i];
      metric = source.metrics.find((m) => m.key === metric?.key) || source.metrics[0];
      shown = new Set(source.settings.map((s, j) => [s, j]).filter(([s]) => s.drawn || source.settings.length <= 12).map(([, j]) => j));
      banded ??= shown.size <= MAX_BANDS;
      const box = select("Metric ", source.metrics.map((m) => m.name), (m) => { metric = source.metrics[m]; draw(); });
      box.querySelector("select").value = source.metrics.indexOf(metric);
      metrics.replaceChildren(box);
      list();
    };
    const list = () => lines.replaceChildren(...source.settings.map((setting, i) => {
      const label = check(setting.title, shown.has(i), (on) => { if (on) shown.add(i); else shown.delete(i); draw(); });
      label.querySelector("input").after(swatch(setting));
      return el("li", {}, label);
    }));
    const showAll = (on) => { shown = new Set(on ? source.settings.keys() : []); list(); draw(); };
    chooseSource(0);
    place.replaceChildren(
      el("div", { className: "controls" },
        sources.length > 1 ? select("Source ", sources.map((s) => s.label), (i) => { chooseSource(i); draw(); }) : null,
        metrics,
        check("single runs", single, (on) => { single = on; draw(); }),
        check("intervals", banded, (on) => { banded = on; draw(); }),
        sources.some((s) => s.metrics.some((m) => m.teacher != null)) ? check("teacher", teacher, (on) => { teacher = on; draw(); }) : null,
        el("button", { type: "button", onclick: () => showAll(true) }, "All lines"),
        el("button", { type: "button", onclick: () => showAll(false) }, "No lines")),
      plot, lines);
    draw();
    plot.on("plotly_click", (event) => { const run = event.points[0].data.meta; if (run) go(run); });
    redraws.add(draw);
  }

  // --- the drawer of a run -------------------------------------------------------------------------------------------
  const opened = () => { // the run that the address names
    if (!location.hash.startsWith("#run=")) return null;
    try { return decodeURIComponent(location.hash.slice(5)); } catch { return null; }
  };
  function go(run) {
    if (opened() === run && byId("_run").open) return;
    try { history.pushState(null, "", "#run=" + run); } catch { /* a frame without an address */ }
    openRun(run);
  }
  let wanted = null;
  async function openRun(run) {
    wanted = run;
    const dialog = byId("_run"), content = byId("_run-content");
    byId("_run-title").textContent = run;
    content.replaceChildren(el("p", { className: "small", role: "status" }, "Reading …"));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    byId("_run-title").focus();
    const all = await data("runs");
    if (wanted !== run) return;
    const told = all.runs[run];
    if (!told) {
      content.replaceChildren(el("p", {}, "This report has no run of that name."));
      return;
    }
    byId("_run-title").textContent = told.settings.join(" = ") + (told.seed == null ? "" : ", seed " + told.seed);
    content.replaceChildren(...drawer(run, told, all));
    content.querySelectorAll("pre.tokens").forEach(readable);
    drawRunCurves(content.querySelector(".run-curves"), run, told);
  }
  function closed() {
    wanted = null;
    if (opened() !== null) {
      try { history.replaceState(null, "", location.pathname + location.search); } catch { location.hash = ""; }
    }
  }
  function facts(rows) {
    return el("dl", { className: "about" }, ...rows.filter(([, v]) => v != null && v !== "").flatMap(([k, v]) => [el("dt", {}, k), el("dd", {}, ...[v].flat())]));
  }
  function grid(caption, heads, rows) {
    return el("div", { className: "wide", tabindex: "0", role: "group", "aria-label": caption }, el("table", {}, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, ...heads.map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, ...rows.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), ...rest.map((c) => el("td", {}, c)))))));
  }
  function keyed(rows, caption) { // a table of keys and values
    return el("div", { className: "wide", tabindex: "0", role: "group", "aria-label": caption }, el("table", { className: "facts" }, el("caption", {}, caption),
      el("tbody", {}, ...rows.map(([key, ...values]) => el("tr", {}, el("th", { scope: "row" }, el("code", {}, key)), el("td", {}, ...values))))));
  }
  function drawer(run, told, all) {
    const machine = told.environment == null ? null : all.environments[told.environment];
    const siblings = told.role ? [] : Object.entries(all.runs).filter(([id, r]) => id !== run && r.source === told.source && r.settings[0] === told.settings[0]);
    const parts = [facts([
      ["Run", el("code", {}, run)],
      ["State", told.state + (told.error_class ? " (" + told.error_class + ")" : "")],
      ["Steps", told.steps ? told.steps[0] + " of " + told.steps[1] : null],
      ["Arm", told.arm],
      ["Seed", told.seed == null ? null : String(told.seed)],
      ["Other seeds", siblings.length ? siblings.flatMap(([id, r], i) => [i ? ", " : "", runLink(id, String(r.seed))]) : null],
      ["Reference", told.reference && told.reference !== run ? runLink(told.reference) : null],
      ["Code", told.code],
      ["Machine", machine ? [machine.machine.name, machine.machine.cpu, machine.device].filter(Boolean).join(" · ") : null],
      ["MLflow", mlflow(told, all.mlflow[told.source])],
    ])];
    if (told.error) parts.push(el("h3", {}, "Error"), el("p", { className: "bad" }, told.error));
    if (told.traceback) parts.push(el("details", {}, el("summary", {}, "traceback"), el("pre", { tabindex: "0" }, told.traceback)));
    if (told.scores.length) {
      parts.push(el("h3", {}, "Scores at the end"), grid("Scores at the end", ["set", "pass@1 (%)", "standard error", "problems", "samples"],
        told.scores.map(([set, p, se, problems, samples]) => [set, percent(p), percent(se), number(problems), number(samples)])));
    }
    parts.push(el("div", { className: "run-curves" }));
    const measured = Object.entries(told.metrics || {});
    if (measured.length) {
      parts.push(el("h3", {}, "Measured in training"), grid("Measured in training", ["metric", "last", "mean of the last " + all.last + " steps"],
        measured.map(([name, [last, mean]]) => [el("code", {}, name), number(last), number(mean)])));
    }
    if (told.diff) parts.push(el("h3", {}, "Differences from the reference's run"), difference(told.diff));
    parts.push(...rollouts(run, told, all));
    if (told.own) parts.push(specs({ ...all.shared[told.source], ...told.own }));
    if (machine) {
      parts.push(el("details", {}, el("summary", {}, "Machine and packages"),
        keyed(Object.entries({ ...machine.machine, python: machine.python, ...machine.packages }).map(([k, v]) => [k, v]), "Machine and packages")));
    }
    return parts;
  }
  function mlflow(told, server) {
    if (!told.path || !server) return null;
    const link = el("a", { href: server.address + "/" + told.path, rel: "noreferrer", target: "_blank" }, server.local ? told.path : server.address + "/" + told.path);
    return server.local ? [link, " (after ", el("code", {}, "trb-lab ui"), ")"] : link;
  }
  function difference({ changed, added, removed }) {
    const rows = [
      ...Object.entries(changed).map(([k, [a, b]]) => [k, el("del", {}, el("code", {}, a)), " ", el("ins", {}, el("code", {}, b))]),
      ...Object.entries(added).map(([k, v]) => [k, el("ins", {}, el("code", {}, v))]),
      ...Object.entries(removed).map(([k, v]) => [k, el("del", {}, el("code", {}, v))]),
    ];
    return rows.length ? keyed(rows, "Differences from the reference's run") : el("p", {}, "None: their specs are the same.");
  }
  function specs(spec) {
    const rows = Object.entries(spec).sort(([a], [b]) => a < b ? -1 : 1);
    const table = keyed(rows.map(([k, v]) => [k, el("code", {}, v)]), "Resolved spec");
    const box = el("input", { type: "search", placeholder: "key or value", "aria-label": "Find in the spec", oninput: () => {
      const word = box.value.toLowerCase();
      table.querySelectorAll("tr").forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(word); });
    } });
    return el("details", {}, el("summary", {}, "Resolved spec (" + rows.length + " settings)"), box, table);
  }
  function rollouts(run, told, all) {
    const kept = all.samples[run];
    if (!kept) {
      const sibling = Object.entries(all.runs).find(([id, r]) => all.samples[id] && r.source === told.source && r.settings[0] === told.settings[0]);
      return sibling ? [el("h3", {}, "Rollouts of the first step"), el("p", {}, "Shown with ", runLink(sibling[0], "seed " + sibling[1].seed), ".")] : [];
    }
    const side = (response, title) => {
      const good = response.correct;
      return el("div", {}, el("b", {}, title), " ", good == null ? null : el("span", { className: good ? "good" : "bad" }, good ? "✓ correct" : "✗ wrong"),
        tokens(response, all.marks));
    };
    const [possible, likely] = all.marks.map((p) => Math.round(100 * p) + " % or more");
    return [
      el("h3", {}, "Rollouts of the first step"),
      el("p", { className: "small" }, "Chance of a redraw: ", el("span", { className: "m1" }, possible), ", ", el("span", { className: "m2" }, likely),
        "; ", el("span", { className: "redrawn" }, "redrawn"), "."),
      ...kept.flatMap((row, i) => [
        el("h4", {}, "Prompt " + (i + 1)), el("pre", { tabindex: "0", className: "prompt" }, row.prompt),
        row.gold ? el("p", {}, "Reference answer: ", el("code", {}, row.gold)) : null,
        el("div", { className: "pair" }, side(row.own, "This run"), row.reference ? side(row.reference, "Reference") : null),
      ].filter(Boolean)),
    ];
  }
  async function drawRunCurves(place, run, told) {
    if (!place || !byId("_data-curves")) return;
    const { grids, sources } = await data("curves");
    const metrics = sources.flatMap((s) => s.metrics.map((m) => ({ ...m, source: s }))).filter((m) => m.runs[run])
      .filter((m, i, list) => list.findIndex((o) => o.key === m.key) === i);
    if (!metrics.length) return;
    const Plotly = await plotly();
    if (!place.isConnected) return;
    let metric = metrics[0];
    const plot = el("div", { className: "plot", role: "img" });
    const draw = () => {
      if (!plot.isConnected) { redraws.delete(draw); return; }
      const own = metric.source.settings.find((s) => Object.values(s.runs).includes(run));
      const traces = [
        told.reference && told.reference !== run
          ? runTrace(grids, metric, told.reference, { colour: colour("--muted"), width: 1.2, dash: "dash", title: "reference, the same seed" }) : null,
        runTrace(grids, metric, run, { colour: own ? themed(own.colour) : colour("--ink"), width: 2, dash: "solid", title: "this run" }),
      ].filter(Boolean);
      plot.setAttribute("aria-label", metric.name + " of this run over training" + (traces.length > 1 ? ", and of the reference's run of the same seed" : ""));
      Plotly.react(plot, traces, layout(metric), { ...config(), displayModeBar: false });
    };
    place.replaceChildren(el("h3", {}, "Curves"), el("div", { className: "controls" },
      select("Metric ", metrics.map((m) => m.name), (i) => { metric = metrics[i]; draw(); }),
      told.reference && told.reference !== run ? el("span", { className: "small" }, "dashed: the reference's run of the same seed") : null), plot);
    place.classList.add("drawer");
    draw();
    redraws.add(draw);
  }

  // --- the page is here ------------------------------------------------------------------------------------------------
  function contentsList() {
    const nav = document.querySelector(".contents"), button = byId("_toc-button");
    const unfold = (open) => { nav.classList.toggle("open", open); button.setAttribute("aria-expanded", String(open)); };
    button.addEventListener("click", () => unfold(!nav.classList.contains("open")));
    nav.addEventListener("keydown", (event) => { if (event.key === "Escape") { unfold(false); button.focus(); } });
    nav.querySelectorAll("a").forEach((a) => a.addEventListener("click", () => unfold(false)));
    const links = new Map([...nav.querySelectorAll("a")].map((a) => [byId(a.getAttribute("href").slice(1)), a]));
    const mark = () => {
      let current = null;
      for (const [head, a] of links) if (head && head.getBoundingClientRect().top < innerHeight / 3) current = a;
      links.forEach((a) => { if (a === current) a.setAttribute("aria-current", "true"); else a.removeAttribute("aria-current"); });
    };
    let waiting = false;
    addEventListener("scroll", () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => { waiting = false; mark(); });
    }, { passive: true });
    new ResizeObserver(mark).observe(document.querySelector("main"));
  }
  function start() {
    const button = byId("_theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      try { localStorage.setItem("trb-lab-theme", theme); } catch { /* no storage here */ }
      showTheme();
    });
    showTheme();
    contentsList();
    document.querySelectorAll("table.sortable").forEach(sortable);
    document.querySelectorAll("pre.tokens").forEach(readable);
    document.querySelectorAll("table.sortable th code").forEach((code) => {
      const run = code.textContent;
      if (!code.closest("a") && byId("run=" + run)) { const link = runLink(run, ""); code.replaceWith(link); link.append(code); }
    });

    const dialog = byId("_run");
    byId("_close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", closed);
    document.addEventListener("click", (event) => {
      const link = event.target.closest("a.run");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      go(link.getAttribute("href").slice(5));
    });
    const follow = () => { if (opened() !== null) openRun(opened()); else if (dialog.open) dialog.close(); };
    addEventListener("hashchange", follow);
    addEventListener("popstate", follow);
    if (opened() !== null) follow();

    const chart = byId("_chart");
    if (chart) {
      let begun = false;
      const begin = () => { if (!begun) { begun = true; curves(chart).catch(failed); } };
      const failed = (error) => chart.replaceChildren(el("p", { className: "warning" }, "The curves could not be drawn: " + error.message));
      chart.querySelector("button").addEventListener("click", begin);
      new IntersectionObserver((entries, watch) => {
        if (entries.some((e) => e.isIntersecting)) { watch.disconnect(); begin(); }
      }, { rootMargin: "200px" }).observe(chart);
    }

    let unfolded = []; // what is folded is printed too
    addEventListener("beforeprint", () => { unfolded = [...document.querySelectorAll("main details:not([open])")]; unfolded.forEach((d) => { d.open = true; }); });
    addEventListener("afterprint", () => unfolded.forEach((d) => { d.open = false; }));
  }
  document.addEventListener("DOMContentLoaded", start);
})();
