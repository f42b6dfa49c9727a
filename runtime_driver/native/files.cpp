#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>

#include "internal.h"

namespace prge {
namespace {

constexpr const char* kMark = ",\"crc\":\"";
template <class Number>
constexpr const char* kType = std::is_same_v<Number, float> ? "F32" : "I32";

void check(bool done, const std::string& path, const char* what = "written") {
  if (!done) throw Error(path + " cannot be " + what + ": " + std::strerror(errno));
}

}  // namespace

Json parse_json(std::string_view text) try {
  // Values of any depth could be read, but not copied.
  return Json::parse(text, [](int depth, Json::parse_event_t, Json&) {
    return depth < 64 ? true : throw Error("it is nested too deep");
  });
} catch (const Json::exception&) {  // whose text would quote what may be no UTF-8
  throw Error("it is not JSON");
}

std::string dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

int64_t whole(const Json& json, int64_t most) {
  if (!json.is_number_integer() || json < 0 || json > most) throw Error(dump(json) + " is out of bounds");
  return json;
}

std::string crc32(std::string_view data) {
  static const auto table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; i++) {
      made[i] = i;
      for (int bit = 0; bit < 8; bit++) made[i] = made[i] >> 1 ^ (made[i] & 1 ? 0xEDB88320u : 0);
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (unsigned char byte : data) crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8;
  char digits[9];
  std::snprintf(digits, sizeof digits, "%08x", ~crc);
  return digits;
}

bool finite(const std::vector<float>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](float number) { return std::isfinite(number); });
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  file.peek();  // a folder can be opened, but not read
  check(file.is_open() && !file.bad(), path, "read");
  return {std::istreambuf_iterator<char>(file), {}};
}

void replace_file(const std::string& from, const std::string& to) {
  check(std::rename(from.c_str(), to.c_str()) == 0, to);
}

File::File(const std::string& path, int flags) : path_(path), number_(open(path.c_str(), flags | O_CLOEXEC, 0666)) {
  check(number_ >= 0, path);
  if (!(flags & O_APPEND) || flock(number_, LOCK_EX | LOCK_NB) == 0) return;
  close(number_);
  throw Error(path + " is in use: another process trains there");
}

File::~File() { close(number_); }

void File::write(std::string_view data) {
  errno = ENOSPC;  // what a part that is written means
  check(::write(number_, data.data(), data.size()) == static_cast<ssize_t>(data.size()), path_);
}

void File::sync() { check(fsync(number_) == 0, path_); }

template <class Number>
std::string Tensors<Number>::bytes() const {
  Json header = {{"__metadata__", metadata}};
  header["__metadata__"]["crc"] = "00000000";
  std::string data;
  for (auto& [name, vector] : vectors) {
    size_t from = data.size();
    data += bytes_of(vector);
    header[name] = {{"dtype", kType<Number>}, {"shape", {vector.size()}}, {"data_offsets", {from, data.size()}}};
  }
  std::string text = dump(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  uint64_t length = text.size();
  std::string all = std::string(reinterpret_cast<char*>(&length), 8) + text + data;
  return all.replace(all.find("\"crc\":\"00000000\"") + 7, 8, crc32(all));
}

template <class Number>
Tensors<Number> Tensors<Number>::read(const std::string& path, const char* what) {
  std::string all = read_file(path);
  try {
    uint64_t length = UINT64_MAX;
    std::memcpy(&length, all.data(), std::min<size_t>(all.size(), 8));
    if (all.size() < 8 || length > all.size() - 8) throw Error("it ends too early");
    Json header = parse_json(std::string_view(all).substr(8, length));
    Tensors found{header.at("__metadata__"), {}};
    std::string crc = found.metadata["crc"];
    size_t place = all.find("\"crc\":\"" + crc + "\""), end = 8 + length;
    if (place >= end || crc.size() != 8 || crc32(all.replace(place + 7, 8, 8, '0')) != crc)
      throw Error("its checksum is another");
    header.erase("__metadata__");
    for (auto& [name, tensor] : header.items()) {
      int64_t to = whole(tensor.at("data_offsets").at(1), all.size() - end);
      int64_t from = whole(tensor.at("data_offsets").at(0), to);
      if (tensor.at("dtype") != kType<Number> || (to - from) % 4)
        throw Error(std::string("its vectors are not of ") + kType<Number>);
      auto& numbers = found.vectors[name] = std::vector<Number>((to - from) / 4);
      std::copy_n(all.data() + end + from, to - from, reinterpret_cast<char*>(numbers.data()));
    }
    return found;
  } catch (const std::exception& e) {
    throw Error(path + " is damaged, or not " + what + ": " + e.what());
  }
}

template struct Tensors<float>;
template struct Tensors<int32_t>;

void Journal::read(const std::function<void(const Json&)>& each) {
  std::string data = read_file(path_);
  // A last line without its end is what a run that was cut off leaves.
  for (size_t at = 0, end; (end = data.find('\n', at)) != std::string::npos; at = end + 1) {
    std::string line = data.substr(at, end - at);
    size_t mark = line.rfind(kMark);
    try {
      std::string text = line.substr(0, mark) + "}";
      bool unharmed = mark != std::string::npos && line.substr(mark) == kMark + crc32(text) + "\"}";
      Json row = parse_json(text);
      if (!unharmed || row.at("step") != ends_.size()) throw Error("");
      each(row);
    } catch (const std::exception&) {
      throw Error(path_ + " is damaged at byte " + std::to_string(at) + " (record " + std::to_string(ends_.size() + 1) +
                  "); what follows is no use");
    }
    ends_.push_back(end + 1);
  }
}

void Journal::keep(size_t count) {
  ends_.resize(count);
  check(ftruncate(number_, count ? static_cast<off_t>(ends_.back()) : 0) == 0, path_);
}

void Journal::append(const Json& row) {
  std::string text = dump(row);
  write(text.substr(0, text.size() - 1) + kMark + crc32(text) + "\"}\n");
}

}  // namespace prge
