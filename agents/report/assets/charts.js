"use strict";
// Charts: unpacks plotly.js, whose digest the page's policy names, and draws every figure in the page's colors.
(async () => {
  const packed = document.getElementById("plotly");
  if (!packed) return;
  const bytes = Uint8Array.from(atob(packed.textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);

  const plots = [...document.querySelectorAll(".plot")].map((place) => ({
    place,
    traces: JSON.parse(place.dataset.traces),
    layout: JSON.parse(place.dataset.layout),
  }));
  const controls = document.querySelector(".controls");
  const smooth = (values, share) => {
    let last = values[0];
    return values.map((value) => (last = share * last + (1 - share) * value));
  };
  const symbols = ["circle", "triangle-up", "square", "diamond", "triangle-down", "cross"];

  const draw = ({ place, traces, layout }) => {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    const isCurve = layout.hovermode !== undefined; // of a training run
    const share = isCurve ? Number(controls?.elements.smoothing.value || 0) : 0;
    const axis = { gridcolor: color("line"), linecolor: color("rule"), zeroline: false, automargin: true, exponentformat: "power" };
    const logarithmic = isCurve && controls?.elements.log.checked ? { type: "log", range: undefined } : {};
    const height = place.clientHeight;
    const data = traces.flatMap((trace) => {
      const ink = color(`c${trace.meta % 6}`);
      const full = {
        ...trace, line: { color: ink, width: 2 }, fillcolor: trace.fill && ink, opacity: trace.fill ? 0.15 : trace.opacity,
        marker: { color: ink, size: 6, symbol: symbols[trace.meta % 6] }, hoverlabel: { namelength: -1 },
      };
      if (!share) return [full];
      const raw = { ...full, opacity: 0.25, showlegend: false, hoverinfo: "skip" };
      return [raw, { ...full, y: smooth(trace.y, share), mode: "lines" }];
    });
    const font = { family: getComputedStyle(document.body).fontFamily, size: 12, color: color("ink") };
    Plotly.react(place, data, {
      ...layout, font, height, margin: { l: 8, r: 12, t: 8, b: 8 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis, ...logarithmic },
      shapes: (layout.shapes || []).map((shape) => ({ ...shape, line: { ...shape.line, color: color("ink") } })),
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
      hoverlabel: { bgcolor: color("panel"), bordercolor: color("rule"), font: { ...font, size: 12 } },
    }, { displayModeBar: false, responsive: true, showTips: false });
  };
  const drawAll = () => plots.forEach(draw);
  for (const { place } of plots) place.replaceChildren();
  drawAll();
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", drawAll);
  controls?.addEventListener("input", drawAll);
  document.documentElement.dataset.drawn = "";
})();
