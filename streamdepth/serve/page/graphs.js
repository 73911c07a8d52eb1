// One minute of samples as lines, and queues as bars.
const SPAN = 120;

export class Graph {
  constructor(canvas, lines, least = 10) {
    this.canvas = canvas;
    this.lines = lines;
    this.least = least;
    this.samples = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  reset(samples) {
    this.samples = samples.slice(-SPAN);
    this.draw();
  }

  add(sample) {
    const last = this.samples[this.samples.length - 1];
    if (last && last.t === sample.t) return;
    this.samples.push(sample);
    if (this.samples.length > SPAN) this.samples.shift();
    this.draw();
  }

  draw() {
    const { canvas, samples } = this;
    const scale = window.devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (!width) return;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const values = this.lines.flatMap(([key]) => samples.map((sample) => sample[key] || 0));
    const top = roundUp(Math.max(this.least, ...values) * 1.06);
    const gutter = 28;
    const right = width - gutter;
    const y = (value) => height - 5 - (value / top) * (height - 13);
    const x = (index) => right - ((samples.length - 1 - index) / (SPAN - 1)) * right;
    pen.font = "10px system-ui, sans-serif";
    pen.textBaseline = "middle";
    for (const mark of [0, top / 2, top]) {
      pen.strokeStyle = "rgb(255 255 255 / .06)";
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(0, Math.round(y(mark)) + 0.5);
      pen.lineTo(right, Math.round(y(mark)) + 0.5);
      pen.stroke();
      pen.fillStyle = "#6b7488";
      if (mark !== top / 2) pen.fillText(label(mark), right + 6, y(mark));
    }
    for (const [key, color] of [...this.lines].reverse()) {
      const main = key === this.lines[0][0];
      const run = trace(pen, samples, key, x, y);
      pen.strokeStyle = color;
      pen.lineWidth = main ? 1.75 : 1.25;
      pen.lineJoin = "round";
      pen.stroke();
      if (!main || !run) continue;
      pen.lineTo(run[1], y(0));
      pen.lineTo(run[0], y(0));
      const wash = pen.createLinearGradient(0, 0, 0, height);
      wash.addColorStop(0, `${color}40`);
      wash.addColorStop(1, `${color}00`);
      pen.fillStyle = wash;
      pen.fill();
    }
  }
}

// The path of one line, which keeps its height where there is no value. Returns its ends.
function trace(pen, samples, key, x, y) {
  pen.beginPath();
  let first = null;
  let last = null;
  samples.forEach((sample, index) => {
    if (sample[key] === null || sample[key] === undefined) return;
    last = x(index);
    if (first === null) {
      first = last;
      pen.moveTo(last, y(sample[key]));
    } else pen.lineTo(last, y(sample[key]));
  });
  return first === null ? null : [first, last];
}

function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

const label = (value) => (value >= 1000 ? `${Number((value / 1000).toPrecision(2))}k` : `${Number(value.toPrecision(3))}`);

const SHOWN = { frame_queue: "captured", batches: "batches", depths: "depth", sinks: "outputs" };
const FULL = 4;

export function drawQueues(place, queues) {
  if (!place.children.length) {
    for (const label of Object.values(SHOWN)) {
      const row = document.createElement("div");
      row.className = "queue";
      const [text, bar, many] = ["span", "i", "span"].map((kind) => document.createElement(kind));
      text.textContent = label;
      row.append(text, bar, many);
      place.append(row);
    }
  }
  Object.keys(SHOWN).forEach((name, index) => {
    const [, bar, many] = place.children[index].children;
    const waiting = queues[name] || 0;
    bar.style.setProperty("--fill", `${Math.min(100, (100 * waiting) / FULL)}%`);
    many.textContent = waiting;
  });
}
