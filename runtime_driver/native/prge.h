// Fine-tuning on a device, without Python: a program of prge's, its packed examples, and a run's folder.
//
// What the Python driver does, to the same bits; docs/run-folder.md has the files' formats. Every function throws
// prge::Error with a sentence for the user. Nothing here is safe to call from two threads at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace prge {

// What was wrong, where, and what to do.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a program says about itself; the fields are explained in prge/manifest.py.
struct Manifest {
  std::string json;  // all of it
  std::string model, model_sha256, adapter_sha256, perturb, optimizer, objective, answer_at;
  int64_t queries, batch, min_tokens, max_tokens, max_targets, state_size, pad_token, mask_token, vocabulary;
  int64_t parameters, labels;
  double beta_mean, beta_square, eps, lr;
  bool outer, inner, choices;

  bool label_words() const { return objective == "label-words"; }
  int64_t copies() const { return perturb == "activations" ? 1 : (outer ? queries : 1) * (inner ? 2 : 1); }
  int64_t rows() const { return copies() * batch; }
};

// One encoded example: the index of the right class or candidate (or -1), how many tokens at the end are targets, its
// tokens, and the rows of all answers to choose from, where there are some.
struct Example {
  int32_t label, targets;
  std::vector<int32_t> tokens;
  std::vector<Example> candidates;
};

// A file of `prge pack`. `crc` is that of all examples, `dropped` how many are left out because they are in dev.
struct Examples {
  std::string path;
  std::vector<Example> train, dev;
  int64_t dropped;
  std::string crc;

  static Examples read(const std::string& path, const Manifest& manifest);
};

using Batch = std::vector<const Example*>;

// The batches of a run, by number: of like length, each with the classes in the data's own proportion.
class Batches {
 public:
  Batches(const std::vector<Example>& examples, int64_t size, int64_t seed)
      : examples_(examples), size_(size), seed_(seed) {}
  const Batch& at(int64_t number);

 private:
  const std::vector<Example>& examples_;
  int64_t size_, seed_, epoch_ = -1;
  std::vector<Batch> groups_;
};

// A .pte on the ExecuTorch runtime.
class Program {
 public:
  struct Result {
    std::vector<float> state, losses, scores;  // [S], [R], label words' logits [R, K]
  };

  // Maps the file and packs its weights. `path` may be the program's folder; `threads` 0 leaves the runtime's choice,
  // and counts for all programs of the process.
  explicit Program(const std::string& path, unsigned threads = 0);
  ~Program();
  const std::string& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }
  std::vector<float> initial_state() const;

  // One execution on R rows.
  Result execute(const Batch& rows, const std::vector<float>& state, int64_t seed, double lr, double eps);
  // One fine-tuning step on B examples: the new state, and losses of each example or of each copy. No scores.
  Result step(const Batch& batch, const std::vector<float>& state, int64_t seed, double lr, double eps);

  // Called before every execution; may throw to stop.
  std::function<void()> before_each = [] {};

 private:
  struct Runtime;
  std::string path_;
  std::unique_ptr<Runtime> runtime_;
  Manifest manifest_;
};

struct Evaluation {
  double loss;                     // mean over the examples
  std::optional<double> accuracy;  // share of right answers, where there is a choice
};

Evaluation evaluate(Program& program, const std::vector<float>& state, const std::vector<Example>& examples);
// The lr of the first step, measured on a few batches.
double propose_lr(Program& program, const std::vector<Example>& examples, const std::vector<float>& state, double eps);

struct Settings {
  int64_t steps = 300;
  double lr = 0, eps = 0;  // 0: as measured; the program's
  int64_t seed = 0, eval_every = 50;
  std::string from;   // a run's folder or snapshot to go on from, instead of the program's own state
  int64_t after = 0;  // steps that made it
};

// Remembers a run's best state, and tells when it has left that for good; see prge/runtime_driver/loop/train.py.
struct Guard {
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  double scale = 1, first = kNone, mean = kNone, best = kNone;
  std::vector<double> losses;

  bool diverged(double loss) const;
  // A step's loss, and whether the step was thrown away; returns whether the state before it is the best so far.
  bool note(double loss, bool backed_off);
};

// What a step gave: the mean loss of the state before it, whether the run had diverged and is back at its best state,
// and evaluations of the states before and behind it, where they were due. The journal has more.
struct Record {
  double loss, seconds;
  bool backed_off;
  std::optional<Evaluation> before, dev;
};

// A run and its folder. Every step is in the journal, and the state behind it on disk, when `step` returns; a process
// may end at any moment, and another go on. The program and the examples must outlive it.
class Run {
 public:
  // Begins one in a new folder.
  Run(const std::string& folder, Program& program, const Examples& examples, const Settings& settings);
  // Goes on with one of this driver or the Python one, behind its last whole step.
  Run(const std::string& folder, Program& program, const Examples& examples);
  ~Run();

  // One step, and the evaluations that are due beside it. After a throw, on with a new object.
  const Record& step();
  void sync();  // all through to the disk
  bool done() const { return steps() >= settings_.steps; }
  int64_t steps() const { return static_cast<int64_t>(records_.size()); }  // that are made
  const std::vector<Record>& records() const { return records_; }
  const Settings& settings() const { return settings_; }
  const std::vector<float>& state() const { return state_; }
  std::string summary() const;  // of all steps so far, a JSON object

  // What a folder says of its run: where its program and its examples are.
  static std::pair<std::string, std::string> sources(const std::string& folder);

 private:
  void save();
  Program& program_;
  const Examples& examples_;
  Settings settings_;
  std::vector<float> state_, good_;
  std::string folder_;  // which is made when all that is given has been read
  Batches batches_;
  std::unique_ptr<class Journal> journal_;
  Guard guard_;
  std::vector<Record> records_;
  std::chrono::steady_clock::time_point synced_ = std::chrono::steady_clock::now();
};

}  // namespace prge
