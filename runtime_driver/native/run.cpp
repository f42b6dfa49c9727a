#include <algorithm>
#include <set>

#include "internal.h"

namespace prge {
namespace {

constexpr const char *kConfig = "/config.json", *kJournal = "/log.jsonl", *kState = "/state.safetensors",
                     *kEarlier = "/earlier.safetensors", *kBest = "/best.safetensors",
                     *kStart = "/start.safetensors";
// Between writes through to the disk. They cost milliseconds, and a flash disk's life.
constexpr std::chrono::seconds kSync(5);

// Makes the folder of a new run. It may hold a program, and the files of a run that was cut off as it began.
std::string new_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  std::set<fs::path> allowed = {"program", kHidden, kHiddenScratch};
  if (fs::file_size(folder + kJournal, error) == 0)
    allowed.insert({"log.jsonl", "state.safetensors", "state.partial", "start.safetensors", "start.partial",
                    "config.partial"});
  for (auto& file : fs::directory_iterator(folder, error))
    if (!allowed.count(file.path().filename()))
      throw Error(folder + " exists and is not empty; choose another --output or remove it");
  if (error) throw Error(folder + " cannot be written: " + error.message());
  return folder;
}

// Where a run begins; `s` gets the whole path of --from, and the steps behind its state.
std::vector<float> start(const Program& program, Settings& s) {
  if (s.from.empty()) return program.initial_state();
  s.from = fs::weakly_canonical(s.from).string();
  std::string best = s.from + kBest, file = fs::is_regular_file(best) ? best : s.from + kState;
  return state_from(fs::is_directory(s.from) ? file : s.from, program.manifest(), s.after);
}

// The frozen part runs, if it is to run once, and is gone before the weights of the other are packed. Then the longest
// row runs, so that the runtime makes its buffers now: it would have two of them while it enlarges one.
void prepare(const std::string& folder, const Settings& s, Program& program, const Examples& examples,
             const std::vector<float>& state) {
  if (!s.hidden.empty()) program.keep((fs::path(folder) / s.hidden).string(), examples);
  const Example* longest = nullptr;
  for (auto* part : {&examples.train, &examples.dev})
    for (auto* row : rows_of(*part))
      if (!longest || row->tokens.size() > longest->tokens.size()) longest = row;
  program.execute(Batch(program.manifest().rows(), longest), state, 0, 0, 0);
}

}  // namespace

Run::~Run() = default;

Run::Run(const std::string& folder, Program& program, const Examples& examples, const Settings& settings)
    : program_(program), examples_(examples), settings_(settings), state_(start(program, settings_)),
      folder_(new_folder(folder)), batches_(examples.train, program.manifest().batch, settings.seed),
      journal_(std::make_unique<Journal>(folder + kJournal)) {
  Settings& s = settings_;
  const Manifest& m = program.manifest();
  try {
    if (s.eps && !m.estimates())
      throw Error("the gradient of this program is exact and perturbs nothing; leave --eps out");
    if (!s.eps) s.eps = m.eps;
    s.hidden = hidden_file(folder, s.cache, m, examples);
    prepare(folder, s, program, examples, state_);
    if (!s.lr) s.lr = propose_lr(program, examples.train, state_, s.eps);
  } catch (...) {  // of a run that does not begin, nothing stays
    std::error_code ignored;
    fs::remove(fs::path(folder) / kHidden, ignored);
    bool only_journal = std::distance(fs::directory_iterator(folder, ignored), fs::directory_iterator()) == 1;
    if (only_journal) fs::remove_all(folder, ignored);
    throw;
  }
  if (s.from.empty())
    fs::remove(folder + kStart);
  else
    write_file(folder + kStart, state_content(m, state_, s.after));
  save();
  std::string path = fs::canonical(program.path()).string(), data = fs::canonical(examples.path).string();
  write_file(folder + kConfig, {dump(description(path, data, m, examples, s)) + "\n"});
}

Run::Run(const std::string& folder, Program& program, const Examples& examples)
    : program_(program), examples_(examples), settings_(settings_of(folder, program, examples)), folder_(folder),
      batches_(examples.train, program.manifest().batch, settings_.seed),
      journal_(std::make_unique<Journal>(folder + kJournal)) {
  journal_->read([&](const Json& row) { records_.push_back(record(row)); });
  int64_t newest = -1;
  std::string reasons;
  for (std::string path : {folder + kState, folder + kEarlier}) try {
    auto found = read_snapshot(path, program.manifest());
    if (found.steps > steps())
      throw Error("a snapshot of " + std::to_string(found.steps) + " steps has a journal of " +
                  std::to_string(steps()) + " beside it");
    if (found.steps <= newest) continue;
    newest = found.steps;
    state_ = std::move(found.state);
    good_ = std::move(found.good);
  } catch (const Error& e) {
    reasons += std::string("; ") + e.what();
  }
  if (newest < 0) throw Error(folder + " cannot be resumed" + reasons.replace(0, 1, ":"));
  journal_->keep(newest);
  records_.resize(newest);
  for (size_t i = 0; i < records_.size(); i++) {
    const Record& r = records_[i];
    guard_.note(r.loss, r.backed_off);
    if (r.before) best_.note(0, *r.before);
    if (r.dev) best_.note(i + 1, *r.dev);
  }
  prepare(folder, settings_, program, examples, state_);
}

// Replaces the newest snapshot, which becomes the earlier one if it was written through to the disk. The first one is,
// and from then on one every few seconds, each after the journal.
void Run::save() {
  std::string path = folder_ + kState, scratch = scratch_of(path);
  File file(scratch, O_WRONLY | O_CREAT | O_TRUNC, path);
  file.write(state_content(program_.manifest(), state_, settings_.after + steps(), steps(), good_));
  if (synced_) replace_file(path, folder_ + kEarlier);
  synced_ = Clock::now() - synced_at_ > kSync;
  if (synced_) {
    journal_->sync();
    file.sync();
    synced_at_ = Clock::now();
  }
  replace_file(scratch, path);
}

// Writes the state through to the disk if its evaluation is the best so far; then the journal may tell of it.
void Run::keep_best(int64_t steps, const Evaluation& evaluation) {
  if (best_.note(steps, evaluation))
    write_file(folder_ + kBest, state_content(program_.manifest(), state_, settings_.after + steps));
}

const Record& Run::step() {
  const Manifest& m = program_.manifest();
  const Settings& s = settings_;
  const std::vector<Example>& dev = examples_.dev;
  Step made{};
  made.step = steps();
  if (!made.step && !dev.empty()) keep_best(0, *(made.before = evaluate(program_, state_, dev)));
  auto began = Clock::now();
  const Batch& batch = batches_.at(s.after + made.step);
  int64_t length = m.min_tokens;
  for (auto* e : batch) {
    made.examples.push_back(e - examples_.train.data());
    length = std::max<int64_t>(length, e->tokens.size());
  }
  made.tokens = length * m.rows();
  made.seed = seed_at(s, made.step, m);
  made.lr = guard_.scale * lr_at(s, made.step, m);
  made.eps = s.eps;
  auto result = program_.step(batch, state_, made.seed, made.lr, s.eps);
  made.losses = std::move(result.losses);
  for (float loss : made.losses) made.loss += loss;
  made.loss /= static_cast<double>(made.losses.size());
  made.seconds = since(began);
  auto decision = guard_.watch(made.loss, finite(result.state));
  made.backed_off = decision.back_off;
  if (decision.good) good_ = state_;
  state_ = made.backed_off ? good_ : std::move(result.state);
  bool due = made.step + 1 == s.steps || (s.eval_every && (made.step + 1) % s.eval_every == 0);
  if (due && !dev.empty()) keep_best(made.step + 1, *(made.dev = evaluate(program_, state_, dev)));
  journal_->append(to_json(made));
  records_.push_back(made);
  save();
  if (guard_.scale > 1.0 / 256) return records_.back();
  sync();
  throw Error("step " + std::to_string(steps()) + ": smaller learning rates did not help; the best state is kept. " +
              "Is --eps or --lr far from what `prge calibrate` proposes?");
}

void Run::sync() {
  journal_->sync();
  for (auto& path : {folder_ + kState, folder_}) File(path, O_RDONLY).sync();
}

std::string Run::summary() const {
  Json found = {{"completed", done()}, {"steps", steps()}, {"lr", settings_.lr}};
  std::vector<double> seconds;
  for (auto& r : records_) {
    seconds.push_back(r.seconds);
    if (r.before) found["before"] = to_json(*r.before);
    if (r.backed_off) found["backed_off"].push_back(seconds.size());
  }
  std::sort(seconds.begin(), seconds.end());
  if (size_t n = seconds.size()) found["seconds_per_step"] = (seconds[n / 2] + seconds[(n - 1) / 2]) / 2;
  if (best_.steps >= 0) {
    found["after"] = to_json(best_.steps ? *records_[best_.steps - 1].dev : *records_[0].before);
    found["after"]["steps"] = best_.steps;
  }
  found["state"] = folder_ + (best_.steps < 0 ? kState : kBest);
  return dump(found);
}

}  // namespace prge
