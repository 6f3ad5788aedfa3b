// Draws the charts of a team page from the JSON that the page carries. The tables beside them say the same in text.
"use strict";

(() => {
  const drawings = JSON.parse(document.getElementById("drawings")?.textContent ?? "[]");
  const drawn = [];

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const seriesColour = (drawing, index) => {
    if (drawing.id === "requests") return colour(["--good", "--bad", "--muted-fill"][index]);
    return colour(`--series-${(index % 9) + 1}`);
  };

  const dollars = (value) => {
    if (value > 0 && value < 0.01) return "$" + value.toLocaleString("en", { maximumSignificantDigits: 4 });
    const digits = value >= 100 ? 0 : value >= 1 ? 2 : 4;
    return "$" + value.toLocaleString("en", { minimumFractionDigits: value >= 1 ? digits : 0, maximumFractionDigits: digits });
  };
  const time = (value) => {
    if (value >= 1e6) return `${(value / 1e6).toLocaleString("en", { maximumFractionDigits: 2 })} s`;
    return `${(value / 1e3).toLocaleString("en", { maximumFractionDigits: value < 1e4 ? 2 : 0 })} ms`;
  };
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
  const texts = { usd: dollars, us: time, count: (value) => value.toLocaleString("en") };
  const ticks = { usd: dollars, us: time, count: (value) => short.format(value) };

  const dataset = (drawing) => (series, index) => {
    const line = drawing.kind === "lines";
    return {
      label: series.label,
      data: series.values,
      backgroundColor: seriesColour(drawing, index),
      borderColor: seriesColour(drawing, index),
      borderWidth: line ? 2 : 0,
      borderRadius: line ? 0 : 2,
      maxBarThickness: 44,
      pointRadius: line ? 2 : 0,
      pointHoverRadius: 5,
      tension: 0.25,
      spanGaps: true,
    };
  };

  const draw = (drawing) => {
    const canvas = document.getElementById(`chart-${drawing.id}`);
    const stacked = drawing.kind === "bars";
    return new Chart(canvas, {
      type: stacked ? "bar" : "line",
      data: { labels: drawing.labels, datasets: drawing.series.map(dataset(drawing)) },
      options: {
        animation: false,
        responsive: true,
        maintainAspectRatio: false,
        interaction: { mode: "index", intersect: false },
        scales: {
          x: { stacked, grid: { display: false }, ticks: { color: colour("--muted"), maxRotation: 0, autoSkipPadding: 14 } },
          y: {
            stacked,
            beginAtZero: true,
            border: { display: false },
            grid: { color: colour("--line") },
            ticks: { color: colour("--muted"), maxTicksLimit: 6, callback: ticks[drawing.unit] },
          },
        },
        plugins: {
          legend: { position: "bottom", align: "start", labels: { color: colour("--text"), boxWidth: 10, boxHeight: 10, useBorderRadius: true, borderRadius: 2 } },
          tooltip: {
            filter: (item) => drawing.kind === "lines" || item.parsed.y > 0,
            callbacks: { label: (item) => `${item.dataset.label}: ${texts[drawing.unit](item.parsed.y)}` },
          },
        },
      },
    });
  };

  const redraw = () => {
    drawn.splice(0).forEach((chart) => chart.destroy());
    drawn.push(...drawings.map(draw));
  };

  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  redraw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
})();
