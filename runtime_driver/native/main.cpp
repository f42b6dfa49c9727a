// prge-run: fine-tunes a program on packed examples, and leaves a run folder that the Python driver knows.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <map>

#include "internal.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kUsage =
    "prge-run PROGRAM --data FILE --output RUN   fine-tune on a file of `prge pack`\n"
    "prge-run --resume RUN [PROGRAM]             go on with a run that was stopped or cut off\n"
    "prge-run PROGRAM --data FILE --bench N      time N steps; writes nothing\n"
    "  --steps N (300)  --lr X (auto: measured)  --eps X (the program's)  --seed N (0)\n"
    "  --eval-every N (50; 0: at the end only)  --threads N  --max-minutes X  --json";

struct Stopped {};
volatile std::sig_atomic_t asked = 0;

void check_asked(size_t = 0) {
  if (asked) throw Stopped();
}

// Libraries write to descriptor 2, some as they are loaded, before main; what is ours goes to a copy of it.
int screen = -1;
void hush(int, char**, char**) {
  screen = dup(2);
  dup2(open("/dev/null", O_WRONLY), 2);
}
__attribute__((section(".preinit_array"), used)) void (*const kHush)(int, char**, char**) = hush;

double since(Clock::time_point began) { return std::chrono::duration<double>(Clock::now() - began).count(); }

// Of this program; getrusage would also tell of the one that started it.
double peak_megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::strtod(line.c_str() + 6, nullptr) * 1024 / 1e6;
  return 0;
}

struct Options {
  std::string program;
  std::map<std::string, std::string> given = {
      {"--data", ""}, {"--output", ""}, {"--resume", ""}, {"--bench", ""}, {"--steps", ""}, {"--lr", ""}, {"--eps", ""},
      {"--seed", ""}, {"--eval-every", ""}, {"--threads", ""}, {"--max-minutes", ""}, {"--json", ""}};

  Options(int count, char** words) {
    for (int i = 1; i < count; i++) {
      std::string word = words[i];
      if (word.rfind("--", 0) != 0 && program.empty()) {
        program = word;
      } else if (!given.count(word)) {
        throw prge::Error("unknown option " + word + "; see prge-run --help");
      } else if (word != "--json") {
        if (++i == count) throw prge::Error(word + " takes a value");
        given[word] = words[i];
      }
    }
  }

  const std::string& operator[](const char* name) const { return given.at(name); }
  double number(const char* name, double otherwise, double least, double most = 1e30) const {
    const std::string& word = given.at(name);
    char* end = nullptr;
    double value = word.empty() ? otherwise : std::strtod(word.c_str(), &end);
    if (!word.empty() && (*end || !(value >= least && value <= most)))
      throw prge::Error(std::string(name) + " " + word + " is no number that it takes");
    return value;
  }
  int64_t whole(const char* name, int64_t otherwise, int64_t least) const {
    double value = number(name, static_cast<double>(otherwise), static_cast<double>(least), 0x7FFFFFFF);
    if (value != std::floor(value)) throw prge::Error(std::string(name) + " takes a whole number");
    return static_cast<int64_t>(value);
  }
};

prge::Json bench(prge::Program& program, const prge::Examples& examples, int64_t count, double started) {
  double packed = peak_megabytes();
  prge::Batches batches(examples.train, program.manifest().batch, 0);
  auto state = program.initial_state();
  std::vector<double> seconds;
  for (int64_t i = 0; i <= count; i++) {
    prge::Batch batch;
    for (int64_t place : batches.at(i)) batch.push_back(&examples.train[place]);
    auto began = Clock::now();
    state = program.step(batch, state, i, program.manifest().lr, program.manifest().eps).state;
    seconds.push_back(since(began));
    check_asked();
  }
  double first = seconds[0];
  std::sort(seconds.begin(), seconds.end());
  return {{"steps", count}, {"seconds_per_step", seconds[seconds.size() / 2]}, {"fastest", seconds[0]},
          {"start_seconds", started}, {"loaded_megabytes", packed}, {"first_step", first},
          {"peak_megabytes", peak_megabytes()}};
}

void report(FILE* err, const prge::Run& run, const prge::Record& r, double mean, double speed) {
  bool terminal = isatty(screen);
  auto left = static_cast<long>(static_cast<double>(run.settings().steps - run.steps()) / speed);
  if (terminal || r.dev || run.done() || r.step % 10 == 0)
    std::fprintf(err, "%sstep %ld of %ld  loss %.3f  %.2f steps/s  %ld:%02ld left%s", terminal ? "\r\033[K" : "",
                 static_cast<long>(run.steps()), static_cast<long>(run.settings().steps), mean, speed, left / 60,
                 left % 60, terminal && !run.done() ? "" : "\n");
  if (r.dev) std::fprintf(err, "%sdev loss %.3f", terminal ? "\r\033[K" : "", r.dev->loss);
  if (r.dev && r.dev->accuracy) std::fprintf(err, "  accuracy %.3f", *r.dev->accuracy);
  if (r.backed_off) std::fprintf(err, "\nthe loss diverged; back to the best state, lr halved");
  if (r.dev || r.backed_off) std::fputc('\n', err);
}

prge::Json train(const Options& o, FILE* err) {
  auto began = Clock::now();
  std::string folder = o["--resume"], path = o.program, data = o["--data"];
  bool resumes = !folder.empty(), times = !o["--bench"].empty();
  if (resumes) {
    for (auto* name : {"--output", "--bench", "--steps", "--lr", "--eps", "--seed", "--eval-every"})
      if (!o[name].empty()) throw prge::Error(std::string("--resume keeps the run's own settings: leave out ") + name);
    auto [its_program, its_data] = prge::Run::sources(folder);
    if (path.empty()) path = its_program;
    if (data.empty()) data = its_data;
  } else {
    folder = o["--output"];
  }
  if (path.empty() || data.empty() || (folder.empty() && !times))
    throw prge::Error("give a program, --data and --output, or --resume and a run folder; see prge-run --help");
  double minutes = o.number("--max-minutes", 1e30, 0);
  prge::Settings s;
  s.steps = o.whole("--steps", s.steps, 1);
  s.seed = o.whole("--seed", s.seed, 0);
  s.eval_every = o.whole("--eval-every", s.eval_every, 0);
  if (o["--lr"] != "auto") s.lr = o.number("--lr", 0, 1e-30);
  s.eps = o.number("--eps", 0, 1e-30);
  prge::Program program(path, static_cast<unsigned>(o.whole("--threads", 0, 1)));
  auto examples = prge::Examples::read(data, program.manifest());
  if (times) return bench(program, examples, o.whole("--bench", 1, 1), since(began));
  if (!s.eps) s.eps = program.manifest().eps;
  if (!resumes && !s.lr) s.lr = prge::propose_lr(program, examples.train, program.initial_state(), s.eps, check_asked);
  prge::Run run = resumes ? prge::Run::resume(folder, program, examples)
                          : prge::Run::begin(folder, program, examples, s);
  std::string why;
  double mean = 0, made = 0;
  auto started = Clock::now();
  try {
    while (!run.done() && why.empty()) {
      prge::Record r = run.step(check_asked);
      mean += (r.loss - mean) / std::min(++made, 20.0);
      if (err) report(err, run, r, mean, made / since(started));
      check_asked();
      if (since(began) >= 60 * minutes && !run.done()) why = o["--max-minutes"] + " minutes are over";
    }
  } catch (const Stopped&) {
    why = "interrupted";
  }
  run.sync();
  prge::Json summary = prge::parse_json(run.summary());
  if (!why.empty()) summary["stopped"] = why;
  return summary;
}

}  // namespace

int main(int count, char** words) {
  auto given = [&](const std::string& word) { return std::find(words, words + count, word) != words + count; };
  if (given("--help")) return std::puts(kUsage) < 0;
  bool json = given("--json");
  FILE* err = fdopen(screen, "w");
  auto print = [](const prge::Json& result) { return std::puts(prge::dump(result).c_str()) < 0; };
  for (int number : {SIGINT, SIGTERM}) std::signal(number, [](int) { asked = 1; });
  try {
    if (err) std::setvbuf(err, nullptr, _IONBF, 0);
    return print(train(Options(count, words), json ? nullptr : err));
  } catch (const Stopped&) {
    return print({{"completed", false}, {"steps", 0}, {"stopped", "interrupted"}});
  } catch (const std::exception& e) {
    if (json) print({{"error", e.what()}});
    if (err) std::fprintf(err, "error: %s\n", e.what());
    return 1;
  }
}
