#include <algorithm>
#include <cstdlib>
#include <set>

#include "internal.h"

namespace prge {
namespace {

// Bytes of a file that are read at a time.
constexpr size_t kBlock = 1 << 20;

struct Placed {
  const Example* row;
  size_t at;  // in tokens
};

// Every token row once, in the order of first occurrence, one behind the other.
std::vector<Placed> distinct(const Examples& examples) {
  std::set<std::string_view> seen;
  std::vector<Placed> found;
  size_t at = 0;
  for (auto* part : {&examples.train, &examples.dev})
    for (auto* row : rows_of(*part))
      if (seen.insert(bytes_of(row->tokens)).second) found.push_back({row, std::exchange(at, at + row->tokens.size())});
  return found;
}

size_t tokens_of(const std::vector<Placed>& rows) { return rows.back().at + rows.back().row->tokens.size(); }

// All of the file before the states, with zeros for the checksum.
std::string header(const Manifest& m, const Examples& examples, size_t tokens) {
  return checked_header(
      {{"hidden", "1"}, {"frozen_sha256", m.frozen_sha256}, {"examples", examples.crc}},
      {{"hidden",
        {{"dtype", "F32"}, {"shape", {tokens, m.hidden}}, {"data_offsets", {0, 4 * tokens * m.hidden}}}}});
}

// CRC-32 of a file that begins with `head`, whatever stands in its place.
std::string checksum(const File& file, const std::string& head) {
  uint32_t crc = crc32_on(0, head);
  std::string block;
  for (size_t at = head.size(), size = file.size(); at < size; at += block.size()) {
    block.resize(std::min(kBlock, size - at));
    file.read_at(at, block.data(), block.size());
    crc = crc32_on(crc, block);
  }
  return hex(crc);
}

// A row without the padding at its end.
std::string_view held(const std::vector<int32_t>& tokens, int64_t pad) {
  size_t count = tokens.size();
  while (count && tokens[count - 1] == pad) count--;
  return bytes_of(tokens).substr(0, 4 * count);
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::optional<double> budget_of(const std::string& cache) {
  if (cache == "off") return 0;
  std::string unit = cache.substr(std::max<size_t>(cache.size(), 2) - 2);
  for (char& letter : unit) letter |= 32;
  if (!is_digit(cache[0]) || (unit != "mb" && unit != "gb")) return {};
  size_t digits = cache.find_first_not_of("0123456789.");
  char* end = nullptr;
  double number = std::strtod(cache.c_str(), &end);
  if (end != cache.c_str() + digits || end[-1] == '.' || cache.find_first_not_of(' ', digits) + 2 != cache.size())
    throw Error("--cache " + cache + ": write a number and MB or GB, as 1.5GB");
  return number * (unit == "gb" ? 1e9 : 1e6);
}

bool is_shared(const fs::path& path) {
  std::string name = path.filename().string(), form = "hidden-00000000-00000000.safetensors";
  auto fits = [](char there, char here) {
    return here == '0' ? is_digit(there) || (there >= 'a' && there <= 'f') : there == here;
  };
  // The system would read no further than a zero byte, and write a file of another name.
  bool whole = path.native().find('\0') == std::string::npos;
  return whole && path.is_absolute() && std::equal(name.begin(), name.end(), form.begin(), form.end(), fits);
}

std::string hidden_file(const std::string& folder, const std::string& cache, const Manifest& m,
                        const Examples& examples) {
  auto budget = budget_of(cache);
  if (budget == 0) return "";
  bool shared = !cache.empty() && !budget;
  fs::path place = shared ? fs::weakly_canonical(cache) : fs::path(folder);
  std::error_code error;
  fs::create_directories(place, error);
  double free = error ? 0 : static_cast<double>(fs::space(place, error).available);
  if (error) throw Error(place.string() + " cannot be written: " + error.message());
  std::string name = kHidden;
  if (shared) name = "hidden-" + m.frozen_sha256.substr(0, 8) + "-" + examples.crc + ".safetensors";
  bool there = fs::is_regular_file(place / name);  // its space is not counted twice
  auto needed = static_cast<double>(4 * m.hidden * tokens_of(distinct(examples)));
  if (!there && needed > budget.value_or(std::min(4e9, free / 4))) return "";
  return shared ? (place / name).string() : name;
}

Hidden::Hidden(const std::string& path, const Manifest& m, const Examples& examples)
    : file_(path, O_RDONLY), width_(m.hidden), pad_(m.pad_token) {
  auto rows = distinct(examples);
  std::string head = header(m, examples, tokens_of(rows)), there(head.size(), ' ');
  size_t place = crc_place(head);
  begin_ = head.size();
  file_.read_at(0, there.data(), there.size());
  std::string digits = there.substr(place, 8);
  if (there.replace(place, 8, head, place, 8) != head || file_.size() != begin_ + 4 * tokens_of(rows) * m.hidden)
    throw Error(path + " holds the hidden states of other examples, or of another program");
  if (checksum(file_, head) != digits) throw Error(path + " is damaged: its checksum is another");
  for (auto [row, at] : rows) {
    // Of rows that differ in padding tokens at their ends, the longest has the states of all.
    Place& kept = places_[held(row->tokens, pad_)];
    if (kept.count < row->tokens.size()) kept = {at, row->tokens.size()};
  }
}

bool Hidden::read(const Batch& rows, int64_t length, float* to) const {
  std::fill_n(to, rows.size() * length * width_, 0.0f);
  for (auto* row : rows) {
    auto place = places_.find(held(row->tokens, pad_));
    if (place == places_.end()) return false;
    auto [at, count] = place->second;
    file_.read_at(begin_ + 4 * at * width_, reinterpret_cast<char*>(to),
                  4 * std::min<size_t>(count, length) * width_);
    to += length * width_;
  }
  return true;
}

void Hidden::write(const std::string& path, const Manifest& m, const Examples& examples, const States& states,
                   const std::function<void(int64_t done, int64_t all)>& progress) {
  auto rows = distinct(examples);
  size_t all = tokens_of(rows), done = 0;
  std::string head = header(m, examples, all), scratch = scratch_of(path);
  File file(scratch, O_RDWR | O_CREAT, path);
  file.begin_alone(scratch);
  try {
    file.write(head);
    file.allocate(head.size() + 4 * all * m.hidden);  // a full disk is found now, and not after minutes
    std::stable_sort(rows.begin(), rows.end(),
                     [](auto& a, auto& b) { return a.row->tokens.size() < b.row->tokens.size(); });
    for (size_t start = 0; start < rows.size(); start += m.frozen_rows) {
      Batch part;
      for (size_t i = start; i < std::min<size_t>(start + m.frozen_rows, rows.size()); i++) part.push_back(rows[i].row);
      Inputs in = collate(part, m);
      auto found = states(in.tokens, in.length);
      for (size_t i = 0; i < part.size(); i++) {
        size_t count = part[i]->tokens.size();
        file.write_at(head.size() + 4 * rows[start + i].at * m.hidden,
                      bytes_of(found).substr(4 * i * in.length * m.hidden, 4 * count * m.hidden));
        done += count;
      }
      progress(done, all);
    }
    file.write_at(crc_place(head), checksum(file, head));
    file.sync();
    replace_file(scratch, path);
  } catch (...) {  // it may hold gigabytes
    std::error_code ignored;
    fs::remove(scratch, ignored);
    throw;
  }
}

}  // namespace prge
