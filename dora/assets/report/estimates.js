// Means over seeds with their intervals, as dora/analysis/stats.py computes them for the tables:
// here, because they have to follow the filter.

// The quantile of Student's t that a two-sided 95 % interval needs. `study.quantiles` has it for
// 1 / df of 0, 0.01, ... 1, between which its logarithm is nearly a line: right to 2e-5 of itself.
function quantileOf(df) {
  const last = study.quantiles.length - 1;
  const place = last / df;
  const i = Math.min(Math.floor(place), last - 1);
  const [from, to] = study.quantiles.slice(i, i + 2);
  return from * (to / from) ** (place - i);
}

// {mean, low, high} of the mean of some groups' means, a group of scores a task, each with its own
// variance (Satterthwaite). `low` and `high` are null where the seeds do not show the error: one
// seed in a group, or scores that are all alike.
function estimateOf(groups) {
  const middle = mean(groups.map(mean));
  const parts = groups.map(of => ({v: errorOf(of), freedom: of.length - 1}));
  const sum = parts.reduce((all, {v}) => all + v, 0);
  if (!(sum > 0)) return {mean: middle, low: null, high: null};
  const squares = parts.reduce((all, {v, freedom}) => all + (v * v) / freedom, 0);
  const least = Math.min(...parts.map(({freedom}) => freedom));
  const half = (quantileOf(Math.max(sum ** 2 / squares, least)) * Math.sqrt(sum)) / groups.length;
  return {mean: middle, low: middle - half, high: middle + half};
}
// The squared error of the mean of some scores; NaN of one score.
function errorOf(scores) {
  if (scores.length < 2) return NaN;
  if (Math.max(...scores) - Math.min(...scores) <= study.rounding) return 0;
  const middle = mean(scores);
  const squares = scores.reduce((sum, score) => sum + (score - middle) ** 2, 0);
  return squares / (scores.length - 1) / scores.length;
}
