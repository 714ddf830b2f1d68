"use strict";
/* A structure viewer on a 2D canvas: shaded spheres and sticks, sorted by depth, orthographic. */

const THEMES = {
  light: { back: [255, 255, 255], line: "#8d949c", text: "#3a424b" },
  dark: { back: [24, 28, 33], line: "#78818b", text: "#c9d0d7" },
};
const AXIS = ["#c8452f", "#3b8f4a", "#3a6fc4"];
const SPHERE = 0.46;   // drawn radius as a share of the covalent radius
const STICK = 0.1;     // radius of a bond in angstrom
const FOG_LEVELS = 7;

const mix = (a, b, t) => a.map((v, k) => Math.round(v + (b[k] - v) * t));
const css = (c) => `rgb(${c[0]},${c[1]},${c[2]})`;
const hex = (s) => [1, 3, 5].map((k) => parseInt(s.slice(k, k + 2), 16));
const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
const unit = (v) => { const n = Math.hypot(...v) || 1; return v.map((x) => x / n); };
const times = (m, n) => m.map((row) => [0, 1, 2].map((k) => row[0] * n[0][k] + row[1] * n[1][k] + row[2] * n[2][k]));
const turnX = (t) => [[1, 0, 0], [0, Math.cos(t), -Math.sin(t)], [0, Math.sin(t), Math.cos(t)]];
const turnY = (t) => [[Math.cos(t), 0, Math.sin(t)], [0, 1, 0], [-Math.sin(t), 0, Math.cos(t)]];

class Viewer {
  constructor(canvas, scene, styles, still = false) {
    Object.assign(this, { canvas, scene, styles, still, reps: 1, theme: null, seen: false, queued: false });
    const l = scene.lattice;
    this.cell = [l.slice(0, 3), l.slice(3, 6), l.slice(6, 9)];
    this.sprites = new Map();
    this.build();
    this.reset();
    if (canvas.clientWidth) this.draw();   // a first frame, on paper too
    new ResizeObserver(() => this.request()).observe(canvas);
    new IntersectionObserver((entries) => {
      this.seen = entries[entries.length - 1].isIntersecting;
      if (this.seen) this.request();
    }).observe(canvas);
    if (!still) this.listen();
  }

  /* The atoms of the cells, those on a face repeated on the opposite one, the non-metals that complete the
     coordination of the metals among them, and all bonds in between. */
  build() {
    const { types, frac, bonds, metals } = this.scene, reps = this.reps, near = 0.02;
    const index = new Map();
    this.atoms = [];
    const add = (i, image) => {
      const p = image.map((x, k) => frac[3 * i + k] + x);
      index.set(`${i},${image}`, this.atoms.length);
      this.atoms.push({ i, kind: types[i], image, frac: p, at: this.cartesian(p) });
    };
    for (let i = 0; i < types.length; i++) {
      const f = frac.slice(3 * i, 3 * i + 3);
      for (let a = -1; a <= reps; a++) for (let b = -1; b <= reps; b++) for (let c = -1; c <= reps; c++) {
        const p = [f[0] + a, f[1] + b, f[2] + c];
        if (p.some((x) => x < -near || x > reps + near)) continue;
        add(i, [a, b, c]);
      }
    }
    const from = types.map(() => []);
    for (let k = 0; k < bonds.length; k += 5) {
      const [i, j, ...shift] = bonds.slice(k, k + 5);
      from[i].push([j, shift, true]);
      from[j].push([i, shift.map((x) => -x), false]);   // the same bond, seen from its other end
    }
    const partners = (atom) => from[atom.i].map(([j, shift, first]) =>
      [j, atom.image.map((x, k) => x + shift[k]), first]);
    for (const atom of this.still ? [] : this.atoms.filter((a) => a.kind < metals)) {
      for (const [j, image] of partners(atom)) {
        if (types[j] >= metals && !index.has(`${j},${image}`)) add(j, image);
      }
    }
    this.sticks = [];
    this.atoms.forEach((atom, n) => {
      for (const [j, image, first] of partners(atom)) {
        const m = index.get(`${j},${image}`);
        if (first && m !== undefined) this.sticks.push([n, m]);
      }
    });
    this.middle = this.cartesian([reps / 2, reps / 2, reps / 2]);
    const corners = [0, 1, 2, 3, 4, 5, 6, 7].map((k) => this.cartesian([k & 1, (k >> 1) & 1, k >> 2].map((x) => x * reps)));
    this.marks = [...corners, ...this.atoms.map((atom) => atom.at)];
    this.reach = 0.5 + Math.max(...this.marks.map((p) => Math.hypot(...p.map((x, k) => x - this.middle[k]))));
  }

  cartesian(f) {
    return [0, 1, 2].map((k) => f[0] * this.cell[0][k] + f[1] * this.cell[1][k] + f[2] * this.cell[2][k]);
  }

  /* c upwards and a towards the right; then turned a little, so that depth shows. */
  reset() {
    const up = unit(this.cell[2]);
    const along = unit(this.cell[0].map((x, k) => x - dot(this.cell[0], up) * up[k]));
    let deep = cross(along, up);
    if (dot(cross(this.cell[0], this.cell[1]), this.cell[2]) < 0) deep = deep.map((x) => -x);
    this.first = this.view = times(times(turnX(0.24), turnY(-0.42)), [along, up, deep]);
    this.zoom = 1;
    this.request();
  }

  request() {
    if (this.queued || !this.canvas.clientWidth) return;
    this.queued = true;
    requestAnimationFrame(() => { this.queued = false; if (this.seen) this.draw(); });
  }

  project(p) {
    const d = p.map((x, k) => x - this.middle[k]);
    const [x, y, z] = this.view.map((row) => dot(row, d));
    return [this.cx + x * this.scale, this.cy - y * this.scale, z];
  }

  draw() {
    const { canvas } = this, ratio = window.devicePixelRatio || 1;
    const w = canvas.clientWidth || 150, h = canvas.clientHeight || 120;
    const [W, H] = [Math.round(w * ratio), Math.round(h * ratio)];
    if (canvas.width !== W || canvas.height !== H) { canvas.width = W; canvas.height = H; }
    const g = this.g = canvas.getContext("2d");
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, w, h);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    this.look = THEMES[this.theme || (dark ? "dark" : "light")];
    this.ratio = ratio;
    [this.cx, this.cy] = [w / 2, h / 2];
    this.scale = this.fit(w, h) * this.zoom;
    for (const atom of this.atoms) atom.seen = this.project(atom.at);
    const parts = [...this.edgeParts(), ...this.stickParts()];
    for (const atom of this.atoms) parts.push({ z: atom.seen[2], draw: () => this.sphere(atom) });
    parts.sort((p, q) => p.z - q.z);
    for (const part of parts) part.draw();
    if (!this.still) this.axisLabels();
  }

  /* Pixels per angstrom that show all atoms in the first view. */
  fit(w, h) {
    const half = [0, 1].map((k) => 0.8 + Math.max(...this.marks.map((p) =>
      Math.abs(dot(this.first[k], p.map((x, d) => x - this.middle[d]))))));
    const rim = this.still ? 0 : 14;
    return Math.min((w / 2 - rim) / half[0], (h / 2 - rim) / half[1], 70);
  }

  fog(z) {
    const t = Math.min(1, Math.max(0, 0.5 - z / (2 * this.reach)));
    return Math.round(t * (FOG_LEVELS - 1)) / (FOG_LEVELS - 1) * 0.55;
  }

  radius(kind) { return this.styles[this.scene.kinds[kind]][1] * SPHERE * this.scale; }
  colour(kind) { return hex(this.styles[this.scene.kinds[kind]][0]); }

  sphere(atom) {
    const [x, y, z] = atom.seen, r = this.radius(atom.kind), fog = this.fog(z);
    const sprite = this.sprite(atom.kind, r, fog), size = sprite.width / this.ratio;
    this.g.drawImage(sprite, x - size / 2, y - size / 2, size, size);
  }

  sprite(kind, r, fog) {
    const key = `${kind}|${fog.toFixed(2)}|${this.look.line}`;
    if (this.spriteScale !== this.scale * this.ratio) {
      this.sprites.clear();
      this.spriteScale = this.scale * this.ratio;
    }
    if (this.sprites.has(key)) return this.sprites.get(key);
    const R = r * this.ratio, size = Math.ceil(2 * R + 4), c = size / 2;
    const made = document.createElement("canvas");
    made.width = made.height = size;
    const g = made.getContext("2d"), base = this.colour(kind), back = this.look.back;
    const tone = (to, t) => css(mix(mix(base, to, t), back, fog));
    const shade = g.createRadialGradient(c - 0.36 * R, c - 0.42 * R, 0.04 * R, c - 0.1 * R, c - 0.12 * R, 1.12 * R);
    shade.addColorStop(0, tone([255, 255, 255], 0.82));
    shade.addColorStop(0.22, tone([255, 255, 255], 0.3));
    shade.addColorStop(0.55, tone(base, 0));
    shade.addColorStop(0.86, tone([10, 14, 20], 0.36));
    shade.addColorStop(1, tone([10, 14, 20], 0.56));
    g.beginPath();
    g.arc(c, c, R, 0, 2 * Math.PI);
    g.fillStyle = shade;
    g.fill();
    g.lineWidth = Math.max(0.6, 0.7 * this.ratio);
    g.strokeStyle = css(mix(mix(base, [0, 0, 0], 0.68), back, fog));
    g.stroke();
    this.sprites.set(key, made);
    return made;
  }

  line(p, q, width, style) {
    const g = this.g;
    g.beginPath();
    g.moveTo(p[0], p[1]);
    g.lineTo(q[0], q[1]);
    g.lineWidth = width;
    g.strokeStyle = style;
    g.stroke();
  }

  /* Each bond as two halves in the colours of its ends, from surface to surface. */
  stickParts() {
    const parts = [], simple = this.sticks.length > 2500;
    this.g.lineCap = "butt";
    for (const [n, m] of this.sticks) {
      const ends = [this.atoms[n], this.atoms[m]], [p, q] = ends.map((e) => e.seen);
      const half = p.map((x, k) => (x + q[k]) / 2);
      const length = Math.hypot(...ends[0].at.map((x, k) => x - ends[1].at[k]));
      ends.forEach((end) => {
        const inside = Math.min(0.9, 1.9 * this.radius(end.kind) / this.scale / length);
        const start = end.seen.map((x, k) => x + (half[k] - x) * inside), z = (start[2] + half[2]) / 2;
        parts.push({ z, draw: () => this.stick(end.kind, start, half, z, simple) });
      });
    }
    return parts;
  }

  stick(kind, start, half, z, simple) {
    const width = Math.max(1, 2 * STICK * this.scale), fog = this.fog(z), base = this.colour(kind);
    const tone = (to, t) => css(mix(mix(base, to, t), this.look.back, fog));
    if (!simple) this.line(start, half, width, tone([0, 0, 0], 0.6));
    this.line(start, half, width * 0.78, tone([0, 0, 0], 0.12));
    if (!simple && width > 3) this.line(start, half, width * 0.26, tone([255, 255, 255], 0.42));
  }

  /* The cell's edges in short pieces, so that atoms hide what lies behind or inside them. */
  edgeParts() {
    const parts = [], reps = this.reps, pieces = 14;
    for (let axis = 0; axis < 3; axis++) {
      const [u, v] = [0, 1, 2].filter((k) => k !== axis);
      for (let s = 0; s <= reps; s++) for (let t = 0; t <= reps; t++) {
        const f = [0, 0, 0], g = [0, 0, 0];
        f[u] = g[u] = s; f[v] = g[v] = t; g[axis] = reps;
        const [p, q] = [this.project(this.cartesian(f)), this.project(this.cartesian(g))];
        const style = s === 0 && t === 0 ? AXIS[axis] : this.look.line;
        for (let k = 0; k < pieces; k++) {
          const at = (w) => p.map((x, d) => x + (q[d] - x) * w);
          const [a, b] = [at(k / pieces), at((k + 1) / pieces)];
          parts.push({ z: (a[2] + b[2]) / 2 - 0.7, draw: () => this.line(a, b, s === 0 && t === 0 ? 1.6 : 1, style) });
        }
      }
    }
    return parts;
  }

  axisLabels() {
    const g = this.g, start = this.project(this.cartesian([0, 0, 0]));
    g.font = "italic 600 14px Georgia, 'DejaVu Serif', serif";
    g.textAlign = "center";
    g.textBaseline = "middle";
    g.lineJoin = "round";
    g.lineWidth = 3.5;
    ["a", "b", "c"].forEach((name, k) => {
      const f = [0, 0, 0];
      f[k] = this.reps;
      const end = this.project(this.cartesian(f));
      const away = unit([end[0] - start[0], end[1] - start[1]]);
      const [x, y] = [end[0] + away[0] * 15, end[1] + away[1] * 15];
      g.strokeStyle = css(this.look.back);
      g.strokeText(name, x, y);
      g.fillStyle = AXIS[k];
      g.fillText(name, x, y);
    });
  }

  /* The atom in front under a point of the canvas. */
  pick(x, y) {
    let best = null;
    for (const atom of this.atoms) {
      const inside = Math.hypot(atom.seen[0] - x, atom.seen[1] - y) < this.radius(atom.kind);
      if (inside && (!best || atom.seen[2] > best.seen[2])) best = atom;
    }
    return best;
  }

  rotate(dx, dy) {
    this.view = times(times(turnX(dy), turnY(dx)), this.view);
    this.request();
  }

  magnify(factor) {
    this.zoom = Math.min(8, Math.max(0.4, this.zoom * factor));
    this.request();
  }

  repeat(reps) {
    this.reps = reps;
    this.build();
    this.request();
  }

  listen() {
    const { canvas } = this, fingers = new Map();
    const spread = () => { const [p, q] = [...fingers.values()]; return Math.hypot(p[0] - q[0], p[1] - q[1]); };
    canvas.addEventListener("pointerdown", (e) => {
      canvas.setPointerCapture(e.pointerId);
      fingers.set(e.pointerId, [e.offsetX, e.offsetY]);
      canvas.focus({ preventScroll: true });
    });
    canvas.addEventListener("pointermove", (e) => {
      const last = fingers.get(e.pointerId);
      if (!last) return;
      const before = fingers.size === 2 ? spread() : 0;
      fingers.set(e.pointerId, [e.offsetX, e.offsetY]);
      if (fingers.size === 2) this.magnify(spread() / (before || 1));
      else this.rotate((e.offsetX - last[0]) * 0.009, (e.offsetY - last[1]) * 0.009);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => fingers.delete(e.pointerId));
    canvas.addEventListener("wheel", (e) => {
      if (document.activeElement !== canvas) return;   // else the page scrolls
      e.preventDefault();
      this.magnify(Math.exp(-e.deltaY * 0.0015));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("keydown", (e) => {
      const turns = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] };
      if (turns[e.key]) this.rotate(...turns[e.key]);
      else if (e.key === "+" || e.key === "=") this.magnify(1.15);
      else if (e.key === "-") this.magnify(1 / 1.15);
      else if (e.key === "0") this.reset();
      else return;
      e.preventDefault();
    });
  }
}
