// prge-run: fine-tunes a program on packed examples, and leaves a run folder that the Python driver knows.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <cstring>
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
    "  --eval-every N (50; 0: at the end)  --threads N  --max-minutes X  --json\n";

volatile std::sig_atomic_t asked = 0;
struct Stopped {};

// Libraries write to descriptor 2 as they load, before main: what is ours goes to a copy of it.
int screen = 2;
void hush(int, char**, char**) {
  screen = dup(2);
  int nowhere = open("/dev/null", O_WRONLY);
  if (screen >= 0 && nowhere >= 0) dup2(nowhere, 2);
}
__attribute__((section(".preinit_array"), used)) void (*const kHush)(int, char**, char**) = hush;

double since(Clock::time_point began) { return std::chrono::duration<double>(Clock::now() - began).count(); }

struct Options {
  std::map<std::string, std::string> given;
  std::string program;
  bool json = false;

  Options(int count, char** words) {
    for (int i = 1; i < count; i++) {
      std::string word = words[i];
      const char* known[] = {"--data", "--output", "--resume", "--bench", "--steps", "--lr", "--eps", "--seed",
                             "--eval-every", "--threads", "--max-minutes"};
      if (word == "--json") {
        json = true;
      } else if (word.rfind("--", 0) == 0) {
        if (std::find(std::begin(known), std::end(known), word) == std::end(known)) throw prge::Error("unknown option " + word);
        if (++i == count) throw prge::Error(word + " takes a value");
        given[word] = words[i];
      } else if (program.empty()) {
        program = word;
      } else {
        throw prge::Error("one program, please, not also " + word);
      }
    }
  }

  std::string text(const char* name) const {
    auto found = given.find(name);
    return found == given.end() ? "" : found->second;
  }
  double number(const char* name, double otherwise, double least, double most) const {
    std::string word = text(name);
    if (word.empty()) return otherwise;
    char* end;
    double value = std::strtod(word.c_str(), &end);
    if (*end || !(value >= least && value <= most)) throw prge::Error(std::string(name) + " " + word + ": no such value");
    return value;
  }
  int64_t whole(const char* name, int64_t otherwise, int64_t least, int64_t most = 0x7FFFFFFF) const {
    double value = number(name, static_cast<double>(otherwise), static_cast<double>(least), static_cast<double>(most));
    if (value != std::floor(value)) throw prge::Error(std::string(name) + " takes a whole number");
    return static_cast<int64_t>(value);
  }
};

// Of this program: getrusage would give what the process was before it.
double peak_megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::strtod(line.c_str() + 6, nullptr) * 1024 / 1e6;
  return 0;
}

void check_asked(size_t = 0) {
  if (asked) throw Stopped();
}

std::string bench(prge::Program& program, const prge::Examples& examples, int64_t count, double loaded) {
  const prge::Manifest& m = program.manifest();
  prge::Batches batches(examples.train, m.batch, 0);
  auto state = program.initial_state();
  std::vector<double> seconds;
  double first = 0;
  for (int64_t i = 0; i <= count; i++) {
    prge::Batch batch;
    for (int64_t place : batches.at(i)) batch.push_back(&examples.train[place]);
    auto began = Clock::now();
    state = program.step(batch, state, i * m.queries, m.lr, m.eps).state;
    (i ? seconds.emplace_back() : first) = since(began);
    check_asked();
  }
  std::sort(seconds.begin(), seconds.end());
  prge::Json found{{"steps", count}, {"seconds_per_step", seconds[seconds.size() / 2]}, {"fastest", seconds[0]},
                   {"first_step", first}, {"load_seconds", loaded}, {"peak_megabytes", peak_megabytes()}};
  return found.dump();
}

std::string run(const Options& o, FILE* err) {
  auto began = Clock::now();
  std::string folder = o.text("--resume"), path = o.program, data = o.text("--data");
  if (!folder.empty()) {
    for (auto* name : {"--output", "--bench", "--steps", "--lr", "--eps", "--seed", "--eval-every"})
      if (o.given.count(name)) throw prge::Error(std::string("--resume goes on with the run's own settings; leave ") + name + " out");
    auto [its_program, its_data] = prge::Run::sources(folder);
    if (path.empty()) path = its_program;
    if (data.empty()) data = its_data;
  }
  bool timing = o.given.count("--bench");
  if (path.empty() || data.empty() || (folder.empty() && !timing && o.text("--output").empty())) throw prge::Error(kUsage);
  prge::Settings s;
  s.steps = o.whole("--steps", 300, 1);
  s.seed = o.whole("--seed", 0, 0);
  s.eval_every = o.whole("--eval-every", 50, 0);
  double minutes = o.number("--max-minutes", 1e9, 0, 1e9), rate = 0;
  if (std::string lr = o.text("--lr"); !lr.empty() && lr != "auto") rate = o.number("--lr", 0, 1e-30, 1e30);
  prge::Program program(path, static_cast<unsigned>(o.whole("--threads", 0, 1, 1024)));
  double loaded = since(began);
  auto examples = prge::Examples::read(data, program.manifest());
  if (timing) return bench(program, examples, o.whole("--bench", 0, 1, 1 << 20), loaded);
  s.eps = o.number("--eps", program.manifest().eps, 1e-30, 1e30);
  // The longest row first, so that the runtime's buffers are made once and never grown.
  const prge::Example* longest = &examples.train[0];
  for (auto* part : {&examples.train, &examples.dev})
    for (auto& e : *part)
      if (e.tokens.size() > longest->tokens.size()) longest = &e;
  program.execute(prge::Batch(program.manifest().rows(), longest), program.initial_state(), 0, 0, 0);
  if (folder.empty()) s.lr = rate ? rate : prge::propose_lr(program, examples.train, program.initial_state(), s.eps);
  prge::Run run = folder.empty() ? prge::Run::begin(o.text("--output"), program, examples, s)
                                 : prge::Run::resume(folder, program, examples);
  std::string why;
  double mean = 0, done = 0;
  auto started = Clock::now();
  bool terminal = isatty(screen);
  try {
    while (!run.done()) {
      const prge::Record& r = run.step(check_asked);
      mean += (r.loss - mean) / std::min(++done, 20.0);
      double speed = done / since(started);
      auto left = static_cast<long long>(static_cast<double>(run.settings().steps - run.steps()) / speed);
      bool line = terminal || r.dev || run.done() || r.step % 10 == 0;
      if (err && line)
        std::fprintf(err, "%sstep %lld of %lld  loss %.3f  %.2f steps/s  %lld:%02lld left%s", terminal ? "\r\033[K" : "",
                     static_cast<long long>(run.steps()), static_cast<long long>(run.settings().steps), mean, speed,
                     left / 60, left % 60, terminal ? "" : "\n");
      if (err && r.dev) std::fprintf(err, "%sdev loss %.3f  accuracy %.3f\n", terminal ? "  " : "", r.dev->loss, r.dev->accuracy.value_or(NAN));
      if (err && r.backed_off) std::fprintf(err, "\nstep %lld: the loss diverged; back to the best state, lr halved\n", static_cast<long long>(r.step + 1));
      check_asked();
      if (since(began) >= 60 * minutes && !run.done()) {
        why = o.text("--max-minutes") + " minutes are over";
        break;
      }
    }
  } catch (const Stopped&) {
    why = "interrupted";
  }
  run.sync();
  if (err && terminal) std::fputc('\n', err);
  std::string name = folder.empty() ? o.text("--output") : folder, summary = run.summary();
  if (!why.empty()) summary.insert(summary.size() - 1, ", \"stopped\": \"" + why + "\"");
  return summary;
}

}  // namespace

int main(int count, char** words) {
  FILE* err = fdopen(screen, "w");
  if (err) std::setvbuf(err, nullptr, _IONBF, 0);
  bool json = std::any_of(words, words + count, [](const char* word) { return !std::strcmp(word, "--json"); });
  for (int number : {SIGINT, SIGTERM}) std::signal(number, [](int) { asked = 1; });
  try {
    std::string said = run(Options(count, words), json ? nullptr : err);
    std::printf("%s\n", said.c_str());
    return 0;
  } catch (const Stopped&) {
    return 0;
  } catch (const std::exception& e) {
    if (json) std::printf("%s\n", prge::Json{{"error", e.what()}}.dump().c_str());
    if (err) std::fprintf(err, "error: %s\n", e.what());
    return 1;
  }
}
