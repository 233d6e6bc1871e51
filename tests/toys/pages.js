// What a page of HTML looks like, asked in a browser: each function gives a list of faults, in words.
() => {
  const shown = (e) => e.getClientRects().length > 0 && e.textContent.trim() !== "";

  // Words of a drawing that lie over each other.
  const overlaps = () => {
    const out = [];
    for (const svg of document.querySelectorAll("svg")) {
      const at = [...svg.querySelectorAll("text")].filter(shown).map((t) => [t.textContent, t.getBoundingClientRect()]);
      at.forEach(([one, p], a) =>
        at.slice(0, a).forEach(([other, q]) => {
          const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
          const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
          if (wide > 1.5 && high > 3) out.push(`${one} | ${other}`);
        }),
      );
    }
    return out;
  };

  // Words of a drawing that nobody can read at this width.
  const small = () =>
    [...document.querySelectorAll("svg text")]
      .filter(shown)
      .filter((t) => t.getBoundingClientRect().height < 7)
      .map((t) => t.textContent);

  const light = (colour) => {
    const [r, g, b] = colour.map((x) => (x / 255 <= 0.03928 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parsed = (colour) => {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = colour;
    brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data];
  };
  const over = (colour, behind) => behind.map((b, n) => (colour[n] * colour[3] + b * (255 - colour[3])) / 255);

  // Words whose colour is too near to what lies behind them: WCAG asks a contrast of 4.5 of text, 3 of large one.
  const contrast = () => {
    const out = new Set();
    const page = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
    for (const e of document.querySelectorAll("body *")) {
      if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !shown(e)) continue;
      const chain = [];
      let clear = 1;
      for (let p = e; p; p = p.parentElement) {
        chain.unshift(parsed(getComputedStyle(p).backgroundColor));
        clear *= Number(getComputedStyle(p).opacity);
      }
      const behind = chain.reduce((found, colour) => over(colour, found), page);
      const style = getComputedStyle(e);
      const own = parsed(e.namespaceURI.includes("svg") ? style.fill : style.color);
      const [x, y] = [light(over([...own.slice(0, 3), own[3] * clear], behind)), light(behind)];
      const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
      if (ratio < 3) out.add(`${e.tagName}: ${e.textContent.trim().slice(0, 40)} ${ratio.toFixed(1)}`);
    }
    return [...out];
  };

  // What is wider than its box and is not reached by the keys.
  const unreached = () =>
    [...document.querySelectorAll("body *")]
      .filter((e) => e.scrollWidth > e.clientWidth + 1 && ["auto", "scroll"].includes(getComputedStyle(e).overflowX))
      .filter((e) => e.tabIndex < 0)
      .map((e) => `${e.tagName}.${e.className}`);

  // Boxes that stretch far below what is in them, where things stand below one another.
  const gaps = () =>
    [...document.querySelectorAll("li > figure")]
      .filter((e) => getComputedStyle(e.parentElement).flexDirection === "column" && e.lastElementChild)
      .filter((e) => e.getBoundingClientRect().bottom - e.lastElementChild.getBoundingClientRect().bottom > 40)
      .map((e) => e.textContent.trim().slice(0, 40));

  return { gaps: gaps(), overlaps: overlaps(), small: small(), contrast: contrast(), unreached: unreached() };
};
