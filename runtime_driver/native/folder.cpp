#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "internal.h"

namespace prge {
namespace {

// Version of the run folder's format (docs/formats.md).
constexpr int kVersion = 7;

std::optional<Evaluation> evaluation(const Json& row, const char* name) {
  if (!row.contains(name)) return {};
  const Json &numbers = row[name], &loss = numbers.at("loss");
  Evaluation found{loss.is_null() ? NAN : double(loss), {}};
  if (numbers.contains("accuracy")) found.accuracy = double(numbers["accuracy"]);
  return found;
}

// What a run's files say of the program that they belong to.
Json identity(const Manifest& m) {
  return {{"base", m.model}, {"base_sha256", m.model_sha256}, {"adapter_sha256", m.adapter_sha256}};
}

// The program's settings that a run's description repeats.
Json exported(const Manifest& m) {
  Json found, manifest = parse_json(m.json);
  for (auto* name : {"quantization", "queries", "batch", "outer", "inner", "gradient", "optimizer", "noise"})
    found[name] = manifest.at(name);
  for (auto* name : {"rank", "alpha", "subspace"}) found[name] = manifest.at("adapter").at(name);
  return found;
}

// What `read` makes of a run's config.json.
template <class Read>
auto described(const std::string& folder, Read read) {
  std::string path = folder + "/config.json";
  if (!fs::exists(path)) throw Error(folder + " is no run folder of `prge train` or `prge-run` (no config.json)");
  std::string text = read_file(path);
  try {
    const Json config = parse_json(text), version = config.value("version", Json(1));
    if (version != kVersion)
      throw Error(folder + " was begun by another version of prge (run format " + dump(version).substr(0, 20) +
                  ", this one reads " + std::to_string(kVersion) + "); finish it with that version, or begin a new " +
                  "run with --from " + folder);
    return read(config);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw Error(path + " is not the description of a run: " + e.what());
  }
}

}  // namespace

Json to_json(const Evaluation& e) {
  Json json = {{"loss", e.loss}};
  if (e.accuracy) json["accuracy"] = *e.accuracy;
  return json;
}

// JSON has null for a number that is not finite.
Json to_json(const Step& s) {
  std::vector<double> losses;
  for (float loss : s.losses) {
    char nine[32];  // nine digits are all that a float has
    std::snprintf(nine, sizeof nine, "%.9g", static_cast<double>(loss));
    losses.push_back(std::strtod(nine, nullptr));
  }
  Json row = {{"step", s.step}, {"loss", s.loss}, {"lr", s.lr}, {"eps", s.eps}, {"seed", s.seed}, {"tokens", s.tokens},
              {"seconds", s.seconds}, {"losses", losses}, {"examples", s.examples}, {"backed_off", s.backed_off}};
  if (s.dev) row["dev"] = to_json(*s.dev);
  if (s.before) row["before"] = to_json(*s.before);
  return row;
}

Record record(const Json& row) {
  const Json& loss = row.at("loss");
  return {loss.is_null() ? NAN : double(loss), row.at("seconds"), row.at("backed_off"), evaluation(row, "before"),
          evaluation(row, "dev")};
}

Content state_content(const Manifest& m, const std::vector<float>& state, int64_t steps,
                      std::optional<int64_t> run_steps, const std::vector<float>& good) {
  Json metadata = identity(m);
  metadata["steps"] = std::to_string(steps);
  if (run_steps) metadata["run_steps"] = std::to_string(*run_steps);
  return checked(metadata, {{"state", state}, {"good", good}});
}

Snapshot read_snapshot(const std::string& path, const Manifest& m) {
  const char* what = "a snapshot of a run";
  auto held = Tensors<float>::read(path, what);
  try {
    Snapshot found{whole(parse_json(held.text("run_steps"))), {}, {}};
    bool fits = held.vectors.count("good") == (found.steps > 0);
    for (auto& [name, numbers] : held.vectors) fits &= static_cast<int64_t>(numbers.size()) == m.state_size;
    if (!fits) throw Odd("its vectors are not the states of this program");
    found.state = std::move(held.vectors.at("state"));
    if (found.steps) found.good = std::move(held.vectors["good"]);
    return found;
  } catch (const std::exception& e) {
    throw Error(path + " is not " + what + ": " + e.what());
  }
}

std::vector<float> state_from(const std::string& path, const Manifest& m, int64_t& after) {
  if (!fs::is_regular_file(path))
    throw Error(path + " does not exist; `prge train` and `prge-run` write it into their run folders");
  auto held = Tensors<float>::read(path, "a state of prge", false);
  if (!held.vectors.count("state")) throw Error(path + " is not a state of prge: it has no vector 'state'");
  auto& state = held.vectors["state"];
  size_t parameters = m.parameters, size = m.state_size, found = state.size();
  if (held.text("base_sha256") != m.model_sha256 && held.metadata.contains("base_sha256"))
    throw Error(path + " was trained on " + held.text("base") + ", and not the base here, " + m.model);
  if (!found || (found != size && (found % parameters || found > 3 * parameters)))
    throw Error(path + " holds " + std::to_string(found) + " numbers; the program's state has " + std::to_string(size) +
                ": was it trained with another program?");
  if (!finite(state)) throw Error(path + " holds numbers that are not finite: it is damaged");
  if (held.text("adapter_sha256") != m.adapter_sha256)
    throw Error(path + " was trained between other frozen factors than the program's");
  std::string steps = held.metadata.value("steps", "0");
  if (steps.empty() || steps.size() > 9 || steps.find_first_not_of("0123456789") != steps.npos)
    throw Error(path + " is not a state of prge: it says of its steps '" + steps.substr(0, 20) + "'");
  after = found == size ? std::stoll(steps) : 0;
  if (found != size) state.resize(parameters);
  state.resize(size);
  return state;
}

Json description(const std::string& program, const std::string& data, const Manifest& m, const Examples& examples,
                 const Settings& s) {
  Json config = {{"version", kVersion}, {"program", program}, {"runtime", "executorch"}};
  config.update(identity(m));
  config["exported"] = exported(m);
  config["train"] = {{"steps", s.steps}, {"lr", s.lr}, {"eps", s.eps}, {"seed", s.seed}, {"eval_every", s.eval_every},
                     {"after", s.after}};
  config["data"] = {{"train", data}, {"dev", {}}, {"dev_fraction", 0.0}, {"limit", {}}, {"seed", s.seed},
                    {"truncate", false}, {"tokenizer", {}}, {"from", s.from.empty() ? Json() : Json(s.from)},
                    {"device", "cpu"}, {"cache", s.hidden.empty() ? Json() : Json(s.hidden)},
                    {"examples", examples.train.size()}, {"dropped", examples.dropped}, {"crc", examples.crc}};
  return config;
}

Settings settings_of(const std::string& folder, const Program& program, const Examples& examples) {
  return described(folder, [&](const Json& config) {
    Json here = identity(program.manifest());
    here.update(exported(program.manifest()));
    for (auto& [name, value] : here.items())
      if (config.value(name, config.at("exported").value(name, Json())) != value)
        throw Error(folder + " is a run of another program: its " + name + " is not that of " + program.path());
    if (config.at("data").at("crc") != examples.crc)
      throw Error(examples.path + ": these are not the examples that " + folder + " was begun with; give the file as " +
                  "it was with --data, or begin a new run");
    const Json &t = config.at("train"), &cache = config.at("data").at("cache");
    Settings s{whole(t.at("steps")), t.at("lr"), t.at("eps"), whole(t.at("seed")), whole(t.at("eval_every")), "", "",
               whole(t.at("after")), cache.is_null() ? "" : std::string(cache)};
    if (!cache.is_null() && s.hidden != kHidden && !is_shared(s.hidden)) throw Odd("hidden states in " + s.hidden);
    return s.steps ? s : throw Odd("a run of no steps");
  });
}

std::pair<std::string, std::string> Run::sources(const std::string& folder) {
  return described(folder, [](const Json& config) {
    const Json& train = config.at("data").at("train");
    return std::pair<std::string, std::string>(config.at("program"), train.is_null() ? "" : std::string(train));
  });
}

}  // namespace prge
