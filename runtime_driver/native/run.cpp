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

Json to_json(const Evaluation& e) {
  Json json = {{"loss", e.loss}};
  if (e.accuracy) json["accuracy"] = *e.accuracy;
  return json;
}

// What a run's files say of the program that they belong to.
Json identity(const Manifest& m) {
  return {{"base", m.model}, {"base_sha256", m.model_sha256}, {"adapter_sha256", m.adapter_sha256}};
}

// What must be alike beside that for a run to go on.
Json exported(const Manifest& m) {
  return {{"quantization", m.quantization}, {"queries", m.queries}, {"batch", m.batch}, {"outer", m.outer},
          {"inner", m.inner}, {"perturb", m.perturb}, {"optimizer", m.optimizer}, {"noise", m.noise}, {"rank", m.rank},
          {"alpha", m.alpha}, {"subspace", m.subspace.empty() ? Json() : Json(m.subspace)},
          {"parameters", m.parameters}};
}

constexpr std::pair<const char*, double Guard::*> kGuard[] = {
    {"scale", &Guard::scale}, {"first", &Guard::first}, {"mean", &Guard::mean}, {"best", &Guard::best}};

// A run after some steps.
struct Snapshot {
  int64_t steps = 0;
  std::vector<float> state;
  Guard guard;

  std::string bytes(const Manifest& m, int64_t after) const {
    Tensors tensors{{{"state", state}}, identity(m)};
    if (!guard.good.empty()) tensors.vectors["good"] = guard.good;
    Json numbers = {{"losses", guard.losses}};
    for (auto [name, number] : kGuard)
      if (std::isfinite(guard.*number)) numbers[name] = guard.*number;
    tensors.metadata["steps"] = std::to_string(after + steps);
    tensors.metadata["run_steps"] = std::to_string(steps);
    tensors.metadata["guard"] = dump(numbers);
    return tensors.bytes();
  }

  static Snapshot read(const std::string& path, size_t size) {
    Tensors tensors = Tensors::read(path);
    try {
      Json numbers = parse_json(std::string(tensors.metadata.at("guard")));
      Snapshot s{whole(parse_json(std::string(tensors.metadata.at("run_steps")))), tensors.vectors["state"], {}};
      s.guard.good = tensors.vectors["good"];
      s.guard.losses = numbers.at("losses").get<std::vector<double>>();
      for (auto [name, number] : kGuard) s.guard.*number = numbers.value(name, s.guard.*number);
      if (s.state.size() != size || (!s.guard.good.empty() && s.guard.good.size() != size) || s.guard.losses.size() > 9)
        throw Error("its numbers do not fit");
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
    return parse_json(read_file(path));
  } catch (const std::exception& e) {
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
    before = row.value("before", before);
    rows.push_back({row.at("seconds"), row.at("backed_off"), row.value("dev", Json())});
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
  Json config = identity(m);
  config["program"] = fs::canonical(program.path()).string();
  config["runtime"] = "executorch";
  config["exported"] = exported(m);
  config["train"] = {{"steps", s.steps}, {"lr", s.lr}, {"eps", s.eps}, {"seed", s.seed}, {"eval_every", s.eval_every},
                     {"after", s.after}};
  config["data"] = {{"train", fs::canonical(examples.path).string()}, {"dev", {}}, {"dev_fraction", 0.0}, {"limit", {}},
                    {"seed", s.seed}, {"truncate", false}, {"tokenizer", {}}, {"from", {}}, {"device", "cpu"},
                    {"examples", examples.train.size()}, {"dropped", examples.dropped}, {"crc", hex(examples.crc)}};
  write_file(folder + "/config.partial", dump(config) + "\n");
  replace_file(folder + "/config.partial", folder + "/config.json");
  return run;
}

Run Run::resume(const std::string& folder, Program& program, const Examples& examples) {
  const Manifest& m = program.manifest();
  Settings s;
  try {
    const Json config = read_config(folder), &t = config.at("train"), same[2] = {identity(m), exported(m)};
    for (bool inner : {false, true})
      for (auto& [name, value] : same[inner].items())
        if ((inner ? config.at("exported") : config).at(name) != value)
          throw Error("it is of another program than " + program.path() + ": its " + name + " differs");
    if (config.at("data").at("crc") != hex(examples.crc))
      throw Error("it was begun with other examples than those of " + examples.path);
    s = {whole(t.at("steps")), t.at("lr"), t.at("eps"), whole(t.at("seed")), whole(t.at("eval_every")),
         whole(t.at("after"))};
    if (!s.steps) throw Error("its settings make no run");
  } catch (const std::exception& e) {
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
  std::vector<double> losses;  // which JSON has as null where they are not finite
  for (float loss : result.losses) {
    r.loss += loss;
    char nine[32];  // digits: all that a float has
    std::snprintf(nine, sizeof nine, "%.9g", static_cast<double>(loss));
    losses.push_back(std::strtod(nine, nullptr));
  }
  r.loss /= static_cast<double>(losses.size());
  double seconds = std::chrono::duration<double>(Clock::now() - began).count();
  r.backed_off = guard.diverged(p.stands.state, r.loss, result.state);
  p.stands.state = r.backed_off ? guard.back_off() : std::move(result.state);
  bool due = r.step + 1 == s.steps || (s.eval_every && (r.step + 1) % s.eval_every == 0);
  if (due && !dev.empty()) r.dev = evaluate(p.program, p.stands.state, dev, evaluating);
  Json row = {{"step", r.step}, {"loss", r.loss}, {"lr", lr}, {"eps", s.eps}, {"seed", seed},
              {"tokens", longest * m.rows()}, {"seconds", seconds}, {"losses", losses}, {"examples", places},
              {"backed_off", r.backed_off}};
  if (r.dev) row["dev"] = to_json(*r.dev);
  if (!before.is_null()) row["before"] = before;
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
  Json found = {{"completed", done()}, {"steps", steps()}, {"lr", p.settings.lr}};
  if (!p.before.is_null()) found["before"] = p.before;
  std::vector<double> seconds;
  for (auto& row : p.rows) {
    seconds.push_back(row.seconds);
    if (!row.dev.is_null()) found["after"] = row.dev, found["after"]["steps"] = seconds.size();
    if (row.backed_off) found["backed_off"].push_back(seconds.size());
  }
  std::sort(seconds.begin(), seconds.end());
  if (size_t n = seconds.size()) found["seconds_per_step"] = (seconds[n / 2] + seconds[(n - 1) / 2]) / 2;
  found["state"] = p.folder + kState;
  return dump(found);
}

std::pair<std::string, std::string> Run::sources(const std::string& folder) {
  const Json config = read_config(folder);
  try {
    const Json& train = config.at("data").at("train");
    return {config.at("program"), train.is_null() ? "" : std::string(train)};
  } catch (const std::exception& e) {
    throw Error(folder + "/config.json is not the description of a run: " + e.what());
  }
}

}  // namespace prge
