// Edits of a list of segments, sorted and without overlap; every edit returns a new list.

/** The place of the segment that holds a step, or -1. */
export function segmentAt(segments, step) {
  return segments.findIndex((segment) => segment.start <= step && step < segment.end);
}

/** Cuts a segment so that a new one starts at `step`; the same list where that would leave one empty. */
export function split(segments, place, step) {
  const segment = segments[place];
  if (!segment || step <= segment.start || step >= segment.end) return segments;
  const first = { ...segment, end: step };
  const second = { ...segment, start: step };
  return [...segments.slice(0, place), first, second, ...segments.slice(place + 1)];
}

/** Joins a segment with the one after it; the text of the longer one stays. */
export function mergeWithNext(segments, place) {
  const [first, second] = [segments[place], segments[place + 1]];
  if (!first || !second) return segments;
  const longer = second.end - second.start > first.end - first.start ? second : first;
  const arms = [...new Set([...first.arms, ...second.arms])].sort();
  const joined = { ...longer, start: first.start, end: second.end, arms };
  return [...segments.slice(0, place), joined, ...segments.slice(place + 2)];
}

/** Takes a segment away; the one before it, or else the one after it, takes over its steps. */
export function remove(segments, place) {
  if (segments.length < 2 || !segments[place]) return segments;
  const rest = segments.filter((_, other) => other !== place);
  if (place > 0) rest[place - 1] = { ...rest[place - 1], end: segments[place].end };
  else rest[0] = { ...rest[0], start: segments[0].start };
  return rest;
}

/** Moves the start or the end of a segment; a neighbour that touches it comes along, and none gets empty. */
export function moveEdge(segments, place, side, step, nSteps) {
  const result = segments.map((segment) => ({ ...segment }));
  const [before, here, after] = [result[place - 1], result[place], result[place + 1]];
  if (side === "start") {
    const touches = before && before.end === here.start;
    const least = before ? (touches ? before.start + 1 : before.end) : 0;
    here.start = Math.max(least, Math.min(step, here.end - 1));
    if (touches) before.end = here.start;
  } else {
    const touches = after && after.start === here.end;
    const most = after ? (touches ? after.end - 1 : after.start) : nSteps;
    here.end = Math.min(most, Math.max(step, here.start + 1));
    if (touches) after.start = here.end;
  }
  return result;
}

/** Sets fields of a segment. */
export function change(segments, place, fields) {
  return segments.map((segment, other) => (other === place ? { ...segment, ...fields } : segment));
}

/** The lists before and after the present one. */
export class History {
  constructor(present) {
    this.past = [];
    this.present = present;
    this.future = [];
  }

  push(next) {
    if (JSON.stringify(next) === JSON.stringify(this.present)) return false;
    this.past.push(this.present);
    this.present = next;
    this.future = [];
    return true;
  }

  undo() {
    if (!this.past.length) return false;
    this.future.push(this.present);
    this.present = this.past.pop();
    return true;
  }

  redo() {
    if (!this.future.length) return false;
    this.past.push(this.present);
    this.present = this.future.pop();
    return true;
  }
}
