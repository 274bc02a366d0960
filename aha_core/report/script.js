// The report's controls: sortable tables, enlarged pictures, the slider that removes or inserts pixels by rank.
// Without them the report can still be read. Nothing here loads anything.
"use strict";

// --- tables: the value of a cell is its first number; cells without one come last in both directions
function cellValue(row, column) {
  const cell = row.cells[column];
  const text = (cell.querySelector(".value") ?? cell).textContent.trim();
  const number = /[-−+]?\d[\d.,]*(e-?\d+)?/i.exec(text);
  if (column === 0) return text.toLowerCase();
  return number ? Number(number[0].replace("−", "-").replaceAll(",", "")) : null;
}

function sortRows(table, column, sign) {
  const rows = [...table.tBodies[0].rows].map((row) => [cellValue(row, column), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (a < b ? -1 : a > b ? 1 : 0);
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows].at(-1).cells;
  [...heads].forEach((head, column) => {
    if (!head.textContent.trim() || head.classList.contains("forest")) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = column === 0 ? "ascending" : "descending";
      const other = { ascending: "descending", descending: "ascending" };
      const direction = other[head.getAttribute("aria-sort")] ?? first;
      for (const one of heads) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
      sortRows(table, column, direction === "ascending" ? 1 : -1);
    });
  });
}

// --- pictures: a button around each opens it at its own size; Escape, the button or a click beside it closes
const dialog = document.querySelector("dialog");
const large = new Image();
dialog.querySelector(".frame").append(large);
for (const image of document.querySelectorAll("section .frame img")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "enlarge";
  button.setAttribute("aria-label", `Enlarge: ${image.closest("section").querySelector("h2").textContent}`);
  image.replaceWith(button);
  button.append(image);
  button.addEventListener("click", () => {
    large.src = image.src;
    large.alt = image.alt;
    dialog.showModal();
  });
}
dialog.querySelector("button").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// --- the slider: pixels whose rank level lies below the chosen share are removed from, or inserted into, the image
function pixels(source) {
  const image = new Image();
  image.src = source;
  return image.decode().then(() => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  });
}

function interpolated(fractions, values, share) {
  const above = Math.max(fractions.findIndex((fraction) => fraction >= share), 1);
  const weight = (share - fractions[above - 1]) / (fractions[above] - fractions[above - 1]);
  return values[above - 1] + weight * (values[above] - values[above - 1]);
}

function startExplorer(section) {
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const form = section.querySelector("form");
  const canvas = section.querySelector("canvas");
  const output = section.querySelector("output");
  const [line, dot] = section.querySelectorAll(".curve polyline, .curve circle");
  const decoded = new Map();
  const decode = (source) => {
    if (!decoded.has(source)) decoded.set(source, pixels(source));
    return decoded.get(source);
  };

  let latest = 0;

  async function draw() {
    const turn = ++latest;
    const chosen = new FormData(form);
    const image = data.images[Number(chosen.get("image"))];
    const map = image.maps[Number(chosen.get("map"))];
    const reference = chosen.get("reference");
    const remove = chosen.get("mode") === "remove";
    const percent = Number(chosen.get("share"));
    const parts = await Promise.all([image.image, image.references[reference], map.ranks].map(decode));
    if (turn !== latest) return; // a later change was decoded first
    const [shown, filling, ranks] = parts.map((part) => part.data);
    const { width, height } = parts[0];
    const result = new ImageData(width, height);
    const limit = 2.56 * percent;
    for (let place = 0; place < shown.length; place += 4) {
      const source = ranks[place] < limit === remove ? filling : shown;
      for (let channel = 0; channel < 4; channel++) result.data[place + channel] = source[place + channel];
    }
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(result, 0, 0);
    const curve = map.curves[reference][remove ? 0 : 1];
    const point = interpolated(data.fractions, curve, percent / 100);
    line.setAttribute("points", curve.map((y, i) => `${100 * data.fractions[i]},${100 - 100 * y}`).join(" "));
    dot.setAttribute("cx", percent);
    dot.setAttribute("cy", 100 - 100 * point);
    const text = `${percent} % ${remove ? "removed" : "inserted"}: probability ${point.toFixed(2)}`;
    output.textContent = text;
    form.elements.share.setAttribute("aria-valuetext", text);
    canvas.setAttribute("aria-label", `${image.title}, ${map.method}, ${reference}: ${text}`);
  }

  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  section.hidden = false;
  draw();
}

const explorer = document.getElementById("explorer-section");
if (explorer) startExplorer(explorer);
