// A tall level is folded into columns, read top to bottom and then left to right, so that a long chain fits a screen.
// It is cut where few lines cross; these go on from the foot of one column to the head of the next.

const TALL = 1000, SLIM = 2.5; // a level is folded if it is higher than TALL and more than SLIM times its width
const MOST_COLUMNS = 6, MOST_CROSSING = 4, MARGIN = 22, LANE = 7;

function foldLevel(group, g, lines) {
  const boxes = group.children.map((child) => {
    const p = g.node(child.id), { w, h } = sizeOf(child);
    return { p, top: p.y - h / 2, bottom: p.y + h / 2, left: p.x - w / 2, right: p.x + w / 2 };
  }).sort((a, b) => a.top - b.top);
  const paths = lines.map((line, i) => g.edge(line.from, line.to, String(i)));
  const points = paths.flatMap((path) => path.points);
  if (!boxes.length || paths.some(({ points: p }) => p[0].y > p[p.length - 1].y)) return;
  const top = Math.min(boxes[0].top, ...points.map((p) => p.y));
  const bottom = Math.max(...boxes.map((box) => box.bottom), ...points.map((p) => p.y));
  const width = Math.max(...boxes.map((box) => box.right)) - Math.min(...boxes.map((box) => box.left));
  if (bottom - top < TALL || bottom - top < SLIM * width) return;
  const cuts = chooseCuts(boxes, paths, top, bottom, Math.min(MOST_COLUMNS, Math.round(Math.sqrt(1.2 * (bottom - top) / width))));
  if (!cuts.length) return;

  const columnOf = (y) => cuts.filter((cut) => cut < y).length;
  const pieces = paths.map((path) => splitPath(path.points, cuts));
  const columns = [top, ...cuts].map((start, i) => ({ start, end: i < cuts.length ? cuts[i] : bottom, left: Infinity,
    right: -Infinity, lanes: 0 }));
  const grow = (column, left, right) => {
    column.left = Math.min(column.left, left);
    column.right = Math.max(column.right, right);
  };
  for (const box of boxes) grow(columns[columnOf(box.p.y)], box.left, box.right);
  for (const path of pieces) {
    path.forEach(({ column, points: part }, i) => {
      for (const p of part) grow(columns[column], p.x, p.x);
      if (i) part.lane = columns[column].lanes++;
    });
  }
  let x = columns[0].left;
  columns.forEach((column, i) => {
    column.dx = x - column.left;
    column.dy = top - column.start + (i ? LANE * (column.lanes + 1) : 0);
    x += column.right - column.left + 2 * MARGIN + LANE * (i + 1 < columns.length ? columns[i + 1].lanes : 0);
  });
  const moved = [...boxes.map((box) => box.p), ...g.nodes().filter((id) => /^out:/.test(id)).map((id) => g.node(id))];
  for (const p of moved) {
    const { dx, dy } = columns[columnOf(p.y)];
    p.x += dx;
    p.y += dy;
  }
  paths.forEach((path, i) => { path.points = joinPieces(pieces[i], columns, top); });
}

// Heights in gaps between boxes, near to equal parts, that few lines cross.
function chooseCuts(boxes, paths, top, bottom, most) {
  const gaps = [];
  let low = boxes[0].bottom;
  for (const box of boxes.slice(1)) {
    const y = (low + box.top) / 2;
    const crossing = paths.filter(({ points: p }) => p[0].y < y && p[p.length - 1].y > y).length;
    if (box.top > low && crossing <= MOST_CROSSING) gaps.push(y);
    low = Math.max(low, box.bottom);
  }
  const cuts = [], step = (bottom - top) / most;
  for (let k = 1; k < most; k++) {
    const ideal = top + k * step;
    const best = gaps.reduce((a, b) => (Math.abs(b - ideal) < Math.abs(a - ideal) ? b : a), Infinity);
    if (best - (cuts.length ? cuts[cuts.length - 1] : top) > step / 2 && bottom - best > step / 3) cuts.push(best);
  }
  return cuts;
}

// A path as pieces {column, points}; at each cut one piece ends and the next begins.
function splitPath(points, cuts) {
  const pieces = [{ column: cuts.filter((cut) => cut < points[0].y).length, points: [points[0]] }];
  for (let i = 1; i < points.length; i++) {
    const a = points[i - 1], b = points[i];
    for (const cut of cuts) {
      if (!(a.y <= cut && cut < b.y)) continue;
      const at = { x: a.x + (b.x - a.x) * (cut - a.y) / (b.y - a.y), y: cut };
      pieces[pieces.length - 1].points.push(at);
      pieces.push({ column: pieces[pieces.length - 1].column + 1, points: [{ ...at }] });
    }
    pieces[pieces.length - 1].points.push(b);
  }
  return pieces;
}

function joinPieces(pieces, columns, top) {
  const result = [];
  pieces.forEach(({ column, points }, i) => {
    const { dx, dy } = columns[column];
    const part = points.map((p) => ({ x: p.x + dx, y: p.y + dy }));
    if (i) {
      const last = result[result.length - 1], first = part[0], lane = points.lane;
      const foot = last.y + LANE * (lane + 1), head = top + LANE * (columns[column].lanes - lane);
      const side = columns[column - 1].right + columns[column - 1].dx + MARGIN + LANE * lane;
      result.push(...corner(last, { x: last.x, y: foot }, { x: side, y: foot }),
        ...corner({ x: last.x, y: foot }, { x: side, y: foot }, { x: side, y: head }),
        ...corner({ x: side, y: foot }, { x: side, y: head }, { x: first.x, y: head }),
        ...corner({ x: side, y: head }, { x: first.x, y: head }, first));
    }
    result.push(...part);
  });
  return result;
}

// The points that make a line turn at `at` within a few pixels.
function corner(from, at, to) {
  const near = (end) => {
    const length = Math.hypot(end.x - at.x, end.y - at.y) || 1, part = Math.min(0.5, 9 / length);
    return { x: at.x + (end.x - at.x) * part, y: at.y + (end.y - at.y) * part };
  };
  return [near(from), at, near(to)];
}
