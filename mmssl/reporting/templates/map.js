"use strict";
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), text = chart.querySelector(".text"), thumb = chart.querySelector(".thumb");
  const points = Array.from(svg.querySelectorAll("circle"));
  const side = Number(chart.dataset.side), across = Number(chart.dataset.across), tall = Number(chart.dataset.tall);
  let at = null;
  for (const point of points) {
    const title = point.querySelector("title");
    point.said = title.textContent;
    title.remove();  // else the browser shows it once more
  }
  function choose(point) {
    if (at) at.classList.remove("at");
    at = point;
    point.classList.add("at");
    text.textContent = point.said;
    if (!thumb) return;
    const number = point.dataset.i;
    thumb.style.display = number === undefined ? "none" : "block";
    if (number === undefined) return;
    const x = number % across, y = Math.floor(number / across);
    thumb.style.backgroundSize = across * 100 + "% " + tall * 100 + "%";
    thumb.style.backgroundPosition = (across > 1 ? x / (across - 1) * 100 : 0) + "% " + (tall > 1 ? y / (tall - 1) * 100 : 0) + "%";
  }
  const place = (point, axis) => Number(point.getAttribute("c" + axis));
  svg.addEventListener("pointerover", event => { if (event.target.tagName === "circle") choose(event.target); });
  svg.addEventListener("click", event => { if (event.target.tagName === "circle") choose(event.target); });
  svg.addEventListener("focus", () => { if (!at && points.length) choose(points[0]); });
  svg.addEventListener("keydown", event => {
    const way = {ArrowLeft: ["x", -1], ArrowRight: ["x", 1], ArrowUp: ["y", -1], ArrowDown: ["y", 1]}[event.key];
    if (!way || !points.length) return;
    event.preventDefault();
    const order = points.slice().sort((a, b) => place(a, way[0]) - place(b, way[0]));
    const next = order.indexOf(at) + way[1];
    choose(order[Math.min(Math.max(next, 0), order.length - 1)]);
  });
  const colours = chart.querySelector(".colours"), ways = chart.querySelector(".ways");
  const legends = Array.from(chart.querySelectorAll(".groups"));
  if (colours || ways) chart.querySelector(".choose").hidden = false;
  if (colours) colours.addEventListener("change", () => {
    const number = Number(colours.value);
    for (const point of points) {
      point.setAttribute("class", "g" + point.dataset.g.split(" ")[number]);
    }
    if (at) at.classList.add("at");
    legends.forEach((legend, i) => { legend.hidden = i !== number; });
  });
  if (ways) ways.addEventListener("change", () => {
    const number = Number(ways.value);
    for (const point of points) {
      point.setAttribute("cx", point.dataset.x.split(" ")[number] * 600);
      point.setAttribute("cy", point.dataset.y.split(" ")[number] * 420);
    }
  });
}
