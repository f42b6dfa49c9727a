#include <algorithm>
#include <cmath>
#include <numeric>

#include "internal.h"

namespace prge {

// Far above where the run began: a mean over 10 steps of twice the first loss, and more than 1 nat over it.
bool Guard::diverged(double loss) const {
  double next = mean + (loss - mean) / 10;  // not a number at the first loss, which is never far
  return !std::isfinite(loss) || next > first + std::max(first, 1.0);
}

bool Guard::note(double loss, bool backed_off) {
  if (backed_off) {
    scale /= 2;
    mean = best;
    losses.clear();
    return false;
  }
  bool fresh = first == kNone;
  if (fresh) first = mean = best = loss;
  mean += (loss - mean) / 10;
  losses.push_back(loss);
  if (losses.size() < 10) return fresh;
  double of_ten = std::accumulate(losses.begin(), losses.end(), 0.0) / 10, before = best;
  losses.clear();
  best = std::min(of_ten, before);
  return of_ten < before;
}

Evaluation evaluate(Program& program, const std::vector<float>& state, const std::vector<Example>& examples) {
  const Manifest& m = program.manifest();
  struct Given {
    float loss;
    int64_t highest;  // of the label words
  };
  std::map<const Example*, Given> given;
  Batch rows;
  for (auto& e : examples) {
    for (auto& candidate : e.candidates) rows.push_back(&candidate);
    if (e.candidates.empty()) rows.push_back(&e);
  }
  // Rows of like length share an execution; the last one is filled up by repetition.
  std::stable_sort(rows.begin(), rows.end(), [](auto* a, auto* b) { return a->tokens.size() < b->tokens.size(); });
  for (size_t start = 0, count = m.rows(); start < rows.size(); start += count) {
    count = std::min(count, rows.size() - start);
    Batch part;
    for (int64_t i = 0; i < m.rows(); i++) part.push_back(rows[start + i % count]);
    auto result = program.execute(part, state, 0, 0, 0);
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
// Half of the batches give the direction, the other half the losses.
double propose_lr(Program& program, const std::vector<Example>& examples, const std::vector<float>& start, double eps) {
  const Manifest& m = program.manifest();
  constexpr int64_t kSeed = 0x7FFFFFFF, kDirections = (kSeed << 32) + (int64_t{1} << 31), kHalf = 4;
  size_t size = m.parameters;
  std::vector<float> state = start;
  std::fill(state.begin() + size, state.end(), 0.0f);
  Batches batches(examples, m.batch, kSeed);
  std::vector<double> direction(size), square(size);
  for (int64_t i = 0; i < kHalf; i++) {
    auto stepped = program.step(batches.at(i), state, kDirections + i * m.queries, 1.0, eps).state;
    if (!finite(stepped)) throw Error("the estimate is not finite at eps " + dump(eps));
    for (size_t k = 0; k < size; k++) {
      // The first mean of an optimizer that has one is its share of the gradient; else the step itself.
      double g = m.optimizer == "sgd" ? state[k] - stepped[k] : stepped[size + k] / static_cast<float>(1 - m.beta_mean);
      direction[k] += g / kHalf;
      square[k] += g * g / kHalf;
    }
  }
  for (size_t k = 0; k < size && m.optimizer == "adam"; k++) direction[k] /= std::sqrt(square[k]) + 1e-12;
  std::vector<Example> held;
  for (int64_t i = kHalf; i < 2 * kHalf; i++)
    for (auto* e : batches.at(i)) held.push_back(*e);
  double before = evaluate(program, state, held).loss, way = m.lr / 4, least = before;
  std::vector<std::pair<double, double>> along;
  for (int tries = 0; tries < 16; tries++, way *= 2) {
    std::vector<float> moved = state;
    for (size_t k = 0; k < size; k++) moved[k] = static_cast<float>(moved[k] - way * direction[k]);
    double loss = evaluate(program, moved, held).loss;
    along.emplace_back(way, loss);
    least = std::min(least, loss);
    if (std::isnan(loss) || loss > least + 0.1 * std::abs(before - least) + 1e-2) break;
  }
  // Where a parabola through the least and its neighbours has its bottom; ways double.
  auto best = std::min_element(along.begin(), along.end(), [](auto& a, auto& b) { return a.second < b.second; });
  double octaves = 0;
  if (best != along.begin() && best + 1 != along.end()) {
    double left = best[-1].second, right = best[1].second, bend = left - 2 * best->second + right;
    octaves = std::isfinite(bend) && bend > 0 ? 0.5 * (left - right) / bend : 0;
  }
  return best->first * std::pow(2.0, octaves) * 0.5;
}

}  // namespace prge
