#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <set>

#include "internal.h"

namespace prge {
namespace {

using Clock = std::chrono::steady_clock;
constexpr const char *kConfig = "/config.json", *kJournal = "/log.jsonl", *kState = "/state.safetensors",
                     *kEarlier = "/earlier.safetensors";
// Between writes through to the disk, which cost milliseconds, and a flash disk's life.
constexpr std::chrono::seconds kSync(5);

Json to_json(const Evaluation& e) {
  Json json = {{"loss", e.loss}};
  if (e.accuracy) json["accuracy"] = *e.accuracy;
  return json;
}

std::optional<Evaluation> evaluation(const Json& row, const char* name) {
  if (!row.contains(name)) return {};
  const Json &numbers = row[name], &loss = numbers.at("loss");
  Evaluation found{loss.is_null() ? NAN : double(loss), {}};
  if (numbers.contains("accuracy")) found.accuracy = double(numbers["accuracy"]);
  return found;
}

Record record(const Json& row) {
  const Json& loss = row.at("loss");
  return {loss.is_null() ? NAN : double(loss), row.at("seconds"), row.at("backed_off"), evaluation(row, "before"),
          evaluation(row, "dev")};
}

// What a run's files say of the program that they belong to.
Json identity(const Manifest& m) {
  return {{"base", m.model}, {"base_sha256", m.model_sha256}, {"adapter_sha256", m.adapter_sha256}};
}

// And what else must be alike for a run to go on.
Json program_settings(const Manifest& m) {
  Json found = identity(m), manifest = parse_json(m.json);
  for (auto* name : {"quantization", "queries", "batch", "outer", "inner", "perturb", "optimizer", "noise"})
    found["exported"][name] = manifest.at(name);
  for (auto* name : {"rank", "alpha", "subspace"}) found["exported"][name] = manifest.at("adapter").at(name);
  return found;
}

Json read_config(const std::string& folder) {
  if (!fs::exists(folder + kConfig)) throw Error(folder + " is no run folder (no config.json)");
  return parse_json(read_file(folder + kConfig));
}

// A folder for a new run: beside a program, it may hold what a run leaves that was cut off as it began.
std::string new_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  std::set<fs::path> allowed = {"program"};
  if (fs::file_size(folder + kJournal, error) == 0)
    allowed.insert({"log.jsonl", "state.safetensors", "state.partial", "config.partial"});
  for (auto& file : fs::directory_iterator(folder, error))
    if (!allowed.count(file.path().filename()))
      throw Error(folder + " exists and is not empty; choose another --output or remove it");
  if (error) throw Error(folder + " cannot be written: " + error.message());
  return folder;
}

// A run's settings, if it is one of this program and these examples.
Settings settings_of(const std::string& folder, const Program& program, const Examples& examples) try {
  const Json config = read_config(folder), here = program_settings(program.manifest()).flatten();
  for (auto& [name, value] : here.items())
    if (config.value(Json::json_pointer(name), Json()) != value)
      throw Error("it is of another program than " + program.path() + ": its " + name.substr(1) + " differs");
  if (config.at("data").at("crc") != examples.crc)
    throw Error("it was begun with other examples than those of " + examples.path);
  const Json& t = config.at("train");
  Settings s{whole(t.at("steps")), t.at("lr"), t.at("eps"), whole(t.at("seed")), whole(t.at("eval_every")), "",
             whole(t.at("after"))};
  if (!s.steps) throw Error("its settings make no run");
  return s;
} catch (const std::exception& e) {
  throw Error(folder + " cannot be resumed: " + e.what());
}

// The state that a run goes on from; one of another optimizer has no steps behind it, and nothing remembered.
std::vector<float> state_from(const Manifest& m, Settings& s) try {
  s.from = fs::canonical(s.from).string();
  auto held = Tensors<float>::read(fs::is_directory(s.from) ? s.from + kState : s.from, "a state of prge");
  auto& state = held.vectors["state"];
  size_t parameters = m.parameters, size = m.state_size;
  if (held.metadata["base_sha256"] != m.model_sha256 || held.metadata["adapter_sha256"] != m.adapter_sha256)
    throw Error("it was trained with another base, or between other frozen factors, than the program's");
  if (state.empty() || state.size() % parameters || state.size() > 3 * parameters || !finite(state))
    throw Error("its state is of another size than the program's, or a number in it is not finite");
  if (state.size() == size) {
    s.after = whole(parse_json(held.metadata["steps"]));
  } else {
    state.resize(parameters);
    state.resize(size);
  }
  return state;
} catch (const std::exception& e) {
  throw Error("--from " + s.from + ": " + e.what());
}

// The lr of a step: with the decay, and the correction that the optimizer's young means need.
double lr_at(const Settings& s, int64_t step, const Manifest& m) {
  double now = s.lr * (1.0 - static_cast<double>(step) / static_cast<double>(s.steps));
  auto behind = static_cast<double>(s.after + step + 1);
  double mean = 1.0 - std::pow(m.beta_mean, behind), square = 1.0 - std::pow(m.beta_square, behind);
  if (m.optimizer == "sgd") return now;
  return m.optimizer == "momentum" ? now / mean : now * std::sqrt(square) / mean;
}

}  // namespace

Run::~Run() = default;

Run::Run(const std::string& folder, Program& program, const Examples& examples, const Settings& settings)
    : program_(program), examples_(examples), settings_(settings),
      state_(settings.from.empty() ? program.initial_state() : state_from(program.manifest(), settings_)),
      folder_(new_folder(folder)), batches_(examples.train, program.manifest().batch, settings.seed),
      journal_(std::make_unique<Journal>(folder + kJournal)) {
  Settings& s = settings_;
  if (!s.eps) s.eps = program.manifest().eps;
  if (!s.lr) s.lr = propose_lr(program, examples.train, state_, s.eps);
  save();
  Json config = program_settings(program.manifest());
  config["program"] = fs::canonical(program.path()).string();
  config["runtime"] = "executorch";
  config["train"] = {{"steps", s.steps}, {"lr", s.lr}, {"eps", s.eps}, {"seed", s.seed}, {"eval_every", s.eval_every},
                     {"after", s.after}};
  config["data"] = {{"train", fs::canonical(examples.path).string()}, {"dev", {}}, {"dev_fraction", 0.0}, {"limit", {}},
                    {"seed", s.seed}, {"truncate", false}, {"tokenizer", {}},
                    {"from", s.from.empty() ? Json() : Json(s.from)}, {"device", "cpu"},
                    {"examples", examples.train.size()}, {"dropped", examples.dropped}, {"crc", examples.crc}};
  std::string scratch = folder + "/config.partial";
  File file(scratch, O_WRONLY | O_CREAT | O_TRUNC);
  file.write(dump(config) + "\n");
  file.sync();
  replace_file(scratch, folder + kConfig);
}

Run::Run(const std::string& folder, Program& program, const Examples& examples)
    : program_(program), examples_(examples), settings_(settings_of(folder, program, examples)), folder_(folder),
      batches_(examples.train, program.manifest().batch, settings_.seed),
      journal_(std::make_unique<Journal>(folder + kJournal)) {
  journal_->read([&](const Json& row) { records_.push_back(record(row)); });
  int64_t newest = -1;
  std::string reasons;
  for (std::string path : {folder + kState, folder + kEarlier}) try {
    auto held = Tensors<float>::read(path, "a snapshot of a run");
    int64_t steps = whole(parse_json(held.metadata["run_steps"]));
    auto &state = held.vectors["state"], &good = held.vectors["good"];
    size_t size = program.manifest().state_size;
    if (steps > this->steps()) throw Error(path + " has a shorter journal beside it");
    if (state.size() != size || good.size() != (steps ? size : 0))
      throw Error(path + " is not a snapshot of a run of this program");
    if (steps <= newest) continue;
    newest = steps;
    state_ = std::move(state);
    good_ = std::move(good);
  } catch (const std::exception& e) {
    reasons += std::string("; ") + e.what();
  }
  if (newest < 0) throw Error(folder + " cannot be resumed" + reasons);
  journal_->keep(newest);
  records_.resize(newest);
  for (auto& r : records_) guard_.note(r.loss, r.backed_off);
}

// Replaces the newest snapshot; every few seconds through to the disk, and the journal before it.
void Run::save() {
  Tensors<float> snapshot{identity(program_.manifest()), {{"state", state_}}};
  if (!good_.empty()) snapshot.vectors["good"] = good_;
  snapshot.metadata["steps"] = std::to_string(settings_.after + steps());
  snapshot.metadata["run_steps"] = std::to_string(steps());
  std::string path = folder_ + kState, scratch = folder_ + "/state.partial";
  File file(scratch, O_WRONLY | O_CREAT | O_TRUNC);
  file.write(snapshot.bytes());
  if (Clock::now() - synced_ > kSync) {
    journal_->sync();
    file.sync();
    synced_ = Clock::now();
    if (fs::exists(path)) replace_file(path, folder_ + kEarlier);
  }
  replace_file(scratch, path);
}

const Record& Run::step() {
  const Manifest& m = program_.manifest();
  const Settings& s = settings_;
  const std::vector<Example>& dev = examples_.dev;
  int64_t step = steps(), length = m.min_tokens, seed = (s.seed << 32) + (s.after + step) * m.queries;
  std::optional<Evaluation> before;
  if (!step && !dev.empty()) before = evaluate(program_, state_, dev);
  auto began = Clock::now();
  const Batch& batch = batches_.at(s.after + step);
  std::vector<int64_t> places;
  for (auto* e : batch) {
    places.push_back(e - examples_.train.data());
    length = std::max<int64_t>(length, e->tokens.size());
  }
  double lr = guard_.scale * lr_at(s, step, m), loss = 0;
  auto result = program_.step(batch, state_, seed, lr, s.eps);
  std::vector<double> losses;  // which JSON has as null where they are not finite
  for (float each : result.losses) {
    loss += each;
    char nine[32];  // digits: all that a float has
    std::snprintf(nine, sizeof nine, "%.9g", static_cast<double>(each));
    losses.push_back(std::strtod(nine, nullptr));
  }
  loss /= static_cast<double>(losses.size());
  double seconds = std::chrono::duration<double>(Clock::now() - began).count();
  bool backed_off = guard_.diverged(loss) || !finite(result.state);
  if (guard_.note(loss, backed_off)) good_ = state_;
  if (backed_off && good_.empty())
    throw Error("the first loss is not finite; is --eps far from what `prge calibrate` proposes?");
  state_ = backed_off ? good_ : std::move(result.state);
  Json row = {{"step", step}, {"loss", loss}, {"lr", lr}, {"eps", s.eps}, {"seed", seed}, {"tokens", length * m.rows()},
              {"seconds", seconds}, {"losses", losses}, {"examples", places}, {"backed_off", backed_off}};
  bool due = step + 1 == s.steps || (s.eval_every && (step + 1) % s.eval_every == 0);
  if (due && !dev.empty()) row["dev"] = to_json(evaluate(program_, state_, dev));
  if (before) row["before"] = to_json(*before);
  journal_->append(row);
  records_.push_back(record(row));
  save();
  if (guard_.scale > 1.0 / 256) return records_.back();
  sync();
  throw Error("step " + std::to_string(step + 1) + ": smaller learning rates did not help; the best state is kept. " +
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
    if (r.dev) found["after"] = to_json(*r.dev);
    if (r.dev) found["after"]["steps"] = seconds.size();
    if (r.backed_off) found["backed_off"].push_back(seconds.size());
  }
  std::sort(seconds.begin(), seconds.end());
  if (size_t n = seconds.size()) found["seconds_per_step"] = (seconds[n / 2] + seconds[(n - 1) / 2]) / 2;
  found["state"] = folder_ + kState;
  return dump(found);
}

std::pair<std::string, std::string> Run::sources(const std::string& folder) try {
  const Json config = read_config(folder), &train = config.at("data").at("train");
  return {config.at("program"), train.is_null() ? "" : std::string(train)};
} catch (const std::exception& e) {
  throw Error(folder + " cannot be resumed: " + e.what());
}

}  // namespace prge
