// What the library's parts share: files that are whole or not there, and the arithmetic that golden vectors pin.
#pragma once

#include <fcntl.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "prge.h"

namespace prge {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

// A prge::Error is a whole sentence for the user. What reads a file's content throws other exceptions, which say what
// was odd; who called it makes a sentence of that.
struct Odd : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

Json parse_json(std::string_view text);
std::string dump(const Json& json);  // spelled as Python does; a text that is no UTF-8, as a path may be, gets marks
// A whole number from 0 to `most`; nlohmann/json itself would take 1.5 for 1.
int64_t whole(const Json& json, int64_t most = INT32_MAX);

uint32_t crc32_on(uint32_t crc, std::string_view data);  // of data behind those that have this CRC-32
std::string crc32(std::string_view data);                // in hex
std::string hex(uint32_t number);
bool finite(const std::vector<float>& numbers);
double since(Clock::time_point began);  // seconds
template <class Number>
std::string_view bytes_of(const std::vector<Number>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), sizeof(Number) * numbers.size()};
}

std::string read_file(const std::string& path);
void replace_file(const std::string& from, const std::string& to);
// What a file shall hold: its head, and what lies elsewhere in memory behind it.
struct Content {
  std::string head;
  std::vector<std::string_view> rest = {};
};
// Writes through to the disk; an interrupted write leaves the file that was there.
void write_file(const std::string& path, const Content& content);
std::string scratch_of(const std::string& path);  // where a file is written before it replaces the one that is there

// An open file. One for appending is this process's alone.
class File {
 public:
  // `called` in messages, if that is not its path.
  File(const std::string& path, int flags, const std::string& called = "");
  ~File();
  File(const File&) = delete;
  void write(std::string_view data);
  void write(const Content& content);
  void write_at(size_t place, std::string_view data);
  void read_at(size_t place, char* to, size_t size) const;
  void begin_alone(const std::string& path);  // empties it; an Error where another process is writing it
  void allocate(size_t size);                 // all blocks now, or an Error
  size_t size() const;
  void sync();

 protected:
  const std::string path_;  // for messages
  const int number_;
};

// A safetensors file of vectors of float or int32_t. Its metadata, all texts, hold a checksum of all its bytes.
template <class Number>
struct Tensors {
  Json metadata;
  std::map<std::string, std::vector<Number>> vectors;

  // `what` it should be, for the messages. A file without a checksum is refused where one is required.
  static Tensors read(const std::string& path, const std::string& what, bool required = true);
  std::string text(const char* name) const { return metadata.value(name, ""); }
};
// The bytes of such a file before its tensors, with zeros for the checksum; and where that stands.
std::string checked_header(Json metadata, const Json& tensors);
size_t crc_place(std::string_view header);
// What such a file holds, for as long as the vectors are there. Empty ones are left out.
using Vector = std::pair<const char*, const std::vector<float>&>;
Content checked(Json metadata, std::initializer_list<Vector> vectors);

// One line of JSON per step, each with its own checksum; on the disk after `sync`.
class Journal : public File {
 public:
  explicit Journal(const std::string& path) : File(path, O_RDWR | O_CREAT | O_APPEND) {}
  void read(const std::function<void(const Json&)>& each);  // the whole records
  void keep(size_t count);                                  // so many of those that were read
  void append(const Json& row);                             // with the system when it returns

 private:
  std::vector<size_t> ends_;
};

// What a run's folder holds (folder.cpp).

// A step as the journal has it.
struct Step : Record {
  int64_t step, seed, tokens;
  double lr, eps;
  std::vector<float> losses;
  std::vector<int64_t> examples;  // the batch, as places among the training examples
};
Json to_json(const Evaluation& evaluation);
Json to_json(const Step& step);
Record record(const Json& row);

// A state file. A snapshot is one that also has the run's steps, and its good state once there is one.
Content state_content(const Manifest& manifest, const std::vector<float>& state, int64_t steps,
                      std::optional<int64_t> run_steps = {}, const std::vector<float>& good = {});
// Reads a state to begin with, and sets `after`. Another optimizer's numbers are left out.
std::vector<float> state_from(const std::string& path, const Manifest& manifest, int64_t& after);
struct Snapshot {
  int64_t steps;  // of the run
  std::vector<float> state, good;
};
Snapshot read_snapshot(const std::string& path, const Manifest& manifest);

// Bytes that hidden states may take, as Settings::cache says: 0 for "off"; no figure for a folder or "".
std::optional<double> budget_of(const std::string& cache);
// The file of hidden states for a run in `folder`, as Settings::hidden has it, by Settings::cache.
std::string hidden_file(const std::string& folder, const std::string& cache, const Manifest& manifest,
                        const Examples& examples);
// Whether a path has a name as such files have in folders that runs share.
bool is_shared(const fs::path& path);
constexpr const char *kHidden = "hidden.safetensors", *kHiddenScratch = "hidden.partial";

// The content of config.json, by the whole paths of program and packed file.
Json description(const std::string& program, const std::string& data, const Manifest& manifest,
                 const Examples& examples, const Settings& settings);
// A run's settings, if it is one of this program and these examples.
Settings settings_of(const std::string& folder, const Program& program, const Examples& examples);

// A step's arithmetic, apart from the program that executes it (training.cpp).

Manifest read_manifest(const std::string& text, const std::string& where);
double lr_at(const Settings& s, int64_t step, const Manifest& manifest);
int64_t seed_at(const Settings& s, int64_t step, const Manifest& manifest);

// Rows as the program takes them: right-padded, i64[R, length]; and the objective's targets.
struct Inputs {
  int64_t length;
  std::vector<int64_t> tokens, position, target;
  std::vector<float> weight;
};
Inputs collate(const Batch& rows, const Manifest& manifest);
// The rows of all examples, in their order: each example, or its candidates.
Batch rows_of(const std::vector<Example>& examples);

// Hidden states f32[n, length, H] of n rows of tokens i64[n, length].
using States = std::function<std::vector<float>(const std::vector<int64_t>& tokens, int64_t length)>;

// The hidden states of all rows of some examples, in a file (hidden.cpp).
class Hidden {
 public:
  // Throws where the file is not whole, or not of these examples and this program. `examples` must outlive the object.
  Hidden(const std::string& path, const Manifest& manifest, const Examples& examples);
  // Computes and writes them: the rows by length, as many as an execution takes, so that the bits depend on the examples alone.
  static void write(const std::string& path, const Manifest& manifest, const Examples& examples, const States& states,
                    const std::function<void(int64_t done, int64_t all)>& progress);
  // Copies those of rows to f32[n, length, H], zeros at the padding. Whether it has them all.
  bool read(const Batch& rows, int64_t length, float* to) const;

 private:
  struct Place {
    size_t at, count;  // in tokens
  };
  File file_;
  int64_t width_, pad_;
  size_t begin_;
  std::map<std::string_view, Place> places_;
};

// `Program::step` by a function that executes with a seed, lr and eps.
using Execute = std::function<Program::Result(int64_t seed, double lr, double eps)>;
Program::Result step_by(const Manifest& m, const std::vector<float>& state, int64_t seed, double lr, double eps,
                        const Execute& execute);
// `evaluate` by a function that executes R rows.
Evaluation evaluate_by(const Manifest& m, const std::vector<Example>& examples,
                       const std::function<Program::Result(const Batch&)>& execute);
// The line search of `propose_lr`: the way to the least loss along a direction, of ways that double. It begins at the one
// with the index `start`, goes down until the loss rises, and up if no other was better.
double search_lr(const std::vector<double>& ways, int start, const std::function<double(double)>& loss_at);

}  // namespace prge
