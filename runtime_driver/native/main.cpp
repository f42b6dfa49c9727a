// prge-run: fine-tunes a program on packed examples. The run's folder is one that the Python driver reads too.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <fstream>

#include "internal.h"

namespace {

using prge::Clock;

// Options knows an option by finding it in this text.
constexpr const char* kUsage =
    "prge-run PROGRAM --data FILE --output RUN   fine-tune on a file of `prge pack`\n"
    "prge-run --resume RUN [PROGRAM]             go on with a run that was stopped or cut off\n"
    "prge-run PROGRAM --data FILE --bench N      time N steps; leaves nothing behind\n"
    "  --steps N (300)  --lr X (auto: measured)  --eps X (the program's)  --seed N (0)\n"
    "  --eval-every N (50; 0: at the end only)  --from RUN (begin with its state)\n"
    "  --cache X (4GB: a size, a folder, or off; hidden states that are computed once)\n"
    "  --patience N (4: evaluations in a row, none better than the best, that stop the run; 0: never)\n"
    "  --threads N  --max-minutes X  --json ";

struct Stopped {};
volatile std::sig_atomic_t asked = 0, as_json = 0;

// Libraries write to descriptor 2, some of them before main. So it leads nowhere, and our own messages go to a copy.
int screen = -1;
void hush(int, char**, char**) {
  screen = dup(2);
  dup2(open("/dev/null", O_WRONLY), 2);
}
__attribute__((section(".preinit_array"), used)) void (*const kHush)(int, char**, char**) = hush;

// A program that was made to do so can crash the runtime. What the run has written is whole after every step.
void crashed(int) {
#define SENTENCE "the runtime crashed: the program is damaged, or was made to do so; `prge verify` says more"
  constexpr char kPlain[] = "error: " SENTENCE "\n", kJson[] = "{\"error\": \"" SENTENCE "\"}\n";
#undef SENTENCE
  bool told = write(screen, kPlain, sizeof kPlain - 1) > 0;
  if (as_json) told = write(1, kJson, sizeof kJson - 1) > 0 && told;
  _exit(told ? 1 : 2);
}

// Of this process. getrusage would also count the one that started it.
double peak_megabytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("VmHWM:", 0) == 0) return std::strtod(line.c_str() + 6, nullptr) * 1024 / 1e6;
  return 0;
}

struct Options : std::map<std::string, std::string> {
  Options(int count, char** words) {
    for (int i = 1; i < count; i++) {
      std::string word = words[i];
      if (word.rfind("--", 0) != 0 && (*this)["PROGRAM"].empty()) {
        (*this)["PROGRAM"] = word;
      } else if (word.rfind("--", 0) != 0 || std::string(kUsage).find(word + " ") == std::string::npos) {
        throw prge::Error("unknown option " + word + "; see prge-run --help");
      } else if (word != "--json") {
        if (++i == count || !*words[i]) throw prge::Error(word + " takes a value");
        (*this)[word] = words[i];
      }
    }
  }

  // Leaves `number` as it is where the option is not given.
  template <class Number>
  void read(const char* name, Number& number, double least) {
    const std::string& word = (*this)[name];
    bool whole = std::is_integral_v<Number>;
    char* end = nullptr;
    double value = std::strtod(word.c_str(), &end);
    if (word.empty()) return;
    if (*end || !(value >= least && value <= (whole ? INT32_MAX : 1e300)) || (whole && value != std::floor(value)))
      throw prge::Error(std::string(name) + " " + word + " is no number that it takes");
    number = static_cast<Number>(value);
  }
};

double median(std::vector<double> numbers) {
  std::sort(numbers.begin(), numbers.end());
  return numbers[numbers.size() / 2];
}

// A folder that is removed at the end.
struct Scratch {
  std::string path = std::string(std::getenv("TMPDIR") ? std::getenv("TMPDIR") : "/tmp") + "/prge-run-XXXXXX";
  Scratch() {
    if (!mkdtemp(path.data())) throw prge::Error(path + " cannot be made; set TMPDIR to a folder that can be written");
  }
  ~Scratch() {
    std::error_code ignored;
    prge::fs::remove_all(path, ignored);
  }
};

// Times the steps of a real run, with journal and snapshots, but without evaluations.
prge::Json bench(prge::Program& program, prge::Examples examples, prge::Settings s, int64_t count,
                 Clock::time_point began) {
  examples.dev.clear();
  Scratch folder;
  s.steps = count + 1;
  s.lr = program.manifest().lr;
  prge::Run run(folder.path, program, examples, s);
  double started = prge::since(began), packed = peak_megabytes();
  std::vector<double> steps, executions;
  while (!run.done()) {
    auto began = Clock::now();
    double executed = program.execution_seconds;
    run.step();
    steps.push_back(prge::since(began));
    executions.push_back(program.execution_seconds - executed);
  }
  double first = steps[0];  // which makes buffers
  steps.erase(steps.begin());
  executions.erase(executions.begin());
  return {{"steps", count}, {"seconds_per_step", median(steps)}, {"execution_seconds", median(executions)},
          {"fastest", *std::min_element(steps.begin(), steps.end())}, {"start_seconds", started},
          {"loaded_megabytes", packed}, {"first_step", first}, {"peak_megabytes", peak_megabytes()}};
}

void report_reading(FILE* err, int64_t done, int64_t all) {
  if (isatty(screen)) std::fprintf(err, "\r\033[K");
  if (isatty(screen) || done == all)
    std::fprintf(err, "read once: %ld of %ld tokens%s", long(done), long(all), done == all ? "\n" : "");
}

void report(FILE* err, const prge::Run& run, double mean, double speed) {
  const prge::Record& r = run.records().back();
  auto steps = static_cast<long>(run.steps()), all = static_cast<long>(run.settings().steps);
  auto left = static_cast<long>(static_cast<double>(all - steps) / speed);
  bool terminal = isatty(screen);
  const char* start = terminal ? "\r\033[K" : "";
  if (terminal || r.dev || run.done() || steps % 10 == 1)
    std::fprintf(err, "%sstep %ld of %ld  loss %.3f  %.2f steps/s  %ld:%02ld left%s", start, steps, all, mean, speed,
                 left / 60, left % 60, terminal && !run.done() ? "" : "\n");
  if (r.dev) std::fprintf(err, "%sdev loss %.3f", start, r.dev->loss);
  if (r.dev && r.dev->accuracy) std::fprintf(err, "  accuracy %.3f", *r.dev->accuracy);
  if (r.backed_off) std::fprintf(err, "\nthe run diverged; back to the best state, lr halved");
  if (r.dev || r.backed_off) std::fputc('\n', err);
}

// The whole lines of a run's journal.
int64_t steps_in(const std::string& folder) {
  std::ifstream log(folder + "/log.jsonl");
  return std::count(std::istreambuf_iterator<char>(log), std::istreambuf_iterator<char>(), '\n');
}

// `made_before` is how many steps a run has that is resumed.
prge::Json train(Options o, FILE* err, int64_t& made_before) {
  auto began = Clock::now();
  std::string folder = o["--resume"], path = o["PROGRAM"], data = o["--data"];
  bool resumes = !folder.empty();
  if (resumes) {
    for (auto* name :
         {"--output", "--bench", "--steps", "--lr", "--eps", "--seed", "--eval-every", "--from", "--cache"})
      if (!o[name].empty()) throw prge::Error(std::string("--resume keeps the run's own settings: leave out ") + name);
    auto [its_program, its_data] = prge::Run::sources(folder);
    made_before = steps_in(folder);
    if (path.empty()) path = its_program;
    if (data.empty()) data = its_data;
  } else {
    folder = o["--output"];
  }
  if (path.empty() || data.empty() || (folder.empty() && o["--bench"].empty()))
    throw prge::Error("give a program, --data and --output, or --resume and a run folder; see prge-run --help");
  double minutes = 1e30;
  unsigned threads = 0, timed = 0, patience = 4;
  prge::Settings s;
  o.read("--max-minutes", minutes, 0);
  o.read("--threads", threads, 1);
  o.read("--bench", timed, 1);
  o.read("--patience", patience, 0);
  o.read("--steps", s.steps, 1);
  o.read("--seed", s.seed, 0);
  o.read("--eval-every", s.eval_every, 0);
  if (o["--lr"] != "auto") o.read("--lr", s.lr, 1e-30);
  o.read("--eps", s.eps, 1e-30);
  s.from = o["--from"];
  s.cache = o["--cache"];
  prge::Program program(path, threads);
  program.before_each = [] {
    if (asked) throw Stopped();
  };
  auto examples = prge::Examples::read(data, program.manifest());
  if (timed) return bench(program, examples, s, timed, began);
  if (err) program.reading = [&](int64_t done, int64_t all) { report_reading(err, done, all); };
  prge::Run run = resumes ? prge::Run(folder, program, examples) : prge::Run(folder, program, examples, s);
  if (err && !resumes && run.settings().hidden.empty() && prge::budget_of(s.cache) != 0)
    std::fputs("The frozen layers' hidden states take more disk than --cache allows: every step computes them.\n", err);
  std::string why;
  double mean = 0, made = 0, counted = 0;
  auto started = Clock::now();
  try {
    while (!run.done() && why.empty()) {
      double loss = run.step().loss;
      made++;
      if (std::isfinite(loss)) mean += (loss - mean) / std::min(++counted, 20.0);  // one NaN would stay for ever
      if (err) report(err, run, mean, made / prge::since(started));
      if (run.done()) break;
      if (prge::since(began) >= 60 * minutes) why = o["--max-minutes"] + " minutes are over";
      if (patience && run.records().back().dev && run.best().waited >= patience)
        why = "the dev set was best after " + std::to_string(run.best().steps) + " steps, and " +
              std::to_string(run.best().waited) + " evaluations were no better";
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
  as_json = json;
  FILE* err = fdopen(screen, "w");
  int64_t made_before = 0;
  auto print = [](const prge::Json& result) { return std::puts(prge::dump(result).c_str()) < 0; };
  auto fail = [&](const char* why) {
    if (json) print({{"error", why}});
    if (err) std::fprintf(err, "error: %s\n", why);
    return 1;
  };
  for (int number : {SIGINT, SIGTERM}) std::signal(number, [](int) { asked = 1; });
  for (int number : {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV}) std::signal(number, crashed);
  try {
    if (err) std::setvbuf(err, nullptr, _IONBF, 0);
    return print(train(Options(count, words), json ? nullptr : err, made_before));
  } catch (const Stopped&) {
    return print({{"completed", false}, {"steps", made_before}, {"stopped", "interrupted"}});
  } catch (const std::bad_alloc&) {
    return fail("there is not enough memory, or the program is damaged: `prge plan` says what it takes, `prge verify` "
                "whether it is whole");
  } catch (const std::exception& e) {
    return fail(e.what());
  }
}
