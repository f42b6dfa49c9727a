#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <set>

#include "internal.h"

namespace prge {
namespace {

using Clock = std::chrono::steady_clock;
constexpr const char *kState = "/state.safetensors", *kEarlier = "/earlier.safetensors", *kPartial = "/state.partial";
// Between writes through to the disk, which cost milliseconds, and a flash disk's life.
constexpr std::chrono::seconds kSync(5);

Json finite_or_null(double number) { return std::isfinite(number) ? Json(number) : Json(); }

Json to_json(const Evaluation& e) {
  Json json{{"loss", e.loss}};
  if (e.accuracy) json.add("accuracy", *e.accuracy);
  return json;
}

// What must be alike in a program, beside its base and its factors, for a run to go on with it.
Json exported(const Manifest& m) {
  return {{"quantization", m.quantization}, {"queries", m.queries}, {"batch", m.batch}, {"outer", m.outer},
          {"inner", m.inner}, {"perturb", m.perturb}, {"optimizer", m.optimizer}, {"noise", m.noise}, {"rank", m.rank},
          {"alpha", m.alpha}, {"subspace", m.subspace.empty() ? Json() : m.subspace}, {"parameters", m.parameters}};
}

constexpr std::pair<const char*, double Guard::*> kGuard[] = {
    {"scale", &Guard::scale}, {"first", &Guard::first}, {"mean", &Guard::mean}, {"best", &Guard::best}};

// A run after some steps.
struct Snapshot {
  int64_t steps = 0;
  std::vector<float> state;
  Guard guard;

  std::string bytes(const Manifest& m, int64_t after) const {
    Json numbers{{"losses", guard.losses}};
    for (auto [name, number] : kGuard) numbers.add(name, guard.*number);
    Tensors tensors;
    if (!guard.good.empty()) tensors.vectors.emplace_back("good", guard.good);
    tensors.vectors.emplace_back("state", state);
    tensors.metadata = {{"base", m.model}, {"base_sha256", m.model_sha256}, {"adapter_sha256", m.adapter_sha256},
                        {"steps", std::to_string(after + steps)}, {"run_steps", std::to_string(steps)},
                        {"guard", numbers.dump()}};
    return tensors.bytes();
  }

  static Snapshot read(const std::string& path, size_t size) {
    Tensors tensors = Tensors::read(path);
    try {
      auto *state = tensors.find("state"), *good = tensors.find("good");
      Json numbers = Json::parse(tensors.metadata["guard"].text());
      Snapshot s{std::stoll(tensors.metadata["run_steps"].text()), state ? *state : std::vector<float>{}, {}};
      if (good) s.guard.good = *good;
      for (auto [name, number] : kGuard) s.guard.*number = numbers[name].number();
      for (auto& loss : numbers["losses"].list()) s.guard.losses.push_back(loss.number());
      bool fits = s.steps >= 0 && s.state.size() == size && (!good || good->size() == size);
      if (!fits || s.guard.losses.size() > 9) throw Error("its numbers do not fit");
      return s;
    } catch (const std::exception& e) {
      throw Error(path + " is not a snapshot of a run of this program: " + e.what());
    }
  }
};

Json read_config(const std::string& folder) {
  std::string path = folder + "/config.json";
  if (!fs::exists(path)) throw Error(folder + " is no run folder (no config.json)");
  try {
    Json config = Json::parse(read_file(path));
    for (auto* name : {"base", "base_sha256", "adapter_sha256", "program"}) config[name].text();
    config["train"]["steps"], config["data"]["train"], config["data"]["crc"].text();
    return config;
  } catch (const Error& e) {
    throw Error(path + " is not the description of a run: " + e.what());
  }
}

}  // namespace

struct Run::Parts {
  std::string folder;
  Program& program;
  const Examples& examples;
  Settings settings;
  Batches batches;
  Snapshot stands;
  Journal journal;
  Clock::time_point synced = Clock::now();
  // What the summary needs of the records.
  struct Row {
    double seconds;
    bool backed_off;
    Json dev;
  };
  std::vector<Row> rows;
  Json before;

  Parts(const std::string& folder, Program& program, const Examples& examples, const Settings& settings)
      : folder(folder), program(program), examples(examples), settings(settings),
        batches(examples.train, program.manifest().batch, settings.seed), journal(folder + "/log.jsonl") {}

  // Throws where a record lacks what it needs.
  void remember(const Json& row) {
    if (auto* found = row.find("before")) before = *found;
    auto* dev = row.find("dev");
    rows.push_back({row["seconds"].number(), row["backed_off"].truth(), dev ? *dev : Json()});
  }

  // Replaces the newest snapshot; every few seconds through to the disk, and the journal before it.
  void save() {
    std::string path = folder + kState, scratch = folder + kPartial;
    write_file(scratch, stands.bytes(program.manifest(), settings.after));
    if (Clock::now() - synced > kSync) {
      journal.sync();
      sync_path(scratch);
      synced = Clock::now();
      if (fs::exists(path)) replace_file(path, folder + kEarlier);
    }
    replace_file(scratch, path);
  }
};

Run::Run(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Run::Run(Run&&) noexcept = default;
Run::~Run() = default;

Run Run::begin(const std::string& folder, Program& program, const Examples& examples, const Settings& settings) {
  const Manifest& m = program.manifest();
  std::error_code error;
  fs::create_directories(folder, error);
  // Beside a program, what a run leaves that was cut off as it began.
  std::string log = folder + "/log.jsonl";
  bool cut_off = fs::exists(log) && fs::file_size(log) == 0 && !fs::exists(folder + "/config.json");
  std::set<fs::path> allowed = {"program"};
  if (cut_off) allowed.insert({"log.jsonl", "state.safetensors", "state.partial", "config.partial"});
  for (auto& file : fs::directory_iterator(folder, error))
    if (!allowed.count(file.path().filename()))
      throw Error(folder + " exists and is not empty; choose another --output or remove it");
  if (error) throw Error(folder + " cannot be written: " + error.message());
  Run run(std::make_unique<Parts>(folder, program, examples, settings));
  run.parts_->stands.state = program.initial_state();
  run.parts_->save();
  const Settings& s = settings;
  Json train{{"steps", s.steps}, {"lr", s.lr}, {"eps", s.eps}, {"seed", s.seed}, {"eval_every", s.eval_every},
             {"after", s.after}};
  int64_t count = examples.train.size(), dropped = examples.dropped;
  Json data{{"train", fs::canonical(examples.path).string()}, {"dev", {}}, {"dev_fraction", 0.0}, {"limit", {}},
            {"seed", s.seed}, {"truncate", false}, {"tokenizer", {}}, {"from", {}}, {"device", "cpu"},
            {"examples", count}, {"dropped", dropped}, {"crc", hex(examples.crc)}};
  Json config{{"program", fs::canonical(program.path()).string()}, {"runtime", "executorch"}, {"base", m.model},
              {"base_sha256", m.model_sha256}, {"adapter_sha256", m.adapter_sha256}, {"exported", exported(m)},
              {"train", train}, {"data", data}};
  write_file(folder + "/config.partial", config.dump() + "\n");
  replace_file(folder + "/config.partial", folder + "/config.json");
  return run;
}

Run Run::resume(const std::string& folder, Program& program, const Examples& examples) {
  const Manifest& m = program.manifest();
  Settings s;
  try {
    const Json config = read_config(folder), &t = config["train"];
    if (config["base"].text() != m.model || config["base_sha256"].text() != m.model_sha256 ||
        config["adapter_sha256"].text() != m.adapter_sha256)
      throw Error("it is of another program than " + program.path());
    Json here = exported(m);
    for (size_t i = 0; i < here.names.size(); i++)
      if (config["exported"][here.names[i]].dump() != here.items[i].dump())
        throw Error("it is of another program than " + program.path() + ": its " + here.names[i] + " differs");
    if (config["data"]["crc"].text() != hex(examples.crc))
      throw Error("it was begun with other examples than those of " + examples.path);
    s = {t["steps"].integer(), t["lr"].number(), t["eps"].number(), t["seed"].integer(), t["eval_every"].integer(),
         t["after"].integer()};
    for (int64_t number : {s.steps - 1, s.seed, s.eval_every, s.after})
      if (number < 0 || number > INT32_MAX) throw Error("its settings make no run");
  } catch (const Error& e) {
    throw Error(folder + " cannot be resumed: " + e.what());
  }
  Run run(std::make_unique<Parts>(folder, program, examples, s));
  Parts& parts = *run.parts_;
  parts.journal.read([&](const Json& row) { parts.remember(row); });
  std::string reasons;
  parts.stands.steps = -1;
  for (auto* name : {kState, kEarlier}) {
    try {
      Snapshot found = Snapshot::read(folder + name, m.state_size);
      if (found.steps > static_cast<int64_t>(parts.rows.size()))
        throw Error("a snapshot of " + std::to_string(found.steps) + " steps has a shorter journal beside it");
      if (found.steps > parts.stands.steps) parts.stands = std::move(found);
    } catch (const Error& e) {
      reasons += std::string("; ") + e.what();
    }
  }
  size_t steps = parts.stands.steps;
  if (parts.stands.steps < 0) throw Error(folder + " cannot be resumed" + reasons);
  parts.journal.cut(steps);
  parts.rows.resize(steps);
  return run;
}

bool Run::done() const { return parts_->stands.steps >= parts_->settings.steps; }
const Settings& Run::settings() const { return parts_->settings; }
const std::vector<float>& Run::state() const { return parts_->stands.state; }
int64_t Run::steps() const { return parts_->stands.steps; }

Record Run::step(const Progress& evaluating) {
  Parts& p = *parts_;
  const Manifest& m = p.program.manifest();
  const Settings& s = p.settings;
  Guard& guard = p.stands.guard;
  const std::vector<Example>& dev = p.examples.dev;
  Record r{p.stands.steps, 0, false, {}};
  Json before;
  if (!r.step && !dev.empty()) before = to_json(evaluate(p.program, p.stands.state, dev, evaluating));
  auto began = Clock::now();
  auto& places = p.batches.at(s.after + r.step);
  Batch batch;
  int64_t longest = m.min_tokens, seed = s.seed_at(r.step, m);
  for (int64_t place : places) {
    batch.push_back(&p.examples.train[place]);
    longest = std::max<int64_t>(longest, batch.back()->tokens.size());
  }
  double lr = guard.scale * s.lr_at(r.step, m);
  auto result = p.program.step(batch, p.stands.state, seed, lr, s.eps);
  std::vector<Json> losses;
  for (float loss : result.losses) {
    r.loss += loss;
    char nine[32];  // digits: all that a float has; JSON has no NaN
    std::snprintf(nine, sizeof nine, "%.9g", static_cast<double>(loss));
    losses.push_back(finite_or_null(std::strtod(nine, nullptr)));
  }
  r.loss /= static_cast<double>(losses.size());
  double seconds = std::chrono::duration<double>(Clock::now() - began).count();
  r.backed_off = guard.diverged(p.stands.state, r.loss, result.state);
  p.stands.state = r.backed_off ? guard.back_off() : std::move(result.state);
  bool due = r.step + 1 == s.steps || (s.eval_every && (r.step + 1) % s.eval_every == 0);
  if (due && !dev.empty()) r.dev = evaluate(p.program, p.stands.state, dev, evaluating);
  Json row{{"step", r.step}, {"loss", finite_or_null(r.loss)}, {"lr", lr}, {"eps", s.eps}, {"seed", seed},
           {"tokens", longest * m.rows()}, {"seconds", seconds}, {"losses", losses}, {"examples", places},
           {"backed_off", r.backed_off}};
  if (r.dev) row.add("dev", to_json(*r.dev));
  if (!before.null()) row.add("before", before);
  p.journal.append(row);
  p.remember(row);
  p.stands.steps++;
  p.save();
  if (guard.scale > 1.0 / 256) return r;
  sync();
  throw Error("step " + std::to_string(r.step + 1) + ": smaller learning rates did not help; the best state is kept. " +
              "Is --eps or --lr far from what `prge calibrate` proposes?");
}

void Run::sync() {
  parts_->journal.sync();
  sync_path(parts_->folder + kState);
  sync_path(parts_->folder);
}

std::string Run::summary() const {
  const Parts& p = *parts_;
  Json found{{"completed", done()}, {"steps", steps()}, {"lr", p.settings.lr}};
  std::vector<double> seconds;
  std::vector<int64_t> backed_off;
  Json after;
  for (size_t i = 0; i < p.rows.size(); i++) {
    auto made = static_cast<int64_t>(i + 1);
    seconds.push_back(p.rows[i].seconds);
    if (p.rows[i].backed_off) backed_off.push_back(made);
    if (const Json& dev = p.rows[i].dev; !dev.null()) {
      after = dev;
      after.add("steps", made);
    }
  }
  std::sort(seconds.begin(), seconds.end());
  if (!p.before.null()) found.add("before", p.before);
  if (!after.null()) found.add("after", after);
  if (size_t n = seconds.size()) found.add("seconds_per_step", (seconds[n / 2] + seconds[(n - 1) / 2]) / 2);
  if (!backed_off.empty()) found.add("backed_off", backed_off);
  found.add("state", p.folder + kState);
  return found.dump();
}

std::pair<std::string, std::string> Run::sources(const std::string& folder) {
  const Json config = read_config(folder), &train = config["data"]["train"];
  return {config["program"].text(), train.null() ? "" : train.text()};
}

}  // namespace prge
