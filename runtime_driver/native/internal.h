// JSON, and files that are whole or not there: what the library's parts share.
#pragma once

#include <filesystem>
#include <string_view>

#include "prge.h"

namespace prge {

namespace fs = std::filesystem;

// A JSON value. Objects keep their order; numbers come back to the same bits. As Python's json it also knows NaN and
// Infinity.
struct Json {
  enum Kind { kNull, kBool, kInteger, kReal, kText, kArray, kObject } kind = kNull;
  int64_t whole = 0;  // or whether true
  double real = 0;
  std::string string;
  std::vector<std::string> names;  // of an object's items
  std::vector<Json> items;

  Json() = default;
  Json(bool b) : kind(kBool), whole(b) {}
  Json(int64_t i) : kind(kInteger), whole(i) {}
  Json(double d) : kind(kReal), real(d) {}
  Json(std::string text) : kind(kText), string(std::move(text)) {}
  Json(const char* text) : kind(kText), string(text) {}
  template <class T>
  Json(const std::vector<T>& numbers) : kind(kArray), items(numbers.begin(), numbers.end()) {}
  Json(std::initializer_list<std::pair<const char*, Json>> members) : kind(kObject) {
    for (auto& [name, member] : members) add(name, member);
  }
  void add(const std::string& name, Json member) {
    names.push_back(name);
    items.push_back(std::move(member));
  }

  static Json parse(std::string_view text);
  std::string dump() const;
  const Json* find(std::string_view name) const;  // null where there is none
  // These throw where there is no such thing.
  const Json& operator[](std::string_view name) const;
  const Json& expect(Kind expected) const;
  double number() const { return kind == kInteger ? static_cast<double>(whole) : expect(kReal).real; }
  int64_t integer() const { return expect(kInteger).whole; }
  bool truth() const { return expect(kBool).whole; }
  const std::string& text() const { return expect(kText).string; }
  const std::vector<Json>& list() const { return expect(kArray).items; }
  bool null() const { return kind == kNull; }
};

uint32_t crc32(std::string_view data, uint32_t before = 0);
std::string hex(uint32_t number);

std::string read_file(const fs::path& path);
void write_file(const fs::path& path, std::string_view data);
void replace_file(const fs::path& from, const fs::path& to);
void sync_path(const fs::path& path);

// A safetensors file of f32 vectors, with a checksum of all its bytes in its metadata (prge/checked.py).
struct Tensors {
  std::vector<std::pair<std::string, std::vector<float>>> vectors;  // in the order of their names
  Json metadata;

  std::string bytes() const;
  static Tensors read(const std::string& path);
  const std::vector<float>* find(std::string_view name) const;
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

bool finite(const std::vector<float>& numbers);

}  // namespace prge
