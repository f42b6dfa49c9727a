// golden-test VECTORS SCRATCH: compares this driver with the golden vectors (tests/golden/README.md).
// It prints every difference by its name, and exits with 1 if there is one. Noise is made inside the program, and
// token rows by `prge pack`: those vectors are not for this driver.
#include <cmath>
#include <cstdio>

#include "internal.h"

namespace prge {
namespace {

std::string folder, scratch;
Json manifests;
int compared = 0, differences = 0;

template <class Value>
void same(const std::string& what, const Value& ours, const Value& theirs) {
  compared++;
  if (ours == theirs) return;
  differences++;
  std::printf("%s: %s, not %s\n", what.c_str(), dump(Json(ours)).c_str(), dump(Json(theirs)).c_str());
}

Json cases(const std::string& name) { return parse_json(read_file(folder + "/" + name + ".json")).at("cases"); }

Manifest manifest(const Json& given) {
  std::string name = given.at("manifest");
  return read_manifest(dump(manifests.at(name)), name);
}

double number(const Json& given) {  // which is a text where it is not finite
  return given.is_string() ? std::strtod(std::string(given).c_str(), nullptr) : double(given);
}

std::string joined(const Content& content) {
  std::string all = content.head;
  for (auto part : content.rest) all += part;
  return all;
}

std::vector<float> floats(const Json& given) {
  std::vector<float> found;
  for (auto& each : given) found.push_back(static_cast<float>(number(each)));
  return found;
}

template <class Number>
std::vector<Number> flat(const Json& given) {
  if (!given.is_array()) return {given.get<Number>()};
  std::vector<Number> found;
  for (auto& each : given)
    for (Number one : flat<Number>(each)) found.push_back(one);
  return found;
}

std::vector<Example> examples(const Json& given) {
  std::vector<Example> found;
  for (auto& e : given)
    found.push_back({e.at("label"), e.at("targets"), e.at("tokens"), examples(e.value("candidates", Json::array()))});
  return found;
}

Json described(const std::vector<Example>& all) {
  Json found = Json::array();
  for (auto& e : all) {
    found.push_back({{"label", e.label}, {"targets", e.targets}, {"tokens", e.tokens}});
    if (!e.candidates.empty()) found.back()["candidates"] = described(e.candidates);
  }
  return found;
}

void rows(const std::string& name, const Json& given) {
  Manifest m = manifest(given);
  auto all = examples(given.at("examples"));
  Inputs in = collate(rows_of(all), m);
  const Json& inputs = given.at("inputs");
  same(name + ", tokens", in.tokens, flat<int64_t>(inputs.at("tokens")));
  same(name + ", position", in.position, flat<int64_t>(inputs.at("position")));
  same(name + ", target", in.target, flat<int64_t>(inputs.at(m.label_words() ? "label" : "target")));
  if (!m.label_words()) same(name + ", weight", in.weight, flat<float>(inputs.at("weight")));
}

void packed(const std::string& name, const Json& given) {
  auto found = Examples::read(folder + "/" + std::string(given.at("file")), manifest(given));
  same(name + ", train", described(found.train), given.at("train"));
  same(name + ", dev", described(found.dev), given.at("dev"));
  same(name + ", dropped", Json(found.dropped), given.at("dropped"));
  same(name + ", crc", Json(found.crc), given.at("crc"));
}

void hidden(const std::string& name, const Json& given) {
  Manifest m = manifest(given);
  Examples all{"", examples(given.at("train")), examples(given.at("dev")), 0, given.at("crc")};
  std::string path = scratch + "/hidden.safetensors";
  size_t group = 0;
  std::vector<int64_t> done;
  auto give = [&](const std::vector<int64_t>& tokens, int64_t) {
    const Json& one = given.at("groups").at(group++);
    same(name + ", tokens", tokens, flat<int64_t>(one.at("tokens")));
    return floats(one.at("states"));
  };
  Hidden::write(path, m, all, give, [&](int64_t tokens, int64_t) { done.push_back(tokens); });
  same(name + ", groups", group, given.at("groups").size());
  same(name + ", done", done, flat<int64_t>(given.at("done")));
  bool equal = read_file(path) == read_file(folder + "/" + std::string(given.at("file")));
  same(name + ", file", equal, true);
  Batch rows = rows_of(all.train), others = rows_of(all.dev);
  rows.insert(rows.end(), others.begin(), others.end());
  Inputs in = collate(rows, m);
  std::vector<float> read(in.tokens.size() * m.hidden);
  same(name + ", read", Hidden(path, m, all).read(rows, in.length, read.data()), true);
  same(name + ", states", read, floats(given.at("read")));
}

void batches(const std::string& name, const Json& given) {
  std::vector<Example> all;
  for (size_t i = 0; i < given.at("labels").size(); i++)
    all.push_back({given["labels"][i], 0, std::vector<int32_t>(size_t(given["lengths"][i])), {}});
  Batches order(all, given.at("batch"), given.at("seed"));
  int64_t step = given.at("first");
  for (auto& batch : given.at("batches")) {
    std::vector<int64_t> places;
    for (auto* e : order.at(step)) places.push_back(e - all.data());
    same(name + ", batch " + std::to_string(step++), places, flat<int64_t>(batch));
  }
}

void schedule(const std::string& name, const Json& given) {
  Manifest m{};
  m.optimizer = given.at("optimizer");
  m.beta_mean = given.at("betas").at(0);
  m.beta_square = given.at("betas").at(1);
  m.queries = given.at("queries");
  Settings s{given.at("steps"), given.at("lr"), 0, given.at("seed"), 0, "", "", given.at("after"), ""};
  for (auto& made : given.at("made")) {
    same(name + ", lr", lr_at(s, made.at(0), m), double(made.at(1)));
    same(name + ", seed", seed_at(s, made.at(0), m), int64_t(made.at(2)));
  }
}

void best(const std::string& name, const Json& given) {
  Best found;
  int64_t steps = 0;
  for (auto& row : given.at("evaluations")) {
    Evaluation e{number(row.at("loss")), {}};
    if (!row.at("accuracy").is_null()) e.accuracy = double(row["accuracy"]);
    same(name + ", evaluation " + std::to_string(steps), found.note(steps, e), bool(row.at("best")));
    steps++;
  }
}

void guard(const std::string& name, const Json& given) {
  Guard watching(given.at("batch"), given.at("classes")), noting = watching;  // as a run that goes on does
  int64_t good = -1, state = 0, step = 0;
  for (auto& row : given.at("steps")) try {
    std::string where = name + ", step " + std::to_string(step);
    auto [back_off, is_good] = watching.watch(number(row.at("loss")), row.at("finite"));
    same(where + ", error", false, row.contains("error"));
    same(where + ", noted", noting.note(number(row["loss"]), back_off), is_good);
    if (is_good) good = state;
    state = back_off ? good : ++step;
    step += back_off;
    same(where + ", backed_off", back_off, bool(row.at("backed_off")));
    same(where + ", good", good, int64_t(row.at("good")));
    same(where + ", state", state, int64_t(row.at("state")));
    for (auto* g : {&watching, &noting}) {
      same(where + ", scale", g->scale, double(row.at("scale")));
      same(where + ", first", g->first, double(row.at("first")));
      same(where + ", mean", g->mean, double(row.at("mean")));
      same(where + ", best", g->best, double(row.at("best")));
    }
  } catch (const Error&) {
    same(name + ", error", true, row.contains("error"));
  }
}

void search(const std::string& name, const Json& given) {
  std::vector<double> tried;
  double lowest = search_lr(flat<double>(given.at("ways")), given.at("start"), [&](double way) {
    tried.push_back(way);
    return number(given.at("losses").at(tried.size() - 1));
  });
  same(name + ", tried", tried, flat<double>(given.at("tried")));
  same(name + ", lowest", lowest, double(given.at("lowest")));
}

void loops(const std::string& name, const Json& given) {
  const Json& executions = given.at("executions");
  size_t made = 0;
  auto result = step_by(manifest(given), floats(given.at("before")), given.at("seed"), given.at("lr"), given.at("eps"),
                        [&](int64_t seed, double lr, double eps) {
    const Json& one = executions.at(made);
    std::string where = name + ", execution " + std::to_string(made++);
    same(where + ", seed", seed, int64_t(one.at("seed")));
    same(where + ", lr", lr, double(one.at("lr")));
    same(where + ", eps", eps, double(one.at("eps")));
    return Program::Result{floats(one.at("state")), floats(one.at("losses")), {}};
  });
  same(name + ", executions", made, executions.size());
  same(name + ", state", result.state, floats(given.at("state")));
  same(name + ", losses", result.losses, floats(given.at("losses")));
}

void evaluation(const std::string& name, const Json& given) {
  Manifest m = manifest(given);
  auto all = examples(given.at("examples"));
  Batch rows = rows_of(all);
  Json made = Json::array();
  auto found = evaluate_by(m, all, [&](const Batch& part) {
    Program::Result result{};
    made.push_back(Json::array());
    for (auto* row : part) {
      size_t place = std::find(rows.begin(), rows.end(), row) - rows.begin();
      made.back().push_back(place);
      result.losses.push_back(given.at("losses").at(place));
      for (float score : floats(given.at("scores").at(place))) result.scores.push_back(score);
    }
    return result;
  });
  same(name + ", executions", made, given.at("executions"));
  same(name + ", loss", found.loss, double(given.at("loss")));
  same(name + ", accuracy", found.accuracy ? Json(*found.accuracy) : Json(), given.at("accuracy"));
}

std::optional<Evaluation> evaluated(const Json& row, const char* name) {
  if (!row.contains(name)) return {};
  return Evaluation{row[name].at("loss"), double(row[name].at("accuracy"))};
}

void run(const std::string& name, const Json& given) {
  Manifest m = manifest(given);
  const Json& t = given.at("train");
  Settings s{t.at("steps"), t.at("lr"), t.at("eps"), t.at("seed"), t.at("eval_every"), given.at("from"), "",
             t.at("after"), given.at("cache")};
  auto file = [&](const char* part) { return folder + "/run/" + part; };
  auto state = floats(given.at("state")), good = floats(given.at("good")), start = floats(given.at("start"));
  int64_t steps = given.at("steps").size(), after = 0;

  auto all = examples(given.at("examples"));
  Json config = parse_json(read_file(file("config.json")));
  Examples data{"", all, {}, given.at("dropped"), config.at("data").at("crc")};
  same(name + ", config.json", dump(description(given.at("program"), given.at("data"), m, data, s)), dump(config));

  same(name + ", start", joined(state_content(m, start, s.after)), read_file(file("start.safetensors")));
  same(name + ", begun", joined(state_content(m, start, s.after, 0)), read_file(file("begun.safetensors")));
  same(name + ", state", joined(state_content(m, state, s.after + steps, steps, good)),
       read_file(file("state.safetensors")));
  same(name + ", best", joined(state_content(m, state, s.after + steps)), read_file(file("best.safetensors")));
  same(name + ", start read", state_from(file("start.safetensors"), m, after), start);
  same(name + ", after", after, s.after);
  auto read = read_snapshot(file("state.safetensors"), m);
  same(name + ", snapshot's steps", read.steps, steps);
  same(name + ", snapshot's state", read.state, state);
  same(name + ", snapshot's good state", read.good, good);

  Journal golden(file("log.jsonl"));
  int64_t line = 0;
  golden.read([&](const Json& theirs) {
    const Json& row = given.at("steps").at(line);
    Step ours{{number(row.at("loss")), row.at("seconds"), row.at("backed_off"), evaluated(row, "before"),
               evaluated(row, "dev")},
              row.at("step"), row.at("seed"), row.at("tokens"), row.at("lr"), row.at("eps"),
              floats(row.at("losses")), row.at("examples")};
    same(name + ", line " + std::to_string(line++), dump(to_json(ours)), dump(theirs));
  });
  same(name + ", lines", line, steps);
}

void journal(const std::string& name, const Json& given) {
  std::string path = scratch + "/log.jsonl";
  write_file(path, {std::string(given.at("text"))});
  Json read = Json::array();
  try {
    Journal(path).read([&](const Json& row) { read.push_back(row); });
    same(name + ", rows", read, given.value("rows", Json()));
    fs::remove(path);
    Journal again(path);
    for (auto& row : read) again.append(row);
    if (given.at("about") == "whole") same(name + ", written", read_file(path), std::string(given.at("text")));
  } catch (const Error& e) {
    std::string at = " is damaged at byte " + std::to_string(given.value("damaged_at", -1)) + " ";
    same(name + ": " + e.what(), std::string(e.what()).find(at) != std::string::npos, true);
  }
}

}  // namespace
}  // namespace prge

int main(int count, char** words) try {
  using namespace prge;
  if (count != 3) return std::puts("golden-test VECTORS SCRATCH"), 2;
  folder = words[1];
  scratch = words[2];
  manifests = parse_json(read_file(folder + "/manifests.json"));
  const std::pair<const char*, void (*)(const std::string&, const Json&)> tests[] = {
      {"rows", rows}, {"packed", packed}, {"hidden", hidden}, {"batches", batches},
      {"schedule", schedule}, {"guard", guard}, {"best", best},
      {"search", search}, {"loops", loops}, {"evaluation", evaluation}, {"run", run}, {"journal", journal}};
  for (auto [name, test] : tests) {
    int number = 0;
    for (auto& given : cases(name)) test(std::string(name) + " " + std::to_string(number++), given);
  }
  std::printf("%d comparisons, %d differences\n", compared, differences);
  return differences > 0;
} catch (const std::exception& e) {
  std::printf("%s\n", e.what());
  return 1;
}
