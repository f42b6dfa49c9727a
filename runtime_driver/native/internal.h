// Files that are whole or not there: what the library's parts share.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>

#include "prge.h"

namespace prge {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // its errors are std::exceptions

Json parse_json(std::string_view text);
std::string dump(const Json& json);  // with a mark where a text, as a path may be, is no UTF-8
// A whole number from 0 on; the library itself would take 1.5 for 1.
int64_t whole(const Json& json, int64_t most = INT32_MAX);

uint32_t crc32(std::string_view data, uint32_t before = 0);
std::string hex(uint32_t number);
bool finite(const std::vector<float>& numbers);

std::string read_file(const fs::path& path);
void write_file(const fs::path& path, std::string_view data);
void replace_file(const fs::path& from, const fs::path& to);
void sync_path(const fs::path& path);

// A safetensors file of f32 vectors, with a checksum of all its bytes in its metadata (prge/checked.py).
struct Tensors {
  std::map<std::string, std::vector<float>> vectors;
  Json metadata;

  std::string bytes() const;
  static Tensors read(const std::string& path);
};

// One line of JSON per step, each with its own checksum; of this process alone.
class Journal {
 public:
  explicit Journal(const std::string& path);  // opens or makes it
  ~Journal();
  Journal(const Journal&) = delete;
  void read(const std::function<void(const Json&)>& each);  // the whole records
  void cut(size_t count);                                   // keeps so many of those that were read
  void append(const Json& row);                             // with the system when it returns, on the disk after sync
  void sync() const;

 private:
  [[noreturn]] void unwritable() const;
  std::string path_;
  int file_;
  std::vector<size_t> ends_;
};

}  // namespace prge
