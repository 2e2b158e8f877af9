// The cameras: pictures of all of them for one step, kept once fetched, fetched ahead of the playhead.

import { framePath } from "./server.js";

const AHEAD = 40;
const AT_ONCE = 6;
const KEPT = 6000;

export class Player {
  constructor(container) {
    this.container = container;
    this.drawn = 0; // How many steps were shown with all cameras.
  }

  open(episode) {
    this.episode = episode;
    this.frames = new Map();
    this.waiting = [];
    this.running = 0;
    this.shown = -1;
    this.container.replaceChildren();
    this.canvases = new Map(
      episode.cameras.map((camera) => {
        const figure = document.createElement("figure");
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 224;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `camera ${camera}`);
        const caption = document.createElement("figcaption");
        caption.textContent = camera;
        figure.append(canvas, caption);
        this.container.append(figure);
        return [camera, canvas];
      }),
    );
  }

  /** Shows a step as soon as its pictures are there; a later call for another step replaces this one. */
  async show(step) {
    const episode = this.episode;
    this.wanted = step;
    const cameras = [...this.canvases.keys()];
    const needed = cameras.map((camera) => this.fetch(camera, step, true));
    for (let next = step + 1; next <= Math.min(step + AHEAD, episode.n_steps - 1); next++) {
      for (const camera of cameras) this.fetch(camera, next, false);
    }
    const blobs = await Promise.all(needed);
    if (this.wanted !== step || this.episode !== episode) return;
    const pictures = await Promise.all(blobs.map((blob) => (blob ? createImageBitmap(blob) : null)));
    if (this.wanted !== step || this.episode !== episode) return;
    cameras.forEach((camera, place) => {
      const pen = this.canvases.get(camera).getContext("2d");
      if (pictures[place]) pen.drawImage(pictures[place], 0, 0, 224, 224);
    });
    this.shown = step;
    this.drawn += 1;
  }

  fetch(camera, step, urgent) {
    const key = `${camera}/${step}`;
    let entry = this.frames.get(key);
    if (!entry) {
      entry = { path: framePath(this.episode.id, camera, step) };
      entry.promise = new Promise((resolve) => (entry.resolve = resolve));
      this.frames.set(key, entry);
      if (this.frames.size > KEPT) this.frames.delete(this.frames.keys().next().value);
      if (urgent) this.waiting.unshift(entry);
      else this.waiting.push(entry);
      this.work();
    } else if (urgent) {
      const place = this.waiting.indexOf(entry);
      if (place > 0) this.waiting.unshift(...this.waiting.splice(place, 1));
    }
    return entry.promise;
  }

  async work() {
    if (this.running >= AT_ONCE || !this.waiting.length) return;
    this.running += 1;
    const entry = this.waiting.shift();
    try {
      const answer = await fetch(entry.path);
      entry.resolve(answer.ok ? await answer.blob() : null);
    } catch {
      entry.resolve(null);
    }
    this.running -= 1;
    this.work();
  }
}
