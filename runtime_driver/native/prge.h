// Fine-tuning on a device, without Python: load a program of prge's, read packed examples, make a run in a folder.
//
//   prge::Program program("program/program.pte");
//   auto examples = prge::Examples::read("data.prge", program.manifest());
//   prge::Run run("run", program, examples, prge::Settings{100});
//   while (!run.done()) std::printf("%f\n", run.step().loss);
//   run.sync();
//
// The results are those of the Python driver, to the same bits; docs/run-folder.md specifies the files and a step's
// arithmetic. Every function throws prge::Error. Nothing here may be called from two threads at once.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
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

// A sentence for the user: what was wrong, where, and what to do.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What a program says about itself. prge/manifest.py explains the fields.
struct Manifest {
  std::string json;  // the whole manifest
  std::string model, model_sha256, adapter_sha256, frozen_sha256, gradient, optimizer, objective, answer_at;
  int64_t queries, batch, frozen_rows, min_tokens, max_tokens, max_targets;
  int64_t state_size, pad_token, mask_token, vocabulary;
  int64_t parameters, labels, hidden;  // hidden: width of the hidden states
  double beta_mean, beta_square, eps, lr;
  bool outer, inner, choices;

  bool label_words() const { return objective == "label-words"; }
  bool estimates() const { return gradient == "activations" || gradient == "weights"; }
  // Copies of every example in one execution, and its rows R.
  int64_t copies() const { return gradient != "weights" ? 1 : (outer ? queries : 1) * (inner ? 2 : 1); }
  int64_t rows() const { return copies() * batch; }
};

// One encoded example.
struct Example {
  int32_t label;                    // index of the right class or candidate, or -1
  int32_t targets;                  // how many tokens at the end are to be learned; 0 with label words
  std::vector<int32_t> tokens;
  std::vector<Example> candidates;  // the rows of all answers to choose from, where there are some
};

// The examples in a file of `prge pack`.
struct Examples {
  std::string path;
  std::vector<Example> train, dev;
  int64_t dropped;  // how many training examples were left out because they are in dev
  std::string crc;  // CRC-32 of all examples

  /**
   * Reads a packed file.
   *
   * @param path The file.
   * @param manifest The program that the examples are for.
   * @throws Error It cannot be read, is damaged, or was packed for another program.
   */
  static Examples read(const std::string& path, const Manifest& manifest);
};

using Batch = std::vector<const Example*>;

// The batches of a run. The examples of a batch have like lengths, and the classes in the data's own proportion.
class Batches {
 public:
  /**
   * @param examples Must outlive this object.
   * @param size B, the examples of a batch.
   * @param seed The run's.
   */
  Batches(const std::vector<Example>& examples, int64_t size, int64_t seed)
      : examples_(examples), size_(size), seed_(seed) {}
  // The batch of a step, counted from 0. It stays as it is until the next call.
  const Batch& at(int64_t number);

 private:
  const std::vector<Example>& examples_;
  int64_t size_, seed_, epoch_ = -1;
  std::vector<Batch> groups_;
};

// A program on the ExecuTorch runtime: program.pte, and beside it frozen.pte, the layers that nothing changes.
class Program {
 public:
  struct Result {
    std::vector<float> state;   // [state_size], the new one
    std::vector<float> losses;  // [R]
    std::vector<float> scores;  // [R, labels], the label words' logits; empty without label words
  };

  /**
   * Maps the file. Its weights are packed by the first execution, which takes a moment.
   *
   * @param path The .pte, or the program's folder.
   * @param threads For all programs of the process; 0 leaves the choice to the runtime.
   * @throws Error There is no program of prge's, or this runtime cannot load it.
   */
  explicit Program(const std::string& path, unsigned threads = 0);
  ~Program();
  const std::string& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }
  // Zeros, or the state of the adapter that the program was exported with.
  std::vector<float> initial_state() const;

  /**
   * Takes the hidden states of examples from a file from now on. Makes it where it is missing, damaged, or of other
   * examples or another program. Then the frozen part is unloaded.
   *
   * @param examples Must outlive this object.
   * @throws Error The file cannot be written, or frozen.pte is missing, damaged, or another program's.
   */
  void keep(const std::string& path, const Examples& examples);

  /**
   * One execution of the program, behind those of the frozen part where no hidden states are kept.
   *
   * @param rows R examples.
   * @param state [state_size].
   * @param seed Query i draws its direction from seed + i.
   * @param lr Learning rate; 0 to evaluate.
   * @param eps Size of the perturbation; 0 to evaluate.
   */
  Result execute(const Batch& rows, const std::vector<float>& state, int64_t seed, double lr, double eps);

  /**
   * One fine-tuning step: as many executions as the program needs for it.
   *
   * @param batch B examples.
   * @returns The new state, and the losses: of each example with perturbed activations, else the batch's mean of each
   *     copy, those at +eps first. No scores.
   */
  Result step(const Batch& batch, const std::vector<float>& state, int64_t seed, double lr, double eps);

  // Called before every execution. It may throw to stop.
  std::function<void()> before_each = [] {};
  // Hears how many tokens' hidden states are made, of how many, while `keep` makes them.
  std::function<void(int64_t done, int64_t all)> reading = [](int64_t, int64_t) {};
  // Seconds spent inside the runtime's execute so far.
  double execution_seconds = 0;

 private:
  struct Runtime;
  Runtime& frozen();  // loaded at the first call
  std::vector<float> states(const Batch& rows);
  std::vector<float> compute_states(const std::vector<int64_t>& tokens, int64_t length);
  Result execute(const Batch& rows, std::vector<float>& hidden, const std::vector<float>& state, int64_t seed,
                 double lr, double eps);
  std::string path_;
  std::unique_ptr<Runtime> runtime_, frozen_;
  std::unique_ptr<class Hidden> hidden_;
  Manifest manifest_;
};

struct Evaluation {
  double loss;                     // mean over the examples
  std::optional<double> accuracy;  // share of right answers, where there is a choice
};

Evaluation evaluate(Program& program, const std::vector<float>& state, const std::vector<Example>& examples);

/**
 * Measures a learning rate for the first step, on a few batches.
 *
 * @param state Where the run begins.
 * @param eps The run's.
 */
double propose_lr(Program& program, const std::vector<Example>& examples, const std::vector<float>& state, double eps);

// What a run is asked to do.
struct Settings {
  int64_t steps = 300;
  double lr = 0;   // of the first step, falling linearly to zero; 0 to measure it
  double eps = 0;  // size of the perturbation; 0 for the program's
  int64_t seed = 0;
  int64_t eval_every = 50;  // steps between evaluations; 0 for the end alone
  std::string from;         // a run's folder or a state file to begin with, instead of the program's initial state
  std::string cache;        // of hidden states: "off", a size as "2GB", or a folder; "" for at most 4 GB
  int64_t after = 0;        // how many steps made that state; Run sets it
  std::string hidden;       // the file of hidden states, in the run's folder or by its whole path; Run sets it
};

// Remembers which state of a run was the best, and tells when the run has diverged. docs/run-folder.md has the rules.
struct Guard {
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  double scale = 1;       // of the learning rate; halved whenever the run goes back
  double first = kNone;   // the first loss, but at least that of guessing
  double mean = kNone;    // a running mean over about `span` steps
  double best = kNone;    // the lowest mean of `span` losses, or `first`
  std::vector<double> losses;  // since the last `span` were summed up
  // A small batch's loss says little.
  int64_t span;     // ten steps, or as many as have 40 examples
  double guessing;  // the loss of guessing among the label words; 0 where the answer is text

  Guard(int64_t batch, int64_t classes)
      : span(std::max<int64_t>(10, (40 + batch - 1) / batch)), guessing(std::log(std::max<int64_t>(1, classes))) {}

  struct Decision {
    bool back_off;  // throw the new state away and go back to the good one
    bool good;      // the state before the step is the good one from now on
  };

  /**
   * Decides what follows from a step.
   *
   * @param loss Mean over the batch, of the state before the step.
   * @param finite Whether all numbers of the new state are finite.
   * @throws Error The run's first loss is not finite, so that there is no good state.
   */
  Decision watch(double loss, bool finite);
  // Notes a step that the journal has. Returns whether the state before it is the good one from then on.
  bool note(double loss, bool backed_off);
};

// Remembers which state of a run to keep: the last one whose accuracy is within two points of the highest so far;
// without a choice to make the one of the lowest loss.
struct Best {
  int64_t steps = -1;  // of the run, behind which it was evaluated; -1 before the first evaluation
  int64_t waited = 0;  // evaluations since the one of the highest accuracy, and of these of the lowest loss
  double accuracy = 0, loss = std::numeric_limits<double>::infinity();  // its

  // Notes an evaluation. Returns whether its state is the one to keep. A loss that is not finite counts only as the
  // first.
  bool note(int64_t steps, const Evaluation& evaluation);
};

// What a step gave. The journal has more.
struct Record {
  double loss;      // mean over the batch, of the state before the step
  double seconds;   // of the step, without evaluations
  bool backed_off;  // the run had diverged, and is back at its best state
  std::optional<Evaluation> before, dev;  // of the states before and behind the step, where they were due
};

// A run and its folder. When `step` returns, the step is in the journal and its state on disk. So a process may end at
// any moment, and another one goes on. Program and examples must outlive the object.
class Run {
 public:
  // Begins a run in a new folder.
  Run(const std::string& folder, Program& program, const Examples& examples, const Settings& settings);
  // Goes on behind the last whole step of a run, whether this driver or the Python one made it.
  Run(const std::string& folder, Program& program, const Examples& examples);
  ~Run();

  // Makes one step, and the evaluations that are due beside it. After an Error, go on with a new object.
  const Record& step();
  // Writes everything through to the disk.
  void sync();
  bool done() const { return steps() >= settings_.steps; }
  // How many steps are made.
  int64_t steps() const { return static_cast<int64_t>(records_.size()); }
  const std::vector<Record>& records() const { return records_; }
  const Settings& settings() const { return settings_; }
  const std::vector<float>& state() const { return state_; }
  const Best& best() const { return best_; }
  // A JSON object about all steps so far.
  std::string summary() const;

  // Where a run's program and its examples are, as its folder says.
  static std::pair<std::string, std::string> sources(const std::string& folder);

 private:
  void save();
  void keep_best(int64_t steps, const Evaluation& evaluation);
  Program& program_;
  const Examples& examples_;
  Settings settings_;
  std::vector<float> state_, good_;
  std::string folder_;  // made once everything that was given has been read
  Batches batches_;
  std::unique_ptr<class Journal> journal_;
  Guard guard_{program_.manifest().batch, program_.manifest().labels};
  Best best_;
  std::vector<Record> records_;
  bool synced_ = false;
  std::chrono::steady_clock::time_point synced_at_{};
};

}  // namespace prge
