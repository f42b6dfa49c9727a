// Files that are whole or not there: what the library's parts share.
#pragma once

#include <fcntl.h>

#include <cstring>
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

std::string crc32(std::string_view data);  // in hex
bool finite(const std::vector<float>& numbers);
std::string bytes_of(const std::vector<float>& numbers);

std::string read_file(const std::string& path);
void replace_file(const std::string& from, const std::string& to);

// An open file, for this process alone where it is for appending.
class File {
 public:
  File(const std::string& path, int flags);
  ~File();
  File(const File&) = delete;
  void write(std::string_view data);
  void cut(size_t size);
  void sync();

 private:
  std::string path_;
  int number_;
};

// A safetensors file of vectors, with a checksum of all its bytes in its metadata (prge/checked.py).
struct Tensors {
  Json metadata;
  std::map<std::string, std::string> vectors;  // their bytes

  template <class Number>
  std::vector<Number> get(const char* name) {
    std::vector<Number> numbers(vectors[name].size() / sizeof(Number));
    std::memcpy(numbers.data(), vectors[name].data(), vectors[name].size());
    return numbers;
  }
  std::string bytes() const;
  static Tensors read(const std::string& path, const char* dtype);  // of 4 bytes, as safetensors names it
};

// One line of JSON per step, each with its own checksum.
class Journal {
 public:
  explicit Journal(const std::string& path) : path_(path), file_(path, O_RDWR | O_CREAT | O_APPEND) {}
  void read(const std::function<void(const Json&)>& each);  // the whole records
  void cut(size_t count);                                   // keeps so many of those that were read
  void append(const Json& row);                             // with the system when it returns, on the disk after sync
  void sync() { file_.sync(); }

 private:
  std::string path_;
  File file_;
  std::vector<size_t> ends_;
};

}  // namespace prge
