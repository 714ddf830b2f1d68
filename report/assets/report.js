"use strict";
/* The page: structures, tooltips, and a table that sorts, filters and opens. */
(() => {
  const $$ = (query, within = document) => [...within.querySelectorAll(query)];
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("scenes").textContent);
  const viewers = [];

  /* --- structures --- */
  const show = (canvas) => {
    const scene = data.crystals[canvas.dataset.slot];
    if (canvas.viewer || !scene) return canvas.viewer;
    canvas.viewer = new Viewer(canvas, scene, data.styles, canvas.classList.contains("thumb"));
    viewers.push(canvas.viewer);
    return canvas.viewer;
  };

  const cif = (scene, name) => {
    const l = scene.lattice, v = [l.slice(0, 3), l.slice(3, 6), l.slice(6, 9)], n = v.map((x) => Math.hypot(...x));
    const angle = (i, j) => Math.acos(dot(v[i], v[j]) / n[i] / n[j]) * 180 / Math.PI;
    const angles = [angle(1, 2), angle(0, 2), angle(0, 1)];
    const count = {};
    const sites = scene.types.map((t, i) => {
      const s = scene.kinds[t], label = s + (count[s] = (count[s] || 0) + 1);
      return [label, s, ...scene.frac.slice(3 * i, 3 * i + 3).map((x) => x.toFixed(5))].join(" ");
    });
    return [`data_${name.replace(/\W/g, "_")}`, "_symmetry_space_group_name_H-M 'P 1'", "_symmetry_Int_Tables_number 1",
      ...["a", "b", "c"].map((k, i) => `_cell_length_${k} ${n[i].toFixed(5)}`),
      ...["alpha", "beta", "gamma"].map((k, i) => `_cell_angle_${k} ${angles[i].toFixed(4)}`),
      "loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'", "loop_", "_atom_site_label", "_atom_site_type_symbol",
      "_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z", ...sites, ""].join("\n");
  };

  const fillPanel = (body) => {
    const canvas = body.querySelector("canvas.scene"), scene = data.crystals[canvas.dataset.slot];
    const hint = body.querySelector(".hint");
    if (!scene) {
      canvas.hidden = body.querySelector(".tools").hidden = true;
      hint.textContent = "This cell cannot be drawn.";
      return;
    }
    if (canvas.viewer) return;
    const viewer = show(canvas), key = body.querySelector(".elements-key");
    scene.kinds.forEach((symbol) => {
      const item = document.createElement("span"), ball = document.createElement("i");
      item.className = "key";
      ball.className = "ball";
      ball.style.background = data.styles[symbol][0];
      item.append(ball, symbol);
      key.append(item);
    });
    hint.textContent = `${scene.cell}, ${scene.types.length} atom${scene.types.length > 1 ? "s" : ""} · ` +
      "drag to rotate; click, then wheel to zoom; double click resets";
    const repeats = $$("[data-reps]", body);
    repeats.forEach((button) => button.addEventListener("click", () => {
      repeats.forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
      viewer.repeat(Number(button.dataset.reps));
    }));
    body.querySelector("[data-reset]").addEventListener("click", () => viewer.reset());
    body.querySelector("[data-cif]").addEventListener("click", () => {
      const link = document.createElement("a"), name = body.querySelector("td.name").dataset.sort;
      link.href = URL.createObjectURL(new Blob([cif(scene, name)], { type: "chemical/x-cif" }));
      link.download = `${name.replace(/[^\w.-]/g, "_")}_${canvas.dataset.slot}.cif`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    canvas.addEventListener("pointermove", (e) => {
      const atom = e.buttons ? null : viewer.pick(e.offsetX, e.offsetY);
      if (!atom) return hideTip();
      const at = atom.frac.map((x) => x.toFixed(3)).join(", ");
      tell(`${scene.kinds[atom.kind]} (atom ${atom.i + 1})\nfractional ${at}`, e);
    });
    canvas.addEventListener("pointerleave", hideTip);
  };

  /* --- tooltips: SVG titles become one tooltip that follows the pointer --- */
  const tip = byId("tip");
  const hideTip = () => { tip.hidden = true; };
  const tell = (text, event) => {
    tip.textContent = text;
    tip.hidden = false;
    const { offsetWidth: w, offsetHeight: h } = tip, gap = 14;
    const right = event.clientX + gap + w < document.documentElement.clientWidth;
    const below = event.clientY + gap + h < window.innerHeight;
    tip.style.left = `${Math.max(4, right ? event.clientX + gap : event.clientX - gap - w)}px`;
    tip.style.top = `${Math.max(4, below ? event.clientY + gap : event.clientY - gap - h)}px`;
  };
  $$("svg title").forEach((title) => {
    const mark = title.parentNode;
    mark.dataset.tip = title.textContent;
    title.remove();
  });
  document.addEventListener("pointermove", (e) => {
    if (e.target.tagName === "CANVAS") return;
    const mark = e.target.closest("[data-tip]");
    if (mark) tell(mark.dataset.tip, e); else hideTip();
  });
  document.addEventListener("pointerleave", hideTip);

  /* --- table --- */
  const table = byId("crystal-table");
  const bodies = table ? [...table.tBodies] : [];

  const open = (body, wanted) => {
    const button = body.querySelector(".opener");
    if (!button) return;
    const shown = wanted ?? button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(shown));
    body.querySelector(".panel").hidden = !shown;
    body.classList.toggle("is-open", shown);
    if (shown) fillPanel(body);
  };
  const reveal = (slot) => {
    const body = byId(`slot-${slot}`);
    if (!body) return;
    body.hidden = false;
    open(body, true);
    body.scrollIntoView({ block: "start" });
  };
  bodies.forEach((body) => {
    body.querySelector(".summary").addEventListener("click", (e) => { if (!e.target.closest("a")) open(body); });
  });
  $$("a[href^='#slot-']").forEach((link) => link.addEventListener("click", () => reveal(link.hash.slice(6))));
  $$("path[data-slot]").forEach((mark) => mark.addEventListener("click", () => reveal(mark.dataset.slot)));
  if (location.hash.startsWith("#slot-")) reveal(location.hash.slice(6));

  const sortBy = (heading) => {
    const column = heading.cellIndex, numeric = heading.querySelector("button").dataset.kind === "number";
    const up = heading.getAttribute("aria-sort") !== "ascending";
    $$("th[aria-sort]", table).forEach((th) => th.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (body) => body.rows[0].cells[column].dataset.sort;
    const sign = up ? 1 : -1;
    [...table.tBodies].sort((p, q) => {
      const [x, y] = [value(p), value(q)];
      if (x === "" || y === "") return (x === "") - (y === "");   // without a number: always last
      return sign * (numeric ? x - y : x.localeCompare(y, "en", { numeric: true }));
    }).forEach((body) => table.append(body));
  };
  if (table) $$("th[aria-sort] button", table).forEach((b) => b.addEventListener("click", () => sortBy(b.closest("th"))));

  const filters = document.querySelector(".filters");
  const filter = () => {
    const wanted = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const limit = byId("within").value, sun = byId("only-sun").checked;
    let shown = 0;
    for (const body of bodies) {
      const text = body.dataset.find.toLowerCase(), energy = body.dataset.e;
      const fits = wanted.every((w) => text.includes(w)) && (!sun || body.dataset.sun === "1") &&
        (limit === "" || (energy !== undefined && Number(energy) <= Number(limit) + 1e-9));
      body.hidden = !fits;
      shown += fits;
    }
    byId("shown").textContent = shown === bodies.length ? `${shown} crystals` : `${shown} of ${bodies.length} crystals`;
  };
  if (filters) {
    filters.addEventListener("input", filter);
    filters.addEventListener("submit", (e) => e.preventDefault());
  }

  /* --- pictures, colour scheme, paper --- */
  $$("canvas.thumb").forEach(show);
  const redraw = (theme) => viewers.forEach((v) => { v.theme = theme; if (v.canvas.clientWidth) v.draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(null));
  window.addEventListener("beforeprint", () => redraw("light"));
  window.addEventListener("afterprint", () => redraw(null));
})();
