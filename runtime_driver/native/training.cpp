#include <algorithm>
#include <cmath>
#include <numeric>

#include "internal.h"

namespace prge {
namespace {

// Seeds of the lr search: the last there are, so that no run shares them. Half of its batches give the direction.
constexpr int64_t kSeed = 0x7FFFFFFF, kDirections = (kSeed << 32) + (int64_t{1} << 31), kHalf = 4;
// Share of the way to the least loss that the first step goes, and which ways are tried; calibrate.py says why.
constexpr double kEstimate = 0.5, kText = 0.125, kClasses = 1;
constexpr int kWays = 16, kClassesWays = 2, kFewClasses = 10, kStart = 3;
// A loss measured in int8 may rise by so much from rounding alone.
constexpr double kRounding = 1e-2;
// An accuracy so far below the highest is as good: a dev set is small.
constexpr double kAsGood = 0.02;

}  // namespace

double lr_at(const Settings& s, int64_t step, const Manifest& m) {
  double now = s.lr * (1.0 - static_cast<double>(step) / static_cast<double>(s.steps));
  // The optimizer's means begin at zero, and are too small at first.
  auto behind = static_cast<double>(s.after + step + 1);
  double mean = 1.0 - std::pow(m.beta_mean, behind), square = 1.0 - std::pow(m.beta_square, behind);
  if (m.optimizer == "sgd") return now;
  return m.optimizer == "momentum" ? now / mean : now * std::sqrt(square) / mean;
}

int64_t seed_at(const Settings& s, int64_t step, const Manifest& m) {
  return (s.seed << 32) + (s.after + step) * m.queries;
}

Batch rows_of(const std::vector<Example>& examples) {
  Batch rows;
  for (auto& e : examples) {
    for (auto& candidate : e.candidates) rows.push_back(&candidate);
    if (e.candidates.empty()) rows.push_back(&e);
  }
  return rows;
}

Inputs collate(const Batch& rows, const Manifest& m) {
  int64_t length = m.min_tokens, width = m.label_words() ? 1 : m.max_targets;
  for (auto* e : rows) length = std::max<int64_t>(length, e->tokens.size());
  std::vector<int64_t> tokens(rows.size() * length, m.pad_token), zeros(rows.size() * width);
  Inputs in{length, std::move(tokens), zeros, zeros, std::vector<float>(zeros.size())};
  for (size_t row = 0; row < rows.size(); row++) {
    const Example& e = *rows[row];
    std::copy(e.tokens.begin(), e.tokens.end(), in.tokens.begin() + row * length);
    int64_t end = e.tokens.size(), at = row * width;
    if (m.label_words()) {
      auto mask = std::find(e.tokens.begin(), e.tokens.end(), m.mask_token) - e.tokens.begin();
      in.position[at] = m.answer_at == "mask" ? mask : m.answer_at == "first" ? 0 : end - 1;
      in.target[at] = std::max(e.label, 0);
    }
    for (int64_t i = 0; i < e.targets; i++) {
      in.position[at + i] = end - e.targets - 1 + i;
      in.target[at + i] = e.tokens[end - e.targets + i];
      in.weight[at + i] = static_cast<float>(1.0 / e.targets);
    }
  }
  return in;
}

// Loops that are not in the program run here: over the queries, and inside over the signs of eps.
Program::Result step_by(const Manifest& m, const std::vector<float>& state, int64_t seed, double lr, double eps,
                        const Execute& execute) {
  int64_t seeds = m.outer ? 1 : m.queries, executions = seeds * (m.inner ? 1 : 2);
  std::vector<float> moved(executions > 1 ? state.size() : 0), losses[2];  // at +eps, at -eps
  for (int64_t i = 0; i < executions; i++) {
    bool negative = !m.inner && i % 2;
    auto one = execute(seed + (m.inner ? i : i / 2), lr / static_cast<double>(seeds), negative ? -eps : eps);
    one.scores.clear();
    if (m.gradient != "weights") return one;
    for (int64_t copy = 0; copy < m.copies(); copy++) {
      auto from = one.losses.begin() + copy * m.batch;
      double mean = std::accumulate(from, from + m.batch, 0.0) / static_cast<double>(m.batch);
      losses[m.inner ? 2 * copy >= m.copies() : negative].push_back(static_cast<float>(mean));
    }
    if (executions == 1) moved = std::move(one.state);
    for (size_t k = 0; k < moved.size() && executions > 1; k++) moved[k] += one.state[k] - state[k];
  }
  losses[0].insert(losses[0].end(), losses[1].begin(), losses[1].end());
  for (size_t k = 0; k < moved.size() && executions > 1; k++) moved[k] += state[k];
  return {std::move(moved), std::move(losses[0]), {}};
}

Guard::Decision Guard::watch(double loss, bool finite) {
  if (first == kNone && !std::isfinite(loss))
    throw Error("the first loss is not finite; is --eps far from what `prge calibrate` proposes?");
  // Diverged: the running mean is twice `first`, and more than 1 nat above it. At the first step `next` is not a number,
  // and the comparison false.
  double next = mean + (loss - mean) / span;
  bool back_off = !std::isfinite(loss) || !finite || next > first + std::max(first, 1.0);
  return {back_off, note(loss, back_off)};
}

bool Guard::note(double loss, bool backed_off) {
  bool fresh = first == kNone;
  if (fresh) {
    mean = loss;
    first = best = std::max(loss, guessing);
  }
  if (backed_off) {
    scale /= 2;
    mean = best;
    losses.clear();
    return fresh;
  }
  mean += (loss - mean) / span;
  losses.push_back(loss);
  if (static_cast<int64_t>(losses.size()) < span) return fresh;
  // Several count, because one low loss may be luck of the batch in a state that is already lost.
  double average = std::accumulate(losses.begin(), losses.end(), 0.0) / span, before = best;
  losses.clear();
  best = std::min(average, before);
  return average < before;
}

bool Best::note(int64_t behind, const Evaluation& found) {
  double right = std::isfinite(found.loss) ? found.accuracy.value_or(0) : 0;
  double lost = std::isfinite(found.loss) ? found.loss : Guard::kNone;
  waited++;
  if (steps < 0 || right > accuracy || (right == accuracy && lost < loss)) {
    waited = 0;
    accuracy = right;
    loss = lost;
  } else if (!found.accuracy || !std::isfinite(found.loss) || right < accuracy - kAsGood) {
    return false;
  }
  steps = behind;
  return true;
}

Evaluation evaluate(Program& program, const std::vector<float>& state, const std::vector<Example>& examples) {
  return evaluate_by(program.manifest(), examples,
                     [&](const Batch& rows) { return program.execute(rows, state, 0, 0, 0); });
}

Evaluation evaluate_by(const Manifest& m, const std::vector<Example>& examples,
                       const std::function<Program::Result(const Batch&)>& execute) {
  struct Given {
    float loss;
    int64_t highest;  // of the label words
  };
  std::map<const Example*, Given> given;
  Batch rows = rows_of(examples);
  // Rows of like length share an execution; the last one is filled up by repetition.
  std::stable_sort(rows.begin(), rows.end(), [](auto* a, auto* b) { return a->tokens.size() < b->tokens.size(); });
  for (size_t start = 0, count = m.rows(); start < rows.size(); start += count) {
    count = std::min(count, rows.size() - start);
    Batch part;
    for (int64_t i = 0; i < m.rows(); i++) part.push_back(rows[start + i % count]);
    auto result = execute(part);
    for (size_t i = 0; i < count; i++) {
      auto scores = result.scores.begin() + (m.label_words() ? i * m.labels : 0), end = result.scores.end();
      auto highest = std::max_element(scores, m.label_words() ? scores + m.labels : end) - scores;
      given[part[i]] = {result.losses[i], highest};
    }
  }
  double sum = 0;
  int64_t right = 0;
  for (auto& e : examples) {
    auto& all = e.candidates;
    auto less = [&](auto& a, auto& b) { return given[&a].loss < given[&b].loss; };
    sum += given[all.empty() ? &e : &all[e.label]].loss;
    auto least = std::min_element(all.begin(), all.end(), less) - all.begin();
    right += e.label == (all.empty() ? given[&e].highest : least);
  }
  auto n = static_cast<double>(examples.size());
  Evaluation found{sum / n, {}};
  if (m.label_words() || m.choices) found.accuracy = static_cast<double>(right) / n;
  return found;
}

// As prge/runtime_driver/loop/calibrate.py: a share of the way to the least loss along the optimizer's first direction.
double propose_lr(Program& program, const std::vector<Example>& examples, const std::vector<float>& start, double eps) {
  const Manifest& m = program.manifest();
  size_t size = m.parameters;
  std::vector<float> state = start;
  std::fill(state.begin() + size, state.end(), 0.0f);
  Batches batches(examples, m.batch, kSeed);
  std::vector<double> direction(size), square(size);
  for (int64_t i = 0; i < kHalf; i++) {
    auto stepped = program.step(batches.at(i), state, kDirections + i * m.queries, 1.0, eps).state;
    if (!finite(stepped)) throw Error("the estimate is not finite at eps " + dump(eps));
    for (size_t k = 0; k < size; k++) {
      // Momentum and Adam keep (1 - beta) times the gradient. A step of SGD with lr 1 is the gradient.
      double g = m.optimizer == "sgd" ? state[k] - stepped[k] : stepped[size + k] / static_cast<float>(1 - m.beta_mean);
      direction[k] += g / kHalf;
      square[k] += g * g / kHalf;
    }
  }
  for (size_t k = 0; k < size && m.optimizer == "adam"; k++) direction[k] /= std::sqrt(square[k]) + 1e-12;
  std::vector<Example> held;
  for (int64_t i = kHalf; i < 2 * kHalf; i++)
    for (auto* e : batches.at(i)) {
      held.push_back(*e);
      held.back().candidates.clear();  // of choices the right one alone, whose loss is the example's
    }
  bool classes = m.label_words() && !m.estimates();
  std::vector<double> ways{classes && m.labels > kFewClasses ? m.lr / 2 : m.lr / 8};
  while (ways.size() < size_t(classes ? kClassesWays : kWays)) ways.push_back(2 * ways.back());
  double way = search_lr(ways, std::min<int>(kStart, ways.size() - 1), [&](double way) {
    std::vector<float> moved = state;
    for (size_t k = 0; k < size; k++) moved[k] = static_cast<float>(moved[k] - way * direction[k]);
    return evaluate(program, moved, held).loss;
  });
  return way * (m.estimates() ? kEstimate : classes ? kClasses : kText);
}

double search_lr(const std::vector<double>& ways, int start, const std::function<double(double)>& loss_at) {
  std::map<int, double> losses;
  auto lowest = [&] {
    return std::min_element(losses.begin(), losses.end(), [](auto& a, auto& b) { return a.second < b.second; })->first;
  };
  auto falls = [&](int i) {
    double loss = loss_at(ways[i]);
    losses[i] = std::isnan(loss) ? INFINITY : loss;
    return losses[i] <= losses[lowest()] + kRounding;
  };
  for (int i = start; i >= 0 && falls(i); i--) continue;
  if (lowest() == start)
    for (int i = start + 1; i < int(ways.size()) && falls(i); i++) continue;
  // The bottom of a parabola through the least loss and its neighbours, in octaves from the least: ways double.
  int best = lowest();
  double octaves = 0;
  if (losses.count(best - 1) && losses.count(best + 1)) {
    double left = losses[best - 1], right = losses[best + 1], bend = left - 2 * losses[best] + right;
    octaves = std::isfinite(bend) && bend > 0 ? 0.5 * (left - right) / bend : 0;
  }
  return ways[best] * std::pow(2.0, octaves);
}

}  // namespace prge
