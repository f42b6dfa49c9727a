// Files that are whole or not there: what the library's parts share.
#pragma once

#include <fcntl.h>

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
template <class Number>
std::string_view bytes_of(const std::vector<Number>& numbers) {
  return {reinterpret_cast<const char*>(numbers.data()), sizeof(Number) * numbers.size()};
}

std::string read_file(const std::string& path);
void replace_file(const std::string& from, const std::string& to);

// An open file, for this process alone where it is for appending.
class File {
 public:
  File(const std::string& path, int flags);
  ~File();
  File(const File&) = delete;
  void write(std::string_view data);
  void sync();

 protected:
  const std::string path_;
  const int number_;
};

// A safetensors file of float or int32_t vectors, with a checksum of all its bytes in its metadata (prge/files/checked.py).
template <class Number>
struct Tensors {
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::vector<Number>> vectors;

  std::string bytes() const;
  static Tensors read(const std::string& path, const char* what);  // for the message where it is none
};

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

}  // namespace prge
