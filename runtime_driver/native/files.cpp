#include <fcntl.h>
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

[[noreturn]] void fail(const fs::path& path, const char* what) {
  throw Error(path.string() + " cannot be " + what + (errno ? std::string(": ") + std::strerror(errno) : ""));
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

uint32_t crc32(std::string_view data, uint32_t before) {
  static const auto table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t i = 0; i < 256; i++) {
      made[i] = i;
      for (int bit = 0; bit < 8; bit++) made[i] = made[i] >> 1 ^ (made[i] & 1 ? 0xEDB88320u : 0);
    }
    return made;
  }();
  uint32_t crc = ~before;
  for (unsigned char byte : data) crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8;
  return ~crc;
}

std::string hex(uint32_t number) {
  char digits[9];
  std::snprintf(digits, sizeof digits, "%08x", number);
  return digits;
}

bool finite(const std::vector<float>& numbers) {
  return std::all_of(numbers.begin(), numbers.end(), [](float number) { return std::isfinite(number); });
}

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string data(std::istreambuf_iterator<char>(file), {});
  if (!file || fs::is_directory(path)) fail(path, "read");
  return data;
}

void write_file(const fs::path& path, std::string_view data) {
  std::ofstream file(path, std::ios::binary);
  file.write(data.data(), static_cast<std::streamsize>(data.size()));
  file.close();
  if (!file) fail(path, "written");
}

void replace_file(const fs::path& from, const fs::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0) fail(to, "written");
}

void sync_path(const fs::path& path) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  bool synced = file >= 0 && fsync(file) == 0;
  if (file >= 0) close(file);
  if (!synced) fail(path, "written");
}

std::string Tensors::bytes() const {
  Json header = {{"__metadata__", metadata}};
  header["__metadata__"]["crc"] = "00000000";
  std::string data;
  for (auto& [name, vector] : vectors) {
    size_t from = data.size();
    data.append(reinterpret_cast<const char*>(vector.data()), 4 * vector.size());
    header[name] = {{"dtype", "F32"}, {"shape", {vector.size()}}, {"data_offsets", {from, data.size()}}};
  }
  std::string text = dump(header);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  uint64_t length = text.size();
  std::string all = std::string(reinterpret_cast<char*>(&length), 8) + text + data;
  return all.replace(all.find("\"crc\":\"00000000\"") + 7, 8, hex(crc32(all)));
}

Tensors Tensors::read(const std::string& path) {
  std::string all = read_file(path);
  try {
    uint64_t length = UINT64_MAX;
    if (all.size() >= 8) std::memcpy(&length, all.data(), 8);
    if (all.size() < 8 || length > all.size() - 8) throw Error("it ends too early");
    Json header = parse_json(std::string_view(all).substr(8, length));
    Tensors found{{}, header.at("__metadata__")};
    std::string crc = found.metadata.at("crc");
    size_t place = all.find("\"crc\":\"" + crc + "\""), end = 8 + length;
    if (place >= end || crc.size() != 8 || hex(crc32(all.replace(place + 7, 8, 8, '0'))) != crc)
      throw Error("its checksum is another");
    header.erase("__metadata__");
    for (auto& [name, tensor] : header.items()) {
      int64_t size = all.size() - end, to = whole(tensor.at("data_offsets").at(1), size);
      int64_t from = whole(tensor.at("data_offsets").at(0), to);
      if (tensor.at("dtype") != "F32" || (to - from) % 4) throw Error("its tensors are no vectors of F32");
      auto& numbers = found.vectors[name] = std::vector<float>((to - from) / 4);
      std::copy_n(all.data() + end + from, to - from, reinterpret_cast<char*>(numbers.data()));
    }
    return found;
  } catch (const std::exception& e) {
    throw Error(path + " is damaged, or no safetensors file of prge's: " + e.what());
  }
}

}  // namespace prge
