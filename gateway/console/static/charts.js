// Draws the charts of a page from the numbers in their data-chart attributes. Each has the same numbers in a table beside it.
"use strict";

(() => {
  const drawn = new Map();
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  // A variable holds a colour for light and one for dark; only what is painted with it has the one of now.
  const painted = document.createElement("i");
  const colour = (name) => {
    painted.style.color = `var(--${name})`;
    return getComputedStyle(painted).color;
  };
  const palette = () => ["s1", "s2", "s3", "s4", "s5"].map(colour);
  const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)} %`;
  const count = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  const words = (name) => (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll("_", " ");
  // What a merchant has written may look like ECharts' own mark-up of texts.
  const plain = (text) => String(text).replace(/[{}|]/g, " ");

  const faded = (rgb, alpha) => rgb.replace("rgb(", "rgba(").replace(")", `, ${alpha})`);

  const moment = (iso, interval) => {
    const at = new Date(iso);
    const month = at.toLocaleString("en-GB", { month: "short", timeZone: "UTC" });
    if (interval === "month") return `${month} ${at.getUTCFullYear()}`;
    const day = `${at.getUTCDate()} ${month}`;
    return interval === "hour" ? `${day} ${String(at.getUTCHours()).padStart(2, "0")}:00` : day;
  };

  const axis = () => ({
    axisLine: { lineStyle: { color: colour("line") } },
    axisTick: { show: false },
    axisLabel: { color: colour("ink-2"), fontSize: 12, hideOverlap: true },
    splitLine: { lineStyle: { color: colour("line-soft") } },
  });

  const tooltip = (more) => ({
    renderMode: "richText", // an HTML tooltip would write styles into the page, which its policy forbids
    confine: true,
    backgroundColor: colour("surface"),
    borderColor: colour("line"),
    borderWidth: 1,
    padding: [8, 10],
    textStyle: { color: colour("ink"), fontSize: 12, lineHeight: 18 },
    ...more,
  });

  const legend = (names) => ({
    data: names,
    top: 0,
    left: 0,
    icon: "roundRect",
    itemWidth: 12,
    itemHeight: 4,
    type: "scroll",
    textStyle: { color: colour("ink-2"), fontSize: 12 },
    pageTextStyle: { color: colour("ink-2") },
    pageIconColor: colour("ink-2"),
    pageIconInactiveColor: colour("line"),
  });

  function rates(spec) {
    const colours = palette();
    const series = spec.series.flatMap((each, index) => {
      const tone = colours[index % colours.length];
      const band = (name, data, style) => ({
        name, data, type: "line", stack: `band ${index}`, stackStrategy: "all", symbol: "none", silent: true, tooltip: { show: false },
        lineStyle: { opacity: 0 }, ...style,
      });
      return [
        band(`${each.name} low`, each.low, {}),
        band(`${each.name} band`, each.high.map((high, at) => (high === null ? null : high - each.low[at])), {
          areaStyle: { color: faded(tone, 0.13) },
        }),
        {
          name: each.name, data: each.rate, type: "line", symbol: "circle", symbolSize: 5, showSymbol: each.rate.length < 45,
          color: tone, lineStyle: { width: 2, type: index % 2 ? [7, 3] : "solid" }, emphasis: { disabled: true }, z: 5,
        },
        {
          name: `${each.name} before`, data: each.before, type: "line", symbol: "none", silent: true, tooltip: { show: false },
          color: tone, lineStyle: { width: 1.5, type: "dotted", opacity: 0.75 }, z: 4,
        },
      ];
    });
    const lowest = Math.min(...spec.series.flatMap((each) => [...each.low, ...each.before]).filter((low) => low !== null), 1);
    const step = lowest < 0.4 ? 0.2 : lowest < 0.8 ? 0.1 : 0.05;
    return {
      grid: { left: 8, right: 14, top: 36, bottom: 4, containLabel: true },
      legend: legend(spec.series.map((each) => each.name)),
      xAxis: { type: "category", boundaryGap: false, data: spec.times.map((at) => moment(at, spec.interval)), ...axis(), splitLine: { show: false },
        axisLabel: { ...axis().axisLabel, alignMinLabel: "left", alignMaxLabel: "right" } },
      yAxis: {
        type: "value", max: 1, min: Math.max(0, Math.floor(lowest / step) * step), interval: step, ...axis(),
        axisLabel: { ...axis().axisLabel, formatter: (share) => percent(share, 0) },
      },
      tooltip: tooltip({
        trigger: "axis",
        formatter: (points) => {
          const at = points[0].dataIndex;
          const lines = spec.series.filter((each) => each.rate[at] !== null).map((each) =>
            `${plain(each.name)}  ${percent(each.rate[at])}  (${percent(each.low[at])} to ${percent(each.high[at])}, n = ${count(each.n[at])})`
              + (each.before[at] === null ? "" : `, before ${percent(each.before[at])}`));
          return [points[0].axisValue, ...lines].join("\n");
        },
      }),
      series,
    };
  }

  function pareto(spec) {
    const colours = palette();
    const names = spec.names.map(words);
    return {
      grid: { left: 8, right: 8, top: 36, bottom: 4, containLabel: true },
      legend: legend([...spec.series.map((each) => each.name), "together"]),
      xAxis: {
        type: "category", data: names, ...axis(),
        axisLabel: { ...axis().axisLabel, interval: 0, rotate: 32, width: 118, overflow: "truncate" },
      },
      yAxis: [
        { type: "value", minInterval: 1, ...axis(), axisLabel: { ...axis().axisLabel, formatter: count } },
        { type: "value", min: 0, max: 1, ...axis(), splitLine: { show: false }, axisLabel: { ...axis().axisLabel, formatter: (share) => percent(share, 0) } },
      ],
      tooltip: tooltip({
        trigger: "axis",
        axisPointer: { type: "shadow", shadowStyle: { color: faded(colour("s6"), 0.12) } },
        formatter: (points) => {
          const at = points[0].dataIndex;
          return [names[at], ...spec.series.map((each) => `${plain(each.name)}  ${count(each.counts[at])}`), `up to here  ${percent(spec.together[at])}`].join("\n");
        },
      }),
      series: [
        ...spec.series.map((each, index) => ({
          name: each.name, type: "bar", stack: "all", data: each.counts, color: colours[index % colours.length], barMaxWidth: 44,
          itemStyle: { borderColor: colour("surface"), borderWidth: 1 }, emphasis: { disabled: true },
        })),
        { name: "together", type: "line", yAxisIndex: 1, data: spec.together, color: colour("s6"), symbolSize: 5, lineStyle: { width: 1.5, type: "dashed" } },
      ],
    };
  }

  function flow(spec, narrow) {
    const tones = { approved: "good", declined: "bad", technical: "warn", unknown: "s4", blocked: "s5", authentication_failed: "s5" };
    const nodes = spec.nodes.map((each) => ({
      name: each.name,
      depth: each.depth,
      itemStyle: { color: colour(tones[each.shown] ?? "s1"), borderWidth: 0 },
      label: { formatter: each.depth % 2 ? words(each.shown) : plain(each.shown), position: each.depth === 3 ? "left" : "right" },
    }));
    return {
      tooltip: tooltip({
        trigger: "item",
        formatter: (item) => item.dataType === "edge"
          ? `${plain(item.data.source.slice(2))} → ${plain(item.data.target.slice(2))}\n${count(item.data.value)} payments`
          : `${plain(item.name.slice(2))}\n${count(item.value)} payments`,
      }),
      series: [{
        type: "sankey", data: nodes, links: spec.links, left: 2, right: 2, top: 8, bottom: 8, nodeWidth: 12, nodeGap: narrow ? 10 : 14, draggable: false,
        label: { color: colour("ink"), fontSize: narrow ? 10 : 12 },
        lineStyle: { color: "source", opacity: 0.22, curveness: 0.5 },
        emphasis: { focus: "adjacency" },
      }],
    };
  }

  const kinds = { rates, pareto, flow };

  function draw(element) {
    const spec = JSON.parse(element.dataset.chart);
    const chart = drawn.get(element) ?? echarts.init(element, null, { renderer: "canvas" });
    drawn.set(element, chart);
    const font = getComputedStyle(document.body).fontFamily;
    const option = kinds[spec.kind](spec, element.clientWidth < 560);
    chart.setOption({ animation: false, textStyle: { fontFamily: font }, aria: { enabled: false }, ...option }, true);
  }

  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) drawn.get(target)?.resize();
  });

  function all() {
    for (const [element, chart] of drawn) {
      if (element.isConnected) continue;
      resized.unobserve(element);
      chart.dispose();
      drawn.delete(element);
    }
    for (const element of document.querySelectorAll("[data-chart]")) {
      draw(element);
      resized.observe(element);
    }
  }

  painted.hidden = true;
  document.documentElement.append(painted);
  document.addEventListener("DOMContentLoaded", all);
  document.addEventListener("htmx:afterSettle", all);
  dark.addEventListener("change", all);
})();
