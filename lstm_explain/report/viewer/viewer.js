// The viewer. Everything it shows stands in the page: one JSON, and for each layer and signal a block of compressed bytes.
// What was read reaches the page through textContent and fillText only, so that no text can become markup.
"use strict";
(() => {
  const root = document.getElementById("viewer");
  if (!root) return;
  const at = (id) => document.getElementById(`viewer-${id}`);
  const data = JSON.parse(at("data").textContent);
  const read = data.series ? "series" : data.tokens ? "tokens" : "nothing";
  const NARROWEST = 5, WIDEST = 24, ROW = read === "series" ? 84 : 24, HEAD = 26, PAD = 8;
  const FONT = "14px ui-monospace, 'DejaVu Sans Mono', monospace", SMALL = "12px system-ui, sans-serif";
  const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]; // Okabe & Ito (2008)
  const AROUND = 60, FOUND = 50, LONG = 40;
  const state = { layer: 0, unit: 0, signal: data.layers[0].memory, step: 0, span: null, own: false, why: false };
  const words = (name) => name.replaceAll("_", " ");
  const layer = () => data.layers[state.layer];
  const signalOf = (name) => layer().signals.find((one) => one.name === name);
  const number = (value) => Number.isFinite(value) ? String(Number(value.toPrecision(3))) : "not finite";

  // ---- Values -------------------------------------------------------------------------------------------------------------------

  const blocks = new Map();

  async function unpacked(base64) {
    const packed = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function load(which, signal) {
    const key = `${which} ${signal}`;
    if (!blocks.has(key)) blocks.set(key, await unpacked(at(`block-${which}-${signal}`).textContent));
    return blocks.get(key);
  }

  const bytes = (signal = state.signal) => blocks.get(`${state.layer} ${signal}`);

  function valueOf(byte, signal, unit) {
    if (byte === data.not_finite) return NaN;
    return signal.low[unit] + (byte / data.levels) * (signal.high[unit] - signal.low[unit]);
  }

  const value = (unit, step, name = state.signal) => valueOf(bytes(name)[unit * data.steps + step], signalOf(name), unit);

  function pieceOf(step) {
    let first = 0;
    for (const [index, piece] of data.pieces.entries()) {
      const size = piece.stop - piece.start;
      if (step < first + size) return { ...piece, index, first, last: first + size - 1, step: piece.start + step - first };
      first += size;
    }
    return null;
  }

  // The step of the page at which a step of a sequence stands; null where it isn't in the page.
  function shownAt(sequence, step) {
    let first = 0;
    for (const piece of data.pieces) {
      if (piece.sequence === sequence && piece.start <= step && step < piece.stop) return first + step - piece.start;
      first += piece.stop - piece.start;
    }
    return null;
  }

  function button(text, onclick) {
    return Object.assign(document.createElement("button"), { type: "button", textContent: text, onclick });
  }

  // ---- Colours ------------------------------------------------------------------------------------------------------------------

  const rgb = (hex) => [1, 3, 5].map((start) => parseInt(hex.slice(start, start + 2), 16));

  function colour(map, share) {
    const place = Math.min(Math.max(share, 0), 1) * (map.length - 1), below = Math.min(Math.floor(place), map.length - 2);
    const [low, high] = [rgb(map[below]), rgb(map[below + 1])];
    return low.map((channel, index) => Math.round(channel + (high[index] - channel) * (place - below)));
  }

  // Black or white, whichever is easier to read on a colour (relative luminance, WCAG 2.1).
  function inkOn(channels) {
    const [r, g, b] = channels.map((channel) => (channel / 255 <= 0.03928 ? channel / 255 / 12.92 : ((channel / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
  }

  const shade = (map, share) => { const channels = colour(map, share); return [`rgb(${channels})`, inkOn(channels)]; };

  function scale() {
    const signal = signalOf(state.signal);
    return state.own ? [signal.low[state.unit], signal.high[state.unit]] : signal.scale;
  }

  const isGate = (name) => name.endsWith("_gate");
  const mapOf = (name) => (isGate(name) ? data.colours.gate : data.colours.signed);

  // For each of the 256 bytes of the chosen unit its colour and the ink on it.
  function palette() {
    const signal = signalOf(state.signal), [low, high] = scale(), map = mapOf(state.signal);
    return Array.from({ length: 256 }, (_, byte) => {
      const one = valueOf(byte, signal, state.unit);
      return Number.isNaN(one) ? ["#ffd700", "#000"] : shade(map, (one - low) / (high - low));
    });
  }

  // ---- Where everything stands --------------------------------------------------------------------------------------------------

  const canvas = at("canvas"), frame = at("frame"), pen = canvas.getContext("2d");
  const SHOWN = { "\n": "↵", "\t": "→", "": "∅" };
  let rows = [], cells = { x: [], width: [], row: [] }, height = 0;

  // Control characters, those that turn the order of a line, separators that break one, and halves of surrogate pairs.
  const UNSEEN = /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff]|\p{Cs}/gu;

  const escaped = (text) => text.replace(UNSEEN, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

  const featureName = (feature) => escaped(data.feature_names[feature] || `feature ${feature}`);

  // A token as it is painted.
  function visible(token) {
    if (token in SHOWN) return SHOWN[token];
    const text = escaped(token);
    return text.length > LONG ? `${text.slice(0, LONG)}…` : text;
  }

  const widths = new Map();

  function widthOf(token) {
    if (!widths.has(token)) widths.set(token, Math.ceil(pen.measureText(visible(token)).width) + (token.length > 1 ? 6 : 0));
    return Math.max(widths.get(token), 6);
  }

  function layout() {
    const width = frame.clientWidth;
    // Without tokens every step is as wide as the longest sequence lets it be.
    const longest = Math.max(...data.pieces.map((piece) => piece.stop - piece.start));
    const even = Math.min(Math.max((width - 2 * PAD) / longest, NARROWEST), WIDEST);
    pen.font = FONT;
    cells = { x: new Float32Array(data.steps), width: new Float32Array(data.steps), row: new Int32Array(data.steps) };
    rows = [];
    let y = 0, step = 0;
    for (const piece of data.pieces) {
      const title = `sequence ${piece.sequence}${piece.group && piece.group !== `sequence ${piece.sequence}` ? ` of group ${piece.group}` : ""}, from step ${piece.start}`;
      rows.push({ y, height: HEAD, title });
      y += HEAD;
      let x = PAD, open = null;
      for (const end = step + piece.stop - piece.start; step < end; step++) {
        const size = Math.min(read === "tokens" ? widthOf(data.tokens[step]) : even, width - 2 * PAD);
        if (!open || x + size > width - PAD) {
          open = { y, height: ROW, from: step, to: step };
          rows.push(open);
          y += ROW;
          x = PAD;
        }
        cells.x[step] = x;
        cells.width[step] = size;
        cells.row[step] = rows.length - 1;
        open.to = step;
        x += size;
        if (read === "tokens" && data.tokens[step] === "\n") open = null;
      }
    }
    height = y + PAD;
    at("sizer").style.height = `${height}px`;
  }

  function sharp(one, width, tall) {
    const ratio = window.devicePixelRatio || 1;
    if (one.width !== Math.round(width * ratio) || one.height !== Math.round(tall * ratio)) {
      one.width = Math.round(width * ratio);
      one.height = Math.round(tall * ratio);
      one.style.width = `${width}px`;
      one.style.height = `${tall}px`;
    }
    const drawing = one.getContext("2d");
    drawing.setTransform(ratio, 0, 0, ratio, 0, 0);
    drawing.clearRect(0, 0, width, tall);
    return drawing;
  }

  function rowAt(y) {
    let low = 0, high = rows.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (rows[middle].y <= y) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function stepAt(x, y) {
    const row = rows[rowAt(y)];
    if (!row || row.title !== undefined) return null;
    for (let step = row.from; step <= row.to; step++) if (x < cells.x[step] + cells.width[step]) return step;
    return row.to;
  }

  // ---- What was read, coloured --------------------------------------------------------------------------------------------------

  // What each step added to the output at the cursor: `of(step)` is from -1 to 1 of the largest, null where that wasn't asked.
  function contributions() {
    const piece = pieceOf(state.step), part = state.why && data.why && data.why.parts[piece.index], own = part && blocks.get(`why ${piece.index}`);
    const row = data.why && data.why.whole ? 0 : state.step - piece.first;
    if (!own || row >= part.output.length) return null;
    const of = (step) => {
      const place = step - piece.first - part.first[row];
      const byte = place >= 0 && place < part.width ? own[row * part.width + place] : 0;
      return byte ? (byte - 128) / 127 : null;
    };
    let strongest = piece.first;
    for (let step = piece.first; step <= piece.last; step++) if (Math.abs(of(step)) > Math.abs(of(strongest))) strongest = step;
    return { of, output: part.output[row], largest: of(strongest) * part.largest[row], strongest, residual: part.residual[row] };
  }

  function paint() {
    const top = frame.scrollTop, width = frame.clientWidth, tall = frame.clientHeight, colours = palette(), own = bytes(), why = contributions();
    if (!own) return;
    const drawing = sharp(canvas, width, tall);
    drawing.fillStyle = "#fff";
    drawing.fillRect(0, 0, width, tall);
    drawing.textBaseline = "middle";
    for (let index = rowAt(top); index < rows.length && rows[index].y < top + tall; index++) {
      const row = rows[index], y = row.y - top;
      if (row.title !== undefined) {
        drawing.font = SMALL;
        drawing.fillStyle = "#555";
        drawing.fillText(escaped(row.title), PAD, y + HEAD / 2 + 2);
        continue;
      }
      drawing.font = FONT;
      for (let step = row.from; step <= row.to; step++) {
        let pair = colours[own[state.unit * data.steps + step]];
        const share = why && why.of(step);
        if (state.why) pair = share === null ? ["#fff", "#000"] : shade(data.colours.signed, (share + 1) / 2);
        const x = cells.x[step], wide = cells.width[step];
        drawing.fillStyle = pair[0];
        drawing.fillRect(x, y + 1, wide + 0.5, ROW - 2);
        if (read === "tokens") glyph(drawing, data.tokens[step], x, y, wide, pair[1]);
        if (state.span && step >= state.span[0] && step < state.span[1]) mark(drawing, x, y, wide);
      }
      if (read === "series") lines(drawing, row, y);
    }
    const row = rows[cells.row[state.step]];
    drawing.strokeStyle = "#000";
    drawing.lineWidth = 2;
    drawing.strokeRect(cells.x[state.step] - 0.5, row.y - top + 1, cells.width[state.step] + 1, ROW - 2);
    drawing.strokeStyle = "#fff";
    drawing.lineWidth = 1;
    drawing.strokeRect(cells.x[state.step] + 1, row.y - top + 2.5, cells.width[state.step] - 2, ROW - 5);
  }

  function glyph(drawing, token, x, y, wide, ink) {
    if (token === " ") return;
    drawing.save();
    // Many combining marks would grow over other rows.
    drawing.beginPath();
    drawing.rect(x, y, wide, ROW);
    drawing.clip();
    drawing.fillStyle = ink;
    drawing.fillText(visible(token), x + (token.length > 1 ? 3 : 0), y + ROW / 2 + 1);
    drawing.restore();
  }

  function mark(drawing, x, y, wide) {
    drawing.fillStyle = "#000";
    drawing.fillRect(x, y + ROW - 4, wide + 0.5, 3);
  }

  // Each feature from its lowest to its highest value in the page.
  function lines(drawing, row, y) {
    data.series.slice(0, LINES.length).forEach((series, feature) => {
      const [low, high] = ranges[feature];
      drawing.beginPath();
      for (let step = row.from; step <= row.to; step++) {
        const one = series[step], x = cells.x[step] + cells.width[step] / 2;
        if (one === null) continue;
        drawing.lineTo(x, y + ROW - 8 - ((one - low) / (high - low || 1)) * (ROW - 16));
      }
      // White around the line: its colour is told from any colour behind it.
      drawing.lineJoin = "round";
      drawing.strokeStyle = "#fff";
      drawing.lineWidth = 4;
      drawing.stroke();
      drawing.strokeStyle = LINES[feature];
      drawing.lineWidth = 2;
      drawing.stroke();
    });
  }

  const ranges = (data.series || []).slice(0, LINES.length).map((series) =>
    series.reduce(([low, high], one) => (one === null ? [low, high] : [Math.min(low, one), Math.max(high, one)]), [Infinity, -Infinity]));

  function key() {
    at("key").hidden = false;
    at("key").replaceChildren(...ranges.map(([low, high], feature) => {
      const item = document.createElement("li"), sample = document.createElement("span");
      sample.textContent = "━ ";
      sample.style.color = LINES[feature];
      item.append(sample, `${featureName(feature)}, ${number(low)} to ${number(high)}`);
      return item;
    }));
    const more = data.series.length - ranges.length;
    if (more > 0) at("key").append(Object.assign(document.createElement("li"), { textContent: `and ${more} more, not drawn` }));
  }

  // ---- The legend and the lines below -------------------------------------------------------------------------------------------

  function legend() {
    const [low, high] = scale(), box = at("legend"), drawing = sharp(box, 160, 12), map = state.why ? data.colours.signed : mapOf(state.signal);
    for (let x = 0; x < 160; x++) {
      drawing.fillStyle = shade(map, x / 159)[0];
      drawing.fillRect(x, 0, 1.5, 12);
    }
    const ends = state.why ? ["lowers the output most", "raises it most"] : [number(low), number(high)];
    at("low").textContent = ends[0];
    at("high").textContent = ends[1];
  }

  function trajectory() {
    const box = at("lines"), width = box.parentElement.clientWidth, strip = 46, names = layer().signals.map((one) => one.name);
    const drawing = sharp(box, width, strip * names.length + 18), piece = pieceOf(state.step), left = 118, right = width - 8;
    const from = Math.max(piece.first, state.step - AROUND), to = Math.min(piece.last, state.step + AROUND);
    const ink = getComputedStyle(root).color, x = (step) => left + ((step - from) / Math.max(1, to - from)) * (right - left);
    drawing.font = SMALL;
    drawing.textBaseline = "middle";
    names.forEach((name, index) => {
      const signal = signalOf(name), y = index * strip, gate = isGate(name);
      const ends = gate ? [0, 1] : [signal.low[state.unit], signal.high[state.unit]];
      const place = (one) => y + strip - 7 - ((one - ends[0]) / (ends[1] - ends[0])) * (strip - 14);
      drawing.fillStyle = ink;
      drawing.fillText(words(name), 0, y + strip / 2 - 7);
      if (!bytes(name)) return;
      drawing.fillText(number(value(state.unit, state.step, name)), 0, y + strip / 2 + 8);
      drawing.textAlign = "right";
      drawing.fillText(number(ends[1]), left - 6, y + 8);
      drawing.fillText(number(ends[0]), left - 6, y + strip - 8);
      drawing.textAlign = "left";
      drawing.strokeStyle = "#8888";
      drawing.lineWidth = 1;
      for (const level of gate ? [0, 1] : [0]) drawing.strokeRect(left, Math.round(place(level)) + 0.5, right - left, 0);
      drawing.beginPath();
      for (let step = from; step <= to; step++) {
        const one = value(state.unit, step, name);
        if (!Number.isNaN(one)) drawing.lineTo(x(step), place(one));
      }
      drawing.strokeStyle = name === state.signal ? LINES[1] : LINES[0];
      drawing.lineWidth = 2;
      drawing.stroke();
    });
    drawing.strokeStyle = ink;
    drawing.lineWidth = 1;
    drawing.strokeRect(Math.round(x(state.step)) + 0.5, 0, 0, strip * names.length);
    drawing.fillStyle = ink;
    const ends = [piece.start + from - piece.first, piece.start + to - piece.first];
    drawing.fillText(`step ${ends[0]}`, left, strip * names.length + 9);
    drawing.textAlign = "right";
    drawing.fillText(`step ${ends[1]}`, right, strip * names.length + 9);
    drawing.textAlign = "left";
  }

  // ---- The units ----------------------------------------------------------------------------------------------------------------

  const order = () => layer().orders.find((one) => one.what === at("order").value);

  function listed() {
    const wanted = at("search").value.trim(), chosen = order(), numbers = chosen ? chosen.values : null;
    const units = layer().units.map((unit, index) => ({ unit, index, by: numbers ? numbers[index] : null }));
    if (numbers) units.sort((one, other) => (other.by ?? -Infinity) - (one.by ?? -Infinity) || one.unit - other.unit);
    else if (at("order").value === "interest") units.sort((one, other) => data.interest[state.layer][one.index] - data.interest[state.layer][other.index]);
    return units.filter(({ unit }) => !wanted || String(unit).includes(wanted));
  }

  function list() {
    const units = listed();
    at("units").replaceChildren(...units.map(({ unit, index, by }) => {
      const option = document.createElement("option");
      option.value = String(index);
      option.textContent = by === null ? `unit ${unit}` : `unit ${unit} · ${number(by)}`;
      return option;
    }));
    at("units").value = String(state.unit);
    at("count").textContent = `${units.length} of ${layer().of} units`;
  }

  function sorts() {
    const kinds = [["interest", "as they are of interest"], ["number", "their number"], ...layer().orders.map((one) => [one.what, one.what])];
    at("order").replaceChildren(...kinds.map(([key, text]) => {
      const option = document.createElement("option");
      option.value = key;
      option.textContent = escaped(text);
      return option;
    }));
  }

  function scatterAxes() {
    return ["left", "right"].map((side) => layer().orders.find((one) => one.what.endsWith(`${side}-saturated`)));
  }

  function scatter() {
    const [left, right] = scatterAxes(), box = at("scatter");
    at("scatter-frame").hidden = !left;
    if (!left) return;
    const size = 200, pad = 26, drawing = sharp(box, size, size), ink = getComputedStyle(root).color;
    const place = (index) => [pad + left.values[index] * (size - pad - 8), size - pad - right.values[index] * (size - pad - 8)];
    drawing.strokeStyle = "#8888";
    drawing.strokeRect(pad + 0.5, 8.5, size - pad - 8, size - pad - 8);
    drawing.font = SMALL;
    drawing.fillStyle = ink;
    drawing.fillText("left-saturated", pad, size - 8);
    drawing.save();
    drawing.translate(14, size - pad);
    drawing.rotate(-Math.PI / 2);
    drawing.fillText("right-saturated", 0, 0);
    drawing.restore();
    const dot = (index, radius, fill) => {
      drawing.beginPath();
      drawing.arc(...place(index), radius, 0, 2 * Math.PI);
      drawing.fillStyle = fill;
      drawing.fill();
    };
    layer().units.forEach((_, index) => dot(index, 2.5, "#0072b299"));
    dot(state.unit, 5.5, LINES[1]);
    box.onclick = (event) => {
      const { left: x, top: y } = box.getBoundingClientRect();
      const far = (index) => Math.hypot(place(index)[0] - event.clientX + x, place(index)[1] - event.clientY + y);
      choose({ unit: layer().units.reduce((best, _, index) => (far(index) < far(best) ? index : best), 0) });
    };
  }

  function facts() {
    const known = layer().orders.map((one) => [one.what, one.values[state.unit]]).filter(([, one]) => one !== null && one !== undefined);
    at("facts").replaceChildren(...known.flatMap(([what, one]) => {
      const [term, said] = [document.createElement("dt"), document.createElement("dd")];
      term.textContent = escaped(what);
      said.textContent = number(one);
      return [term, said];
    }));
  }

  // What a unit is about may be at either end: its sign is a matter of its weights.
  function contexts() {
    const found = layer().contexts, unit = layer().units[state.unit], what = words(layer().memory);
    at("contexts-frame").hidden = !found;
    if (!found) return;
    at("contexts-title").textContent = `Where the ${what} of unit ${unit} is furthest, in all that was read`;
    for (const kind of ["top", "bottom"]) at(kind).replaceChildren(...found[kind][state.unit].map(context));
  }

  function context(one) {
    const map = mapOf(layer().memory), [low, high] = signalOf(layer().memory).scale;
    const item = document.createElement("li"), place = document.createElement("p"), text = document.createElement("p");
    const where = `${number(one.value)} at step ${one.step} of sequence ${one.sequence}`, here = shownAt(one.sequence, one.step);
    place.append(here === null ? where : button(where, () => go(here)));
    text.className = "context";
    (one.read || []).forEach((token, index) => {
      const span = document.createElement("span"), [fill, ink] = shade(map, (one.values[index] - low) / (high - low));
      span.textContent = token === " " ? " " : visible(token);
      span.style.backgroundColor = fill;
      span.style.color = ink;
      if (index === one.at) span.className = "place";
      text.append(span);
    });
    item.append(place, ...(one.read ? [text] : []));
    return item;
  }

  // ---- The read-out -------------------------------------------------------------------------------------------------------------

  // How many of the layer's units in the page are higher here, and one.
  function rank(step) {
    const own = value(state.unit, step);
    let above = 1;
    for (let unit = 0; unit < layer().units.length; unit++) if (value(unit, step) > own) above++;
    return above;
  }

  const named = (step) => `${read === "tokens" ? `“${visible(data.tokens[step])}” ` : ""}step ${pieceOf(step).step}`;

  function said(step) {
    const piece = pieceOf(step), own = value(state.unit, step);
    const series = read === "series" ? `, ${data.series.slice(0, LINES.length).map((one, feature) =>
      `${featureName(feature)} ${number(one[step] ?? NaN)}`).join(", ")}` : "";
    const where = `${named(step)} of sequence ${piece.sequence}${series}`;
    const what = `${words(state.signal)} of unit ${layer().units[state.unit]}, ${escaped(layer().name)}: ${number(own)}`;
    const why = contributions(), left = why && (why.residual === null ? "what is left over isn’t known" : `left over ${number(why.residual)}`);
    const hangs = !state.why ? "" : !why ? "; what this output hangs on was not computed here"
      : `; ${data.why.what}: ${number(why.output)}, largest contribution ${number(why.largest)} by ${named(why.strongest)}, ${left}`;
    return `${where}: ${what}, rank ${rank(step)} of ${layer().units.length}${hangs}`;
  }

  // ---- Spans: which units are on throughout, and where else (LSTMVis: Strobelt et al. 2018) ---------------------------------------

  // All runs of a unit from -threshold down or from +threshold up, as "start stop" of steps; a run ends where its piece does.
  function runs(unit, sign, threshold) {
    const found = [];
    let start = -1, first = 0;
    for (const piece of data.pieces) {
      const end = first + piece.stop - piece.start;
      for (let step = first; step <= end; step++) {
        const on = step < end && sign * value(unit, step) >= threshold;
        if (on && start < 0) start = step;
        if (!on && start >= 0) {
          found.push([start, step]);
          start = -1;
        }
      }
      first = end;
    }
    return found;
  }

  function matched() {
    const threshold = Number(at("threshold").value), [start, stop] = state.span, selected = [], places = new Map();
    layer().units.forEach((unit, index) => {
      for (const sign of [1, -1]) {
        const own = runs(index, sign, threshold), chosen = own.some(([from, to]) => from === start && to === stop);
        if (chosen) selected.push(sign > 0 ? `${unit}` : `${unit} (low)`);
        for (const [from, to] of own) {
          const key = `${from} ${to}`, place = places.get(key) || { from, to, matched: 0, others: 0 };
          if (chosen) place.matched++;
          else place.others++;
          places.set(key, place);
        }
      }
    });
    const other = [...places.values()].filter((place) => place.matched && !(place.from === start && place.to === stop));
    other.sort((one, two) => two.matched - one.matched || one.others - two.others || (two.to - two.from) - (one.to - one.from) || one.from - two.from);
    return { selected, other };
  }

  function span() {
    at("span-frame").hidden = !state.span;
    if (!state.span) return;
    const { selected, other } = matched(), [start, stop] = state.span, piece = pieceOf(start);
    const complete = other.filter((place) => place.matched === selected.length).length;
    at("selected").textContent = `Steps ${piece.step} to ${piece.step + stop - start - 1} of sequence ${piece.sequence}: ` + (selected.length
      ? `${selected.length} of ${layer().units.length} units are on throughout and off just before and after: ${selected.join(", ")}. `
        + `${complete} other spans have all of them, ${other.length} have some.`
      : `none of ${layer().units.length} units is on throughout and off just before and after.`);
    at("matches").replaceChildren(...other.slice(0, FOUND).map((place) => {
      const item = document.createElement("li"), here = pieceOf(place.from);
      const text = read === "tokens" ? ` “${data.tokens.slice(place.from, Math.min(place.to, place.from + LONG)).map(visible).join("")}”` : "";
      const where = `sequence ${here.sequence}, steps ${here.step} to ${here.step + place.to - place.from - 1}`;
      item.append(button(`${where}: ${place.matched} of ${selected.length}${text}`, () => go(place.from)));
      return item;
    }));
  }

  // ---- What changes -------------------------------------------------------------------------------------------------------------

  function link() {
    at("missing").textContent = "";
    const here = pieceOf(state.step), own = (step) => step - here.first + here.start;
    const parts = new URLSearchParams({
      layer: layer().name, unit: layer().units[state.unit], signal: state.signal, sequence: here.sequence, step: own(state.step),
    });
    if (state.span) parts.set("span", state.span.map(own).join("-"));
    // A frame without an address of its own has no history either.
    try { history.replaceState(null, "", `#${parts}`); } catch { /* nothing to restore */ }
  }

  // The layer by name or number, the unit by its number in the network, steps as the sequence has them, so that a link means the same on
  // a page that holds other parts of the data: `#layer=1&unit=17&signal=cell_state&sequence=2&step=40&span=38-43`.
  function linked() {
    const asked = new URLSearchParams(location.hash.slice(1));
    if (!asked.has("unit") && !asked.has("layer")) return null;
    const name = asked.get("layer"), named = data.layers.findIndex((one) => one.name === name), which = named < 0 && /^\d+$/.test(name) ? Number(name) : named;
    if (name !== null && !data.layers[which]) {
      at("missing").textContent = `Layer ${escaped(name)} isn’t in this page.`;
      return null;
    }
    const found = { layer: name === null ? state.layer : which }, own = data.layers[found.layer];
    const unit = own.units.indexOf(Number(asked.get("unit") ?? own.units[0]));
    if (unit < 0) {
      at("missing").textContent = `Unit ${asked.get("unit")} of ${escaped(own.name)} isn’t in this page.`;
      return null;
    }
    found.unit = unit;
    found.signal = own.signals.some((one) => one.name === asked.get("signal")) ? asked.get("signal") : own.memory;
    if (!asked.has("step")) return found;
    const sequence = Number(asked.get("sequence")), step = shownAt(sequence, Number(asked.get("step")));
    if (step === null) {
      at("missing").textContent = `Step ${asked.get("step")} of sequence ${asked.get("sequence")} isn’t in this page.`;
      return found;
    }
    found.step = step;
    const [from, to] = (asked.get("span") || "").split("-").map(Number), first = shownAt(sequence, from), last = shownAt(sequence, to - 1);
    const within = (other) => other !== null && pieceOf(other).index === pieceOf(step).index;
    if (within(first) && within(last) && first <= last) found.span = [first, last + 1];
    return found;
  }

  async function choose(change, { quiet = false } = {}) {
    const before = { ...state };
    Object.assign(state, change);
    if (state.layer !== before.layer && change.unit === undefined) state.unit = 0;
    if (!signalOf(state.signal)) state.signal = layer().memory;
    // While one block is unpacked another may be chosen.
    while (!bytes()) await load(state.layer, state.signal);
    if (state.why) for (const [index, part] of data.why.parts.entries()) {
      if (!blocks.has(`why ${index}`)) blocks.set(`why ${index}`, await unpacked(part.contributions));
    }
    if (state.layer !== before.layer || !at("order").options.length) {
      at("layer").value = String(state.layer);
      signals();
      sorts();
      list();
    }
    at("signal").value = state.signal;
    at("units").value = String(state.unit);
    paint();
    legend();
    at("said").textContent = said(state.step);
    if (state.unit !== before.unit || state.layer !== before.layer || !root.dataset.ready) {
      scatter();
      facts();
      contexts();
    }
    trajectory();
    const other = state.layer !== before.layer || state.signal !== before.signal || !root.dataset.ready;
    if (state.span !== before.span || (state.span && other)) span();
    if (!quiet) link();
    await Promise.all(layer().signals.map((one) => load(state.layer, one.name)));
    trajectory();
  }

  function signals() {
    at("signal").replaceChildren(...layer().signals.map(({ name }) => {
      const option = document.createElement("option");
      option.value = name;
      option.textContent = words(name);
      return option;
    }));
  }

  function go(step, extend = false) {
    let wanted = Math.min(Math.max(step, 0), data.steps - 1), chosen = null;
    if (extend) { // no further than the sequence goes
      anchor ??= state.step;
      const piece = pieceOf(anchor);
      wanted = Math.min(Math.max(wanted, piece.first), piece.last);
      chosen = [Math.min(anchor, wanted), Math.max(anchor, wanted) + 1];
    } else anchor = null;
    const row = rows[cells.row[wanted]];
    if (row.y < frame.scrollTop) frame.scrollTop = row.y - HEAD;
    if (row.y + ROW > frame.scrollTop + frame.clientHeight) frame.scrollTop = row.y + ROW - frame.clientHeight;
    choose({ step: wanted, span: chosen });
  }

  let anchor = null;

  function byRow(change) {
    const own = cells.row[state.step];
    for (let index = own + change; rows[index]; index += change) {
      if (rows[index].title === undefined) return stepAt(cells.x[state.step] + 1, rows[index].y + 2);
    }
    return state.step;
  }

  function nextUnit(change) {
    const options = [...at("units").options], here = options.findIndex((one) => one.value === String(state.unit));
    const next = options[Math.min(Math.max(here + change, 0), options.length - 1)];
    if (next) choose({ unit: Number(next.value) });
  }

  function nextSignal(change) {
    const names = layer().signals.map((one) => one.name);
    choose({ signal: names[(names.indexOf(state.signal) + change + names.length) % names.length] });
  }

  const KEYS = {
    ArrowLeft: () => state.step - 1, ArrowRight: () => state.step + 1, ArrowUp: () => byRow(-1), ArrowDown: () => byRow(1),
    Home: () => rows[cells.row[state.step]].from, End: () => rows[cells.row[state.step]].to,
  };

  // ---- Pointer, keys, controls --------------------------------------------------------------------------------------------------

  function listen() {
    const step = (event) => {
      const box = frame.getBoundingClientRect();
      return stepAt(event.clientX - box.left, event.clientY - box.top + frame.scrollTop);
    };
    let down = null;
    frame.addEventListener("scroll", () => paint(), { passive: true });
    frame.addEventListener("pointerdown", (event) => { down = step(event); });
    frame.addEventListener("pointermove", (event) => {
      const here = step(event);
      if (here === null) return;
      if (down !== null && event.buttons && here !== down && event.pointerType === "mouse") {
        anchor = down;
        go(here, true);
      } else if (here !== state.step && !state.span && event.pointerType === "mouse") choose({ step: here }, { quiet: true });
    });
    window.addEventListener("pointerup", () => { down = null; });
    frame.addEventListener("click", (event) => {
      const here = step(event);
      if (here !== null && !(state.span && state.span[1] - state.span[0] > 1 && here >= state.span[0] && here < state.span[1])) go(here, event.shiftKey);
    });
    frame.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const others = { "[": () => nextUnit(-1), "]": () => nextUnit(1), ",": () => nextSignal(-1), ".": () => nextSignal(1), Escape: () => choose({ span: null }) };
      if (KEYS[event.key]) go(KEYS[event.key](), event.shiftKey);
      else if (others[event.key]) others[event.key]();
      else return;
      event.preventDefault();
    });
    at("layer").addEventListener("change", (event) => choose({ layer: Number(event.target.value) }));
    at("signal").addEventListener("change", (event) => choose({ signal: event.target.value }));
    at("units").addEventListener("change", (event) => choose({ unit: Number(event.target.value) }));
    at("order").addEventListener("change", list);
    at("search").addEventListener("input", list);
    at("own").addEventListener("change", (event) => choose({ own: event.target.checked }));
    at("why").addEventListener("change", (event) => choose({ why: event.target.checked }));
    at("threshold").addEventListener("change", span);
    window.addEventListener("hashchange", () => {
      const found = linked();
      if (!found) return;
      choose(found, { quiet: true });
      root.scrollIntoView();
    });
    new ResizeObserver(() => {
      layout();
      paint();
      trajectory();
    }).observe(frame);
  }

  function text() {
    const parts = [];
    let step = 0;
    for (const piece of data.pieces) {
      parts.push(data.tokens.slice(step, step + piece.stop - piece.start).join(""));
      step += piece.stop - piece.start;
    }
    at("text").textContent = parts.join("\n\n");
  }

  async function begin() {
    at("layer").replaceChildren(...data.layers.map(({ name }, index) => {
      const option = document.createElement("option");
      option.value = String(index);
      option.textContent = escaped(name);
      return option;
    }));
    at("why-frame").hidden = !data.why;
    at("text-frame").hidden = read !== "tokens";
    at("app").hidden = false;
    if (data.why && !data.why.whole) state.step = Math.min(data.why.parts[0].output.length, AROUND * 2) - 1;
    const found = linked();
    Object.assign(state, found || { layer: data.first[0], unit: data.first[1], signal: data.layers[data.first[0]].memory });
    layout();
    await choose({}, { quiet: true });
    listen();
    if (read === "tokens") text();
    if (read === "series") key();
    if (found) root.scrollIntoView();
    root.dataset.ready = "true";
  }

  begin();
})();
