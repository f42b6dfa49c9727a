// Fine-tuning on a device, without Python: a program of prge's, its packed examples, and a run's folder.
//
// What the Python driver does, to the same bits; docs/run-folder.md has the files' formats. Every function throws
// prge::Error with a sentence for the user. Nothing here is safe to call from two threads at once.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace prge {

// What was wrong, where, and what to do.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a program says about itself; the fields are explained in prge/manifest.py.
struct Manifest {
  std::string model, model_sha256, adapter_sha256, quantization, noise, perturb, optimizer, objective, subspace;
  std::string tokenizer_sha256, answer_at;
  int64_t queries, batch, min_tokens, max_tokens, state_size, max_targets, pad_token, mask_token, vocabulary;
  int64_t rank, parameters, labels;
  double alpha, beta_mean, beta_square, eps, lr;
  bool outer, inner, choices;
  uint32_t form;  // CRC-32 of what decides, beside the tokenizer, which examples a text becomes

  static Manifest parse(const std::string& json, const std::string& where);
  bool label_words() const { return objective == "label-words"; }
  int64_t copies() const { return perturb == "activations" ? 1 : (outer ? queries : 1) * (inner ? 2 : 1); }
  int64_t rows() const { return copies() * batch; }
};

// One encoded example: its tokens, the index of the right class or candidate (or -1), how many tokens at the end are
// targets, and the rows of all answers to choose from, where there are some.
struct Example {
  int32_t label, targets;
  std::vector<int32_t> tokens;
  std::vector<Example> candidates;
};

// A file of `prge pack`. `crc` is that of all examples, `dropped` how many are left out because they are in dev.
struct Examples {
  std::string path;
  std::vector<Example> train, dev;
  uint32_t dropped = 0, crc = 0;

  static Examples read(const std::string& path, const Manifest& manifest);
};

using Batch = std::vector<const Example*>;

// The batches of a run, by number: of like length, each with the classes in the data's own proportion.
class Batches {
 public:
  Batches(const std::vector<Example>& examples, int64_t size, int64_t seed);
  const std::vector<int64_t>& at(int64_t number);  // places among the examples

 private:
  void shuffle(int64_t epoch);
  const std::vector<Example>& examples_;
  int64_t size_, seed_, epoch_ = -1;
  std::vector<std::vector<int64_t>> groups_;
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

// Hears between executions how many rows are done; may throw to stop.
using Progress = std::function<void(size_t)>;

Evaluation evaluate(Program& program, const std::vector<float>& state, const std::vector<Example>& examples,
                    const Progress& progress = nullptr);
// The lr of the first step, measured on a few batches.
double propose_lr(Program& program, const std::vector<Example>& examples, const std::vector<float>& state, double eps,
                  const Progress& progress = nullptr);

struct Settings {
  int64_t steps = 300;
  double lr = 0, eps = 0;
  int64_t seed = 0, eval_every = 50, after = 0;

  double lr_at(int64_t step, const Manifest& manifest) const;
  int64_t seed_at(int64_t step, const Manifest& m) const { return (seed << 32) + (after + step) * m.queries; }
};

// Remembers the best state so far, and tells when a run has left it for good; see prge/runtime_driver/train.py.
struct Guard {
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  std::vector<float> good;
  double scale = 1, first = kNone, mean = kNone, best = kNone;
  std::vector<double> losses;

  bool diverged(const std::vector<float>& state, double loss, const std::vector<float>& new_state);
  const std::vector<float>& back_off();
};

// What a step gave: the mean loss of the state before it, whether the run had diverged and is back at its best state,
// and an evaluation of the state behind it, where one was due. The journal has more.
struct Record {
  int64_t step;
  double loss;
  bool backed_off;
  std::optional<Evaluation> dev;
};

// A run and its folder. Every step is in the journal, and the state behind it on disk, when `step` returns; a process
// may end at any moment, and `resume` goes on. The program and the examples must outlive it.
class Run {
 public:
  // A new run in a new folder.
  static Run begin(const std::string& folder, Program& program, const Examples& examples, const Settings& settings);
  // A run of this driver or the Python one, behind its last whole step.
  static Run resume(const std::string& folder, Program& program, const Examples& examples);
  Run(Run&&) noexcept;
  ~Run();

  bool done() const;
  // One step, and the evaluations that are due beside it. After a throw, on with a new object by `resume`.
  Record step(const Progress& evaluating = nullptr);
  void sync();  // all through to the disk
  const Settings& settings() const;
  const std::vector<float>& state() const;
  int64_t steps() const;          // that are made
  std::string summary() const;    // of all steps so far, a JSON object

  // What a folder says of its run: where its program and its examples are.
  static std::pair<std::string, std::string> sources(const std::string& folder);

 private:
  struct Parts;
  explicit Run(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace prge
